"""Simulate logs of single rounds, and ingest raw logs into rounds for training and evaluation.

U users, A items of the catalog, D features.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import Count, Fraction, NonNegativeNumber, Temperature, as_dict, config_dataclass
from recpolicy.core.files import atomic_directory, content_digest, write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.seeds import generator
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary, write_events, write_rewards
from recpolicy.data.log_import import UNIT
from recpolicy.data.log_ingest import (
    EVALUATION,
    RATINGS,
    TRAINING,
    IngestConfig,
    IngestReport,
    ingest,
    read_complete_rounds,
)
from recpolicy.data.log_parts import EVENTS, REWARDS
from recpolicy.data.log_ratings import log_ratings
from recpolicy.data.ratings import Ratings
from recpolicy.data.ratings_store import save_ratings
from recpolicy.data.slate_log_files import SLATES
from recpolicy.data.slate_rounds import ingest_slates
from recpolicy.inference.action_distributions import softmax, with_uniform_mix
from recpolicy.inference.predictor import Policy
from recpolicy.models.rating_model import RatingModel
from recpolicy.workflows.artifacts import check_absent
from recpolicy.workflows.imported_logs import log_vocabulary
from recpolicy.workflows.logging_policies import (
    Day,
    Days,
    LoggingPolicy,
    day_start,
    event_times,
    make_logging_policy,
)
from recpolicy.workflows.policy_training import TrainConfig, training_world
from recpolicy.workflows.training_data import coerce

if TYPE_CHECKING:
    from recpolicy.training.rollout import RoundRollout

REPORT, SIMULATION = "ingest.json", "simulation.json"
_HOUR = 3_600_000


@config_dataclass
class LogConfig:
    """Settings of a simulated log."""

    rounds: Count = 200_000
    """Interactions to log."""
    temperature: Temperature = 0.2
    """Temperature of the softmax over the logging policy's scores, in their units (stars)."""
    uniform_mix: Fraction = 0.01
    """Fraction of uniform choices; above 0, every item of the catalog has a positive propensity."""
    days: Days = 7.0
    """Days that the log spans."""
    reward_delay_hours: NonNegativeNumber = 1.0
    """Mean of the exponential delay between an event and its reward."""
    missing_share: Fraction = 0.0
    """Fraction of events without a reward."""
    first_day: Day = "2026-01-05"
    """First day of the log (UTC)."""


def simulate_log(
    train_ratings: Ratings,
    out: str | Path,
    *,
    logging_policy: str | Policy = "rating_model",
    config: LogConfig | Mapping[str, Any] | None = None,
    train: TrainConfig | Mapping[str, Any] | None = None,
    model: RatingModel | None = None,
    model_config: Any = None,
    seed: int = 0,
    show_progress: bool | None = None,
) -> int:
    """Simulate a logging policy in the training world and write its log to the folder `out`.

    The policy acts by a softmax over its scores, mixed with the uniform choice, and does not learn. Rewards are written
    to a separate file, later than their events.

    Args:
        train_ratings: The train part of a split.
        out: The folder to write; it must not exist.
        logging_policy: A name in LOGGING_POLICIES, with the catalog of `train`; or a policy, with its own.
        config: A LogConfig or its settings.
        train: Settings of features, world and environment (TrainConfig).
        model: A rating model that was fitted on the ratings; without it, one is fitted.
        model_config: Settings of the rating model, if it is fitted here.
        seed: Seed of every random draw.
        show_progress: Show a progress bar; None shows it on a terminal, and lines elsewhere.

    Returns:
        The number of events.

    Raises:
        ConfigError: A setting is unknown or out of range.
        DataError: The policy has other users or items.
        ArtifactError: `out` exists.
    """
    require_extra("train", "simulating a log")
    silence_libraries()
    from recpolicy.environments.item_bandit import ItemBandit, ItemBanditConfig
    from recpolicy.training.rollout import rollout_rounds

    settings, training = coerce(LogConfig, config, "log"), coerce(TrainConfig, train, "train")
    check_absent(Path(out))
    policy = make_logging_policy(logging_policy, train_ratings, training, model, model_config, seed)
    probability = logging_probabilities(policy.score, settings)
    environment = ItemBandit(
        training_world(train_ratings, training, seed), policy.context, policy.action_items,
        ItemBanditConfig(batch_size=training.batch_size, drift_period=training.drift_period), seed,
    )  # fmt: skip
    rollout = rollout_rounds(environment, probability, settings.rounds, seed, show_progress)
    rounds = _make_rounds(rollout, policy, policy.version or content_digest(probability), train_ratings.scale, settings)
    metadata = {
        "logging_policy": policy.name,
        "version": rounds.version[0],
        "config": as_dict(settings),
        "train": as_dict(training),
        "seed": seed,
        "train_digest": train_ratings.digest,
    }
    with atomic_directory(Path(out)) as folder:
        write_events(folder / EVENTS, rounds, IdVocabulary.from_ratings(train_ratings), with_rewards=False)
        write_rewards(folder / REWARDS, *_late_rewards(rounds, settings, seed))
        write_json(folder / SIMULATION, metadata)
    return len(rounds)


