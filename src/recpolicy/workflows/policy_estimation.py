"""Off-policy evaluation of a saved policy on a log of another policy, by every estimator.

The log may hold single rounds, slates or sessions; `estimate` finds out which. The value is the policy's mean reward
per round, per slate, or per session (the discounted sum, up to the length limit of the logging system).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.core.statistics import effective_sample_size
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import EVALUATION
from recpolicy.data.session_ingest import find_sessions
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_log_files import read_sessions
from recpolicy.data.slate_log import SlateLog
from recpolicy.data.slate_log_files import SLATES, is_slate_log, read_slates
from recpolicy.inference.artifact import policy_digest
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.predictor import Policy
from recpolicy.inference.session_replay import ACTS
from recpolicy.ope.config import EstimationConfig, MultiStepConfig, OffPolicyConfig
from recpolicy.ope.engine import estimate_from_inputs, value_differences_from_inputs
from recpolicy.ope.inputs import BanditInputs, EstimatorInputs
from recpolicy.ope.intervals import MIN_EFFECTIVE_SAMPLE_SIZE, diagnose
from recpolicy.ope.multi_step_inputs import SlateInputs, TrajectoryInputs
from recpolicy.ope.results import MISSING, Estimates, PolicyComparison
from recpolicy.ope.terms import discounts
from recpolicy.workflows.artifacts import check_not_learned
from recpolicy.workflows.interaction_logs import read_rounds
from recpolicy.workflows.log_evaluation import LogComparison, check_log_type, check_same_ids, compare_on_log
from recpolicy.workflows.policy_feedback import longest_session, slate_model, trajectory_model
from recpolicy.workflows.training_data import coerce

Log = BanditLog | SlateLog | SessionLog
Settings = Mapping[str, Any] | EstimationConfig | None

COMPARED = ("ips", "snips", "dr", "sndr")
"""Estimators of single rounds that compare a policy with an incumbent; of slates and sessions all do."""
GREEDY, EXPLORING = "greedy", "exploring"


@dataclass(frozen=True)
class PolicyEstimates:
    """The estimated value of a policy on one log, by estimator."""

    log: str
    logged_value: float
    """Mean logged reward per round, slate or session: the value of the logging policy."""
    estimates: Estimates
    differences: Mapping[str, PolicyComparison] = field(default_factory=dict)
    """Value of the policy minus that of the incumbent, by estimator; empty without an incumbent."""
    policy_mode: str = GREEDY
    """Mode in which the policies act: a name in ACTS."""
    gamma: float = 1.0
    """Discount per step of a session."""
    notes: tuple[str, ...] = ()
    """Warnings for the reader: estimators left out, and reasons for missing verdicts."""

    def difference_table(self, margin: float = 0.0) -> pd.DataFrame:
        """Return the differences as text for people, with their limits and the verdict by those of t."""
        rows = [
            {
                "candidate": f"{difference.candidate.value:.3f}", "incumbent": f"{difference.incumbent.value:.3f}",
                "difference": f"{difference.value:+.3f}",
                **{kind: f"[{ends.lo:+.3f}, {ends.hi:+.3f}]" for kind, ends in difference.limits.items()},
                "verdict": difference.verdict(margin),
            }
            for difference in self.differences.values()
        ]  # fmt: skip
        return pd.DataFrame(rows, index=pd.Index(list(self.differences), name="estimator")).fillna(MISSING)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        differences = {
            name: {**difference.as_dict(), "verdict": difference.verdict()}
            for name, difference in self.differences.items()
        }
        return {
            "log": self.log, "logged_value": self.logged_value, "policy_mode": self.policy_mode, "gamma": self.gamma,
            **self.estimates.as_dict(), "differences": differences, "notes": list(self.notes),
        }  # fmt: skip


def estimate(
    policy: Policy,
    log: str | Path | Log,
    incumbent: Policy | None = None,
    *,
    policy_mode: str | None = None,
    gamma: float | None = None,
    guardrails: GuardrailConfig | None = None,
    config: Settings = None,
    seed: int = 0,
) -> PolicyEstimates:
    """Estimate the value of a policy on a log of another policy, by every estimator that the log allows.

    Rewards are known to lie on the log's scale. Estimators with a reward model are left out, with a note, if the model
    does not converge.

    Args:
        policy: the policy to evaluate.
        log: a log of rounds, slates or sessions, loaded or as a file or folder (see `read_evaluation_log`).
        incumbent: a policy to compare with, paired on the log.
        policy_mode: for sessions, `greedy` (the default) or `exploring`, as the policies' artifacts say.
        gamma: for sessions, the discount per step; 1 by default.
        guardrails: for rounds, guardrails under which both policies choose; None: among all items that were open in the
            log.
        config: settings of OffPolicyConfig (rounds) or MultiStepConfig (slates and sessions).
        seed: of the resamples and folds.

    Returns:
        Values in units of the reward, with intervals, diagnostics and, with an incumbent, differences.

    Raises:
        ConfigError: policies of another kind than the log; policy_mode or gamma for a log without sessions; guardrails
            for one of sessions or slates, or with unknown names; settings that are unknown or out of range.
        DataError: a log without propensities, or of users, items or sessions that a policy does not know; a policy
            trained on this log; an incumbent with other users or items.
    """
    if isinstance(log, str | Path):
        log = read_evaluation_log(policy, Path(log), incumbent)
    _check_policies(policy, incumbent, log)
    if guardrails is not None and not isinstance(log, BanditLog):
        raise ConfigError(f"{log.name}: guardrails are only for logs of rounds; leave them out")
    if isinstance(log, SessionLog):
        return _estimate_sessions(policy, log, incumbent, policy_mode or GREEDY, gamma, config, seed)
    for name, value in (("policy_mode", policy_mode), ("gamma", gamma)):
        if value is not None:
            raise ConfigError(f"{log.name}: {name} is only for logs of sessions; leave it out")
    if isinstance(log, SlateLog):
        results = _results(*_slate_inputs(policy, log, incumbent, config, seed))
        return PolicyEstimates(log.name, float(log.reward.mean()), *results)
    comparison = compare_on_log(policy, incumbent, log, seed, guardrails)
    results = _bandit_results(policy, comparison, config, seed)
    logged = float(comparison.feedback.reward.mean())
    return PolicyEstimates(log.name, logged, *results, notes=comparison.notes)


def read_evaluation_log(policy: Policy, path: Path, *others: Policy | None) -> Log:
    """Read a log of rounds, slates or sessions: the file, or the folder that a command wrote.

    Raises:
        ConfigError: a log of another kind than the policies.
        DataError: a file that is not a log, or rows with users or items that the policy does not know.
    """
    tables = IdVocabulary.from_policy(policy)
    sessions = find_sessions(path)
    for evaluated_policy in (policy, *others):
        if evaluated_policy is not None:
            check_log_type(evaluated_policy, sessions is not None, str(path))
    if sessions is not None:
        return read_sessions(sessions, tables)
    if (path / SLATES).exists() if path.is_dir() else is_slate_log(path):
        return read_slates(path / SLATES if path.is_dir() else path, tables)
    return read_rounds(path / EVALUATION if path.is_dir() else path, tables)


def _results(
    inputs: EstimatorInputs, incumbent: EstimatorInputs | None
) -> tuple[Estimates, dict[str, PolicyComparison]]:
    estimates = estimate_from_inputs(inputs)
    return estimates, {} if incumbent is None else value_differences_from_inputs(inputs, incumbent)


def _bandit_results(
    policy: Policy, comparison: LogComparison, config: Settings, seed: int
) -> tuple[Estimates, dict[str, PolicyComparison]]:
    """Return estimates with the policy's own reward model, and differences with one that is fitted on the log."""
    log = comparison.log
    assert log is not None, "compare_on_log keeps the rounds"
    context = log.contexts(policy.artifact.context)  # mrdr fits its own model
    settings = _settings(OffPolicyConfig, config, log.scale, seed)
    feedback = replace(comparison.feedback, context=context)
    estimates = estimate_from_inputs(BanditInputs(feedback, comparison.candidate, settings, comparison.q))
    if comparison.incumbent is None:
        return estimates, {}
    inputs = BanditInputs(feedback, comparison.candidate, settings)  # its own model would favor the policy
    return estimates, value_differences_from_inputs(inputs, inputs.with_target(comparison.incumbent), COMPARED)


