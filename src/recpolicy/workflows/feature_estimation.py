"""Off-policy evaluation of feature policies: estimates, the evaluation of a candidate, its gate, and retraining.

The policies are read from folders, the log from the folder that `recpolicy log ingest` wrote. A log without a lowest
and a highest reward gives estimates, and no verdict.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.core.json import to_plain
from recpolicy.data.feature_columns import records_from_columns, take_rows
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.feature_log_files import EVALUATION, feature_log_part, read_feature_log
from recpolicy.evaluation.groups import GroupFigure
from recpolicy.inference.feature_artifact import is_feature_policy, read_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.inference.predictor import load_policy
from recpolicy.ope.config import OffPolicyConfig
from recpolicy.ope.engine import estimate_from_inputs, value_differences_from_inputs
from recpolicy.ope.results import PolicyComparison
from recpolicy.workflows.candidate_evaluation import Latency
from recpolicy.workflows.feature_comparison import EXPLORING, MODES, FeatureComparison, compare_on_feature_log
from recpolicy.workflows.log_evaluation import COMPARED, GATE_INTERVALS, gate_figures, plain_groups
from recpolicy.workflows.policy_estimation import COMPARED as DIFFERENCES
from recpolicy.workflows.policy_estimation import PolicyEstimates
from recpolicy.workflows.training_data import coerce

NO_RANGE = "no verdict"
_CALLS, _SECONDS = 200, 2.0


@dataclass(frozen=True)
class FeatureEstimates(PolicyEstimates):
    """The estimated value of a feature policy on one log, by estimator, and its differences to the baselines."""

    baselines: Mapping[str, PolicyComparison] = field(default_factory=dict)
    """Value of the policy minus that of each baseline, by the doubly robust estimator."""
    known_range: bool = True
    """False if nobody said what the lowest and the highest reward are; there are no verdicts then."""

    def difference_table(self, margin: float = 0.0) -> pd.DataFrame:
        """Return the differences to the incumbent as text for people, with verdicts if the range is known."""
        return self._with_verdicts(super().difference_table(margin))

    def baseline_table(self) -> pd.DataFrame:
        """Return the differences to the baselines as text for people."""
        table = replace(self, differences=self.baselines).difference_table()
        return table.rename(columns={"candidate": "policy", "incumbent": "baseline"}).rename_axis("baseline policy")

    def _with_verdicts(self, table: pd.DataFrame) -> pd.DataFrame:
        return table if self.known_range or table.empty else table.assign(verdict=NO_RANGE)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        body = super().as_dict()
        body["baselines"] = {
            name: {**difference.as_dict(), "verdict": difference.verdict()}
            for name, difference in self.baselines.items()
        }
        if not self.known_range:
            for name in ("differences", "baselines"):
                body[name] = {key: {**value, "verdict": NO_RANGE} for key, value in body[name].items()}
        return {**body, "known_range": self.known_range}


def read_evaluation_log(path: str | Path) -> FeatureLog:
    """Return the rounds for evaluation: those of an ingested log, or all rounds of another feature log.

    Raises:
        DataError: There is no feature log, or it has no rounds for evaluation.
    """
    return read_feature_log(feature_log_part(Path(path), EVALUATION), str(path))


def estimate_features(
    policy: FeaturePolicy,
    log: str | Path | FeatureLog,
    incumbent: FeaturePolicy | None = None,
    *,
    policy_mode: str | None = None,
    config: OffPolicyConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> FeatureEstimates:
    """Estimate the value of a feature policy on a log of another policy, by every estimator that the log allows.

    Args:
        policy: The policy to evaluate.
        log: A log with features, loaded or as a path.
        incumbent: A policy to compare with, paired on the log.
        policy_mode: `exploring`, with the probabilities that the policy serves (the default), or `greedy`.
        config: Settings of OffPolicyConfig.
        seed: Of the resamples and folds.

    Returns:
        Values in units of the reward, with intervals, diagnostics, and differences to the baselines and the incumbent.

    Raises:
        ConfigError: An unknown mode, or settings that are unknown or out of range.
        DataError: A policy has learned from this log, or the log lacks features that it needs.
    """
    if policy_mode not in (None, *MODES):
        raise unknown_name_error("policy_mode", str(policy_mode), MODES)
    log = read_evaluation_log(log) if isinstance(log, str | Path) else log
    log, notes = _with_range_of(policy, log)
    mode = policy_mode or EXPLORING
    comparison = compare_on_feature_log(
        policy, incumbent, log, policy_mode=mode, config=_settings(config, log, seed), seed=seed
    )
    inputs = comparison.inputs()
    differences: dict[str, PolicyComparison] = {}
    if comparison.incumbent is not None:
        differences = value_differences_from_inputs(inputs, inputs.with_target(comparison.incumbent), DIFFERENCES)
    known = log.reward_range is not None
    return FeatureEstimates(
        log=log.name, logged_value=float(comparison.log.reward.mean()),
        estimates=estimate_from_inputs(inputs, COMPARED), differences=differences, policy_mode=mode,
        notes=(*comparison.notes, *notes), baselines=comparison.baselines(),
        known_range=known,
    )  # fmt: skip


def _with_range_of(policy: FeaturePolicy, log: FeatureLog) -> tuple[FeatureLog, list[str]]:
    """Return the log, with the policy's range of rewards if the log has none, and notes about it for people."""
    if log.reward_range is not None:
        return log, []
    advice = "set min_reward and max_reward in [reward]"
    if policy.reward_range is None:
        return log, [f"the lowest and the highest reward are unknown, so there is no verdict; {advice}"]
    low, high = policy.reward_range
    known = log.reward[log.has_reward]
    if len(known) and (known.min() < low or known.max() > high):
        return log, [
            f"the log does not say the lowest and the highest reward, and its rewards, {known.min():g} to"
            f" {known.max():g}, exceed the policy's {low:g}..{high:g}, so there is no verdict; {advice}"
        ]
    return replace(log, reward_range=(low, high)), [
        f"the lowest and the highest reward are the policy's, {low:g}..{high:g}; the log does not say them"
    ]


