"""Logs of slates: a policy of single rounds fills pages of K slots for simulated users and writes them down."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import PositiveInt

from recpolicy.core.config import Fraction, PositiveFraction, as_dict, config_dataclass
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.files import atomic_directory, content_digest, write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.slate_log import SlateLog
from recpolicy.data.slate_log_files import SLATES, read_slates, write_slates
from recpolicy.data.splits import Split
from recpolicy.inference.action_distributions import softmax, with_uniform_mix
from recpolicy.inference.predictor import Policy
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.session_world import SessionWorld
from recpolicy.models.session_worlds import TwoWorlds, two_worlds
from recpolicy.workflows.artifacts import refuse_existing
from recpolicy.workflows.interaction_logs import SIMULATION
from recpolicy.workflows.log_schedule import Day, Days, Temperature, spread, start_of
from recpolicy.workflows.logging_policies import Logger, make_logging_policy
from recpolicy.workflows.train import TrainConfig
from recpolicy.workflows.training_features import settings_of

if TYPE_CHECKING:
    from recpolicy.training.rollout_slates import BrowsingModel, PlayedSlates


@config_dataclass
class SlateLogConfig:
    """How a log of slates is made."""

    slates: PositiveInt = 20_000
    """Pages to log."""
    slots: PositiveInt = 5
    """K, items on a page."""
    layout: Literal["shelves", "list"] = "shelves"
    """shelves: each slot has items of its own, by their year; list: any item in any slot, none twice on a page."""
    click_model: Literal["independent", "cascade"] = "independent"
    """independent: likes of items do not depend on each other; cascade: users read from the top to the first like."""
    continuation_probability: PositiveFraction = 0.8
    """Of the cascade: probability of reading on after an item that is not liked."""
    temperature: Temperature = 0.2
    """Of the softmax over the logging policy's scores, in their units (stars)."""
    uniform_mix: Fraction = 0.1
    """Share of uniform choices in every slot, so that each item has a propensity that estimators can divide by."""
    days: Days = 7.0
    """Time that the log spans."""
    first_day: Day = "2026-01-05"
    """When the log begins (UTC)."""


def simulate_slates(
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
    """Let a policy fill pages for the users of world A and write what it logged to the folder `out`; returns the log.

    logging_policy: a name in logging_policies.LOGGING_POLICIES, over the catalogue that `train` describes, or a policy
    of single rounds, over its own. It does not learn. A slot pays 1 for a like; a page is shown at the start of a
    session. `worlds` may be handed in when they are made already. Raises ConfigError for settings that are unknown or
    out of range and for a policy of sessions, DataError for a policy of other users or items, ArtifactError when `out`
    exists.
    """
    require_extra("train", "simulating a log")
    silence_libraries()
    settings, training = settings_of(SlateLogConfig, config, "log"), settings_of(TrainConfig, train, "train")
    refuse_existing(Path(out))
    who = make_logging_policy(logging_policy, split.train, training, model, model_config, seed)
    world = (worlds or two_worlds(split, None, seed)).train
    log = play_slates_of(who, world, split, settings, seed, show_progress)
    note = {
        "logging_policy": who.name, "version": log.version[0], "config": as_dict(settings), "train": as_dict(training),
        "seed": seed, "world": world.name, "train_digest": split.train.digest,
    }  # fmt: skip
    with atomic_directory(Path(out)) as folder:
        write_slates(folder / SLATES, log, IdVocabulary.from_ratings(split.train))
        write_json(folder / SIMULATION, note)
    return log


def read_slate_log(path: str | Path, tables: IdVocabulary) -> SlateLog:
    """Read a log of slates, its folder or its file; raises DataError that names file and row for anything wrong."""
    path = Path(path)
    return read_slates(path / SLATES if path.is_dir() else path, tables)


def play_slates_of(
    who: Logger, world: SessionWorld, split: Split, settings: SlateLogConfig, seed: int,
    show_progress: bool | None = None,
) -> SlateLog:  # fmt: skip
    """Let a logger fill pages in any world; nothing is written."""
    from recpolicy.training.rollout_slates import play_slates

    actions = len(who.catalogue)
    if settings.slots > actions:
        raise ConfigError(f"SlateLogConfig.slots is {settings.slots}; there are {actions} items to show")
    shelves = (
        shelves_by_year(split.train.items, who.catalogue, settings.slots) if settings.layout == "shelves" else None
    )
    chance = partial(_probabilities, who.score, settings)
    browsing_model = _browsing_model(world, who.catalogue, settings, seed)
    shape = settings.slates, settings.slots
    played = play_slates(world, chance, browsing_model, shelves, shape, actions, seed, show_progress)
    version = who.version or content_digest(
        who.name, who.score, settings.temperature, settings.uniform_mix, who.catalogue
    )
    return _log_of(played, who, version, shelves, settings)


def shelves_by_year(items: pd.DataFrame, catalogue: NDArray[np.int32], slots: int) -> NDArray[np.int16]:
    """The slot [A] of each item of the catalogue: `slots` parts of equal size (+-1) in the order of their years.

    Items of one year may stand on two shelves; those without a year come first. Raises DataError without years.
    """
    if "year" not in items:
        raise DataError("items without years: shelves are made by year; log with layout 'list'")
    year = items["year"].to_numpy(np.float64, na_value=-np.inf)[catalogue]
    shelves = np.empty(len(catalogue), np.int16)
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
    """The softmax over the scores of the arms [n, M], mixed with the uniform choice among them."""
    among = score[np.ix_(user, arms)].astype(np.float64) / settings.temperature
    return np.asarray(with_uniform_mix(softmax(among, mask), settings.uniform_mix, mask), np.float64)


def _browsing_model(
    world: SessionWorld, catalogue: NDArray[np.int32], settings: SlateLogConfig, seed: int
) -> "BrowsingModel":
    from recpolicy.environments.session_slate import SlateConfig, SlateEnvironment
    from recpolicy.training.rollout_slates import SLATES_PER_BLOCK, cascade_clicks, independent_clicks

    if settings.click_model == "independent":
        return independent_clicks(world, catalogue, seed)
    config = SlateConfig(
        slate_size=settings.slots,
        continuation_probability=settings.continuation_probability,
        batch_size=SLATES_PER_BLOCK,
        max_episode_steps=1,
    )
    blind = np.zeros((int(world.users.max()) + 1, 1), np.float32), np.zeros((world.like.shape[1], 1), np.float32)
    return cascade_clicks(SlateEnvironment(world, *blind, catalogue, config, seed))


def _log_of(
    played: "PlayedSlates", who: Logger, version: str, shelves: NDArray[np.int16] | None, settings: SlateLogConfig
) -> SlateLog:
    count, liked = len(played.user), played.liked.astype(np.float64)
    prefix = content_digest(version, played.user, played.arm, start_of(settings.first_day))[:8]
    most = settings.slots if settings.click_model == "independent" else 1
    return SlateLog(
        event_id=np.array([f"{prefix}-{number:08d}" for number in range(count)], object),
        time=spread(settings.first_day, settings.days, count), user=played.user, slate=who.catalogue[played.arm],
        log_propensity=played.log_propensity, reward=liked.sum(axis=1), slot_reward=liked,
        policy=np.full(count, who.name, object), version=np.full(count, version, object), catalogue=who.catalogue,
        shelves=shelves, scale=(0.0, float(most)), name=f"slates of {who.name}",
    )  # fmt: skip
