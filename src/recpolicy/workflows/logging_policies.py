"""Logging policies of simulated logs, and the times of logged events.

A baseline or a trained policy logs by a softmax over its scores. U users, A items of the catalog, D features.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.data.ratings import Ratings
from recpolicy.evaluation.policy_scores import baseline_tables
from recpolicy.inference.predictor import Policy
from recpolicy.models.rating_model import RatingModel
from recpolicy.workflows.training_data import FeatureConfig, prepare_features

if TYPE_CHECKING:
    import pandas as pd

DAY = 86_400_000
"""A day in milliseconds."""


def _check_day(day: str) -> str:
    try:
        is_date = not np.isnat(np.datetime64(day, "ms"))
    except ValueError:
        is_date = False
    if not is_date:
        raise ConfigError(f"first_day is {day!r}: expected a date such as 2026-01-05")
    return day


Day = Annotated[str, AfterValidator(_check_day)]
"""A date such as 2026-01-05, in UTC."""
Days = Annotated[float, Field(gt=0, le=36_525)]
"""A span of at most a century."""


def day_start(first_day: str) -> int:
    """Return the start of a day (UTC) in milliseconds since 1970."""
    return int(np.datetime64(first_day, "ms").astype(np.int64))


def event_times(first_day: str, days: float, count: int) -> NDArray[np.int64]:
    """Return the times [count] of events at even intervals over a number of days, in milliseconds since 1970."""
    return day_start(first_day) + np.linspace(0, days * DAY, count, endpoint=False).astype(np.int64)


LOGGING_POLICIES = ("random", "highest_mean", "rating_model")
"""Baselines that can write a log; their scores are ratings, so the temperature is in stars."""


@dataclass(frozen=True)
class LoggingPolicy:
    """A policy that logs: its scores over a catalog, for known users."""

    name: str
    version: str
    """Digest of a trained policy; empty for a baseline."""
    score: NDArray[np.floating]  # [U, A]
    context: NDArray[np.float32]  # [U, D]
    action_items: NDArray[np.int32]  # [A]


def make_logging_policy(
    logging_policy: str | Policy,
    train_ratings: Ratings,
    training: FeatureConfig,
    model: RatingModel | None,
    model_config: Any,
    seed: int,
) -> LoggingPolicy:
    """Return the baseline of this name with the catalog of `training`, or a trained policy with its own.

    Raises:
        ConfigError: The name is unknown, or the policy is one of sessions.
        DataError: The policy has other users or items.
    """
    if isinstance(logging_policy, str):
        return _baseline(logging_policy, train_ratings, training, model, model_config, seed)
    return _loaded(logging_policy, train_ratings)


def _baseline(
    name: str, train_ratings: Ratings, training: FeatureConfig, model: RatingModel | None, model_config: Any, seed: int
) -> LoggingPolicy:
    if name not in LOGGING_POLICIES:
        raise unknown_name_error("logging policy", name, LOGGING_POLICIES)
    features = prepare_features(train_ratings, training, model=model, model_config=model_config, seed=seed)
    score = baseline_tables(train_ratings, features.model)[name].score[:, features.action_items]
    return LoggingPolicy(name, "", score, features.context, features.action_items)


def _loaded(policy: Policy, train_ratings: Ratings) -> LoggingPolicy:
    artifact = policy.artifact
    if policy.sequential:
        raise ConfigError(
            f"{artifact.agent} is a session policy; a log of rounds or slates needs a policy of single rounds"
        )
    if not (
        _same(artifact.users, train_ratings.users, "user_id") and _same(artifact.items, train_ratings.items, "item_id")
    ):
        raise DataError(
            f"{train_ratings.name}: other users or items than those of the logging policy; use its own ratings"
        )
    score = policy.scores()[0][:, artifact.action_items]
    return LoggingPolicy(
        artifact.agent, policy.metadata["policy_digest"], score, artifact.context, artifact.action_items
    )


def _same(table: "pd.DataFrame", other: "pd.DataFrame", column: str) -> bool:
    return np.array_equal(table[column].to_numpy(), other[column].to_numpy())
