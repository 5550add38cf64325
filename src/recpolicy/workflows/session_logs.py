"""Simulate logs of sessions, and read logs of rounds or sessions to learn from.

U users, I items, A items of the catalog, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recpolicy.core.config import Count, Fraction, Temperature, as_dict, config_dataclass
from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.core.files import atomic_directory, content_digest, write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import TRAINING, IngestConfig, read_complete_rounds
from recpolicy.data.session_ingest import SessionIngestReport, find_sessions, ingest_sessions
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_log_files import SESSIONS, read_sessions, write_sessions
from recpolicy.data.slate_log_files import SLATES
from recpolicy.data.splits import Split
from recpolicy.inference.predictor import Policy
from recpolicy.models.own_like_model import LikeFunction, read_like_model
from recpolicy.models.return_fit import read_return_model
from recpolicy.models.session_world import SessionWorld
from recpolicy.models.session_worlds import TwoWorlds
from recpolicy.workflows.artifacts import check_absent
from recpolicy.workflows.held_out_evaluation import check_trained_on
from recpolicy.workflows.interaction_logs import REPORT, SIMULATION
from recpolicy.workflows.logging_policies import Day, Days, day_start, event_times
from recpolicy.workflows.session_plan import LIKE_MODEL
from recpolicy.workflows.session_players import session_settings
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds, reward_scale, session_config
from recpolicy.workflows.training_data import coerce, select_action_items

if TYPE_CHECKING:
    from recpolicy.environments.session import SessionEnvironment
    from recpolicy.environments.session_retention import RetentionConfig
    from recpolicy.training.rollout_sessions import Probabilities, SessionRollout

SESSION_LOGGING_POLICIES = ("random", "popular")
"""Baselines that can log sessions."""
_MINUTE = 60_000


@config_dataclass
class SessionLogConfig:
    """Settings of a simulated log of sessions."""

    sessions: Count = 5_000
    """Complete sessions to log."""
    temperature: Temperature = 1.0
    """Temperature of `popular`: the probability of an item is proportional to (1 + its ratings)^(1 / temperature)."""
    uniform_mix: Fraction = 0.01
    """Fraction of uniform choices among the items that are new in the session."""
    days: Days = 7.0
    """Days over which the sessions start; a session has one item per minute."""
    first_day: Day = "2026-01-05"
    """First day of the log (UTC)."""


def simulate_session_log(
    split: Split,
    out: str | Path,
    *,
    logging_policy: str | Policy = "random",
    config: SessionLogConfig | Mapping[str, Any] | None = None,
    train: SessionTrainConfig | Mapping[str, Any] | None = None,
    worlds: TwoWorlds | None = None,
    like_model: "str | Path | LikeFunction | None" = None,
    returns: "RetentionConfig | Mapping[str, Any] | None" = None,
    return_model: Path | None = None,
    seed: int = 0,
    show_progress: bool | None = None,
) -> SessionLog:
    """Simulate a policy in sessions of the training world, write its log to the folder `out` and return the log.

    Args:
        split: The ratings; the worlds are fitted on both parts.
        out: The folder to write; it must not exist.
        logging_policy: A name in SESSION_LOGGING_POLICIES, in the sessions of `train`; or a session policy, in the
            sessions that it was trained for, with its exploration. The policy does not learn.
        config: A SessionLogConfig or its settings.
        train: Settings of the sessions (SessionTrainConfig).
        worlds: The simulated worlds; without them, they are fitted with `seed`, or with the seed of the policy.
        like_model: Your own P(like), which replaces the fitted model of these worlds; see `read_like_model`.
        returns: A RetentionConfig or its settings, of which the assumed influence counts: sessions of a user follow
            each other, with return times (session_log_returns.py). None: sessions start at even intervals.
        return_model: A file of `recpolicy session fit-returns`, whose users come back as they do there.
        seed: Seed of every random draw.
        show_progress: Show a progress bar; None shows it on a terminal, and lines elsewhere.

    Returns:
        The log, as it was written.

    Raises:
        ConfigError: A setting is unknown or out of range, or the policy cannot log sessions.
        DataError: The policy was trained on another split.
        ArtifactError: `out` exists.
    """
    require_extra("train", "simulating a log")
    silence_libraries()
    settings = coerce(SessionLogConfig, config, "log")
    check_absent(Path(out))
    own = None if like_model is None else read_like_model(like_model, split.train)
    if isinstance(logging_policy, str):
        training = coerce(SessionTrainConfig, train, "train")
        reward_scale(training, split.train.scale)  # refuses rewards that no log holds
        policy = _baseline(logging_policy, split, training, settings)
        world = (worlds or make_worlds(split, training, seed, own)).training_world
    else:
        policy = _loaded(logging_policy, split)
        world = (worlds or make_worlds(split, policy.training, logging_policy.metadata["seed"], own)).training_world
    log = rollout_session_log(policy, world, split, settings, seed, show_progress)
    noted: dict[str, Any] = {}
    if returns is not None:
        from recpolicy.environments.session_retention import RetentionConfig
        from recpolicy.workflows.session_log_returns import with_return_times

        effects = coerce(RetentionConfig, returns, "retention")
        population = None if return_model is None else read_return_model(return_model)
        begin = day_start(settings.first_day)
        log = with_return_times(log, world, split, effects, begin, settings.days, seed, population)
        noted["returns"] = {"label": "simulated; the influence on the return is assumed", **as_dict(effects)}
    metadata = {
        "logging_policy": policy.name,
        "version": log.version[0],
        "config": as_dict(settings),
        "train": as_dict(policy.training),
        "seed": seed,
        "world": world.name,
        "train_digest": split.train.digest,
        **({} if own is None else {LIKE_MODEL: {"name": own.name, "digest": own.digest}}),
        **noted,
    }
    with atomic_directory(Path(out)) as folder:
        write_sessions(folder / SESSIONS, log, IdVocabulary.from_ratings(split.train))
        write_json(folder / SIMULATION, metadata)
    return log


def read_log(path: str | Path, tables: IdVocabulary) -> BanditLog | SessionLog:
    """Return a log to learn from: a folder of `simulate_session_log` or `ingest_log`, or one of their files.

    Args:
        path: Folder or file.
        tables: The ids that the log may contain.

    Returns:
        Rounds or sessions, by the format of the file.

    Raises:
        DataError: The log is wrong, or is a log of slates that was not ingested; names the file and the row.
    """
    path = Path(path)
    if (path / SLATES).exists():
        raise DataError(f"{path}: a log of slates; ingest it first: recpolicy log ingest {path} --out ROUNDS")
    sessions = find_sessions(path, TRAINING)
    if sessions is not None:
        return read_sessions(sessions, tables)
    return read_complete_rounds(path / TRAINING if path.is_dir() else path, tables)


def ingest_session_log(
    folder: str | Path, out: str | Path, tables: IdVocabulary, config: IngestConfig | Mapping[str, Any] | None = None
) -> SessionIngestReport:
    """Check a session log and split it by time into sessions for training and for evaluation.

    Rewards are in the log already, so of the settings only `evaluation_share` counts.

    Args:
        folder: The folder of the log.
        out: The folder to write; it must not exist.
        tables: Users and items of the log.
        config: An IngestConfig or its settings.

    Returns:
        Counts of sessions and steps.

    Raises:
        DataError: The log is wrong; names the file and the row.
        ConfigError: A setting is out of range, or has no meaning for sessions.
        ArtifactError: `out` exists.
    """
    check_absent(Path(out))
    settings = coerce(IngestConfig, config, "ingest")
    if settings != IngestConfig(evaluation_share=settings.evaluation_share):
        raise ConfigError(
            f"{folder}: a log of sessions has its rewards and its unit; of the settings of the ingest, only"
            " evaluation_share counts: leave the others out"
        )
    with atomic_directory(Path(out)) as tmp:
        report = ingest_sessions(Path(folder), tmp, tables, settings.evaluation_share)
        write_json(tmp / REPORT, report.as_dict())
    return report


@dataclass(frozen=True)
class SessionLoggingPolicy:
    """A policy that logs sessions, and the settings of these sessions."""

    name: str
    version: str
    probabilities: "Probabilities"
    context: Any  # [U, >= D] float32
    embedding: Any  # [I, D] float32
    action_items: Any  # [A] int32
    training: SessionTrainConfig


def rollout_session_log(
    policy: SessionLoggingPolicy, world: SessionWorld, split: Split, settings: SessionLogConfig, seed: int,
    show_progress: bool | None = None,
) -> SessionLog:  # fmt: skip
    """Return the log of a policy that acts in sessions of a world; write nothing."""
    from recpolicy.training.rollout_sessions import rollout_sessions, with_uniform_mix

    environment = _environment(policy, world, min(256, settings.sessions), seed)
    rollout = rollout_sessions(
        environment,
        with_uniform_mix(policy.probabilities, settings.uniform_mix),
        settings.sessions,
        seed,
        show_progress,
    )
    return _make_log(rollout, policy, reward_scale(policy.training, split.train.scale), settings)


def _environment(policy: SessionLoggingPolicy, world: SessionWorld, batch: int, seed: int) -> "SessionEnvironment":
    from recpolicy.environments.session import SessionEnvironment

    config = session_config(policy.training, batch)
    return SessionEnvironment(world, policy.context, policy.embedding, policy.action_items, config, seed)


def _baseline(
    name: str, split: Split, training: SessionTrainConfig, settings: SessionLogConfig
) -> SessionLoggingPolicy:
    """Return a baseline, which ignores observations."""
    from recpolicy.training.rollout_sessions import softmax_policy

    if name not in SESSION_LOGGING_POLICIES:
        raise unknown_name_error("logging policy of sessions", name, SESSION_LOGGING_POLICIES)
    users, items = split.train.shape
    action_items = select_action_items(split.train, training)
    count = np.bincount(split.train.item, minlength=items)[action_items] * (name == "popular")
    score = np.log1p(count) / settings.temperature
    version = content_digest(name, score, settings.uniform_mix, action_items)
    blind = np.zeros((users, 1), np.float32), np.zeros((items, 1), np.float32)
    return SessionLoggingPolicy(name, version, softmax_policy(score), *blind, action_items, training)


def _loaded(policy: Policy, split: Split) -> SessionLoggingPolicy:
    from recpolicy.agents.learner import ExportedPolicy
    from recpolicy.training.rollout_sessions import exploring

    artifact = policy.artifact
    if not policy.sequential:
        raise ConfigError(f"{artifact.agent} acts in single rounds; a log of sessions takes a session policy")
    check_trained_on(artifact.agent, policy, split)
    exported = ExportedPolicy(artifact.estimator, artifact.head, dict(artifact.settings), dict(artifact.policy))
    return SessionLoggingPolicy(
        artifact.agent, artifact.metadata["policy_digest"], exploring(exported), artifact.context, artifact.item,
        artifact.action_items, session_settings(policy),
    )  # fmt: skip


def _make_log(
    rollout: "SessionRollout", policy: SessionLoggingPolicy, scale: tuple[float, float], settings: SessionLogConfig
) -> SessionLog:
    sessions = int(rollout.session[-1]) + 1
    begin = event_times(settings.first_day, settings.days, sessions)
    prefix = content_digest(policy.version, rollout.user, rollout.arm, day_start(settings.first_day))[:8]
    session = np.array([f"{prefix}-{number:07d}" for number in range(sessions)], object)[rollout.session]
    count = len(session)
    return SessionLog(
        event_id=np.array([f"{name}-{step:02d}" for name, step in zip(session, rollout.step, strict=True)], object),
        time=begin[rollout.session] + _MINUTE * rollout.step, user=rollout.user, session=session, step=rollout.step,
        item=policy.action_items[rollout.arm], log_propensity=rollout.log_propensity,
        reward=rollout.reward.astype(np.float64), liked=rollout.liked, ended=rollout.ended,
        policy=np.full(count, policy.name, object), version=np.full(count, policy.version, object),
        action_items=policy.action_items, scale=scale, name=f"sessions of {policy.name}",
    )  # fmt: skip
