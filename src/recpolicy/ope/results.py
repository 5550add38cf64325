"""The records of an off-policy evaluation: numbers to compute with, a table to read, JSON to keep."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import unknown_name_error
from recpolicy.core.statistics import Interval
from recpolicy.ope.diagnostics import Diagnostics
from recpolicy.ope.tuning import Choice

NO_VERDICT = "no verdict"
MISSING = "–"
MODEL_ALONE = ("dm", "fqe")
"""Estimators that say what a reward model says, and nothing of how far it is off."""


@dataclass(frozen=True)
class ModelFit:
    """How well a model predicts what was logged (cross-fitted: what it has not seen).

    Of single choices that is each round's reward; of slates and sessions each step's reward and what the model says of
    the next (`step_models.one_step_fit`).
    """

    rmse: float
    bias: float
    """Mean of prediction - what was logged."""
    explained: float
    """1 - mean squared error / variance of what was logged; 0 is no better than its mean."""

    @classmethod
    def of(cls, predicted: NDArray[np.float64], logged: NDArray[np.float64]) -> "ModelFit":
        """Compare predictions with what was logged, both [N], N >= 1; `explained` is NaN where nothing varies."""
        error = predicted - logged
        square, variance = float(np.mean(error**2)), float(logged.var())
        explained = 1 - square / variance if variance > 0 else float("nan")
        return cls(rmse=float(np.sqrt(square)), bias=float(error.mean()), explained=explained)


@dataclass(frozen=True)
class OffPolicyResult:
    """What one estimator says a target policy earns per round, slate or session."""

    estimator: str
    value: float
    intervals: Mapping[str, Interval]
    """bootstrap, t, sequence and, where bounds are known beforehand, bernstein; intervals.py says what each assumes."""
    diagnostics: Diagnostics
    choice: Choice | None
    """The clip, tau or lambda it used."""
    model: ModelFit | None

    @property
    def verdict(self) -> str:
        """`no verdict` below an effective sample size of 50 or with a mean weight that is not 1, else `estimated`."""
        return "estimated" if self.diagnostics.enough and self.diagnostics.sound else NO_VERDICT

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values; None where there is no number, inf as text."""
        return {**_plain(asdict(self)), "verdict": self.verdict}


@dataclass(frozen=True)
class Estimates(Mapping[str, OffPolicyResult]):
    """Several estimators on one log, by name."""

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
        rows = []
        for result in self.results.values():
            found = result.diagnostics
            row: dict[str, float | str] = {"value": result.value}
            for kind in ("bootstrap", "t", "sequence", "bernstein"):
                interval = result.intervals.get(kind)
                row[f"{kind}_lo"] = np.nan if interval is None else interval.lo
                row[f"{kind}_hi"] = np.nan if interval is None else interval.hi
            row |= {"effective_rounds": found.effective_rounds, "largest_weight": found.largest_weight}
            row |= {"share_tamed": found.share_tamed, "mean_weight": found.mean_weight}
            row |= {"setting": np.nan if result.choice is None else result.choice.value, "verdict": result.verdict}
            rows.append(row)
        return pd.DataFrame(rows, index=pd.Index(list(self.results), name="estimator"))

    def table(self) -> pd.DataFrame:
        """Return the estimates as text for people: a dash where there is no number."""
        return pd.DataFrame(
            [_text(result) for result in self.results.values()],
            index=pd.Index(list(self.results), name="estimator"),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, settings included."""
        results = {name: result.as_dict() for name, result in self.results.items()}
        return {"config": _plain(dict(self.config)), "estimators": results}


@dataclass(frozen=True)
class Gain:
    """What a candidate earns per round, slate or session beyond an incumbent, both judged by the same ones."""

    estimator: str
    value: float
    intervals: Mapping[str, Interval]
    """Of the paired difference; the same kinds as of a single result."""
    candidate: OffPolicyResult
    incumbent: OffPolicyResult

    @property
    def enough(self) -> bool:
        """Whether the log says enough about both policies for a verdict."""
        return all(one.verdict != NO_VERDICT for one in (self.candidate, self.incumbent))

    def verdict(self, margin: float = 0.0, interval: str = "bootstrap") -> str:
        """`better` if the whole interval is above the margin, `worse` if below it, else `undecided`.

        `no verdict` where either policy has none, and by a reward model alone (dm, fqe): its bias is in no interval.
        Raises ConfigError for an interval that was not made.
        """
        if interval not in self.intervals:
            raise unknown_name_error("interval of this gain", interval, self.intervals)
        if not self.enough or self.estimator in MODEL_ALONE:
            return NO_VERDICT
        found = self.intervals[interval]
        if found.lo > margin:
            return "better"
        return "worse" if found.hi < margin else "undecided"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        return {
            **_plain({"estimator": self.estimator, "value": self.value}),
            "intervals": {kind: _plain(asdict(interval)) for kind, interval in self.intervals.items()},
            "candidate": self.candidate.as_dict(),
            "incumbent": self.incumbent.as_dict(),
        }


def _text(result: OffPolicyResult) -> dict[str, str]:
    found, choice = result.diagnostics, result.choice
    intervals = {
        kind: f"[{interval.lo:.3f}, {interval.hi:.3f}]" if interval else MISSING
        for kind in ("bootstrap", "t", "sequence", "bernstein")
        for interval in [result.intervals.get(kind)]
    }
    return {
        "value": f"{result.value:.3f}",
        **intervals,
        "effective rounds": f"{found.effective_rounds:,.0f} of {found.rounds:,}",
        "largest weight": f"{found.largest_weight:.1f}",
        "mean weight": f"{found.mean_weight:.3f} ± {found.mean_weight_error:.3f}",
        "tamed": f"{found.share_tamed:.1%}",
        "setting": MISSING if choice is None else f"{choice.setting} {choice.value:g} ({choice.method})",
        "verdict": result.verdict,
    }


def _plain(value: Any) -> Any:
    """JSON knows no NaN and no infinity: None and "inf"."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        number = float(value)
        if np.isnan(number):
            return None
        return number if np.isfinite(number) else ("inf" if number > 0 else "-inf")
    return value
