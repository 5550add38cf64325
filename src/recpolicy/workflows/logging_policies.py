"""Who writes simulated logs of single rounds and of slates: a baseline or a trained policy, by its scores.

U users, An items of the catalogue.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.data.ratings import Ratings
from recpolicy.evaluation.policy_scores import baseline_tables
from recpolicy.inference.predictor import Policy
from recpolicy.models.rating_model import RatingModel
from recpolicy.workflows.training_features import FeatureConfig, prepare

if TYPE_CHECKING:
    import pandas as pd

LOGGING_POLICIES = ("random", "highest_mean", "rating_model")
"""Baselines that can write a log; their scores are ratings, so the temperature is in stars."""


@dataclass(frozen=True)
class Logger:
    """Who logs: scores over a catalogue, for known users."""

    name: str
    version: str
    """Digest of the policy's content; empty for a baseline, which is no more than its probabilities."""
    score: NDArray[np.floating]  # [U, A]
    context: NDArray[np.float32]  # [U, D]
    catalogue: NDArray[np.int32]  # [A]


def make_logging_policy(
    logging_policy: str | Policy,
    fit: Ratings,
    training: FeatureConfig,
    model: RatingModel | None,
    model_config: Any,
    seed: int,
) -> Logger:
    """The baseline of this name over the catalogue that `training` describes, or a policy over its own.

    Raises ConfigError for an unknown name and a policy of sessions, DataError for a policy of other users or items.
    """
    if isinstance(logging_policy, str):
        return _baseline(logging_policy, fit, training, model, model_config, seed)
    return _loaded(logging_policy, fit)


def _baseline(
    name: str, fit: Ratings, training: FeatureConfig, model: RatingModel | None, model_config: Any, seed: int
) -> Logger:
    if name not in LOGGING_POLICIES:
        raise unknown_name_error("logging policy", name, LOGGING_POLICIES)
    features = prepare(fit, training, model=model, model_config=model_config, seed=seed)
    score = baseline_tables(fit, features.model)[name].score[:, features.catalogue]
    return Logger(name, "", score, features.context, features.catalogue)


def _loaded(policy: Policy, fit: Ratings) -> Logger:
    artifact = policy.artifact
    if policy.sequential:
        raise ConfigError(f"{artifact.agent} acts in sessions; a log of rounds or slates takes a policy of rounds")
    if not (_same(artifact.users, fit.users, "user_id") and _same(artifact.items, fit.items, "item_id")):
        raise DataError(
            f"{fit.name}: other users or items than those of the logging policy; give what it was trained on"
        )
    score = policy.scores()[0][:, artifact.catalogue]
    return Logger(artifact.agent, artifact.metadata["content"], score, artifact.context, artifact.catalogue)


def _same(one: "pd.DataFrame", other: "pd.DataFrame", column: str) -> bool:
    return np.array_equal(one[column].to_numpy(), other[column].to_numpy())
