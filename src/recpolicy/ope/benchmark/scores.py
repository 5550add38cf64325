"""Results of the benchmark of the estimators: scores, tables for people, and the recommended estimator for a log."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.core.errors import DataError
from recpolicy.core.json import to_plain
from recpolicy.ope.intervals import MIN_EFFECTIVE_SAMPLE_SIZE
from recpolicy.ope.results import INTERVALS, MISSING

MIN_COVERAGE = 0.93
"""Coverage from which a nominal 95 % interval counts as covering."""
BIASED = ("dm", "mips")
"""Estimators with a bias that their intervals ignore at any log size: that of the reward model or the clusters."""
FALLBACK = "dr"


@dataclass(frozen=True)
class Score:
    """One estimator over the repetitions of one kind of log."""

    bias: float
    rmse: float
    error: float
    """Mean of |estimate - true value| / |true value|; NaN where the true value is 0."""
    coverage: Mapping[str, float]
    """Fraction of the intervals of a kind that contain the true value."""
    half_width: Mapping[str, float]
    """Mean half-width by kind, in units of the reward."""


@dataclass(frozen=True)
class Cell:
    """One logging policy and log size."""

    logging_policy: str
    rounds: int
    repetitions: int
    effective_sample_size: float
    """Mean over the repetitions."""
    scores: Mapping[str, Score]

    @property
    def has_enough_samples(self) -> bool:
        """True if such logs allow a verdict."""
        return self.effective_sample_size >= MIN_EFFECTIVE_SAMPLE_SIZE

    def covers(self, name: str) -> bool:
        """Return True if an estimator's bootstrap intervals contain the true value often enough, up to chance."""
        chance = 2 * np.sqrt(MIN_COVERAGE * (1 - MIN_COVERAGE) / self.repetitions)
        return self.scores[name].coverage["bootstrap"] >= MIN_COVERAGE - chance

    def recommend(self) -> "Recommendation":
        """Return the recommended estimator for such logs, with the reason."""
        effective = f"effective sample size {self.effective_sample_size:,.0f} in {self.rounds:,} rounds"
        if not self.has_enough_samples:
            reason = f"{effective}, below {MIN_EFFECTIVE_SAMPLE_SIZE}: no estimator can compensate for that"
            return Recommendation(None, f"{reason}; log more rounds, or with a policy closer to the target")
        covering = [name for name in self.scores if self.covers(name)]
        if not covering:
            reason = f"no bootstrap interval covers; {effective} is enough for an estimator that is unbiased by design"
            return Recommendation(FALLBACK if FALLBACK in self.scores else None, reason)
        best = min(covering, key=lambda name: self.scores[name].rmse)
        return Recommendation(best, f"{self._merits(best, covering)}; {effective}")

    def _merits(self, best: str, covering: list[str]) -> str:
        score = self.scores[best]
        text = (
            f"smallest rmse ({score.rmse:.4f}) of the {len(covering)} of {len(self.scores)} estimators whose bootstrap "
            f"interval covers ({100 * score.coverage['bootstrap']:.1f} %)"
        )
        if "ips" in self.scores and best != "ips" and score.rmse > 0:
            text += f", {self.scores['ips'].rmse / score.rmse:.1f} times smaller than ips"
        close = [name for name in covering if name != best and self.scores[name].rmse <= 1.05 * score.rmse]
        if close:
            text += f"; within 5 % of it: {', '.join(close)}"
        others = [name for name in self.scores if name not in covering]
        return text + (f"; does not cover: {', '.join(others)}" if others else "")


@dataclass(frozen=True)
class Recommendation:
    """The recommended estimator, None for none, and the reason."""

    estimator: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.estimator or 'none'}: {self.reason}"