def _slate_inputs(
    policy: Policy, log: SlateLog, incumbent: Policy | None, config: Settings, seed: int
) -> tuple[SlateInputs, SlateInputs | None]:
    settings = _settings(MultiStepConfig, config, log.scale, seed)
    feedback, model = slate_model(policy, log, settings)
    inputs = SlateInputs(feedback, settings, model)
    if incumbent is None:
        return inputs, None
    if is_same_policy(policy, incumbent):
        return inputs, replace(inputs, is_incumbent=True)
    feedback, model = slate_model(incumbent, log, settings)
    return inputs, SlateInputs(feedback, settings, model, is_incumbent=True)


def _estimate_sessions(
    policy: Policy,
    log: SessionLog,
    incumbent: Policy | None,
    policy_mode: str,
    gamma: float | None,
    config: Settings,
    seed: int,
) -> PolicyEstimates:
    gamma = 1.0 if gamma is None else gamma
    if policy_mode not in ACTS:
        raise unknown_name_error("policy_mode", policy_mode, ACTS)
    if not 0 <= gamma <= 1:
        raise ConfigError(f"gamma is {gamma}; expected 0..1")
    settings = _settings(MultiStepConfig, config, return_range(policy, log, gamma), seed)
    all_inputs: list[TrajectoryInputs] = []
    notes: list[str] = []
    for who, evaluated_policy in _named(policy, incumbent):
        if all_inputs and is_same_policy(policy, evaluated_policy):
            all_inputs.append(replace(all_inputs[0], is_incumbent=True))
            break
        feedback, model, problem = trajectory_model(evaluated_policy, log, policy_mode, gamma, settings)
        inputs = TrajectoryInputs(feedback, settings, model, is_incumbent=evaluated_policy is not policy)
        notes += [f"{who}: {note}" for note in weight_notes(inputs, policy_mode)]
        if problem is not None:
            notes.append(f"{who}: estimators with a reward model are left out: {problem}")
        all_inputs.append(inputs)
    results = _results(all_inputs[0], all_inputs[1] if incumbent is not None else None)
    logged_value = float(all_inputs[0].reward.mean())
    return PolicyEstimates(log.name, logged_value, *results, policy_mode, gamma, tuple(notes))