def _settings(config: OffPolicyConfig | Mapping[str, Any] | None, log: FeatureLog, seed: int) -> OffPolicyConfig:
    if config is None or isinstance(config, Mapping):
        config = {"seed": seed, "reward_range": log.reward_range, **(config or {})}
    settings: OffPolicyConfig = coerce(OffPolicyConfig, config, "off_policy")
    return settings


@dataclass(frozen=True)
class FeatureEvaluation:
    """The evaluation of one feature policy on a log, as the gate reads it."""

    policy: Mapping[str, Any]
    comparison: FeatureComparison
    baseline: str
    """Name of the policy that the gain is over."""
    seed: int
    groups: Mapping[str, GroupFigure]
    """Gain by the values of a context feature; empty without one."""
    latency: Latency
    inputs: Mapping[str, str | None]
    """Digests of all inputs."""
    policy_mode: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        groups = {"baseline": self.baseline, "groups": plain_groups(self.groups)}
        return {
            "policy": dict(self.policy), "seed": self.seed, "inputs": dict(self.inputs),
            "actions": {**asdict(self.comparison.actions), "over": "logged rounds"}, "latency": asdict(self.latency),
            "off_policy": {**self._figures(), "group_gain": groups}, "notes": list(self.comparison.notes),
        }  # fmt: skip

    def _figures(self) -> dict[str, Any]:
        """Return what the gate asks of a log."""
        comparison = self.comparison
        over_logging = None
        if comparison.has_signed_rewards:
            limits = comparison.gain_over_logging.limits
            over_logging = {kind: limits[kind].as_dict() for kind in GATE_INTERVALS}
        own = to_plain(
            {
                "policy_mode": self.policy_mode, "gain_over_logging": over_logging,
                "known_range": float(comparison.log.reward_range is not None),
                "baselines": {name: each.as_dict() for name, each in comparison.baselines().items()},
            }
        )  # fmt: skip
        common = gate_figures(
            self.baseline, comparison.gain, comparison.mean_reward, comparison.relative_gain, comparison.gain_on_hits
        )
        return {**common, **own}

    def figures(self) -> dict[str, float | str]:
        """Return the main figures as a flat mapping."""
        gain = self.comparison.gain
        limits = gain.limits["t"]
        return {
            "agent": str(self.policy["agent"]), "off_policy_value": gain.candidate.value, "gain": gain.value,
            "gain_lower": limits.lo, "gain_upper": limits.hi,
            "effective_sample_size": gain.candidate.diagnostics.effective_sample_size,
        }  # fmt: skip


