"""The evaluation job in its own process: rewards by version, and estimates for champion and baselines.

The mean reward of a version only holds for the lists that it served. The rewards of another policy are estimated from
the logged propensities. If the logs explore too little of a policy's choices, there is no verdict.
"""

import shutil
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, func, select

from recpolicy.core.config import build
from recpolicy.core.errors import RecpolicyError
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import percentile_interval, resampled_means
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import IngestConfig, ingest
from recpolicy.inference.action_distributions import greedy
from recpolicy.inference.feature_artifact import is_feature_policy
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.ope.engine import estimate
from recpolicy.ope.feedback import TargetPolicy
from recpolicy.ope.results import OffPolicyResult
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import make_engine
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.export import ExportOptions, LogPolicy, export
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.db.schema import events, rewards
from recpolicy.server.jobs.retrain_worker import job_guardrails, learnt_until
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.server.settings import JobsConfig, SessionsConfig
from recpolicy.workflows.log_evaluation import compare_on_log

_SEED = 0


def estimate_days(request: JobRequest) -> JobResult:
    """Evaluate the last days; a missing estimate has a reason."""
    settings = build(JobsConfig, request.settings["jobs"], "evaluate")
    champion = Registry(request.registry).version("champion").number
    if is_feature_policy(Registry(request.registry).resolve(champion)):
        from recpolicy.server.jobs.rank_evaluations import estimate_days_of_ranks

        return estimate_days_of_ranks(request, champion, request.parameters.get("days") or settings.evaluation_days)
    days = request.parameters.get("days") or settings.evaluation_days
    since, engine, registry = now_ms() - round(days * DAY_MS), make_engine(request.database), Registry(request.registry)
    versions, users, records = earned_by_version(engine, since)
    metadata = {"days": days, "versions": versions}
    try:
        metadata["policies"] = _policies(engine, registry, since, request, settings)
    except RecpolicyError as error:
        metadata["no_verdict"] = str(error)
    return JobResult(users=users, records=records, metadata=metadata)


def earned_by_version(engine: Engine, since: int) -> tuple[list[dict[str, Any]], int, int]:
    """Return each version's and variant's mean reward with a 95 % interval by users, and all users and rewards."""
    group = (rewards.c.version, rewards.c.variant, rewards.c.user_key)
    totals = select(rewards.c.version, rewards.c.variant, func.count(), func.sum(rewards.c.reward))
    totals = totals.where(rewards.c.time >= since).group_by(*group).order_by(*group)
    users = select(func.count(func.distinct(rewards.c.user_key))).where(rewards.c.time >= since)
    with engine.connect() as connection:
        rows = connection.execute(totals).all()  # one per user
        user_count = connection.scalar(users) or 0
    parts = []
    for (version, variant), of_users in groupby(rows, key=lambda row: (row[0], row[1])):
        count, total = np.array([(row[2], row[3]) for row in of_users], np.float64).T
        parts.append({"version": version, "variant": variant, **_mean_by_user(count, total)})
    return parts, user_count, sum(row[2] for row in rows)


def _mean_by_user(count: NDArray[np.float64], total: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean reward with the interval of a bootstrap over users; no interval for a single user.

    Args:
        count: [U], rewards of each user. total: [U], their sum.
    """
    about = {"rewards": int(count.sum()), "users": len(count), "mean": float(total.sum() / count.sum())}
    if len(count) < 2:
        return {**about, "lo": None, "hi": None}
    means = resampled_means(np.stack([total, count]), generator(_SEED, "evaluate/versions"))
    interval = percentile_interval(about["mean"], means[:, 0] / means[:, 1])
    return {**about, "lo": interval.lo, "hi": interval.hi}


def _policies(
    engine: Engine, registry: Registry, since: int, request: JobRequest, settings: JobsConfig
) -> dict[str, dict[str, Any]]:
    """Return the estimates for champion, random and popular; of sessions, for the champion only.

    Raises RecpolicyError without usable rounds or sessions.
    """
    require_extra("train", "estimates of rewards")
    number = registry.version("champion").number
    policy = load_policy(registry.resolve(number))
    since = max(since, learnt_until(registry, number) + 1)  # rounds that the champion was not trained on
    work = Path(request.folder) / "evaluate"
    if policy.sequential:
        from recpolicy.server.jobs.session_worker import estimate_on_sessions

        gap = build(SessionsConfig, request.settings.get("sessions", {}), "sessions").gap_minutes
        return estimate_on_sessions(engine, registry, number, since, work, settings, gap)
    with engine.connect() as connection:
        count = connection.scalar(select(func.count()).select_from(events).where(events.c.time >= since)) or 0
    fraction = min(1.0, settings.evaluation_events / max(count, 1))
    shutil.rmtree(work, ignore_errors=True)
    try:
        options = ExportOptions(work, since, places=settings.places, fraction=fraction)
        export(engine, LogPolicy(registry, number), options)
        config = IngestConfig(wait_hours=settings.wait_hours, evaluation_share=0.0)
        log, _, _ = ingest(work, IdVocabulary.from_policy(policy), config, "log of the server")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    logged = {"value": float(log.reward.mean()), "rounds": len(log), "events": count, "fraction": fraction}
    return {"logged": logged, **_estimates(policy, log, job_guardrails(request))}


def _estimates(policy: Policy, log: BanditLog, guardrails: GuardrailConfig | None) -> dict[str, dict[str, Any]]:
    """Return the estimates of all policies; the champion chooses under the guardrails of the server."""
    trial = compare_on_log(policy, None, log, _SEED, guardrails)
    log = log if trial.log is None else trial.log
    results_by_policy = {
        "champion": estimate(trial.feedback, trial.candidate, ("ips", "snips", "dr"), trial.config, q=trial.q)
    }
    popularity = np.bincount(policy.artifact.rated_item, minlength=len(policy.artifact.items))[log.action_items]
    for name, score in (("random", np.zeros(len(log.action_items))), ("popular", popularity.astype(np.float64))):

        def rows(part: slice, score: NDArray[np.float64] = score) -> NDArray[np.float64]:
            table = np.broadcast_to(score, (part.stop - part.start, len(score)))
            return np.asarray(greedy(table, log.allowed(part)))

        target = TargetPolicy.from_table(trial.feedback, rows)
        results_by_policy[name] = estimate(trial.feedback, target, ("ips", "snips"), trial.config)
    return {
        name: {kind: describe_result(entry) for kind, entry in results.items()}
        for name, results in results_by_policy.items()
    }


def describe_result(result: OffPolicyResult) -> Mapping[str, Any]:
    """Return an estimate, or the reason for its absence."""
    about = result.diagnostics
    sizes = {"effective_sample_size": about.effective_sample_size, "mean_weight": about.mean_weight}
    if about.problem is not None:
        return {"verdict": "no verdict", "reason": about.problem, **sizes}
    interval = result.intervals["t"]
    return {"verdict": "estimated", "value": result.value, "lo": interval.lo, "hi": interval.hi, **sizes}
