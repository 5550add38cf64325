"""Evaluate a strategy policy on the last days of a log, which it did not learn from.

N rounds, A = 27 actions. What was logged is described by its mean reward, like rate and rate of each signal. What the
policy would have earned is estimated off policy, and compared with the logging policy, with a trait-blind bandit (the
action with the highest mean reward of all rounds that the policy learned) and with the static strategy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.json import to_plain
from recpolicy.core.statistics import Interval, ratio_interval
from recpolicy.core.types import Array, Ints
from recpolicy.data import log_columns
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.log_parts import log_parts
from recpolicy.data.signal_files import SIGNALS
from recpolicy.ope.config import OffPolicyConfig
from recpolicy.ope.engine import estimate, value_difference
from recpolicy.ope.feedback import BanditFeedback, TargetPolicy
from recpolicy.ope.results import PolicyComparison
from recpolicy.strategies.artifact import read_strategy_policy
from recpolicy.strategies.config import ACTIONS, SITUATION, TRAIT_RANGE
from recpolicy.strategies.log_rounds import offered_actions, rounds_from_log
from recpolicy.strategies.policy import SOURCES, StrategyPolicy
from recpolicy.strategies.rounds import StrategyRounds
from recpolicy.strategies.training import DAY_MS
from recpolicy.workflows.artifacts import check_not_learned
from recpolicy.workflows.strategy_training import read_strategy_log

TEST_DAYS = 3.0
ESTIMATOR = "dr"
POLICIES = ("policy", "policy, greedy", "trait-blind", "static")
"""The policy with its exploration, without it, and the two baselines, both greedy."""
LIKE, CONTENT_TYPE = "like", "content_type"


@dataclass(frozen=True)
class LoggedFigures:
    """The figures of logged rounds of one kind of content."""

    rounds: int
    users: int
    average_reward: Interval
    """Infinitely wide for a single user."""
    like_rate: Interval | None
    """None for a log without signals."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        like_rate = None if self.like_rate is None else self.like_rate.as_dict()
        reward = self.average_reward.as_dict()
        return {"rounds": self.rounds, "users": self.users, "average_reward": reward, "like_rate": like_rate}


