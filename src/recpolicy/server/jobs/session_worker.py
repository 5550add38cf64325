"""The jobs of a session policy: export its complete sessions, train on the earlier ones, gate on the later.

The lineage of the new version has the last time of the sessions that it has learned from (`log_until`), so the next
training begins with the later ones. The gate compares with the champion on logged sessions only: no server has the
ratings of the training.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine

from recpolicy.core.config import build
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.memory import release_memory
from recpolicy.core.processes import run_in_process
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.session_ingest import split_sessions
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_log_files import SESSIONS, read_sessions
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import make_engine
from recpolicy.server.db.export_policy import LogPolicy
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.db.session_export import SessionExported, SessionExportOptions, export_sessions
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.server.jobs.work_folders import training_folder
from recpolicy.server.settings import JobsConfig, SessionsConfig
from recpolicy.workflows.gating import gate_candidate, read_gate, read_gate_config, write_gate
from recpolicy.workflows.policy_estimation import estimate
from recpolicy.workflows.session_retraining import retrain_sessions, unlearned_sessions


@dataclass(frozen=True)
class _Task:
    """The inputs of one training."""

    registry: Registry
    database: str
    champion: int
    options: SessionExportOptions


def retrain_on_sessions(
    request: JobRequest, settings: JobsConfig, champion: int, since: int, epochs: int, seed: int
) -> JobResult:
    """Train and register a new version of a session policy; skipped without enough complete sessions.

    Args:
        request: The request of the job.
        settings: The settings of the job.
        champion: The version to continue from.
        since: Sessions whose last event is earlier were learned before; milliseconds since 1970.
        epochs: Passes over the log.
        seed: Seed of the training.

    Raises:
        JobError: Another process trains here.
    """
    registry, folder = Registry(request.registry), Path(request.folder)
    gap = build(SessionsConfig, request.settings.get("sessions", {}), "sessions").gap_minutes
    work = folder / "retrain"
    options = SessionExportOptions(work / "log", since, wait_hours=settings.wait_hours, gap_minutes=gap)
    task = _Task(registry, request.database, champion, options)
    with training_folder(work):
        return _train(task, settings, epochs, seed)


def estimate_on_sessions(
    engine: Engine, registry: Registry, number: int, since: int, work: Path, settings: JobsConfig, gap_minutes: float
) -> dict[str, Any]:
    """Return the off-policy estimates of a session policy on complete sessions, and what these sessions earned.

    Args:
        engine: The database.
        registry: The registry.
        number: The version.
        since: Sessions whose last event is earlier do not count; milliseconds since 1970.
        work: A folder for the log, which is removed.
        settings: The settings of the jobs.
        gap_minutes: Minutes without a request after which a session has ended.

    Raises:
        RecpolicyError: There are no sessions, or they allow no estimate.
    """
    policy = load_policy(registry.resolve(number))
    options = SessionExportOptions(work, since, wait_hours=settings.wait_hours, gap_minutes=gap_minutes)
    shutil.rmtree(work, ignore_errors=True)
    try:
        exported = export_sessions(engine, LogPolicy(registry, number), options)
        if not exported.sessions:
            raise DataError("no complete sessions that the champion has not learned")
        log = unlearned_sessions(read_sessions(work / SESSIONS, IdVocabulary.from_policy(policy)), policy.artifact)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    logged = {"value": float(log.reward.sum() / len(log.length)), "unit": "session", **exported.as_dict()}
    return {"logged": logged, "champion": estimate(policy, log).as_dict()}


def _train(task: _Task, settings: JobsConfig, epochs: int, seed: int) -> JobResult:
    exported = run_in_process(_export, task)  # before TensorFlow takes its memory
    if exported.steps < settings.min_interactions:
        reason = f"{exported.steps} steps of complete sessions; expected {settings.min_interactions}"
        return JobResult(status="skipped", records=exported.steps, metadata={"reason": reason, **_counts(exported)})
    work, incumbent = task.options.out.parent, task.registry.resolve(task.champion)
    champion = load_policy(incumbent)
    log = read_sessions(task.options.out / SESSIONS, IdVocabulary.from_policy(champion))
    try:
        log = unlearned_sessions(log, champion.artifact)  # one that went on after a training is exported again
    except DataError as error:
        return JobResult(status="skipped", metadata={"reason": str(error), **_counts(exported)})
    train, evaluation = split_sessions(log, settings.evaluation_share)
    until = int(train.time.max())
    try:
        policy = retrain_sessions(incumbent, train, work / "policy", epochs=epochs, seed=seed, until=until)
    except ConfigError as error:  # an agent that cannot learn from a log
        return JobResult(status="skipped", metadata={"reason": str(error), **_counts(exported)})
    release_memory()
    gate = _gate(policy, champion, evaluation, work / "gate.json", settings, seed)
    lineage = {**policy.metadata, "trained_from": task.champion}
    record = gate.pop("record", None)
    version = task.registry.register(work / "policy", gate=record, lineage=lineage)
    metadata = {
        "version": version.number, "from": task.champion, "training": policy.metadata["training"], "gate": gate,
        **_counts(exported),
    }  # fmt: skip
    return JobResult(users=len(np.unique(train.user)), records=len(train), metadata=metadata)


def _export(task: _Task) -> SessionExported:
    """Write the complete sessions that the champion has not learned."""
    engine = make_engine(task.database)
    try:
        return export_sessions(engine, LogPolicy(task.registry, task.champion), task.options)
    finally:
        engine.dispose()


def _gate(
    policy: Policy, champion: Policy, log: SessionLog, record: Path, settings: JobsConfig, seed: int
) -> dict[str, Any]:
    """Return verdict, reasons and record on sessions that neither version has learned; no record without enough."""
    if len(log) < settings.min_evaluation_rounds:
        reason = f"{len(log)} steps of sessions for the gate; expected {settings.min_evaluation_rounds}"
        return {"verdict": "not_asked", "reasons": [reason]}
    config = read_gate_config(None if settings.gate is None else Path(settings.gate))
    try:
        result = gate_candidate(policy, None, log, champion, config, seed)
    except DataError as error:
        return {"verdict": "not_asked", "reasons": [str(error)]}
    write_gate(result, record)
    notes = {"notes": list(result.notes)} if result.notes else {}
    return {"verdict": result.verdict, "reasons": list(result.reasons), "record": read_gate(record), **notes}


def _counts(exported: SessionExported) -> dict[str, Any]:
    return {"export": exported.as_dict()}