def logging_probabilities(score: NDArray[np.floating], settings: LogConfig) -> NDArray[np.float64]:
    """Return the probabilities [U, A] of a softmax over scores [U, A], mixed with the uniform choice."""
    probability = with_uniform_mix(
        softmax(score.astype(np.float64) / settings.temperature, None), settings.uniform_mix, None
    )
    return np.asarray(probability / probability.sum(axis=1, keepdims=True), np.float64)


def ingest_log(
    folder: str | Path,
    out: str | Path,
    tables: IdVocabulary | None = None,
    config: IngestConfig | Mapping[str, Any] | None = None,
    *,
    scale: tuple[float, float] = UNIT,
) -> IngestReport:
    """Check a raw log, join its rewards, and write rounds for training and for evaluation to `out`.

    Every slot of a log of slates becomes a round.

    Args:
        folder: The raw log.
        out: The folder to write; it must not exist.
        tables: Users and items of the log. Without them the log's own ids apply, and `out` gets the log as a ratings
            table, with its split, in the folder RATINGS.
        config: An IngestConfig or its settings.
        scale: Without tables, lowest and highest reward of a log whose file does not say.

    Returns:
        Counts of all events and rewards.

    Raises:
        DataError: The log is wrong; names the file and the row.
        ConfigError: A setting is out of range.
        ArtifactError: `out` exists.
    """
    check_absent(Path(out))
    settings = coerce(IngestConfig, config, "ingest")
    vocabulary = tables or log_vocabulary(folder, scale)
    read = ingest_slates if (Path(folder) / SLATES).exists() else ingest
    train_rounds, test_rounds, report = read(Path(folder), vocabulary, settings)
    origin: dict[str, Any] = {"simulator": _simulator(Path(folder))}
    if settings.unit is not None:
        of_slots = train_rounds.slate_digest is not None or train_rounds.unit == "slate"
        alone = "slate" if of_slots else "round"
        origin["unit"] = alone if settings.unit == "round" else None
    train_rounds, test_rounds = (replace(part, **origin) for part in (train_rounds, test_rounds))
    with atomic_directory(Path(out)) as tmp:
        write_events(tmp / TRAINING, train_rounds, vocabulary, with_rewards=True)
        write_events(tmp / EVALUATION, test_rounds, vocabulary, with_rewards=True)
        write_json(tmp / REPORT, report.as_dict())
        if tables is None:
            ratings, held_out = log_ratings(train_rounds, test_rounds, vocabulary, Path(folder).name)
            save_ratings(ratings, tmp / RATINGS, split=(f"tail-{held_out}", 0) if held_out else None)
    return report


def _simulator(folder: Path) -> str | None:
    """Return the name of the world behind a simulated log; None for a log of real users."""
    if not (folder / SIMULATION).exists():
        return None
    metadata = json.loads((folder / SIMULATION).read_text(encoding="utf-8"))
    return str(metadata.get("world") or metadata["train"]["world"])


def read_rounds(path: Path, tables: IdVocabulary) -> BanditLog:
    """Read the rounds in a file that `ingest_log` wrote.

    Args:
        path: The file.
        tables: The ids that the log may contain.

    Returns:
        The rounds, in order of time.

    Raises:
        DataError: The file is missing, of another format, or wrong; names the row.
    """
    return read_complete_rounds(path, tables)


def _make_rounds(
    rollout: "RoundRollout", policy: LoggingPolicy, version: str, scale: tuple[float, float], settings: LogConfig
) -> BanditLog:
    count = len(rollout.user)
    time = event_times(settings.first_day, settings.days, count)
    prefix = content_digest(version, rollout.user, rollout.arm, day_start(settings.first_day))[:8]
    return BanditLog(
        event_id=np.array([f"{prefix}-{number:09d}" for number in range(count)], object),
        time=time,
        user=rollout.user,
        item=policy.action_items[rollout.arm],
        log_propensity=np.log(rollout.propensity),
        reward=rollout.reward.astype(np.float64),
        action_items=policy.action_items,
        scale=scale,
        name=f"log of {policy.name}",
        policy=np.full(count, policy.name, object),
        version=np.full(count, version, object),
    )


def _late_rewards(
    rounds: BanditLog, settings: LogConfig, seed: int
) -> tuple[NDArray[np.object_], NDArray[np.int64], NDArray[np.float64]]:
    """Return event ids, times and rewards of the events with a reward, in order of arrival."""
    rng = generator(seed, "logging/rewards")
    has_reward = rng.random(len(rounds)) >= settings.missing_share
    time = rounds.time + rng.exponential(settings.reward_delay_hours * _HOUR, len(rounds)).astype(np.int64)
    order = np.flatnonzero(has_reward)[np.argsort(time[has_reward], kind="stable")]
    return rounds.event_id[order], time[order], rounds.reward[order]