@dataclass(frozen=True)
class StrategyEvaluation:
    """The evaluation of a strategy policy on the last days of a log; intervals are at 95 %, clustered by user."""

    rounds: int
    users: int
    test_days: float
    average_reward: Interval
    """Of the logged rounds."""
    signal_rates: Mapping[str, Interval]
    """Share of the logged rounds with a signal of each type; empty for a log without signals."""
    by_content_type: Mapping[str, LoggedFigures]
    """The logged rounds of each kind of content that has any."""
    values: Mapping[str, Interval]
    """Estimated mean reward of each of POLICIES."""
    gains: Mapping[str, PolicyComparison]
    """The greedy policy's value minus that of the logging policy, the trait-blind bandit and the static strategy."""
    sources: Mapping[str, float]
    """Share of the rounds by the estimate that the greedy action rests on."""
    effective_sample_size: float
    """Of the greedy policy's weights."""

    @property
    def like_rate(self) -> Interval | None:
        """Share of the logged rounds with a like; None for a log without signals."""
        return self.signal_rates.get(LIKE)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        plain: dict[str, Any] = to_plain(
            {
                "rounds": self.rounds, "users": self.users, "test_days": self.test_days,
                "average_reward": self.average_reward.as_dict(),
                "like_rate": None if self.like_rate is None else self.like_rate.as_dict(),
                "signal_rates": {name: rate.as_dict() for name, rate in self.signal_rates.items()},
                "by_content_type": {name: figures.as_dict() for name, figures in self.by_content_type.items()},
                "values": {name: value.as_dict() for name, value in self.values.items()},
                "gains": {
                    name: {**gain.limits["t"].as_dict(), "value": gain.value, "verdict": gain.verdict()}
                    for name, gain in self.gains.items()
                },
                "estimator": ESTIMATOR, "sources": dict(self.sources),
                "effective_sample_size": self.effective_sample_size,
            }
        )  # fmt: skip
        return plain

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return tables for people by their titles."""
        logged = {"average reward": self.average_reward} | {
            f"rate of {name}": rate for name, rate in self.signal_rates.items()
        }
        gains = pd.DataFrame(
            [
                {
                    "gain over": name, "value": f"{gain.value:.3f}",
                    "95 %": f"[{gain.limits['t'].lo:.3f}, {gain.limits['t'].hi:.3f}]", "verdict": gain.verdict(),
                }
                for name, gain in self.gains.items()
            ]
        ).set_index("gain over")  # fmt: skip
        return {
            f"Logged: {self.rounds:,} rounds of {self.users:,} users": _interval_table(logged, "logged"),
            "Logged by content type": _kind_table(self.by_content_type),
            f"Estimated mean reward ({ESTIMATOR})": _interval_table(self.values, "policy"),
            "Gain of the greedy policy": gains,
        }


def _interval_table(intervals: Mapping[str, Interval], index: str) -> pd.DataFrame:
    rows = [{"value": f"{each.value:.3f}", "95 %": f"[{each.lo:.3f}, {each.hi:.3f}]"} for each in intervals.values()]
    return pd.DataFrame(rows, index=pd.Index(list(intervals), name=index))


def _kind_table(kinds: Mapping[str, LoggedFigures]) -> pd.DataFrame:
    rows = [
        {
            "rounds": figures.rounds, "users": figures.users, "average reward": _text(figures.average_reward),
            "like rate": "" if figures.like_rate is None else _text(figures.like_rate),
        }
        for figures in kinds.values()
    ]  # fmt: skip
    return pd.DataFrame(rows, index=pd.Index(list(kinds), name="content type"))


def _text(interval: Interval) -> str:
    ends = f" [{interval.lo:.3f}, {interval.hi:.3f}]" if np.isfinite(interval.hi - interval.lo) else ""
    return f"{interval.value:.3f}{ends}"


def evaluate_strategy(
    policy: str | Path | StrategyPolicy,
    log: str | Path,
    *,
    test_days: float = TEST_DAYS,
    seed: int = 0,
) -> StrategyEvaluation:
    """Evaluate a strategy policy on the last days of a log.

    Args:
        policy: The policy, or its folder.
        log: Folder or file of the log.
        test_days: Length of the evaluated part, before the last round, in days.
        seed: Seed of the folds of the reward model.

    Raises:
        ConfigError: `test_days` is out of range.
        DataError: The log is wrong, too short, offers only some of the strategies, or the policy has learned from
            rounds of these days.
    """
    if not 0 < test_days <= 36_500:
        raise ConfigError(f"test_days is {test_days:g}; expected above 0 and at most 36,500 days")
    if isinstance(policy, str | Path):
        policy = read_strategy_policy(policy)
    settled = read_strategy_log(log, policy.config)
    end = int(settled.time.max())
    test = settled.select(np.flatnonzero(settled.time > end - round(test_days * DAY_MS)), settled.name)
    check_not_learned(test, {"the policy": policy})
    rounds = rounds_from_log(test, policy.config)
    _check_offers(test, policy)
    units = np.unique(test.units[test.has_reward], return_inverse=True)[1]
    if units.max() < 1:
        raise DataError(f"{log}: the last {test_days:g} days have rounds of one user only; expected two or more")
    low, high = policy.config.reward.reward_range or (float(rounds.reward.min()), float(rounds.reward.max()))
    masks, width = signal_masks(Path(log), rounds.event_id), high - low
    return StrategyEvaluation(
        rounds=len(rounds), users=int(units.max()) + 1, test_days=test_days,
        average_reward=_user_mean(units, rounds.reward, width),
        signal_rates={name: _share(_user_mean(units, mask, 1.0)) for name, mask in masks.items()},
        by_content_type=_by_content_type(rounds, units, masks, width, policy.config.situation.names(CONTENT_TYPE)),
        **_estimates(policy, rounds, units, seed),
    )  # fmt: skip


def _user_mean(units: Ints, value: Array, width: float) -> Interval:
    """Return the mean of rounds with its interval over users; units [N] are 0 to U - 1."""
    return ratio_interval(np.bincount(units, value), np.bincount(units), width)


def _by_content_type(
    rounds: StrategyRounds, units: Ints, masks: Mapping[str, Array], width: float, names: Sequence[str]
) -> dict[str, LoggedFigures]:
    """Return the figures of the rounds of each kind of content that has any."""
    figures, likes = {}, masks.get(LIKE, np.zeros(len(rounds)))
    for code, name in enumerate(names):
        rows = rounds.situation[:, SITUATION.index(CONTENT_TYPE)] == code
        if not rows.any():
            continue
        of_kind = np.unique(units[rows], return_inverse=True)[1]
        like_rate = _share(_user_mean(of_kind, likes[rows], 1.0)) if masks else None
        reward = _user_mean(of_kind, rounds.reward[rows], width)
        figures[name] = LoggedFigures(int(rows.sum()), int(of_kind.max()) + 1, reward, like_rate)
    return figures


def _share(interval: Interval) -> Interval:
    """Return the interval of a share within 0..1."""
    return Interval(interval.value, max(interval.lo, 0.0), min(interval.hi, 1.0), interval.level)


def _check_offers(log: FeatureLog, policy: StrategyPolicy) -> None:
    """Raise DataError unless every round offers all strategies: the policies choose among them."""
    offered = offered_actions(log, policy.config)
    distinct = len(np.unique(log.round_of_offer * ACTIONS + offered))
    if distinct != ACTIONS * len(log) or len(offered) != distinct:
        raise DataError(f"{log.name}: rounds that offer only some of the {ACTIONS} strategies cannot be evaluated")


def _estimates(policy: StrategyPolicy, rounds: StrategyRounds, units: Any, seed: int) -> dict[str, Any]:
    """Return the values of all policies, the gains, the sources and the effective sample size."""
    reward_range = policy.config.reward.reward_range
    config = OffPolicyConfig(seed=seed, reward_range=reward_range, resamples=0)
    feedback = BanditFeedback(
        action=rounds.action, reward=rounds.reward, behavior_prob=np.exp(rounds.log_propensity), user=units,
        actions=ACTIONS, context=rounds.profile / TRAIT_RANGE[1],
    )  # fmt: skip
    states = policy.states_of(rounds)
    estimates = policy.estimates(states)
    greedy = policy.greedy_probabilities(states)
    tables: dict[str, Array] = {
        "policy": policy.state_probabilities(states), "policy, greedy": greedy,
        "trait-blind": np.tile(_best_action(policy), (len(rounds), 1)),
        "static": np.tile(np.eye(ACTIONS)[policy.config.static_action], (len(rounds), 1)),
    }  # fmt: skip
    targets = {name: TargetPolicy.from_table(feedback, table) for name, table in tables.items()}
    results = {name: estimate(feedback, target, [ESTIMATOR], config)[ESTIMATOR] for name, target in targets.items()}
    others: dict[str, TargetPolicy | None] = {
        "logging policy": None, "trait-blind": targets["trait-blind"], "static": targets["static"],
    }  # fmt: skip
    candidate = targets["policy, greedy"]
    best = estimates.source[np.arange(len(states)), greedy.argmax(axis=1)]
    share = np.bincount(best, minlength=len(SOURCES)) / len(states)
    return {
        "values": {name: result.intervals["t"] for name, result in results.items()},
        "gains": {
            name: value_difference(feedback, candidate, other, ESTIMATOR, config) for name, other in others.items()
        },
        "sources": dict(zip(SOURCES, share.tolist(), strict=True)),
        "effective_sample_size": results["policy, greedy"].diagnostics.effective_sample_size,
    }


def _best_action(policy: StrategyPolicy) -> Array:
    """Return the choice [A] of a bandit without context: the highest mean reward; the static one before any."""
    model, minimum = policy.factored, policy.config.learning.min_visits
    known = model.action_visits >= minimum
    if not known.any():
        return np.asarray(np.eye(ACTIONS)[policy.config.static_action])
    score = np.where(known, model.action_mean, -np.inf)
    best = score == score.max()
    return np.asarray(best / best.sum())


def signal_masks(folder: Path, event_id: Any) -> dict[str, Array]:
    """Return for each type of signal the events [N] that have one, as 0 and 1; none for a log without signals."""
    if not folder.is_dir() or not log_parts(folder, SIGNALS):
        return {}
    row = pd.Series(np.arange(len(event_id)), index=pd.Index(event_id))
    masks: dict[str, Array] = {}
    for path in log_parts(folder, SIGNALS):
        for piece in log_columns.pieces(path, ("event_id", "type")):
            place = row.reindex(log_columns.texts(piece, "event_id")).to_numpy(np.float64)
            types = log_columns.shared_texts(piece, "type")
            for name in sorted(set(types[~np.isnan(place)].tolist())):
                mask = masks.setdefault(name, np.zeros(len(event_id)))
                mask[place[(types == name) & ~np.isnan(place)].astype(np.int64)] = 1.0
    return dict(sorted(masks.items()))