@dataclass(frozen=True)
class BenchmarkResult:
    """All scores of one world."""

    world: str
    true_value: float
    """The target's mean reward per round."""
    users: int
    actions: int
    logged_values: Mapping[str, float]
    """Mean reward per round of each logging policy."""
    max_weights: Mapping[str, float]
    """Maximum importance weight in logs of each logging policy."""
    cells: tuple[Cell, ...]
    level: float
    seed: int

    def cell(self, logging_policy: str, rounds: int) -> Cell:
        """Return the scores of one logging policy and log size; raises DataError for one that was not drawn."""
        for cell in self.cells:
            if (cell.logging_policy, cell.rounds) == (logging_policy, rounds):
                return cell
        drawn = ", ".join(f"{cell.logging_policy} {cell.rounds:,}" for cell in self.cells)
        raise DataError(f"benchmark: no logs of {rounds:,} rounds by {logging_policy!r}; there are: {drawn}")

    @property
    def logging_policies(self) -> tuple[str, ...]:
        """Names of the logging policies."""
        return tuple(self.logged_values)

    def describe(self, logging_policy: str) -> str:
        """Return one line on a logging policy: its value, the target's difference to it, and the weights."""
        value = self.logged_values[logging_policy]
        return (
            f"value {value:.4f}; the target's value is {self.true_value - value:+.4f} higher; weights up to "
            f"{self.max_weights[logging_policy]:.1f}"
        )

    def get_cells(self, logging_policy: str) -> list[Cell]:
        """Return the cells of one logging policy, from small logs to large ones."""
        return [cell for cell in self.cells if cell.logging_policy == logging_policy]

    def rows(self) -> pd.DataFrame:
        """Return one row of numbers for each logging policy, log size and estimator; NaN where there is none."""
        rows = []
        for cell in self.cells:
            for name, score in cell.scores.items():
                row: dict[str, Any] = {
                    "logging_policy": cell.logging_policy, "rounds": cell.rounds, "estimator": name,
                    "repetitions": cell.repetitions, "bias": score.bias, "rmse": score.rmse, "error": score.error,
                }  # fmt: skip
                row |= {f"coverage_{kind}": score.coverage.get(kind, np.nan) for kind in INTERVALS}
                row |= {f"half_width_{kind}": score.half_width.get(kind, np.nan) for kind in INTERVALS}
                rows.append(row)
        return pd.DataFrame(rows)

    def error_table(self, logging_policy: str) -> pd.DataFrame:
        """Return the relative errors in per cent by log size, as text."""
        cells = self.get_cells(logging_policy)
        columns = {
            f"{cell.rounds:,}": {name: f"{100 * score.error:.2f}" for name, score in cell.scores.items()}
            for cell in cells
        }
        return pd.DataFrame(columns, index=pd.Index(list(cells[0].scores), name="estimator"))

    def coverage_table(self, logging_policy: str, rounds: int) -> pd.DataFrame:
        """Return coverage in per cent with the mean half-width, as text; a dash where there is no such interval."""
        cell = self.cell(logging_policy, rounds)
        rows = []
        for score in cell.scores.values():
            row = {"bias": f"{score.bias:+.4f}", "rmse": f"{score.rmse:.4f}"}
            for kind in INTERVALS:
                known = kind in score.coverage
                row[kind] = f"{100 * score.coverage[kind]:.1f} ± {score.half_width[kind]:.3f}" if known else MISSING
            rows.append(row)
        return pd.DataFrame(rows, index=pd.Index(list(cell.scores), name="estimator"))

    def recommendations(self) -> pd.DataFrame:
        """Return the recommended estimator for each kind of log, with the reason."""
        recommendations = [cell.recommend() for cell in self.cells]
        return pd.DataFrame(
            {
                "rounds": [f"{cell.rounds:,}" for cell in self.cells],
                "use": [recommendation.estimator or MISSING for recommendation in recommendations],
                "reason": [recommendation.reason for recommendation in recommendations],
            },
            index=pd.Index([cell.logging_policy for cell in self.cells], name="logging policy"),
        )

    def coverage(self, kind: str, rounds: int, *, lowest: bool = False) -> float:
        """Return the coverage of a kind of interval at a log size over logging policies and estimators.

        It is the mean, or the lowest of any estimator and policy. Estimators in BIASED are left out.

        Raises:
            DataError: no such interval at this size.
        """
        coverage = [
            score.coverage[kind]
            for cell in self.cells
            if cell.rounds == rounds
            for name, score in cell.scores.items()
            if name not in BIASED and kind in score.coverage
        ]
        if not coverage:
            raise DataError(f"benchmark: no {kind} intervals at {rounds:,} rounds")
        return min(coverage) if lowest else float(np.mean(coverage))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values; None where there is no number."""
        plain: dict[str, Any] = to_plain(asdict(self))
        for cell, values in zip(self.cells, plain["cells"], strict=True):
            recommendation = cell.recommend()
            values |= {"recommended": recommendation.estimator, "reason": recommendation.reason}
        return plain
