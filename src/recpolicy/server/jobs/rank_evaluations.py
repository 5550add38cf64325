"""Evaluations of ranked events in their own process: estimates of policies, and feature importances.

Rounds that the champion has learned say nothing about it, so they are left out.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import percentile_interval, resampled_means
from recpolicy.core.types import Array
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.learned_events import is_learned
from recpolicy.inference.feature_artifact import read_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.ope.engine import estimate_from_inputs
from recpolicy.ope.feedback import TargetPolicy
from recpolicy.ope.inputs import BanditInputs
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.jobs.rank_workers import read_ranks
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.server.rank.learning_settings import settings_of_policy
from recpolicy.workflows.artifacts import check_not_learned, unlearned_rounds
from recpolicy.workflows.feature_comparison import OfferTable, compare_on_feature_log

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
        from recpolicy.server.jobs.rank_candidates import evaluate_candidates

        return JobResult(records=len(ranks.log), metadata=metadata | evaluate_candidates(request, champion, ranks))
    assert champion is not None
    if parameters["kind"] == "importance":
        metadata["features"] = feature_importances(champion, ranks.log)
    else:
        log, metadata["notes"] = new_rounds(ranks.log, champion)
        metadata["policies"] = estimates(champion, log)
    return JobResult(records=len(ranks.log), metadata=metadata)


def new_rounds(log: FeatureLog, champion: FeaturePolicy | None) -> tuple[FeatureLog, list[str]]:
    """Return the rounds that the champion has not learned, and a note about the others; raises DataError for none."""
    if champion is None:
        return log, []
    unlearned = unlearned_rounds(log, is_learned(log, champion.learned_events))
    learned = len(log) - len(unlearned)
    return unlearned, [f"{learned:,} of {len(log):,} ranks are left out: the champion learned them"] if learned else []


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


def estimates(
    champion: FeaturePolicy | None, log: FeatureLog, candidates: Mapping[str, FeaturePolicy] | None = None
) -> list[dict[str, Any]]:
    """Return the value of each policy with its interval: of the logged actions, the champion, the candidates, the
    baseline and random actions. One of champion and candidates is needed: its encoder reads the rounds.
    """
    policies = {"champion": champion, **(candidates or {})}
    known = {name: policy for name, policy in policies.items() if policy is not None}
    reference = next(iter(known.values()))
    comparison = compare_on_feature_log(reference, None, log)
    for policy in known.values():
        check_not_learned(comparison.log, {"the policy": policy})
    inputs, targets = comparison.compared_inputs[0], comparison.baseline_targets()
    body = [{"name": "logged", "source": "Online", **_earned(comparison.log)}]
    for name, policy in known.items():
        table = OfferTable(comparison.log, np.asarray(policy.probabilities_of(comparison.log), np.float64))
        target = inputs.with_target(TargetPolicy.from_table(comparison.feedback, table))
        body.append({"name": name, "source": "Custom", "arguments": describe_settings(policy), **_estimate(target)})
    for name, source in (("first action", "Baseline"), ("random", "Random")):
        value = _estimate(inputs.with_target(targets[name]))
        body.append({"name": source.lower(), "source": source, **value})
    return body


def describe_settings(policy: FeaturePolicy) -> str:
    """Return the learning settings of a policy as a text; its agent where the artifact does not say more."""
    return str(settings_of_policy(policy) or f"--agent {policy.agent}")


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
