"""Simulate logs of slates: a policy of single rounds fills slates of K slots for simulated users.

A items of the catalog, K slots.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.config import Count, Fraction, PositiveFraction, Size, Temperature, as_dict, config_dataclass
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.files import atomic_directory, content_digest, write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.slate_log import SlateLog
from recpolicy.data.slate_log_files import SLATES, is_slate_log, read_slates, write_slates
from recpolicy.data.splits import Split
from recpolicy.inference.action_distributions import softmax, with_uniform_mix
from recpolicy.inference.predictor import Policy
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.session_world import SessionWorld
from recpolicy.models.session_worlds import TwoWorlds, fit_two_worlds
from recpolicy.workflows.artifacts import check_absent
from recpolicy.workflows.interaction_logs import SIMULATION
from recpolicy.workflows.logging_policies import (
    Day,
    Days,
    LoggingPolicy,
    day_start,
    event_times,
    make_logging_policy,
)
from recpolicy.workflows.policy_training import TrainConfig
from recpolicy.workflows.training_data import coerce

if TYPE_CHECKING:
    from recpolicy.training.rollout_slates import BrowsingModel, SlateRollout


@config_dataclass
class SlateLogConfig:
    """Settings of a simulated log of slates."""

    slates: Count = 20_000
    """Slates to log."""
    slots: Size = 5
    """Items of a slate, K."""
    layout: Literal["shelves", "list"] = "shelves"
    """shelves: each slot has its own items, by year; list: any item in any slot, each at most once per slate."""
    click_model: Literal["independent", "cascade"] = "independent"
    """independent: likes of items do not depend on each other; cascade: users read from the top to the first like."""
    continuation_probability: PositiveFraction = 0.8
    """Of the cascade: probability of reading on after an item that is not liked."""
    temperature: Temperature = 0.2
    """Temperature of the softmax over the logging policy's scores, in their units (stars)."""
    uniform_mix: Fraction = 0.1
    """Fraction of uniform choices in every slot; above 0, each eligible item has a positive propensity."""
    days: Days = 7.0
    """Days that the log spans."""
    first_day: Day = "2026-01-05"
    """First day of the log (UTC)."""


def simulate_slate_log(
    split: Split,
    out: str | Path,
    *,
    logging_policy: str | Policy = "rating_model",
    config: SlateLogConfig | Mapping[str, Any] | None = None,
    train: TrainConfig | Mapping[str, Any] | None = None,
    model: RatingModel | None = None,
    model_config: Any = None,
    worlds: TwoWorlds | None = None,
    seed: int = 0,
    show_progress: bool | None = None,
) -> SlateLog:
    """Simulate a policy that fills slates in the training world, write its log to `out` and return the log.

    A slot rewards 1 for a like. Each slate starts a session. The policy does not learn.

    Args:
        split: The ratings; the worlds are fitted on both parts.
        out: The folder to write; it must not exist.
        logging_policy: A name in LOGGING_POLICIES, with the catalog of `train`; or a policy of single rounds.
        config: A SlateLogConfig or its settings.
        train: Settings of the features (TrainConfig).
        model: A rating model that was fitted on `split.train`; without it, one is fitted.
        model_config: Settings of the rating model, if it is fitted here.
        worlds: The simulated worlds; without them, they are fitted.
        seed: Seed of every random draw.
        show_progress: Show a progress bar; None shows it on a terminal, and lines elsewhere.

    Returns:
        The log, as it was written.

    Raises:
        ConfigError: A setting is unknown or out of range, or the policy is one of sessions.
        DataError: The policy has other users or items.
        ArtifactError: `out` exists.
    """
    require_extra("train", "simulating a log")
    silence_libraries()
    settings, training = coerce(SlateLogConfig, config, "log"), coerce(TrainConfig, train, "train")
    check_absent(Path(out))
    policy = make_logging_policy(logging_policy, split.train, training, model, model_config, seed)
    world = (worlds or fit_two_worlds(split, None, seed)).training_world
    log = rollout_slate_log(policy, world, split, settings, seed, show_progress)
    metadata = {
        "logging_policy": policy.name,
        "version": log.version[0],
        "config": as_dict(settings),
        "train": as_dict(training),
        "seed": seed,
        "world": world.name,
        "train_digest": split.train.digest,
    }
    with atomic_directory(Path(out)) as folder:
        write_slates(folder / SLATES, log, IdVocabulary.from_ratings(split.train))
        write_json(folder / SIMULATION, metadata)
    return log


def holds_slates(path: str | Path) -> bool:
    """Return True if the folder or file is a log of slates."""
    path = Path(path)
    return (path / SLATES).exists() if path.is_dir() else is_slate_log(path)


