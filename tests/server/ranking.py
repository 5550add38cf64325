"""Policies and requests for the tests of ranks."""

import hashlib
from contextlib import contextmanager

import numpy as np

from recpolicy.core.errors import DataError
from recpolicy.data.reward_signals import RewardConfig
from recpolicy.server.app import make_app
from recpolicy.server.lifespan import open_state
from recpolicy.server.live_models import LiveState, LoadedVersion
from recpolicy.server.settings import LimitsConfig, RankConfig, Settings

REQUEST = {
    "context": {"hour": 20, "device": {"kind": "phone"}},
    "actions": [{"id": name, "features": {"value": value}} for name, value in (("a", 1), ("b", 5), ("c", 2))],
}


class ValuePolicy:
    """A policy that prefers the largest `value` of the actions: .7 for it, the rest for the others."""

    agent = "squarecb"
    policy_digest = hashlib.sha256(b"value").hexdigest()

    def probabilities(self, context, actions, excluded=(), *, strict=True, keys=None):
        """Return .7 for the best one; raises DataError for a value that is no number."""
        score = np.array([_value(features) for _, features in actions], float)
        probability = np.full(len(actions), 0.3 / max(len(actions) - 1, 1))
        probability[score.argmax()] = 0.7 if len(actions) > 1 else 1.0
        return probability, score


def _value(features):
    if not isinstance(features.get("value", 0), int | float):
        raise DataError("feature value: found a text; expected a number")
    return features.get("value", 0)


@contextmanager
def ranking(folder, policy=None, reward=None, **rank):
    """The app of a policy of features over a new store; None: of a registry without a version."""
    reward = reward or RewardConfig(weights={"reward": 1.0, "click": 1.0}, wait_seconds=600)
    settings = Settings(limits=LimitsConfig(rate=0), rank=RankConfig(start_uniform=True, **rank), reward=reward)
    folder.mkdir(exist_ok=True)
    with open_state(folder, None, settings) as state:
        if policy is not None:
            state.models.live = LiveState(LoadedVersion(policy, 1))
        yield make_app(state)
