"""Logs from a policy that plays a simulated world, and from raw logs to rounds that can be learnt from."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt

from recpolicy.core.config import Fraction, as_dict, config_dataclass
from recpolicy.core.files import atomic_directory, content_digest, write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.seeds import generator
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import EVENTS, REWARDS, IdVocabulary, write_events, write_rewards
from recpolicy.data.log_ingest import IngestConfig, IngestReport, ingest, rounds_of
from recpolicy.data.log_ratings import log_ratings
from recpolicy.data.ratings import Ratings
from recpolicy.data.ratings_store import save_ratings
from recpolicy.data.slate_log_files import SLATES
from recpolicy.data.slate_rounds import ingest_slates
from recpolicy.inference.action_distributions import softmax, with_uniform_mix
from recpolicy.inference.predictor import Policy
from recpolicy.models.rating_model import RatingModel
from recpolicy.workflows.artifacts import refuse_existing
from recpolicy.workflows.import_log import read_import_tables
from recpolicy.workflows.log_schedule import Day, Days, Temperature, spread, start_of
from recpolicy.workflows.logging_policies import Logger, make_logging_policy
from recpolicy.workflows.train import TrainConfig, training_world
from recpolicy.workflows.training_features import settings_of

if TYPE_CHECKING:
    from recpolicy.training.rollout import Played

TRAINING, EVALUATION, REPORT, SIMULATION = "training.parquet", "evaluation.parquet", "ingest.json", "simulation.json"
RATINGS = "ratings"
"""Folder of a table of ratings made of the log itself, beside the rounds of a log with users and items of its own."""
_HOUR = 3_600_000


@config_dataclass
class LogConfig:
    """How a simulated log is made."""

    rounds: PositiveInt = 200_000
    """Interactions to log."""
    temperature: Temperature = 0.2
    """Of the softmax over the logging policy's scores, in their units (stars); the smaller, the greedier."""
    uniform_mix: Fraction = 0.01
    """Share of uniform choices, so that every item of the catalogue has a positive propensity."""
    days: Days = 7.0
    """Time that the log spans."""
    reward_delay_hours: NonNegativeFloat = 1.0
    """Mean of the exponential delay between an event and its reward."""
    missing_share: Fraction = 0.0
    """Share of events whose reward never comes."""
    first_day: Day = "2026-01-05"
    """When the log begins (UTC)."""


