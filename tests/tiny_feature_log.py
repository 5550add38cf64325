"""A small log of rounds with features, and policies that learned from it.

A round has an hour, a device and a flag; four to six of six actions, with a size, a color and tags, are offered in
random order, and the logging policy prefers some. The reward is 1 with a probability that depends on products of
context and action.
"""

from functools import cache

import numpy as np

from recpolicy.data.feature_columns import action_digests
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.features import FeatureSchema, schema_from_dict
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.models.feature_agent_configs import FeatureTrainConfig
from recpolicy.training.feature_agents import feature_agent
from recpolicy.training.feature_training import learn_feature_policy

COLORS = ("red", "blue", "green")
ACTIONS = 6
SCHEMA = {
    "context": {"hour": {"type": "number"}, "device": {"type": "category"}, "member": {"type": "boolean"}},
    "action": {"size": {"type": "number"}, "color": {"type": "category"}, "tags": {"type": "tags"}},
    "bits": 12,
}


def tiny_schema(**changes: object) -> FeatureSchema:
    """Return the schema of the tiny log."""
    return schema_from_dict({**SCHEMA, **changes})


def tiny_actions() -> list[tuple[str, dict[str, object]]]:
    """Return the six actions as a request has them."""
    rng = np.random.default_rng(5)
    return [
        (
            f"a{index}",
            {"size": round(float(rng.normal()), 3), "color": COLORS[index % 3], "tags": ["new"] * (index % 2)},
        )
        for index in range(ACTIONS)
    ]


def expected_reward(hour: np.ndarray, mobile: np.ndarray, size: np.ndarray, red: np.ndarray) -> np.ndarray:
    """Return the probability of a reward."""
    return 1 / (1 + np.exp(-(1.5 * hour * size + 2 * (mobile - 0.5) * (2 * red - 1))))


def tiny_log(rounds: int = 600, seed: int = 0, name: str = "tiny") -> FeatureLog:
    """Draw a log."""
    rng = np.random.default_rng(seed)
    hour, mobile = rng.normal(size=rounds), rng.random(rounds) < 0.5
    count = rng.integers(4, ACTIONS + 1, rounds)
    order = rng.random((rounds, ACTIONS)).argsort(axis=1)
    offers = np.arange(ACTIONS) < count[:, np.newaxis]
    preference = np.where(offers, 1.0 + (order % 3), 0.0)
    preference /= preference.sum(axis=1, keepdims=True)
    chosen = (preference.cumsum(axis=1) < rng.random((rounds, 1))).sum(axis=1).clip(max=count - 1)
    rows, actions = np.arange(rounds), tiny_actions()
    action = order[rows, chosen]
    size = np.array([features["size"] for _, features in actions])
    red = np.array([features["color"] == "red" for _, features in actions])
    reward = rng.random(rounds) < expected_reward(hour, mobile, size[action], red[action])
    tags = np.empty(ACTIONS, object)
    tags[:] = [features["tags"] for _, features in actions]
    columns = {
        "size": size, "color": np.array([features["color"] for _, features in actions], object), "tags": tags
    }  # fmt: skip
    ids = np.array([identifier for identifier, _ in actions], object)
    return FeatureLog(
        event_id=np.array([f"{name}-{seed}-{row}" for row in rows], object),
        time=1_700_000_000_000 + rows * 1_000,
        context={
            "hour": hour, "device": np.where(mobile, "mobile", "desk").astype(object),
            "member": rng.random(rounds) < 0.3,
        },
        action_id=ids, actions=columns, action_digest=action_digests(ids, columns),
        start=np.concatenate([[0], count.cumsum()]), offered=order[offers].astype(np.int32),
        chosen=chosen.astype(np.int32), log_propensity=np.log(preference[rows, chosen]), reward=reward.astype(float),
        policy=np.full(rounds, "logging", object), version=np.full(rounds, "v1", object), name=name,
        reward_range=(0.0, 1.0),
    )  # fmt: skip


def tiny_policy(
    agent: str = "squarecb", log: FeatureLog | None = None, seed: int = 0, uniform_mix: float = 0.0,
    schema: FeatureSchema | None = None, **settings: object,
) -> FeaturePolicy:  # fmt: skip
    """Return a policy that learned from the tiny log."""
    config = FeatureTrainConfig(uniform_mix=uniform_mix, epochs=3, batch_size=64)
    return learn_feature_policy(
        tiny_log() if log is None else log, tiny_schema() if schema is None else schema, agent,
        feature_agent(agent).config(**settings), config, seed=seed,
    )  # fmt: skip


CASES: dict[str, tuple[str, dict[str, object]]] = {
    "squarecb": ("squarecb", {}),
    "squarecb neural": ("squarecb", {"model": "neural", "layers": (8,)}),
    "squarecb hashed": ("squarecb", {"model": "hashed"}),
    "linucb_shared": ("linucb_shared", {}),
    "linucb_hybrid": ("linucb_hybrid", {}),
    "lints": ("lints", {"scale": 0.5}),
    "eps_greedy": ("eps_greedy", {"layers": (8, 8), "normalization": "layer"}),
    "boltzmann": ("boltzmann", {"layers": (8,), "normalization": "batch", "learning_rate": 0.01}),
    "neural_linucb": ("neural_linucb", {"layers": (8,), "encoding_dim": 4}),
}
"""Every agent and every kind of model."""
ONLINE = tuple(name for name in CASES if name not in ("squarecb neural", "eps_greedy", "boltzmann"))
"""Cases whose model learns online."""


@cache
def trained_case(name: str) -> FeaturePolicy:
    """Return the policy of a case with a share of uniform choices; its device is an embedding for networks."""
    agent, settings = CASES[name]
    device = {"type": "category", "encoding": "embedding", "dim": 2}
    return tiny_policy(
        agent, uniform_mix=0.1, schema=tiny_schema(context={**SCHEMA["context"], "device": device}), **settings
    )
