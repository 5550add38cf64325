"""Evaluations of ranked events in their own process: estimates of policies, candidates, and feature importances."""

from dataclasses import replace
from typing import Any

import numpy as np

from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator
from recpolicy.core.types import Array
from recpolicy.data.feature_log import FeatureLog
from recpolicy.inference.feature_artifact import read_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.jobs.rank_candidates import evaluate_candidates
from recpolicy.server.jobs.rank_estimates import estimates, new_rounds
from recpolicy.server.jobs.rank_workers import read_ranks
from recpolicy.server.jobs.subprocess_jobs import JobRequest

_SEED = 0
_MOST_ROUNDS = 20_000
"""Rounds of feature importances; of more, a sample."""


def evaluate_ranks(request: JobRequest) -> JobResult:
    """Estimate the rewards of policies on the ranks of a time, or compute feature importances."""
    parameters = request.parameters
    ranks = read_ranks(request, int(parameters["since"]), int(parameters["until"]))
    number, wanted = parameters["version"], parameters.get("candidates")
    champion = None if number is None else read_feature_policy(Registry(request.registry).resolve(int(number)))
    if champion is None and wanted is None:
        raise DataError("there is no model: every action is equally likely until a version is promoted")
    metadata: dict[str, Any] = {"export": ranks.counts.as_dict(), "version": number}
    if wanted is not None:
        return JobResult(records=len(ranks.log), metadata=metadata | evaluate_candidates(request, champion, ranks))
    assert champion is not None
    if parameters["kind"] == "importance":
        metadata["features"] = feature_importances(champion, ranks.log)
    else:
        log, metadata["notes"] = new_rounds(ranks.log, champion)
        metadata["policies"] = estimates(champion, log)
    return JobResult(records=len(ranks.log), metadata=metadata)


def estimate_days_of_ranks(request: JobRequest, champion: int, days: float) -> JobResult:
    """Evaluate the ranks of the last days for the daily job; a missing estimate has a reason."""
    metadata: dict[str, Any] = {"days": days, "versions": []}
    now = now_ms()
    try:
        ranks = read_ranks(request, now - round(days * DAY_MS), now)
        policy = read_feature_policy(Registry(request.registry).resolve(champion))
        log, _ = new_rounds(ranks.log, policy)
        policies = estimates(policy, log)
    except DataError as error:
        return JobResult(records=0, metadata=metadata | {"no_verdict": str(error)})
    logged, *targets = policies
    events = len(ranks.log)
    metadata["policies"] = {
        "logged": {"value": logged["value"], "rounds": len(log), "events": events, "fraction": len(log) / events}
    }
    for target in targets:
        verdict = "no verdict" if target["value"] is None else "estimated"
        values = {key: value for key, value in target.items() if key not in ("name", "source", "arguments")}
        metadata["policies"][target["name"]] = {"dr": {"verdict": verdict, **values}}
    return JobResult(records=len(log), metadata=metadata | {"export": ranks.counts.as_dict()})


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
