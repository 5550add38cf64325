"""Policies trained on the miniature, once per session however many tests and workers read them.

Beside each artifact lies what TensorFlow said of it at the moment it was saved: the reference that prediction without
TensorFlow, and the SavedModels, must agree with. The folders are shared: a test that changes one copies it first.
"""

import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from tiny_dataset import miniature_ratings

from recpolicy.data.splits import Split, split
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.training import tensorflow_export

_write_saved_models = tensorflow_export.write_saved_models  # itself, whatever a test has put in its place

TINY = {
    "total_timesteps": 640, "batch_size": 16, "log_rows": 2, "rating_model": "svd", "world": "item_knn", "rank": 5,
}  # fmt: skip
"""40 rounds in two calls of one compiled loop."""
NARROW = {"items": 30, "demographics": True, "uniform_mix": 0.2}
"""A catalog of some of the items, contexts longer than the embeddings."""


ATTRIBUTES: dict[str, Any] = {
    "context": {"age": {"type": "number"}, "gender": {"type": "category"}},
    "action": {"year": {"type": "number"}, "genres": {"type": "tags", "max_values": 6}},
}
"""Attributes of users and items, with their products in linear models."""


@dataclass(frozen=True)
class Case:
    """One training: which agent, with which settings."""

    agent: str
    agent_config: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


CASES = {
    "linucb": Case("linucb"),
    "linucb_shared": Case("linucb_shared"),
    "linucb_hybrid": Case("linucb_hybrid", config=NARROW),
    "linucb_user": Case("linucb_user", {"exploration": "thompson"}, {"items": 30, "uniform_mix": 0.2}),
    "lints": Case("lints"),
    "ucb1": Case("ucb1"),
    "eps_greedy": Case("eps_greedy"),
    "boltzmann": Case("boltzmann", {"head": "plain", "temperature": 0.5}, NARROW),
    "neural_linucb": Case("neural_linucb", {"encoder_batches": 20}),
    "squarecb": Case("squarecb"),
    "exp3": Case("exp3"),
    "linucb_shared attributes": Case("linucb_shared", config={"features": ATTRIBUTES}),
    "linucb_hybrid attributes": Case("linucb_hybrid", config=NARROW | {"features": ATTRIBUTES}),
    "eps_greedy attributes": Case("eps_greedy", config={"features": ATTRIBUTES}),
    "random": Case("random"),
    "popular": Case("popular"),
    "highest_mean": Case("highest_mean"),
    "rating_model": Case("rating_model"),
}
"""Every agent, counted in test_save_and_load.py; three with other catalogs, contexts and heads than the rest."""


@cache
def miniature_split() -> Split:
    """The first fold of the miniature."""
    return split(miniature_ratings(), "u1")


@cache
def trained(name: str) -> Path:
    """The artifact of the case; its ratings say that they came from nowhere."""
    root = Path(os.environ["RECPOLICY_CACHE"]) / "trained-policies"
    folder = root / name
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{name}.lock"):
        if not folder.exists():
            _train(CASES[name], folder)
    return folder


@cache
def loaded(name: str) -> Policy:
    """The loaded policy of the case."""
    return load_policy(trained(name))


@cache
def reference(name: str) -> dict[str, np.ndarray]:
    """What TensorFlow says of all users [U] and the catalog [A].

    mean, width, explore, exploit, and unrated: the exploring policy where rated items are not allowed; each [U, A].
    """
    with np.load(trained(name).with_suffix(".npz")) as stored:
        return dict(stored)


def _train(case: Case, folder: Path) -> None:
    from recpolicy.workflows.policy_training import train

    def write_and_note(agent: Any, width: int, beside: Path) -> None:
        _write_saved_models(agent, width, beside)
        np.savez(folder.with_suffix(".npz"), **_said_by_tensorflow(agent, beside))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorflow_export, "write_saved_models", write_and_note)
        train(case.agent, miniature_split(), folder, config=TINY | case.config, agent_config=case.agent_config)


def _said_by_tensorflow(agent: Any, artifact: Path) -> dict[str, np.ndarray]:
    from recpolicy.agents.observation import read_observation

    with np.load(artifact / "arrays.npz") as stored:
        context, action_items = stored["context"], stored["action_items"]
    rated = np.isfinite(miniature_split().train.matrix())[:, action_items]
    estimate = agent.learner.estimate(read_observation(context))
    masked = {"global": context, "mask": (~rated).astype(np.int32)}
    return {
        "mean": estimate.mean.numpy(),
        "width": estimate.width.numpy(),
        "explore": agent.collect_policy.probabilities(context).numpy(),
        "exploit": agent.policy.probabilities(context).numpy(),
        "unrated": agent.collect_policy.probabilities(masked).numpy(),
    }