def _settings(config_type: type[Any], config: Settings, reward_range: tuple[float, float], seed: int) -> Any:
    """Return the settings, with the seed and the range of rewards where the caller gives none."""
    if config is None or isinstance(config, Mapping):
        config = {"seed": seed, "reward_range": reward_range, **(config or {})}
    return coerce(config_type, config, "off_policy")


def return_range(policy: Policy, log: SessionLog, gamma: float) -> tuple[float, float]:
    """Return the possible range of a session's discounted sum of rewards, over one step or as many as there can be."""
    longest = float(discounts(longest_session(policy, log), gamma).sum())
    low, high = log.scale
    return min(low, longest * low), max(high, longest * high)


def weight_notes(inputs: TrajectoryInputs, policy_mode: str) -> list[str]:
    """Return warnings about the weights: the step from which on the log says little, and a mean that is not 1."""
    notes = []
    effective = np.array([effective_sample_size(inputs.clusters.sums(weight)) for weight in inputs.cumulative_weight.T])
    few = np.flatnonzero(effective < MIN_EFFECTIVE_SAMPLE_SIZE)
    if len(few):
        advice = f"evaluate it with policy_mode {EXPLORING!r}, or " if policy_mode == GREEDY else ""
        notes.append(
            f"of {len(inputs.feedback):,} sessions an effective sample size below {MIN_EFFECTIVE_SAMPLE_SIZE} is left"
            f" after step {few[0]} ({effective[few[0]]:.0f}): {advice}use a log of a policy closer to this one"
        )
    weights = diagnose(inputs.trajectory_weight, inputs.trajectory_weight, inputs.clusters)
    if not weights.mean_weight_ok:
        notes.append(
            f"the mean weight is {weights.mean_weight:.3f} ± {weights.mean_weight_error:.3f}, not 1: much of its"
            " behavior was hardly ever logged, or propensities are wrong; there is no verdict"
        )
    return notes


def is_same_policy(policy: Policy, incumbent: Policy) -> bool:
    """Return True if both choose the same everywhere: they are one policy, or copies of it."""
    return policy is incumbent or policy_digest(policy.artifact) == policy_digest(incumbent.artifact)


def _named(policy: Policy, incumbent: Policy | None) -> list[tuple[str, Policy]]:
    return [("the policy", policy)] + ([] if incumbent is None else [("the incumbent", incumbent)])


def _check_policies(policy: Policy, incumbent: Policy | None, log: Log) -> None:
    """Raise ConfigError or DataError unless this log can evaluate both policies."""
    for who, evaluated_policy in _named(policy, incumbent):
        check_log_type(evaluated_policy, isinstance(log, SessionLog), log.name)
        if isinstance(log, SessionLog):
            check_session_policy(who, evaluated_policy, log)
        elif isinstance(log, SlateLog):
            _check_slate_policy(who, evaluated_policy, log)
    if not isinstance(log, BanditLog):  # compare_on_log checks rounds
        check_not_learned(log, dict(_named(policy, incumbent)))
    if incumbent is not None:
        check_same_ids(policy, incumbent)


def _check_slate_policy(who: str, policy: Policy, log: SlateLog) -> None:
    unknown = ~np.isin(log.action_items, policy.artifact.action_items)
    if unknown.any():
        raise DataError(
            f"{log.name}: {int(unknown.sum())} of the {len(log.action_items)} items of its slates are not in the"
            f" catalog of {who} ({policy.artifact.agent}); evaluate a policy with that catalog"
        )


def check_session_policy(who: str, policy: Policy, log: SessionLog) -> None:
    """Raise DataError unless this policy, of sessions or of single rounds, can be evaluated on logged sessions."""
    artifact = policy.artifact
    if log.log_propensity is None:
        raise DataError(f"{log.name}: no propensities; every estimator needs them, so log them")
    if int(log.user.max()) >= len(artifact.users):
        raise DataError(
            f"{log.name}: user row {int(log.user.max())}, but {who} ({artifact.agent}) knows {len(artifact.users)}"
            " users; read the log with the policy's tables (read_evaluation_log)"
        )
    if not np.array_equal(log.action_items, artifact.action_items):
        raise DataError(
            f"{log.name}: its {len(log.action_items)} items are not the {len(artifact.action_items)} of {who}"
            f" ({artifact.agent}), which chooses among others; evaluate policies with the log's catalog"
        )
    longest, steps = int(log.length.max()), longest_session(policy, log)
    if longest > steps:
        raise DataError(
            f"{log.name}: a session of {longest} steps, but sessions of {who} ({artifact.agent}) have at most {steps}"
        )