def evaluate_feature_candidate(
    policy: FeaturePolicy,
    log: FeatureLog,
    incumbent: FeaturePolicy | None = None,
    *,
    group: str | None = None,
    policy_mode: str = EXPLORING,
    seed: int = 0,
) -> FeatureEvaluation:
    """Evaluate a candidate on logged rounds against the incumbent or the logging policy.

    Args:
        policy: The candidate.
        log: Rounds for evaluation.
        incumbent: The policy in service; None compares with the logging policy.
        group: A categorical context feature; the gain is also given for each of its values.
        policy_mode: A name in MODES.
        seed: Seed of the intervals and folds.

    Raises:
        DataError: A policy has learned from these rounds, or the log lacks features.
    """
    comparison = compare_on_feature_log(policy, incumbent, log, policy_mode=policy_mode, seed=seed)
    name = "the logging policy" if incumbent is None else f"incumbent {incumbent.policy_digest[:8]}"
    return FeatureEvaluation(
        policy=_described(policy), comparison=comparison, baseline=name, seed=seed,
        groups={} if group is None else comparison.group_gains(group),
        latency=measure_rank_latency(policy, comparison.log),
        inputs={
            "candidate": policy.policy_digest, "incumbent": None if incumbent is None else incumbent.policy_digest,
            "train": policy.metadata.get("log"), "test": None, "rounds": log.digest,
        },
        policy_mode=policy_mode,
    )  # fmt: skip


def _described(policy: FeaturePolicy) -> dict[str, Any]:
    metadata = policy.metadata
    return {
        "agent": policy.agent, "policy_digest": policy.policy_digest, "data": metadata.get("data"),
        "settings": metadata.get("config", {}).get("agent", {}), "seed": metadata.get("seed"),
        "log": metadata.get("log"), "parents": [parent["policy_digest"] for parent in metadata.get("parents", [])],
    }  # fmt: skip


def measure_rank_latency(policy: FeaturePolicy, log: FeatureLog) -> Latency:
    """Time `rank` for the requests of a log, up to 200 of them or for 2 seconds; the first call is not counted."""
    count = min(len(log), _CALLS)
    contexts = list(records_from_columns(take_rows(log.context, slice(0, count)), count))
    used = np.unique(log.offered[: log.start[count]])
    features = dict(zip(used.tolist(), records_from_columns(take_rows(log.actions, used), len(used)), strict=True))
    requests = [
        [(log.action_id[row], features[row]) for row in log.offered[log.start[place] : log.start[place + 1]].tolist()]
        for place in range(count)
    ]
    policy.rank(contexts[0], requests[0], seed=0, strict=False)
    durations: list[float] = []
    start_all = time.perf_counter()
    while not durations or (len(durations) < count and time.perf_counter() - start_all < _SECONDS):
        place = len(durations)
        start = time.perf_counter()
        policy.rank(contexts[place], requests[place], seed=place, strict=False)
        durations.append(1_000 * (time.perf_counter() - start))
    median, p99 = np.quantile(durations, [0.5, 0.99])
    return Latency(float(median), float(p99), len(durations))


def load_policies(candidate: Path, incumbent: Path | None) -> tuple[Any, Any]:
    """Return the policies in two folders, both of ratings or both of features; None without an incumbent.

    Raises:
        ArtifactError: A folder is not a policy.
        ConfigError: One policy ranks actions with features, and the other rated items.
    """
    policies = [None if path is None else _load(path) for path in (candidate, incumbent)]
    kinds = {isinstance(policy, FeaturePolicy) for policy in policies if policy is not None}
    if len(kinds) > 1:
        raise ConfigError("one policy ranks actions with features, the other rated items; give two of one kind")
    return policies[0], policies[1]


def _load(path: Path) -> Any:
    return read_feature_policy(path) if is_feature_policy(path) else load_policy(path)


def require_log(log: Path | None) -> Path:
    """Return the log that a feature policy is gated on; raise DataError without one."""
    if log is None:
        raise DataError("a feature policy is evaluated on logged rounds: give --log, a folder of recpolicy log ingest")
    return log
