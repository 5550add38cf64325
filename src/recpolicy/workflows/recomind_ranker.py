"""The production ranker of the study `recomind`: what the values of DQN start from.

U users, A items of the catalog, D embedding. A ranker is either linear in the user's embedding, as the rating model and
policies of linear agents are, or a network of `dqn`. Both are exactly a start of DQN's dot head.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.agents.item_features import ItemFeatures, compute_item_features
from recpolicy.core.errors import ConfigError
from recpolicy.data.splits import Split
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.registry.aliases import CHAMPION, STATE
from recpolicy.registry.artifact_kinds import verify
from recpolicy.registry.model_registry import Registry
from recpolicy.workflows.held_out_evaluation import check_trained_on
from recpolicy.workflows.training_data import Features

_TOLERANCE = 1e-3
"""Largest error of a linear fit of scores, in their standard deviations, and of embeddings that count as equal."""


@dataclass(frozen=True)
class Ranker:
    """A production ranker as the start of a value network."""

    name: str
    arms: ItemFeatures
    """Tables of the dot head; without `arrays` its scores are the ranker's."""
    arrays: Mapping[str, Any] | None = None
    """Layers of the network, None for one that starts at 0."""


def read_ranker(source: Path | None, split: Split, features: Features) -> Ranker:
    """Return the production ranker.

    Args:
        source: Folder of a policy, or of a registry: then its champion. None is the rating model.
        split: The ratings of the study.
        features: The study's features.

    Raises:
        ArtifactError: The policy is missing or damaged.
        ConfigError: It has another catalog or other embeddings, or is no start of DQN.
        DataError: It was trained on other ratings.
    """
    arms = compute_item_features(features.action_items, features.embeddings, split.train)
    if source is None:
        return Ranker(f"rating model {features.model.name}", arms)
    folder = Path(source)
    if (folder / STATE).is_file():
        folder = Registry(folder).resolve(CHAMPION)
    verify(folder)
    policy, where = load_policy(folder), f"--ranker {source}"
    check_trained_on(where, policy, split)
    theirs = policy.artifact.action_items
    if policy.artifact.catalog_changed or not np.array_equal(theirs, features.action_items):
        raise ConfigError(
            f"{where}: another catalog: {len(theirs):,} items, but the study has {len(features.action_items):,}; choose"
            " the same number with --items (0 takes all)"
        )
    name = f"{policy.artifact.agent} {policy.metadata['policy_digest'][:12]}"
    if policy.artifact.estimator == "session_values":
        return Ranker(name, arms, _network(where, policy, features))
    if policy.sequential:
        raise ConfigError(
            f"{where}: {policy.artifact.agent} has a softmax over log-odds, dqn has values; give a policy of dqn or of"
            " a linear agent"
        )
    return Ranker(name, _linear(where, policy, arms, features))


def _network(where: str, policy: Policy, features: Features) -> Mapping[str, Any]:
    """Return the layers of a policy of dqn; raise ConfigError unless it sees what the study's policies see."""
    artifact = policy.artifact
    pairs = ((artifact.item, features.embeddings.item), (artifact.context, features.context))
    if any(a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=_TOLERANCE) for a, b in pairs):
        raise ConfigError(f"{where}: its embeddings are not those of the study; train it with the same seed and data")
    learned = policy.metadata["config"]["agent"]
    if learned["head"] != "dot" or learned["dueling"] or list(learned["layers"]) != [64, 64]:
        raise ConfigError(f"{where}: another network; the study has the default head, layers and no dueling")
    return {name: np.asarray(value) for name, value in artifact.policy.items()}


def _linear(where: str, policy: Policy, arms: ItemFeatures, features: Features) -> ItemFeatures:
    """Return the item tables whose dot products are the policy's scores; raise ConfigError if there are none."""
    score = policy.scores()[0][:, features.action_items].astype(np.float64)  # [U, A]
    rank = features.embeddings.item.shape[1]
    design = np.column_stack([features.context[:, :rank], np.ones(len(score))])  # [U, D + 1]
    weights, *_ = np.linalg.lstsq(design, score, rcond=None)
    error = float(np.abs(design @ weights - score).max())
    if error > _TOLERANCE * float(score.std()):
        raise ConfigError(
            f"{where}: scores of {policy.artifact.agent} are not linear in the study's user embeddings (error"
            f" {error:.3g}), so values cannot start from them; give a policy of dqn or of a linear agent"
        )
    return replace(arms, embedding=weights[:-1].T.astype(np.float32), offset=weights[-1].astype(np.float32))
