"""A server with strategies over a tiny policy, and events of strategies that were not served."""

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from rank_events import rank_event
from tiny_policies import write_tiny
from unlimited import UNLIMITED

from recpolicy.server.app import make_app
from recpolicy.server.auth.keys import key_digest, new_key
from recpolicy.server.db import admin
from recpolicy.server.db.engine import transaction
from recpolicy.server.lifespan import open_state
from recpolicy.server.settings import StrategiesConfig

TRAITS = {"openness": 72.0, "conscientiousness": 41.0, "extraversion": 55.0, "agreeableness": 60.0, "neuroticism": 23.0}
SITUATION = {"content_type": "music", "mood": "calm", "time_of_day": "evening"}
REQUEST = {**SITUATION, "profile": TRAITS}


@contextmanager
def strategist(folder, **settings):
    """(state, app, headers of a client) of a server that serves strategies."""
    folder.mkdir(exist_ok=True)
    run = folder / "policy"
    if not run.exists():
        write_tiny(run)
    engine_settings = replace(UNLIMITED, strategies=StrategiesConfig(enabled=True, **settings))
    with open_state(run, folder / "state", engine_settings) as state:
        yield (
            state,
            make_app(state),
            {role: {"x-api-key": key(state, role)} for role in ("client", "reader", "operator")},
        )


def key(state, role):
    """A new key of a role."""
    made = new_key()
    with transaction(state.require_store().engine) as connection:
        admin.add_key(connection, f"{role}-{made[:9]}", role, key_digest(made))
    return made


def strategy_event(user=1, action=13, time=1_000_000, profile=TRAITS, **fields):
    """An event of a strategy with the epsilon of an untrained policy, which prefers action 13."""
    context = {**(profile or {}), **SITUATION, **fields.pop("situation", {})}
    probability = np.where(np.arange(27) == 13, 0.7 + 0.3 / 27, 0.3 / 27)
    order = np.concatenate([[action], np.delete(np.arange(27), action)])
    return rank_event(
        user, tuple(f"s{number}" for number in range(27)), time=time, activated_at=time, task="strategy",
        context=json.dumps(context), probabilities=probability.astype("<f8").tobytes(),
        ranking=order.astype("<u2").tobytes(), mode="static", **fields,
    )  # fmt: skip
