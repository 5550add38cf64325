"""Logs of sessions: a policy plays simulated sessions and writes them down; any log is read by what it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import PositiveInt

from recpolicy.core.config import Fraction, as_dict, config_dataclass
from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.core.files import atomic_directory, content_digest, write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import rounds_of
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_log_files import SESSIONS, is_session_log, read_sessions, write_sessions
from recpolicy.data.slate_log_files import SLATES
from recpolicy.data.splits import Split
from recpolicy.inference.predictor import Policy
from recpolicy.models.session_world import SessionWorld
from recpolicy.models.session_worlds import TwoWorlds
from recpolicy.workflows.artifacts import refuse_existing
from recpolicy.workflows.evaluate import refuse_seen_rows
from recpolicy.workflows.interaction_logs import SIMULATION, TRAINING
from recpolicy.workflows.log_schedule import Day, Days, Temperature, spread, start_of
from recpolicy.workflows.train_sessions import SessionTrainConfig, reward_scale, session_config, worlds_of
from recpolicy.workflows.training_features import catalogue_of, settings_of

if TYPE_CHECKING:
    from recpolicy.environments.session import SessionEnvironment
    from recpolicy.training.rollout_sessions import Played, Probabilities

SESSION_LOGGING_POLICIES = ("random", "popular")
"""Baselines that can log sessions."""
_MINUTE = 60_000


@config_dataclass
class SessionLogConfig:
    """How a log of sessions is made."""

    sessions: PositiveInt = 5_000
    """Sessions to log, each to its end."""
    temperature: Temperature = 1.0
    """Of `popular`, which shows an item in proportion to (1 + its ratings)^(1 / temperature)."""
    uniform_mix: Fraction = 0.01
    """Share of uniform choices among the items that the session has not shown, so that each has a propensity."""
    days: Days = 7.0
    """Time over which the sessions begin; an item is shown every minute."""
    first_day: Day = "2026-01-05"
    """When the log begins (UTC)."""


def simulate_sessions(
    split: Split,
    out: str | Path,
    *,
    logging_policy: str | Policy = "random",
    config: SessionLogConfig | Mapping[str, Any] | None = None,
    train: SessionTrainConfig | Mapping[str, Any] | None = None,
    worlds: TwoWorlds | None = None,
    seed: int = 0,
    show_progress: bool | None = None,
) -> SessionLog:
    """Let a policy play sessions of world A and write what it logged to the folder `out`; returns the log.

    logging_policy: a name in SESSION_LOGGING_POLICIES, which plays the sessions that `train` describes, or a policy of
    sessions, which plays those that it was trained for, exploring as its artifact says. It does not learn. The users of
    world A are parted by `seed`, for a policy by its own. `worlds` may be handed in when they are made already. Raises
    ConfigError for settings that are unknown or out of range and for policies that cannot log sessions, DataError for a
    policy of another split, ArtifactError when `out` exists.
    """
    require_extra("train", "simulating a log")
    silence_libraries()
    settings = settings_of(SessionLogConfig, config, "log")
    refuse_existing(Path(out))
    if isinstance(logging_policy, str):
        training = settings_of(SessionTrainConfig, train, "train")
        who = _baseline(logging_policy, split, training, settings)
        world = (worlds or worlds_of(split, training, seed)).train
    else:
        who = _loaded(logging_policy, split)
        world = (worlds or worlds_of(split, who.training, logging_policy.metadata["seed"])).train
    log = play_log(who, world, split, settings, seed, show_progress)
    note = {
        "logging_policy": who.name,
        "version": log.version[0],
        "config": as_dict(settings),
        "train": as_dict(who.training),
        "seed": seed,
        "world": world.name,
        "train_digest": split.train.digest,
    }
    with atomic_directory(Path(out)) as folder:
        write_sessions(folder / SESSIONS, log, IdVocabulary.from_ratings(split.train))
        write_json(folder / SIMULATION, note)
    return log


def read_log(path: str | Path, tables: IdVocabulary) -> BanditLog | SessionLog:
    """Read a log to learn from: a folder of `simulate_sessions` or of `ingest_log`, or one of their files.

    Raises DataError that names file and row for anything wrong.
    """
    path = Path(path)
    if (path / SLATES).exists():
        raise DataError(f"{path}: pages are ingested first: recpolicy log ingest {path} --out ROUNDS")
    if path.is_dir():
        path = path / (SESSIONS if (path / SESSIONS).exists() else TRAINING)
    return read_sessions(path, tables) if is_session_log(path) else rounds_of(path, tables)


@dataclass(frozen=True)
class SessionLogger:
    """Who logs sessions, and which."""

    name: str
    version: str
    probabilities: "Probabilities"
    context: Any  # [U, >= D] float32
    embedding: Any  # [I, D] float32
    catalogue: Any  # [A] int32
    training: SessionTrainConfig


def play_log(
    who: SessionLogger, world: SessionWorld, split: Split, settings: SessionLogConfig, seed: int,
    show_progress: bool | None = None,
) -> SessionLog:  # fmt: skip
    """Let a logger play sessions in any world; nothing is written."""
    from recpolicy.training.rollout_sessions import play_sessions, with_uniform_mix

    environment = _environment(who, world, min(256, settings.sessions), seed)
    played = play_sessions(
        environment, with_uniform_mix(who.probabilities, settings.uniform_mix), settings.sessions, seed, show_progress
    )
    return _log_of(played, who, reward_scale(who.training, split.train.scale), settings)


def _environment(who: SessionLogger, world: SessionWorld, batch: int, seed: int) -> "SessionEnvironment":
    from recpolicy.environments.session import SessionEnvironment

    config = session_config(who.training, batch)
    return SessionEnvironment(world, who.context, who.embedding, who.catalogue, config, seed)


def _baseline(name: str, split: Split, training: SessionTrainConfig, settings: SessionLogConfig) -> SessionLogger:
    """A baseline, which looks at nothing."""
    from recpolicy.training.rollout_sessions import softmax_of

    if name not in SESSION_LOGGING_POLICIES:
        raise unknown_name_error("logging policy of sessions", name, SESSION_LOGGING_POLICIES)
    users, items = split.train.shape
    catalogue = catalogue_of(split.train, training)
    count = np.bincount(split.train.item, minlength=items)[catalogue] * (name == "popular")
    score = np.log1p(count) / settings.temperature
    version = content_digest(name, score, settings.uniform_mix, catalogue)
    blind = np.zeros((users, 1), np.float32), np.zeros((items, 1), np.float32)
    return SessionLogger(name, version, softmax_of(score), *blind, catalogue, training)


def _loaded(policy: Policy, split: Split) -> SessionLogger:
    from recpolicy.agents.learner import ExportedPolicy
    from recpolicy.training.rollout_sessions import exploring

    artifact = policy.artifact
    if not policy.sequential:
        raise ConfigError(f"{artifact.agent} acts in single rounds; a log of sessions takes a policy of sessions")
    refuse_seen_rows(artifact.agent, policy, split)
    exported = ExportedPolicy(artifact.estimator, artifact.head, dict(artifact.settings), dict(artifact.policy))
    return SessionLogger(
        artifact.agent, artifact.metadata["content"], exploring(exported), artifact.context, artifact.item,
        artifact.catalogue, settings_of(SessionTrainConfig, policy.metadata["config"]["train"], "train"),
    )  # fmt: skip


def _log_of(played: "Played", who: SessionLogger, scale: tuple[float, float], settings: SessionLogConfig) -> SessionLog:
    sessions = int(played.session[-1]) + 1
    begin = spread(settings.first_day, settings.days, sessions)
    prefix = content_digest(who.version, played.user, played.arm, start_of(settings.first_day))[:8]
    session = np.array([f"{prefix}-{number:07d}" for number in range(sessions)], object)[played.session]
    count = len(session)
    return SessionLog(
        event_id=np.array([f"{one}-{step:02d}" for one, step in zip(session, played.step, strict=True)], object),
        time=begin[played.session] + _MINUTE * played.step, user=played.user, session=session, step=played.step,
        item=who.catalogue[played.arm], log_propensity=played.log_propensity,
        reward=played.reward.astype(np.float64), liked=played.liked, ended=played.ended,
        policy=np.full(count, who.name, object), version=np.full(count, who.version, object),
        catalogue=who.catalogue, scale=scale, name=f"sessions of {who.name}",
    )  # fmt: skip