def simulate_log(
    fit: Ratings,
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
    """Let a policy play the training world and write what it logged to the folder `out`; returns the events written.

    logging_policy: a name in logging_policies.LOGGING_POLICIES, which plays the catalogue that `train` describes, or a
    policy, which plays its own; it acts by a softmax over its scores, mixed with the uniform choice, and does not
    learn. Of `train` the settings of features, world and environment are used. Rewards stand in a file of their own,
    later than their events, as in life. Raises ConfigError for settings that are unknown or out of range, DataError for
    a policy of other users or items, ArtifactError when `out` exists.
    """
    require_extra("train", "simulating a log")
    silence_libraries()
    from recpolicy.environments.item_bandit import ItemBandit, ItemBanditConfig
    from recpolicy.training.rollout import play_logged

    settings, training = settings_of(LogConfig, config, "log"), settings_of(TrainConfig, train, "train")
    refuse_existing(Path(out))
    who = make_logging_policy(logging_policy, fit, training, model, model_config, seed)
    probability = logging_probabilities(who.score, settings)
    environment = ItemBandit(
        training_world(fit, training, seed), who.context, who.catalogue,
        ItemBanditConfig(batch_size=training.batch_size, drift_period=training.drift_period), seed,
    )  # fmt: skip
    played = play_logged(environment, probability, settings.rounds, seed, show_progress)
    rounds = _rounds_of(played, who, who.version or content_digest(probability), fit.scale, settings)
    note = {
        "logging_policy": who.name,
        "version": rounds.version[0],
        "config": as_dict(settings),
        "train": as_dict(training),
        "seed": seed,
        "train_digest": fit.digest,
    }
    with atomic_directory(Path(out)) as folder:
        write_events(folder / EVENTS, rounds, IdVocabulary.from_ratings(fit), with_rewards=False)
        write_rewards(folder / REWARDS, *_late_rewards(rounds, settings, seed))
        write_json(folder / SIMULATION, note)
    return len(rounds)


def logging_probabilities(score: NDArray[np.floating], settings: LogConfig) -> NDArray[np.float64]:
    """Probabilities [U, A] of the softmax over scores [U, A], mixed with the uniform choice."""
    probability = with_uniform_mix(
        softmax(score.astype(np.float64) / settings.temperature, None), settings.uniform_mix, None
    )
    return np.asarray(probability / probability.sum(axis=1, keepdims=True), np.float64)


def ingest_log(
    folder: str | Path,
    out: str | Path,
    tables: IdVocabulary | None = None,
    config: IngestConfig | Mapping[str, Any] | None = None,
) -> IngestReport:
    """Check the log in `folder`, join its rewards, and write the rounds to learn from and to evaluate on to `out`.

    Without tables, those that were derived when the log was imported are taken, and the log itself is written as a
    table of ratings, with its split, to the folder RATINGS in `out`. Of a log of slates every slot becomes a round.
    Raises DataError that names file and row for anything wrong, ConfigError for settings out of range, ArtifactError
    when `out` exists, or without tables for any other than an imported log; then nothing is written.
    """
    refuse_existing(Path(out))
    known = tables or read_import_tables(folder)
    read = ingest_slates if (Path(folder) / SLATES).exists() else ingest
    train_rounds, test_rounds, report = read(Path(folder), known, settings_of(IngestConfig, config, "ingest"))
    with atomic_directory(Path(out)) as beside:
        write_events(beside / TRAINING, train_rounds, known, with_rewards=True)
        write_events(beside / EVALUATION, test_rounds, known, with_rewards=True)
        write_json(beside / REPORT, report.as_dict())
        if tables is None:
            ratings, held_out = log_ratings(train_rounds, test_rounds, known, Path(folder).name)
            save_ratings(ratings, beside / RATINGS, split=(f"tail-{held_out}", 0) if held_out else None)
    return report


def read_rounds(path: Path, tables: IdVocabulary) -> BanditLog:
    """Read rounds that `ingest_log` wrote; raises DataError for any other file."""
    return rounds_of(path, tables)


def _rounds_of(
    played: "Played", who: Logger, version: str, scale: tuple[float, float], settings: LogConfig
) -> BanditLog:
    count = len(played.user)
    time = spread(settings.first_day, settings.days, count)
    prefix = content_digest(version, played.user, played.arm, start_of(settings.first_day))[:8]
    return BanditLog(
        event_id=np.array([f"{prefix}-{number:09d}" for number in range(count)], object),
        time=time, user=played.user, item=who.catalogue[played.arm], log_propensity=np.log(played.propensity),
        reward=played.reward.astype(np.float64), catalogue=who.catalogue, scale=scale, name=f"log of {who.name}",
        policy=np.full(count, who.name, object), version=np.full(count, version, object),
    )  # fmt: skip


def _late_rewards(
    rounds: BanditLog, settings: LogConfig, seed: int
) -> tuple[NDArray[np.object_], NDArray[np.int64], NDArray[np.float64]]:
    """Event ids, times and rewards of the events that get one, in the order in which they come."""
    rng = generator(seed, "logging/rewards")
    came = rng.random(len(rounds)) >= settings.missing_share
    time = rounds.time + rng.exponential(settings.reward_delay_hours * _HOUR, len(rounds)).astype(np.int64)
    order = np.flatnonzero(came)[np.argsort(time[came], kind="stable")]
    return rounds.event_id[order], time[order], rounds.reward[order]