def read_slate_log(path: str | Path, tables: IdVocabulary) -> SlateLog:
    """Read a log of slates.

    Args:
        path: Its folder or file.
        tables: The ids that the log may contain.

    Returns:
        The slates.

    Raises:
        DataError: The log is missing or wrong; names the file and the row.
    """
    path = Path(path)
    return read_slates(path / SLATES if path.is_dir() else path, tables)


def rollout_slate_log(
    policy: LoggingPolicy, world: SessionWorld, split: Split, settings: SlateLogConfig, seed: int,
    show_progress: bool | None = None,
) -> SlateLog:  # fmt: skip
    """Return the log of a policy that fills slates in a world; write nothing."""
    from recpolicy.training.rollout_slates import rollout_slates

    actions = len(policy.action_items)
    if settings.slots > actions:
        raise ConfigError(f"SlateLogConfig.slots is {settings.slots}; there are only {actions} items")
    shelves = (
        shelves_by_year(split.train.items, policy.action_items, settings.slots)
        if settings.layout == "shelves"
        else None
    )
    probabilities = partial(_probabilities, policy.score, settings)
    browsing_model = _browsing_model(world, policy.action_items, settings, seed)
    shape = settings.slates, settings.slots
    rollout = rollout_slates(world, probabilities, browsing_model, shelves, shape, actions, seed, show_progress)
    version = policy.version or content_digest(
        policy.name, policy.score, settings.temperature, settings.uniform_mix, policy.action_items
    )
    return _make_log(rollout, policy, version, shelves, settings)


def shelves_by_year(items: pd.DataFrame, action_items: NDArray[np.int32], slots: int) -> NDArray[np.int16]:
    """Return the slot [A] of each item of the catalog: parts of equal size (+-1) in order of year.

    Items of one year may fall into two slots. Items without a year come first.

    Raises:
        DataError: The items have no column of years.
    """
    if "year" not in items:
        raise DataError("items without years: the layout 'shelves' assigns items by year; use the layout 'list'")
    year = items["year"].to_numpy(np.float64, na_value=-np.inf)[action_items]
    shelves = np.empty(len(action_items), np.int16)
    for slot, part in enumerate(np.array_split(np.argsort(year, kind="stable"), slots)):
        shelves[part] = slot
    return shelves


def _probabilities(
    score: NDArray[np.floating],
    settings: SlateLogConfig,
    user: NDArray[np.int32],
    arms: NDArray[np.intp],
    mask: NDArray[np.bool_] | None,
) -> NDArray[np.float64]:
    """Return the softmax over the scores of the arms [n, M], mixed with the uniform choice among them."""
    logits = score[np.ix_(user, arms)].astype(np.float64) / settings.temperature
    return np.asarray(with_uniform_mix(softmax(logits, mask), settings.uniform_mix, mask), np.float64)


def _browsing_model(
    world: SessionWorld, action_items: NDArray[np.int32], settings: SlateLogConfig, seed: int
) -> "BrowsingModel":
    from recpolicy.environments.session_slate import SlateConfig, SlateEnvironment
    from recpolicy.training.rollout_slates import SLATES_PER_BLOCK, cascade_clicks, independent_clicks

    if settings.click_model == "independent":
        return independent_clicks(world, action_items, seed)
    config = SlateConfig(
        slate_size=settings.slots,
        continuation_probability=settings.continuation_probability,
        batch_size=SLATES_PER_BLOCK,
        max_episode_steps=1,
    )
    blind = np.zeros((int(world.users.max()) + 1, 1), np.float32), np.zeros((world.like.shape[1], 1), np.float32)
    return cascade_clicks(SlateEnvironment(world, *blind, action_items, config, seed))


def _make_log(
    rollout: "SlateRollout",
    policy: LoggingPolicy,
    version: str,
    shelves: NDArray[np.int16] | None,
    settings: SlateLogConfig,
) -> SlateLog:
    count, liked = len(rollout.user), rollout.liked.astype(np.float64)
    prefix = content_digest(version, rollout.user, rollout.arm, day_start(settings.first_day))[:8]
    max_reward = settings.slots if settings.click_model == "independent" else 1
    return SlateLog(
        event_id=np.array([f"{prefix}-{number:08d}" for number in range(count)], object),
        time=event_times(settings.first_day, settings.days, count),
        user=rollout.user,
        slate=policy.action_items[rollout.arm],
        log_propensity=rollout.log_propensity,
        reward=liked.sum(axis=1),
        slot_reward=liked,
        policy=np.full(count, policy.name, object),
        version=np.full(count, version, object),
        action_items=policy.action_items,
        shelves=shelves,
        scale=(0.0, float(max_reward)),
        name=f"slates of {policy.name}",
    )
