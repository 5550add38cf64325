"""Jobs on ranked events in their own process: retraining, evaluation and feature importances of a feature policy.

A log has the events whose rewards are final. No version learns from the same events twice: its lineage has the time of
its last event, as in retrain_worker.py.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from recpolicy.core.config import build
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import percentile_interval, resampled_means
from recpolicy.core.types import Array
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.feature_log_files import write_feature_log
from recpolicy.inference.feature_artifact import read_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.ope.engine import estimate_from_inputs
from recpolicy.ope.inputs import BanditInputs
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import make_engine
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feature_export import FeaturesExported, collect_features
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.jobs.subprocess_jobs import JobError, JobRequest
from recpolicy.server.rank.service import stored_reward
from recpolicy.server.settings import JobsConfig
from recpolicy.workflows.artifacts import LOG_UNTIL
from recpolicy.workflows.feature_comparison import compare_on_feature_log
from recpolicy.workflows.feature_retraining import retrain_features
from recpolicy.workflows.gating import gate_feature_candidate, read_gate, read_gate_config, write_gate

_SEED = 0
_MOST_ROUNDS = 20_000
"""Rounds of feature importances; of more, a sample."""


def log_of_ranks(request: JobRequest, since: int, until: int | None = None) -> tuple[FeatureLog, FeaturesExported]:
    """Return the ranked events between two times (milliseconds since 1970) as a log; raises DataError without any."""
    engine = make_engine(request.database)
    try:
        log, counts = collect_features(engine, stored_reward(engine), "ranks of the server", since, until)
    finally:
        engine.dispose()
    if log is None:
        raise DataError(f"no ranked event has a final reward; left out: {dict(counts.left_out)}")
    return log, counts


def retrain_ranks(request: JobRequest, champion: int, since: int) -> JobResult:
    """Let the champion learn from new ranks, gate the result, and register it; skipped without enough of them."""
    parameters = {name: value for name, value in request.parameters.items() if value is not None}
    settings = build(JobsConfig, request.settings["jobs"], "retrain")
    least = parameters.get("min_interactions", settings.min_interactions)
    try:
        log, counts = log_of_ranks(request, since)
    except DataError as error:
        return JobResult(status="skipped", records=0, metadata={"reason": str(error)})
    if len(log) < least:
        reason = f"{len(log)} new ranks with final rewards; expected {least}"
        return JobResult(status="skipped", records=len(log), metadata={"reason": reason})
    work = Path(request.folder) / "retrain"
    try:
        with FileLock(f"{work}.lock", timeout=0):
            shutil.rmtree(work, ignore_errors=True)  # files of a killed training
            try:
                return _retrain(Registry(request.registry), champion, log, counts, work, settings)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except Timeout:
        raise JobError("another process is training for this server") from None


def _retrain(
    registry: Registry, champion: int, log: FeatureLog, counts: FeaturesExported, work: Path, settings: JobsConfig
) -> JobResult:
    incumbent, held_out = registry.resolve(champion), round(settings.evaluation_share * len(log))
    known = log.take(0, len(log) - held_out, log.name)
    try:
        policy = retrain_features(incumbent, known, work / "policy")
    except ConfigError as error:  # a model that does not learn from further rounds
        return JobResult(status="skipped", records=len(log), metadata={"reason": str(error)})
    gate = _gate(policy, read_feature_policy(incumbent), log.take(len(known), len(log), log.name), work, settings)
    lineage = {**policy.metadata, "trained_from": champion, LOG_UNTIL: int(known.time.max())}
    version = registry.register(work / "policy", gate=gate.pop("record", None), lineage=lineage)
    metadata = {"version": version.number, "from": champion, "export": counts.as_dict(), "gate": gate}
    return JobResult(records=len(known), metadata=metadata)


def _gate(
    policy: FeaturePolicy, champion: FeaturePolicy, log: FeatureLog, work: Path, settings: JobsConfig
) -> dict[str, Any]:
    """Return verdict, reasons and record; no record without enough rounds."""
    if len(log) < settings.min_evaluation_rounds:
        reason = f"{len(log)} rounds for the gate; expected {settings.min_evaluation_rounds}"
        return {"verdict": "not_asked", "reasons": [reason]}
    write_feature_log(log, work / "evaluation")
    config = read_gate_config(None if settings.gate is None else Path(settings.gate))
    try:
        result = gate_feature_candidate(policy, work / "evaluation", champion, config, _SEED)
    except DataError as error:
        return {"verdict": "not_asked", "reasons": [str(error)]}
    write_gate(result, work / "gate.json")
    return {"verdict": result.verdict, "reasons": list(result.reasons), "record": read_gate(work / "gate.json")}


def evaluate_ranks(request: JobRequest) -> JobResult:
    """Estimate the rewards of the champion, the baseline and a random choice on the ranks of a time; or importances."""
    parameters = request.parameters
    log, counts = log_of_ranks(request, int(parameters["since"]), int(parameters["until"]))
    number = parameters["version"]
    policy = None if number is None else read_feature_policy(Registry(request.registry).resolve(int(number)))
    if policy is None:
        raise DataError("there is no model: every action is equally likely until a version is promoted")
    metadata: dict[str, Any] = {"export": counts.as_dict()}
    if parameters["kind"] == "importance":
        metadata["features"] = feature_importances(policy, log)
    else:
        metadata["policies"] = estimates(policy, log)
    return JobResult(records=len(log), metadata=metadata)


def estimate_days_of_ranks(request: JobRequest, champion: int, days: float) -> JobResult:
    """Evaluate the ranks of the last days for the daily job; a missing estimate has a reason."""
    metadata: dict[str, Any] = {"days": days, "versions": []}
    now = now_ms()
    try:
        log, counts = log_of_ranks(request, now - round(days * DAY_MS), now)
        policies = estimates(read_feature_policy(Registry(request.registry).resolve(champion)), log)
    except DataError as error:
        return JobResult(records=0, metadata=metadata | {"no_verdict": str(error)})
    logged, *targets = policies
    metadata["policies"] = {
        "logged": {"value": logged["value"], "rounds": len(log), "events": len(log), "fraction": 1.0}
    }
    for name, target in zip(("champion", "baseline", "random"), targets, strict=True):
        verdict = "no verdict" if target["value"] is None else "estimated"
        values = {key: value for key, value in target.items() if key not in ("name", "source")}
        metadata["policies"][name] = {"dr": {"verdict": verdict, **values}}
    return JobResult(records=len(log), metadata=metadata | {"export": counts.as_dict()})


def estimates(policy: FeaturePolicy, log: FeatureLog) -> list[dict[str, Any]]:
    """Return the value of each policy with its interval: what was earned, the champion, the baseline, random."""
    comparison = compare_on_feature_log(policy, None, log)
    inputs, targets = comparison.compared_inputs[0], comparison.baseline_targets()
    return [
        {"name": "logged", "source": "Online", **_earned(comparison.log)},
        {"name": policy.agent, "source": "Custom", **_estimate(inputs)},
        {"name": "baseline", "source": "Baseline", **_estimate(inputs.with_target(targets["first action"]))},
        {"name": "random", "source": "Random", **_estimate(inputs.with_target(targets["random"]))},
    ]


def _earned(log: FeatureLog) -> dict[str, Any]:
    """Return the mean reward of the rounds with the interval of a bootstrap over users."""
    total, count = np.bincount(log.units, log.reward), np.bincount(log.units).astype(np.float64)
    value = float(log.reward.mean())
    if len(count) < 2:
        return {"value": value, "lo": None, "hi": None}
    means = resampled_means(np.stack([total, count]), generator(_SEED, "evaluate/ranks"))
    interval = percentile_interval(value, means[:, 0] / means[:, 1])
    return {"value": value, "lo": interval.lo, "hi": interval.hi}


def _estimate(inputs: BanditInputs) -> Mapping[str, Any]:
    """Return the doubly robust estimate, or the reason why the log allows none."""
    result = estimate_from_inputs(inputs, ["dr"])["dr"]
    if result.diagnostics.problem is not None:
        return {"value": None, "lo": None, "hi": None, "reason": result.diagnostics.problem}
    interval = result.intervals["t"]
    return {"value": result.value, "lo": interval.lo, "hi": interval.hi}


def feature_importances(policy: FeaturePolicy, log: FeatureLog) -> list[dict[str, Any]]:
    """Return the features by importance: the growth of the error of predicted rewards when a feature is permuted.

    The largest is 100; a feature whose permutation does no harm has 0. Permuted are the values of the context between
    rounds, and those of an action between actions.
    """
    rng = generator(_SEED, "feature importances")
    rows = np.flatnonzero(log.has_reward)
    if len(rows) > _MOST_ROUNDS:
        rows = np.sort(rng.choice(rows, _MOST_ROUNDS, replace=False))
    log = log.select(rows, log.name)
    shown = replace(
        log, start=np.arange(len(log) + 1), offered=log.chosen_action, chosen=np.zeros(len(log), np.int32)
    )  # fmt: skip
    base, found = _squared_error(policy, shown), []
    for part, size in (("context", len(shown)), ("actions", len(shown.action_id))):
        for name, column in getattr(shown, part).items():
            permuted: Any = {part: {**getattr(shown, part), name: column[rng.permutation(size)]}}
            growth = _squared_error(policy, replace(shown, **permuted)) - base
            found.append({"namespace": part.removesuffix("s"), "feature": name, "score": max(growth, 0.0)})
    largest = max((each["score"] for each in found), default=0.0) or 1.0
    scaled = [{**each, "score": 100 * each["score"] / largest} for each in found]
    return sorted(scaled, key=lambda each: -each["score"])


def _squared_error(policy: FeaturePolicy, log: FeatureLog) -> float:
    scores: Array = policy.scores_of(log)
    return float(np.mean((log.reward - scores) ** 2))
