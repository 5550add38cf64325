"""Gates of a tuned ranking formula on held-out uniform logs: diversity, relative gain, lift over static weights.

N held-out requests, A grid points. Values are those of hits (evaluation/hit_values.py), which need no model.

    diversity      exp(entropy of the actions served) / A
    relative gain  value of the policy / mean reward of all - 1
    lift           value of the policy / value of the best static action - 1

A constant policy at the best static action has a relative gain above 0, but a lift of 0: only the lift shows
personalization. Below MIN_HITS effective hits both gains have no verdict; a diversity that is too low still fails.

Sources: Yang et al. 2025 (DRL-PUT) names diversity and relative gain without formulas, so these are our reading;
PRL-PUTS 2026 (reward at hits, difference to the static production action).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.statistics import LEVEL, Interval, percentile_interval
from recpolicy.core.types import Array
from recpolicy.data.tuning_log import TuningLog
from recpolicy.evaluation.diversity import action_diversity
from recpolicy.evaluation.hit_values import Hits, HitValue, log_hits

MIN_HITS = 30
MIN_DIVERSITY = 0.02
Verdict = Literal["pass", "fail", "cannot tell"]


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
    effective_hits: float
    """Hits of equal weight with the same variance, of the policy or of the static action, whichever has fewer."""
    fallbacks: int
    """Requests that the static weights served, of all; they count for the point that was logged."""

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict of each gate."""
        few = self.effective_hits < MIN_HITS

        def above_zero(interval: Interval) -> Verdict:
            return "cannot tell" if few else ("pass" if interval.lo > 0 else "fail")

        return {
            "diversity": "pass" if self.diversity.lo > MIN_DIVERSITY else "fail",
            "relative_gain": above_zero(self.relative_gain), "lift": above_zero(self.lift),
        }  # fmt: skip

    @property
    def verdict(self) -> Verdict:
        """Pass if all gates pass; otherwise fail if one fails, else no verdict."""
        all_verdicts = set(self.verdicts.values())
        return "fail" if "fail" in all_verdicts else ("cannot tell" if "cannot tell" in all_verdicts else "pass")

    def reason(self) -> str:
        """Return one line: the verdict and what decided it."""
        if self.verdict == "cannot tell":
            return f"cannot tell: {self.effective_hits:.0f} effective hits, at least {MIN_HITS} are needed; log more"
        parts = (
            f"diversity {self.diversity.value:.4f} (limit {MIN_DIVERSITY:g})",
            f"relative gain {self.relative_gain}", f"lift {self.lift}",
        )  # fmt: skip
        return f"{self.verdict}: {', '.join(parts)}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        intervals = {name: getattr(self, name).as_dict() for name in ("diversity", "relative_gain", "lift")}
        names = ("distinct", "modal_share", "hits", "static_hits", "effective_hits", "fallbacks")
        return {
            **intervals, **{name: getattr(self, name) for name in names},
            "verdicts": self.verdicts, "verdict": self.verdict,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> "TuningGates":
        """Return the gates that `as_dict` described; limits may be "inf" and "-inf", as JSON holds them."""

        def interval(name: str) -> Interval:
            value = body[name]["value"]
            return Interval(
                float("nan") if value is None else float(value), *(float(body[name][end]) for end in ("lo", "hi"))
            )

        return cls(
            diversity=interval("diversity"), distinct=int(body["distinct"]), modal_share=float(body["modal_share"]),
            relative_gain=interval("relative_gain"), lift=interval("lift"), hits=int(body["hits"]),
            static_hits=int(body["static_hits"]), effective_hits=float(body["effective_hits"]),
            fallbacks=int(body["fallbacks"]),
        )  # fmt: skip


def tuning_gates(
    log: TuningLog, action: NDArray[np.integer], static_action: int, rng: np.random.Generator, level: float = LEVEL
) -> TuningGates:
    """Return the gates of a policy that would serve `action` [N] in a held-out log; see `hit_gates` and `log_hits`."""
    if action.shape != (len(log),):
        raise DataError(f"gate: {action.shape} actions; expected one for each of {len(log):,} requests")
    return hit_gates(log, log_hits(log, action), log_hits(log, static_action), action, rng, level)


def hit_gates(
    log: TuningLog, hits: Hits, static_hits: Hits, served: NDArray[np.integer], rng: np.random.Generator,
    level: float = LEVEL, baseline: Array | None = None,
) -> TuningGates:  # fmt: skip
    """Return the gates of a policy, given where it agrees with a held-out log.

    Args:
        log: N held-out requests with uniform propensities; the policy and the static action were chosen on others.
        hits: Where the log did what the policy would do.
        static_hits: Where it did what the best static action would do (agents.utility_tuning.best_static_action).
        served: Actions that the policy serves in some of these requests, for the diversity.
        rng: Source of the resamples of the diversity.
        level: Probability that an interval contains the true value.
        baseline: [N], predicted rewards of the requests by a model of other requests; None: none.

    Raises:
        DataError: The log is not uniform, or its mean reward is not above 0.
    """
    log.check_uniform("the gate")
    everything = HitValue.of_log(log)
    if everything.value <= 0:
        raise DataError(f"gate: the mean reward is {everything.value:g}; a relative gain needs one above 0")
    policy, static = (HitValue.of_hits(log, part, baseline) for part in (hits, static_hits))
    same = np.array_equal(hits.match, static_hits.match)
    share = np.bincount(served, minlength=log.actions).astype(np.float64)
    spread = action_diversity(share)
    return TuningGates(
        diversity=_diversity_interval(share, spread.diversity, rng, level),
        distinct=spread.distinct,
        modal_share=spread.modal_share,
        relative_gain=policy.relative_to(everything, log, level),
        lift=Interval(0.0, 0.0, 0.0, level) if same else policy.relative_to(static, log, level),
        hits=hits.count,
        static_hits=static_hits.count,
        effective_hits=min(policy.effective_count, static.effective_count),
        fallbacks=int(log.fallback.sum()),
    )


def _diversity_interval(share: NDArray[np.float64], value: float, rng: np.random.Generator, level: float) -> Interval:
    """Return the diversity with its interval over requests."""
    total = int(share.sum())
    draws = rng.multinomial(total, share / total, size=200).astype(np.float64) / total
    entropy = -(draws * np.log(np.where(draws > 0, draws, 1.0))).sum(axis=1)
    drawn = np.exp(entropy) / len(share)
    # Resamples lose rare actions, so their entropy is lower by about the same amount as the sample's own.
    return percentile_interval(value, drawn + (value - float(drawn.mean())), level)


def rounds_needed(actions: int, coefficient_of_variation: float, gain: float) -> float:
    """Return the rounds of a uniform log at which a gain is shown with 80 % power: A 7.849 (cv / gain)^2.

    7.849 = (1.960 + 0.842)^2, the two-sided 5 % test with 80 % power on N / A hits.
    """
    return actions * 7.849 * (coefficient_of_variation / gain) ** 2
