"""Results of an off-policy evaluation: numbers to compute with, tables to read, JSON to store."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.core.errors import unknown_name_error
from recpolicy.core.json import to_plain
from recpolicy.core.statistics import Interval
from recpolicy.core.text import format_table
from recpolicy.core.types import Array
from recpolicy.ope.intervals import Diagnostics
from recpolicy.ope.tuning import TuningResult

NO_VERDICT = "no verdict"
MISSING = "–"
MODEL_ONLY = ("dm", "fqe")
"""Estimators that return the value of a reward model; their intervals do not include the model's bias."""
INTERVALS = ("bootstrap", "t", "sequence", "bernstein")


@dataclass(frozen=True)
class ModelFit:
    """The agreement of a model with the log; a cross-fitted model predicts rows that it was not fitted on.

    For single rounds the model predicts each reward. For slates and sessions it predicts each step's reward plus the
    model's value of the next step (`fqe.one_step_fit`).
    """

    rmse: float
    bias: float
    """Mean of prediction - logged value."""
    explained: float
    """1 - mean squared error / variance of the logged values; 0 is no better than their mean."""

    @classmethod
    def from_predictions(cls, predicted: Array, logged: Array) -> "ModelFit":
        """Compare predictions with logged values, both [N], N >= 1; `explained` is NaN where nothing varies."""
        error = predicted - logged
        square, variance = float(np.mean(error**2)), float(logged.var())
        explained = 1 - square / variance if variance > 0 else float("nan")
        return cls(rmse=float(np.sqrt(square)), bias=float(error.mean()), explained=explained)


@dataclass(frozen=True)
class OffPolicyResult:
    """One estimator's value of a target policy per round, slate or session."""

    estimator: str
    value: float
    intervals: Mapping[str, Interval]
    """bootstrap, t, sequence and, where bounds are known, bernstein; intervals.py lists their assumptions."""
    diagnostics: Diagnostics
    tuning: TuningResult | None
    """The clip, tau or lambda that it used."""
    model: ModelFit | None

    @property
    def verdict(self) -> str:
        """`no verdict` where the weights allow none (`Diagnostics.problem` says why), else `estimated`."""
        return "estimated" if self.diagnostics.sound else NO_VERDICT

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values; NaN is None, infinity is text."""
        return {**to_plain(asdict(self), keep_infinity=True), "verdict": self.verdict}


@dataclass(frozen=True)
class Estimates(Mapping[str, OffPolicyResult]):
    """The results of several estimators on one log, by name."""

    results: Mapping[str, OffPolicyResult]
    config: Mapping[str, Any]

    def __getitem__(self, name: str) -> OffPolicyResult:
        if name not in self.results:
            raise unknown_name_error("estimator in these estimates", name, self.results)
        return self.results[name]

    def __contains__(self, name: object) -> bool:
        return name in self.results

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def rows(self) -> pd.DataFrame:
        """Return one row of numbers per estimator; NaN where there is none."""
        return pd.DataFrame([_numbers(result) for result in self.results.values()], index=self._index)

    def table(self) -> pd.DataFrame:
        """Return the estimates as text for people: a dash where there is no number."""
        return pd.DataFrame([_text(result) for result in self.results.values()], index=self._index)

    def show(self) -> None:
        """Print the estimates."""
        print(format_table(self.table(), "Estimates of the value"))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, settings included."""
        results = {name: result.as_dict() for name, result in self.results.items()}
        return {"config": to_plain(self.config, keep_infinity=True), "estimators": results}

    @property
    def _index(self) -> "pd.Index[str]":
        return pd.Index(list(self.results), name="estimator")


@dataclass(frozen=True)
class PolicyComparison:
    """The value of a candidate minus that of an incumbent, per round, slate or session, paired row by row."""

    estimator: str
    value: float
    intervals: Mapping[str, Interval]
    """Of the paired difference; the same kinds as for a single result."""
    limits: Mapping[str, Interval]
    """The intervals, widened by what the actions that the log never shows may earn; verdicts and gates rest on them."""
    candidate: OffPolicyResult
    incumbent: OffPolicyResult

    @property
    def sound(self) -> bool:
        """True if the log allows a verdict on both policies."""
        return self.candidate.diagnostics.sound and self.incumbent.diagnostics.sound

    def verdict(self, margin: float = 0.0, interval: str = "t") -> str:
        """Return `better` if all of `limits` is above the margin, `worse` if it is below, else `undecided`.

        Return `no verdict` where either policy has none, and for a reward model alone (dm, fqe), whose bias no interval
        includes.

        Args:
            margin: difference in reward that counts as an improvement.
            interval: bootstrap, t, sequence or bernstein.

        Raises:
            ConfigError: an interval that this comparison does not have.
        """
        if interval not in self.limits:
            raise unknown_name_error("interval of this comparison", interval, self.limits)
        limits = self.limits[interval]
        if not self.sound or self.estimator in MODEL_ONLY:
            return NO_VERDICT
        if limits.lo > margin:
            return "better"
        return "worse" if limits.hi < margin else "undecided"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        intervals = {kind: asdict(interval) for kind, interval in self.intervals.items()}
        limits = {kind: asdict(interval) for kind, interval in self.limits.items()}
        plain = {"estimator": self.estimator, "value": self.value, "intervals": intervals, "limits": limits}
        return {
            **to_plain(plain, keep_infinity=True),
            "candidate": self.candidate.as_dict(),
            "incumbent": self.incumbent.as_dict(),
        }


def _numbers(result: OffPolicyResult) -> dict[str, float | str]:
    diagnostics = result.diagnostics
    row: dict[str, float | str] = {"value": result.value}
    for kind in INTERVALS:
        interval = result.intervals.get(kind)
        row[f"{kind}_lo"] = np.nan if interval is None else interval.lo
        row[f"{kind}_hi"] = np.nan if interval is None else interval.hi
    names = ("effective_sample_size", "max_weight", "share_clipped", "mean_weight")
    row |= {name: getattr(diagnostics, name) for name in names}
    return row | {"tuned": np.nan if result.tuning is None else result.tuning.value, "verdict": result.verdict}


def _text(result: OffPolicyResult) -> dict[str, str]:
    diagnostics, tuning = result.diagnostics, result.tuning
    intervals = {
        kind: f"[{interval.lo:.3f}, {interval.hi:.3f}]" if interval else MISSING
        for kind in INTERVALS
        for interval in [result.intervals.get(kind)]
    }
    return {
        "value": f"{result.value:.3f}",
        **intervals,
        "effective sample size": f"{diagnostics.effective_sample_size:,.0f} of {diagnostics.users:,}",
        "max weight": f"{diagnostics.max_weight:.1f}",
        "mean weight": f"{diagnostics.mean_weight:.3f} ± {diagnostics.mean_weight_error:.3f}",
        "clipped": f"{diagnostics.share_clipped:.1%}",
        "tuned": MISSING if tuning is None else f"{tuning.setting} {tuning.value:g} ({tuning.method})",
        "verdict": result.verdict,
    }
