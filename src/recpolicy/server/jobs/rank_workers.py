"""The training job on ranked events, in its own process: train, gate and register a feature policy.

A log has the events whose rewards are final. The champion learns the rounds that are new to it. Where an operator has
set other learning settings than the champion's, a new policy learns all rounds. No version learns from the same events
twice: its lineage has the time of its last event, as in retrain_worker.py.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.config import as_dict, build
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.feature_log_files import write_feature_log
from recpolicy.data.learned_events import is_learned
from recpolicy.data.reward_signals import RewardConfig
from recpolicy.inference.feature_artifact import read_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import make_engine
from recpolicy.server.db.feature_export import FeaturesExported, collect_features
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.server.jobs.work_folders import training_folder
from recpolicy.server.rank.learning_settings import LearningSettings, parse_learning_settings, settings_of_policy
from recpolicy.server.rank.service import stored_learning_settings, stored_reward
from recpolicy.server.settings import JobsConfig
from recpolicy.workflows.artifacts import LOG_UNTIL
from recpolicy.workflows.feature_retraining import retrain_features
from recpolicy.workflows.feature_training import train_feature_policy
from recpolicy.workflows.gating import gate_feature_candidate, read_gate, read_gate_config, write_gate

SEED = 0


@dataclass(frozen=True)
class RankLog:
    """Ranked events as a log, with the settings that a training on them has."""

    log: FeatureLog
    counts: FeaturesExported
    reward: RewardConfig
    learning: LearningSettings | None
    """The settings that an operator has set; None: those of the champion."""


def read_ranks(request: JobRequest, since: int, until: int | None = None) -> RankLog:
    """Return the ranked events between two times (milliseconds since 1970); raises DataError without any."""
    engine = make_engine(request.database)
    try:
        reward, learning = stored_reward(engine), stored_learning_settings(engine)
        log, counts = collect_features(engine, reward, "ranks of the server", since, until)
    finally:
        engine.dispose()
    if log is None:
        raise DataError(f"no ranked event has a final reward; left out: {dict(counts.left_out)}")
    settings = None if learning is None else parse_learning_settings(learning["arguments"])
    return RankLog(log, counts, reward, settings)


def retrain_ranks(request: JobRequest, champion: int, since: int) -> JobResult:
    """Train on new ranks, gate the result, and register it; skipped without enough of them."""
    parameters = {name: value for name, value in request.parameters.items() if value is not None}
    settings = build(JobsConfig, request.settings["jobs"], "retrain")
    least = parameters.get("min_interactions", settings.min_interactions)
    registry = Registry(request.registry)
    incumbent = read_feature_policy(registry.resolve(champion))
    try:
        ranks = read_ranks(request, since)
        if _is_trained_anew(incumbent, ranks.learning):
            ranks = read_ranks(request, 0)
    except DataError as error:
        return JobResult(status="skipped", records=0, metadata={"reason": str(error)})
    new = np.flatnonzero(~is_learned(ranks.log, incumbent.learned_events) & (ranks.log.time >= since))
    if len(new) < least:
        reason = f"{len(new)} new ranks with final rewards; expected {least}"
        return JobResult(status="skipped", records=len(new), metadata={"reason": reason})
    work = Path(request.folder) / "retrain"
    with training_folder(work):
        return _retrain(registry, champion, incumbent, ranks, new, work, settings)


def _is_trained_anew(incumbent: FeaturePolicy, learning: LearningSettings | None) -> bool:
    """Return True if the next version is no continuation of the incumbent."""
    return learning is not None and (learning != settings_of_policy(incumbent) or not incumbent.learns_online)


def _retrain(
    registry: Registry, champion: int, incumbent: FeaturePolicy, ranks: RankLog, new: Any, work: Path,
    settings: JobsConfig,
) -> JobResult:  # fmt: skip
    """Train on all rounds but the latest of the new ones [n], which the gate evaluates on."""
    log = ranks.log
    evaluation = new[len(new) - round(settings.evaluation_share * len(new)) :]
    metadata: dict[str, Any] = {"from": champion, "export": ranks.counts.as_dict()}
    if ranks.learning is not None and _is_trained_anew(incumbent, ranks.learning):
        known = log.select(np.setdiff1d(np.arange(len(log)), evaluation), log.name)
        policy = train_candidate(known, incumbent.encoder.schema, ranks.learning, ranks.reward, work / "policy")
        metadata["learning_settings"] = str(ranks.learning)
    else:
        known = log.select(np.setdiff1d(new, evaluation), log.name)
        try:
            policy = retrain_features(registry.resolve(champion), known, work / "policy")
        except ConfigError as error:  # a model that does not learn from further rounds
            return JobResult(status="skipped", records=len(new), metadata={"reason": str(error)})
    gate = gate_candidate(policy, incumbent, log.select(evaluation, log.name), work, settings)
    lineage = {**policy.metadata, "trained_from": champion, LOG_UNTIL: int(known.time.max())}
    version = registry.register(work / "policy", gate=gate.pop("record", None), lineage=lineage)
    return JobResult(records=len(known), metadata={"version": version.number, **metadata, "gate": gate})


def train_candidate(
    log: FeatureLog, schema: Any, settings: LearningSettings, reward: RewardConfig, out: Path
) -> FeaturePolicy:
    """Train a policy of learning settings, and write it to the folder `out`."""
    return train_feature_policy(
        log, schema, settings.agent, out, config=as_dict(settings.train), agent_config=as_dict(settings.agent_config),
        reward=reward, seed=SEED,
    )  # fmt: skip


def gate_candidate(
    policy: FeaturePolicy, champion: FeaturePolicy | None, log: FeatureLog, work: Path, settings: JobsConfig
) -> dict[str, Any]:
    """Return verdict, reasons and record; no record without enough rounds. The folder `work` gets the files."""
    if len(log) < settings.min_evaluation_rounds:
        reason = f"{len(log)} rounds for the gate; expected {settings.min_evaluation_rounds}"
        return {"verdict": "not_asked", "reasons": [reason]}
    write_feature_log(log, work / "evaluation")
    config = read_gate_config(None if settings.gate is None else Path(settings.gate))
    try:
        result = gate_feature_candidate(policy, work / "evaluation", champion, config, SEED)
    except DataError as error:
        return {"verdict": "not_asked", "reasons": [str(error)]}
    finally:
        shutil.rmtree(work / "evaluation")
    write_gate(result, work / "gate.json")
    return {"verdict": result.verdict, "reasons": list(result.reasons), "record": read_gate(work / "gate.json")}
