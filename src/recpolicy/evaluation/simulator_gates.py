"""Distances between simulated and real sessions: the figures of the validation card and their limits.

N ratings, B sessions of at most S items, I items, G genres. Limits: ALGORITHMS section 14; bias-only ratings reach an
AUC of .77 on MovieLens 100K and must fail the first gate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.json import to_plain
from recpolicy.core.statistics import Interval
from recpolicy.core.types import Array
from recpolicy.evaluation.gate import Criterion

BINS = 10
_KS_5_PERCENT = 1.358
ASSUMED_SETTINGS = ("fatigue_genre", "fatigue_misses", "drift")
"""Settings of a simulated world that no gate confirms: ratings without exposure hold no evidence on them."""


@dataclass(frozen=True)
class PolicyValue:
    """The value of one policy for the held-out users, in the simulator and in reality."""

    simulated: float
    """Mean likes per simulated session, the whole catalog to choose from, shown items left out."""
    held_out: float
    """Mean true rating of the held-out choice."""


@dataclass(frozen=True)
class ValidationData:
    """The data behind the figures, for plots; not part of the JSON."""

    probability: Array  # [N] of a like, on test ratings
    like: NDArray[np.bool_]  # [N]
    real_length: NDArray[np.integer]
    simulated_length: NDArray[np.integer]
    real_engagement: Array
    simulated_engagement: Array


@dataclass(frozen=True)
class SimulatorCard:
    """The validation of a simulator: gates, further figures, and what they rest on."""

    world: str
    """Rating model and ratings behind the simulator."""
    split: str
    train_digest: str
    test_digest: str
    seed: int
    config: Mapping[str, Any]
    """Settings of the simulated world."""
    counts: Mapping[str, int]
    """Users, ratings and sessions on either side."""
    gates: tuple[Criterion, ...]
    figures: Mapping[str, float]
    """Reported without a limit."""
    policies: Mapping[str, PolicyValue]
    evidence: ValidationData = field(repr=False, compare=False)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """95 % intervals over held-out users."""
    clicks: bool = False
    """True for a click and watch log, False for ratings."""

    @property
    def passed(self) -> bool:
        """True if every gate holds."""
        return all(gate.passed for gate in self.gates)

    @property
    def assumptions(self) -> dict[str, float]:
        """The assumed settings by name, with their values. The gates do not test them."""
        return {name: float(self.config[name]) for name in ASSUMED_SETTINGS if name in self.config}

    def table(self) -> pd.DataFrame:
        """Return one row per gate: value, limit, PASS or FAIL."""
        rows = {
            "value": [gate.value for gate in self.gates],
            "limit": [f"{'>=' if gate.at_least else '<='} {gate.limit:g}" for gate in self.gates],
            "verdict": ["PASS" if gate.passed else "FAIL" for gate in self.gates],
        }
        return pd.DataFrame(rows, index=pd.Index([gate.name for gate in self.gates], name="gate"))

    def interval_table(self) -> pd.DataFrame:
        """Return the figures with intervals as text."""
        rows = {"value [95 % over held-out users]": [str(interval) for interval in self.intervals.values()]}
        return pd.DataFrame(rows, index=pd.Index(list(self.intervals), name="figure"))

    def policy_table(self) -> pd.DataFrame:
        """Return one row per policy, best in the simulator first."""
        rows = {name: (worth.simulated, worth.held_out) for name, worth in self.policies.items()}
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=["likes per session", "held-out choice"])
        return frame.sort_values("likes per session", ascending=False).rename_axis("policy")

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values; None where a value is not a number."""
        gates = {
            gate.name: {
                "value": to_plain(gate.value), "limit": gate.limit, "at_least": gate.at_least, "passed": gate.passed
            }
            for gate in self.gates
        }  # fmt: skip
        return {
            "passed": self.passed,
            "gates": gates,
            "figures": {name: to_plain(figure) for name, figure in self.figures.items()},
            "intervals": {name: interval.as_dict() for name, interval in self.intervals.items()},
            "policies": {name: vars(worth) for name, worth in self.policies.items()},
            "world": self.world,
            "config": dict(self.config),
            "assumptions": self.assumptions,
            "counts": dict(self.counts),
            "split": self.split,
            "train_digest": self.train_digest,
            "test_digest": self.test_digest,
            "seed": self.seed,
        }


def auc(outcome: NDArray[np.bool_], score: Array) -> float:
    """Return the AUC: the probability that a liked item scores above another, ties count half. DataError for one
    class."""
    from sklearn.metrics import roc_auc_score

    if outcome.all() or not outcome.any():
        raise DataError(f"AUC of {len(outcome)} ratings: expected both likes and non-likes")
    return float(roc_auc_score(outcome, score))


def calibration_bins(probability: Array, outcome: NDArray[np.bool_], bins: int = BINS) -> tuple[Array, Array, Array]:
    """Return mean probability, fraction of likes and number of ratings in each of `bins` bins of equal mass, all
    [bins]."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    said = np.array([probability[part].mean() for part in parts])
    was = np.array([outcome[part].mean() for part in parts])
    return said, was, np.array([len(part) for part in parts], float)


def calibration_error(probability: Array, outcome: NDArray[np.bool_], bins: int = BINS) -> float:
    """Return the ECE: mean distance between probability and share of likes over bins of equal mass."""
    said, was, size = calibration_bins(probability, outcome, bins)
    return float(size @ np.abs(said - was) / size.sum())


def log_loss(odds: Array, outcome: NDArray[np.bool_]) -> float:
    """Return the mean negative log-likelihood of outcomes [N] with log-odds [N], in nats."""
    return float(np.mean(np.logaddexp(0, np.where(outcome, -odds, odds))))


def ks_statistic(real: NDArray[np.number], simulated: NDArray[np.number]) -> float:
    """Return the Kolmogorov-Smirnov statistic: the largest gap between two distribution functions."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(real, simulated, method="asymp").statistic)


def ks_critical_value(real: int, simulated: int) -> float:
    """Return the KS statistic that two samples of one distribution exceed in 5 % of cases (less often if discrete)."""
    return float(_KS_5_PERCENT * np.sqrt((real + simulated) / (real * simulated)))


def genre_transitions(genres: NDArray[np.floating], item: NDArray[np.integer], liked: NDArray[np.bool_]) -> Array:
    """Return the joint distribution [G, G] of the genres of one liked item and the next in the same session.

    genres [I, G], 0/1; item and liked [B, S]. An item of several genres counts for each in equal parts; an item of no
    known genre is passed over. All zeros without any pair.
    """
    share = genres / np.maximum(genres.sum(axis=1, keepdims=True), 1)
    joint = np.zeros((genres.shape[1],) * 2)
    last = np.full(len(item), -1)
    for step in range(item.shape[1]):
        now = liked[:, step] & (share[item[:, step]].sum(axis=1) > 0)
        both = now & (last >= 0)
        joint += share[last[both]].T @ share[item[both, step]]
        last = np.where(now, item[:, step], last)
    return joint / max(joint.sum(), 1e-12)


def total_variation(p: Array, q: Array) -> float:
    """Return half the summed distance of two distributions: 0 the same, 1 nothing in common."""
    return float(np.abs(p - q).sum() / 2)


def rank_agreement(policies: Mapping[str, PolicyValue]) -> float:
    """Return Kendall's tau-b between the rankings of policies in the simulator and on held-out choice."""
    from scipy.stats import kendalltau

    simulated, held_out = zip(*((worth.simulated, worth.held_out) for worth in policies.values()), strict=True)
    return float(kendalltau(simulated, held_out).statistic)
