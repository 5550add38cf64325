"""Gates of a tuned ranking formula on held-out uniform logs: diversity, relative gain, lift over static weights.

N held-out requests, A grid points. A hit is a request whose logged action is the one that the policy would serve; its
reward estimates the policy's value without a model, because every action had the same probability.

    diversity      exp(entropy of the actions served) / A
    relative gain  mean reward of the hits / mean reward of all - 1
    lift           mean reward of the policy's hits - mean reward of the hits of the best static action, relative to it

A constant policy at the best static action has a relative gain above 0, but a lift of 0: only the lift shows
personalization. All intervals are bootstrap intervals over hits, with the margin for rare rewards of
core/statistics.py. Where the log names its users, users are resampled, because the hits of one belong together. Below
MIN_HITS hits there is no verdict.

Sources: Yang et al. 2025 (DRL-PUT) names diversity and relative gain without formulas, so these are our reading;
PRL-PUTS 2026 (reward at hits, difference to the static production action).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.statistics import LEVEL, RESAMPLES, Interval, percentile_interval, resampled_means
from recpolicy.data.tuning_log import TuningLog
from recpolicy.evaluation.diversity import action_diversity

MIN_HITS = 30
MIN_DIVERSITY = 0.02
Verdict = Literal["pass", "fail", "cannot tell"]
_Z = 1.96


@dataclass(frozen=True)
class TuningGates:
    """The gates of one policy."""

    diversity: Interval
    distinct: int
    """Grid points that the policy serves at least once."""
    modal_share: float
    """Share of requests of the most frequent grid point."""
    relative_gain: Interval
    lift: Interval
    hits: int
    """Hits of the policy."""
    static_hits: int
    """Hits of the best static action."""
    fallbacks: int
    """Requests that the static weights served, of all; they are no hits."""

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict of each gate."""
        few = self.hits < MIN_HITS
        return {
            "diversity": "pass" if self.diversity.lo > MIN_DIVERSITY else "fail",
            "relative_gain": "cannot tell" if few else ("pass" if self.relative_gain.lo > 0 else "fail"),
            "lift": (
                "cannot tell" if few or self.static_hits < MIN_HITS else ("pass" if self.lift.lo > 0 else "fail")
            ),
        }  # fmt: skip

    @property
    def verdict(self) -> Verdict:
        """Pass if all gates pass; otherwise fail if one fails, else no verdict."""
        all_verdicts = set(self.verdicts.values())
        return "fail" if "fail" in all_verdicts else ("cannot tell" if "cannot tell" in all_verdicts else "pass")

    def reason(self) -> str:
        """Return one line: the verdict and what decided it."""
        if self.verdict == "cannot tell":
            return f"cannot tell: {min(self.hits, self.static_hits)} hits, at least {MIN_HITS} are needed; log more"
        parts = (
            f"diversity {self.diversity.value:.4f} (limit {MIN_DIVERSITY:g})",
            f"relative gain {self.relative_gain}", f"lift {self.lift}",
        )  # fmt: skip
        return f"{self.verdict}: {', '.join(parts)}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        intervals = {name: getattr(self, name).as_dict() for name in ("diversity", "relative_gain", "lift")}
        names = ("distinct", "modal_share", "hits", "static_hits", "fallbacks")
        return {
            **intervals, **{name: getattr(self, name) for name in names},
            "verdicts": self.verdicts, "verdict": self.verdict,
        }  # fmt: skip


def tuning_gates(
    log: TuningLog, action: NDArray[np.integer], static_action: int, rng: np.random.Generator, level: float = LEVEL
) -> TuningGates:
    """Return the gates of a policy that would serve `action` [N] in the requests of a held-out log; see `hit_gates`."""
    if action.shape != (len(log),):
        raise DataError(f"gate: {action.shape} actions; expected one for each of {len(log):,} requests")
    return hit_gates(log, log.action == action, action, static_action, rng, level)


def hit_gates(
    log: TuningLog, matches: NDArray[np.bool_], served: NDArray[np.integer], static_action: int,
    rng: np.random.Generator, level: float = LEVEL,
) -> TuningGates:  # fmt: skip
    """Return the gates of a policy, given where it agrees with a held-out log.

    Args:
        log: N held-out requests with uniform propensities; the policy and the static action were chosen on others.
        matches: [N], True where the policy would serve the logged action.
        served: Actions that the policy serves in some of these requests, for the diversity.
        static_action: The best static action (agents.utility_tuning.best_static_action).
        rng: Source of the resamples.
        level: Probability that an interval contains the true value.

    Raises:
        DataError: The log is not uniform, or its mean reward is not above 0.
    """
    log.check_uniform("the gate")
    mean = float(log.reward.mean())
    if mean <= 0:
        raise DataError(f"gate: the mean reward is {mean:g}; a relative gain needs one above 0")
    hit = matches & ~log.fallback
    static = (log.action == static_action) & ~log.fallback
    share = np.bincount(served, minlength=log.actions).astype(np.float64)
    spread = action_diversity(share)
    return TuningGates(
        diversity=_diversity_interval(share, spread.diversity, rng, level),
        distinct=spread.distinct,
        modal_share=spread.modal_share,
        relative_gain=_relative_gain(log, hit, mean, rng, level),
        lift=_lift(log, hit, static, rng, level),
        hits=int(hit.sum()),
        static_hits=int(static.sum()),
        fallbacks=int(log.fallback.sum()),
    )


