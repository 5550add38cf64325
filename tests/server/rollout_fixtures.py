"""A server over a registry of two tiny policies, and users who rate what they see; no TensorFlow."""

import atexit
import json
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from sqlalchemy import insert, update
from tiny_policies import write_tiny
from unlimited import UNLIMITED

from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import first_event_id, new_event_id, now_ms
from recpolicy.server.db.schema import events, rewards, rollouts
from recpolicy.server.lifespan import open_state
from recpolicy.server.live_models import CHALLENGER, CHAMPION, bucket
from recpolicy.server.settings import RolloutConfig, Settings

QUICK = RolloutConfig(min_users=30, min_rewards=30, min_hours=0.0, max_hours=5.0, margin=0.5, min_requests=10)
"""A plan whose stages may be passed at once."""


def tiny_registry(folder, gate={"verdict": "pass"}):  # noqa: B006
    """A registry whose champion is version 1; version 2 is another policy."""
    registry = Registry(folder / "registry")
    for seed in range(2):
        path = folder / f"policy-{seed}"
        registry.register(write_tiny(path, seed), gate=gate if seed else {"verdict": "pass"})
    registry.promote(1)
    return registry


@cache
def _template():
    """A folder with registry and store, made once a process."""
    folder = Path(tempfile.mkdtemp(prefix="recpolicy-rolling-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tiny_registry(folder)
    with open_state(folder / "registry", folder / "state", Settings()):
        return folder


@contextmanager
def rolling(folder, plan=QUICK):
    """The state of a server over such a registry."""
    if not (folder / "registry").exists():
        shutil.copytree(_template(), folder, dirs_exist_ok=True)
    settings = replace(UNLIMITED, rollout=plan, exploration=ExplorationConfig(share=0.0))
    with open_state(folder / "registry", folder / "state", settings) as state:
        yield state


def rate(state, row, users, difference=0.0, seed=0, hours=0.0):
    """Let users rate what they were shown a minute into the stage, which began some minutes and `hours` ago.

    Their mean is 3 and the challenger's users' is 3 + difference, with a standard deviation of 1.
    """
    rng, version = np.random.default_rng(seed), state.models.live.challenger
    began = now_ms() - int(hours * 3.6e6) - 600_000 + 120_000 * row.stage  # stages follow one another
    with transaction(state.store.engine) as connection:
        connection.execute(update(rollouts).where(rollouts.c.id == row.id).values(stage_at=began))
        shown, given = [], []
        for user in range(users):
            key = json.dumps(f"{seed}-{user}")
            share = row.plan["stages"][row.stage]
            variant = CHALLENGER if bucket(key, version.policy_digest) < share else CHAMPION
            value = 3.0 + difference * (variant == CHALLENGER) + rng.normal()
            event = {
                "id": first_event_id(began + 60_000) + new_event_id()[12:],
                "time": began + 60_000,
                "user_key": key,
                "version": 1,
                "variant": variant,
            }
            rest = {"rollout": row.id, "explored": False}
            texts = {
                "policy_digest": "c",
                "agent": "linucb",
                "item_ids": "[7]",
                "propensities": "[1.0]",
                "ratings": "[3.0]",
            }
            shown.append(event | rest | texts)
            told = {name: event[name] for name in ("time", "user_key", "version", "variant")}
            given.append(told | rest | {"event_id": event["id"], "position": 0, "reward": value})
        connection.execute(insert(events), shown)
        connection.execute(insert(rewards), given)
