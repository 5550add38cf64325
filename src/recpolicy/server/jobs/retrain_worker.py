"""The training job in its own process: export, ingest, train, gate, register.

No version learns from the same events twice: its lineage stores the end of its log (`log_until`, milliseconds since
1970), and only later events are exported. The gate evaluates on the latest of them. This training leaves them out; the
next one uses them.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, func, select

from recpolicy.core.config import build
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.memory import release_memory
from recpolicy.core.processes import run_in_process
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import EVALUATION, TRAINING, IngestReport
from recpolicy.inference.feature_artifact import is_feature_policy
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.registry.artifact_kinds import read_manifest
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import make_engine
from recpolicy.server.db.export import Exported, ExportOptions, LogPolicy, export
from recpolicy.server.db.export_rows import active_users
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.db.schema import events, rewards
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.server.jobs.work_folders import training_folder
from recpolicy.server.settings import JobsConfig
from recpolicy.workflows.artifacts import LOG_UNTIL
from recpolicy.workflows.gating import gate_candidate, read_gate, read_gate_config, write_gate
from recpolicy.workflows.guarded_targets import evaluable_guardrails
from recpolicy.workflows.interaction_logs import ingest_log, read_rounds
from recpolicy.workflows.retraining import retrain


@dataclass(frozen=True)
class _Task:
    """The inputs of one training."""

    registry: Registry
    settings: JobsConfig
    database: str
    """URL of the database."""
    champion: int
    since: int
    """Only events from this time on are new; milliseconds since 1970."""
    epochs: int
    seed: int
    guardrails: GuardrailConfig | None
    """Guardrails of the server, under which the gate evaluates; None without any."""


def train_on(request: JobRequest) -> JobResult:
    """Train, gate and register a new version; skipped without enough new data.

    Raises JobError while another process trains here, and the errors of training and registering.
    """
    task, folder = _task(request), Path(request.folder)
    if is_feature_policy(task.registry.resolve(task.champion)):
        from recpolicy.server.jobs.rank_workers import retrain_ranks

        return retrain_ranks(request, task.champion, task.since)
    if load_policy(task.registry.resolve(task.champion)).sequential:
        from recpolicy.server.jobs.session_worker import retrain_on_sessions

        return retrain_on_sessions(request, task.settings, task.champion, task.since, task.epochs, task.seed)
    engine = make_engine(task.database)
    users, interactions = new_interactions(engine, task.since, task.settings.min_interactions_per_user)
    engine.dispose()
    if interactions < task.settings.min_interactions:
        reason = f"{interactions} new rewards of users with enough of them; expected {task.settings.min_interactions}"
        return JobResult(status="skipped", users=users, records=interactions, metadata={"reason": reason})
    work = folder / "retrain"
    with training_folder(work):
        return _train(task, work)


def learnt_until(registry: Registry, version: int) -> int:
    """Return the time of the last event (milliseconds since 1970) that a version has learned from; 0 without a server's
    log.
    """
    metadata = read_manifest(registry.resolve(version))["metadata"]
    return int(metadata.get(LOG_UNTIL, registry.version(version).lineage.get(LOG_UNTIL, 0)))


def new_interactions(engine: Engine, since: int, least: int) -> tuple[int, int]:
    """Return users and rewards of new events, over users with at least `least` rewards in total."""
    statement = (
        select(func.count(func.distinct(rewards.c.user_key)), func.count())
        .select_from(rewards.join(events, events.c.id == rewards.c.event_id))
        .where(events.c.time >= since, rewards.c.user_key.in_(active_users(least)))
    )
    with engine.connect() as connection:
        users, interactions = connection.execute(statement).one()
    return int(users), int(interactions)


def job_guardrails(request: JobRequest) -> GuardrailConfig | None:
    """Return the guardrails of the server, if policies can be evaluated under them."""
    return evaluable_guardrails(build(GuardrailConfig, request.settings.get("guardrails", {}), "guardrails"))


def _task(request: JobRequest) -> _Task:
    parameters = dict(request.parameters)
    epochs, seed = parameters.pop("epochs", 1), parameters.pop("seed", 0)
    overrides = {name: value for name, value in parameters.items() if value is not None}
    settings = build(JobsConfig, {**request.settings["jobs"], **overrides}, "retrain")
    registry = Registry(request.registry)
    champion = registry.version("champion").number
    since = learnt_until(registry, champion) + 1
    return _Task(registry, settings, request.database, champion, since, epochs, seed, job_guardrails(request))


def _train(task: _Task, work: Path) -> JobResult:
    incumbent = task.registry.resolve(task.champion)
    exported, report = run_in_process(_write_rounds, task, work)  # before TensorFlow takes its memory
    served = load_policy(incumbent)
    champion = served.base  # a tuned layer is not trained on rounds, nor compared on them
    rounds = read_rounds(work / "rounds" / TRAINING, IdVocabulary.from_policy(champion))
    release_memory()
    try:
        policy = retrain(incumbent, rounds, work / "policy", epochs=task.epochs, seed=task.seed)
    except ConfigError as error:  # an agent that cannot learn from a log
        return JobResult(status="skipped", metadata={"reason": str(error)})
    users, records = len(np.unique(rounds.user)), len(rounds)
    del rounds
    release_memory()
    gate = _gate(policy, champion, report.evaluation, work, task)
    lineage = {**policy.metadata, "trained_from": task.champion}
    record = gate.pop("record", None)
    version = task.registry.register(work / "policy", gate=record, lineage=lineage)
    metadata = {
        "version": version.number, "from": task.champion, "training": policy.metadata["training"],
        "ingest": report.as_dict(), "export": exported.as_dict(), "gate": gate,
    }  # fmt: skip
    if served.scorer.tuned:
        metadata["layer"] = "the champion's tuned layer was left out: tune the new version"
    return JobResult(users=users, records=records, metadata=metadata)


def _write_rounds(task: _Task, work: Path) -> tuple[Exported, IngestReport]:
    """Export the new events and turn them into rounds for training and for the gate."""
    settings, engine = task.settings, make_engine(task.database)
    options = ExportOptions(work / "log", task.since, settings.min_interactions_per_user, settings.places)
    try:
        exported = export(engine, LogPolicy(task.registry, task.champion), options)
    finally:
        engine.dispose()
    tables = IdVocabulary.from_policy(load_policy(task.registry.resolve(task.champion)))
    config = {"wait_hours": settings.wait_hours, "evaluation_share": settings.evaluation_share}
    report = ingest_log(work / "log", work / "rounds", tables, config)
    shutil.rmtree(work / "log")
    return exported, report


def _gate(policy: Policy, champion: Policy, rounds: int, work: Path, task: _Task) -> dict[str, Any]:
    """Return verdict, reasons and record; no record without enough rounds."""
    settings = task.settings
    if rounds < settings.min_evaluation_rounds:
        reason = f"{rounds} rounds for the gate; expected {settings.min_evaluation_rounds}"
        return {"verdict": "not_asked", "reasons": [reason]}
    config = read_gate_config(None if settings.gate is None else Path(settings.gate))
    try:
        part = work / "rounds" / EVALUATION
        result = gate_candidate(policy, None, part, champion, config, task.seed, guardrails=task.guardrails)
    except DataError as error:
        return {"verdict": "not_asked", "reasons": [str(error)]}
    write_gate(result, work / "gate.json")
    return {"verdict": result.verdict, "reasons": list(result.reasons), "record": read_gate(work / "gate.json")}
