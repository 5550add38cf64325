"""From estimators on one log to their results: resampling by user, intervals, diagnostics, and gains paired row by row.

N rows of U users; a row is a round, a slate or a session. All estimators of one call, and both policies of a gain, are
resampled together: differences are paired, and no estimate depends on its company.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval
from recpolicy.ope.diagnostics import diagnose
from recpolicy.ope.forms import Form, Resampled, resample
from recpolicy.ope.intervals import Bracket, confidence_sequence, empirical_bernstein, expanded_percentile, student_t
from recpolicy.ope.results import Gain, ModelFit, OffPolicyResult
from recpolicy.ope.rounds import Units
from recpolicy.ope.tuning import Choice

Array = NDArray[np.float64]


class Sampling(Protocol):
    """What a config says of intervals."""

    @property
    def level(self) -> float:
        """Probability with which an interval holds the truth."""

    @property
    def resamples(self) -> int:
        """Bootstrap resamples of the users."""

    @property
    def seed(self) -> int:
        """Of the resamples."""


@dataclass(frozen=True)
class Estimation:
    """One estimator on one log, before its intervals."""

    form: Form
    weight: Array  # [N]
    """What diagnostics are about."""
    used: Array  # [N]
    """The same once tamed."""
    bracket: Bracket | None = None
    """Bounds for empirical Bernstein, where there are any."""
    choice: Choice | None = None
    model: ModelFit | None = None


def results_of(made: Mapping[str, Estimation], units: Units, config: Sampling) -> dict[str, OffPolicyResult]:
    """Results by estimator. Raises DataError for a single user."""
    resampled = _resampled([one.form for one in made.values()], units, config)
    return {
        name: _result(name, one, values, units, config)
        for (name, one), values in zip(made.items(), resampled, strict=True)
    }


def gains_of(
    candidate: Mapping[str, Estimation], incumbent: Mapping[str, Estimation], units: Units, config: Sampling
) -> dict[str, Gain]:
    """Gains by the estimators of `candidate`; `incumbent` has what each is compared with. Errors as `results_of`."""
    pairs = {name: (one, incumbent[name]) for name, one in candidate.items()}
    resampled = _resampled([one.form for pair in pairs.values() for one in pair], units, config)
    return {
        name: _gain(name, pair, (resampled[2 * row], resampled[2 * row + 1]), units, config)
        for row, (name, pair) in enumerate(pairs.items())
    }


def _gain(
    name: str,
    pair: tuple[Estimation, Estimation],
    resampled: tuple[Resampled, Resampled],
    units: Units,
    config: Sampling,
) -> Gain:
    first, second = pair
    terms = first.form.terms - second.form.terms
    bracket = None
    if first.bracket is not None and second.bracket is not None:
        bracket = first.bracket.minus(second.bracket)
    intervals = _intervals(terms, resampled[0].minus(resampled[1]), bracket, units, config)
    results = [_result(name, one, values, units, config) for one, values in zip(pair, resampled, strict=True)]
    return Gain(name, float(terms.mean()), intervals, *results)


def _result(name: str, one: Estimation, resampled: Resampled, units: Units, config: Sampling) -> OffPolicyResult:
    return OffPolicyResult(
        estimator=name,
        value=one.form.value,
        intervals=_intervals(one.form.terms, resampled, one.bracket, units, config),
        diagnostics=diagnose(one.weight, one.used, units),
        choice=one.choice,
        model=one.model,
    )


def _intervals(
    terms: Array, resampled: Resampled, bracket: Bracket | None, units: Units, config: Sampling
) -> dict[str, Interval]:
    value = float(terms.mean())
    if np.isfinite(resampled.without).all():
        bootstrap = expanded_percentile(value, _defined(resampled.drawn), resampled.without, config.level)
        student = student_t(value, resampled.without, config.level)
    else:  # one user carries all the weight: what others would have said, nobody can tell
        bootstrap = student = Interval(value, -np.inf, np.inf)
    found = {"bootstrap": bootstrap, "t": student, "sequence": confidence_sequence(terms, units, config.level)}
    if bracket is not None:
        found["bernstein"] = empirical_bernstein(value, bracket, units, config.level)
    return found


def _resampled(forms: list[Form], units: Units, config: Sampling) -> list[Resampled]:
    return resample(forms, units, generator(config.seed, "off_policy/bootstrap"), config.resamples)


def _defined(values: Array) -> Array:
    """Resampled estimates without those that had nothing to divide by; a single NaN where that is all."""
    defined = values[np.isfinite(values)]
    return defined if defined.size else np.full(1, np.nan)