def hit_value(log: TuningLog, action: NDArray[np.integer] | int) -> float:
    """Return the mean reward of the requests where the log acted as `action` [N]; NaN without any."""
    hit = (log.action == action) & ~log.fallback
    return float(log.reward[hit].mean()) if hit.any() else float("nan")


def _diversity_interval(share: NDArray[np.float64], value: float, rng: np.random.Generator, level: float) -> Interval:
    """Return the diversity with its interval over requests."""
    total = int(share.sum())
    draws = rng.multinomial(total, share / total, size=200).astype(np.float64) / total
    entropy = -(draws * np.log(np.where(draws > 0, draws, 1.0))).sum(axis=1)
    drawn = np.exp(entropy) / len(share)
    # Resamples lose rare actions, so their entropy is lower by about the same amount as the sample's own.
    return percentile_interval(value, drawn + (value - float(drawn.mean())), level)


def _sums_by_user(log: TuningLog, *columns: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the sums of columns [N] over the requests of each user [C, U]."""
    user = np.unique(log.unit, return_inverse=True)[1] if log.unit is not None else np.arange(len(log))
    return np.stack([np.bincount(user, column.astype(np.float64)) for column in columns])


def _relative_gain(
    log: TuningLog, hit: NDArray[np.bool_], mean: float, rng: np.random.Generator, level: float
) -> Interval:
    reward, hits = log.reward, log.reward[hit]
    if len(hits) < 2:
        return Interval.unbounded(float(hits.mean()) / mean - 1 if len(hits) else float("nan"), level)
    value = float(hits.mean()) / mean - 1
    if log.unit is None:
        # The mean of all requests has an error, too; the hits are a small part of it.
        means = mean + rng.normal(0, float(reward.std()) / np.sqrt(len(reward)), RESAMPLES)
        drawn = resampled_means(hits[np.newaxis], rng, RESAMPLES)[:, 0] / means - 1
    else:
        sums = _sums_by_user(log, reward * hit, hit, reward, np.ones(len(log)))
        part = resampled_means(sums, rng, RESAMPLES)
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = part[:, 0] * part[:, 3] / (part[:, 1] * part[:, 2]) - 1
        drawn = drawn[np.isfinite(drawn)]
    return _with_rare_rewards(percentile_interval(value, drawn, level), reward, len(hits), mean)


def _lift(
    log: TuningLog, hit: NDArray[np.bool_], static: NDArray[np.bool_], rng: np.random.Generator, level: float
) -> Interval:  # fmt: skip
    """Return the lift over the hits of the static action; requests that are hits of both are drawn together."""
    if np.array_equal(hit, static):
        return Interval(0.0, 0.0, 0.0, level)
    if hit.sum() < 2 or static.sum() < 2:
        return Interval.unbounded(level=level)
    reward = log.reward
    rows = np.flatnonzero(hit | static) if log.unit is None else np.arange(len(log))
    chosen, mine, other = log.take(rows), hit[rows], static[rows]
    sums = _sums_by_user(chosen, chosen.reward * mine, mine, chosen.reward * other, other)
    means = resampled_means(sums, rng, RESAMPLES)
    base = float(reward[static].mean())
    if base <= 0:
        return Interval.unbounded(level=level)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = means[:, 0] * means[:, 3] / (means[:, 1] * means[:, 2]) - 1
    drawn = drawn[np.isfinite(drawn)]
    value = (float(reward[hit].mean()) - base) / base
    interval = percentile_interval(value, drawn, level)
    return _with_rare_rewards(interval, reward, min(int(hit.sum()), int(static.sum())), base)


def _with_rare_rewards(interval: Interval, reward: NDArray[np.float64], hits: int, unit: float) -> Interval:
    """Return the interval widened by the largest change that one more hit could make."""
    margin = _Z**2 * float(reward.max() - reward.min()) / hits / unit
    down, up = (float(np.hypot(side, margin)) for side in (interval.value - interval.lo, interval.hi - interval.value))
    return Interval(interval.value, interval.value - down, interval.value + up, interval.level)


def rounds_needed(actions: int, coefficient_of_variation: float, gain: float) -> float:
    """Return the rounds of a uniform log at which a gain is shown with 80 % power: A 7.849 (cv / gain)^2.

    7.849 = (1.960 + 0.842)^2, the two-sided 5 % test with 80 % power on N / A hits.
    """
    return actions * 7.849 * (coefficient_of_variation / gain) ** 2
