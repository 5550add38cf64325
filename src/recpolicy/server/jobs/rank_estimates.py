"""Estimates of policies on ranked events: the logged actions, the champion, candidates, the baseline, random actions.

Rounds that the champion has learned say nothing about it, so they are left out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from recpolicy.core.seeds import generator
from recpolicy.core.statistics import percentile_interval, resampled_means
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.learned_events import is_learned
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.ope.engine import estimate_from_inputs
from recpolicy.ope.feedback import TargetPolicy
from recpolicy.ope.inputs import BanditInputs
from recpolicy.server.rank.learning_settings import settings_of_policy
from recpolicy.workflows.artifacts import check_not_learned, unlearned_rounds
from recpolicy.workflows.feature_comparison import OfferTable, compare_on_feature_log

_SEED = 0


def new_rounds(log: FeatureLog, champion: FeaturePolicy | None) -> tuple[FeatureLog, list[str]]:
    """Return the rounds that the champion has not learned, and a note about the others; raises DataError for none."""
    if champion is None:
        return log, []
    unlearned = unlearned_rounds(log, is_learned(log, champion.learned_events))
    learned = len(log) - len(unlearned)
    return unlearned, [f"{learned:,} of {len(log):,} ranks are left out: the champion learned them"] if learned else []


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
