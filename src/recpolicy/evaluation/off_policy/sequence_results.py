"""From the forms of estimators on slates or sessions to results with intervals and diagnostics.

The config they share, the folds that keep a user's rows together, and one function that ends every evaluation.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.evaluation.bootstrap import LEVEL, RESAMPLES, percentile_interval
from recpolicy.evaluation.off_policy.diagnostics import diagnose
from recpolicy.evaluation.off_policy.forms import Form, bootstrap
from recpolicy.evaluation.off_policy.intervals import confidence_sequence, student_t
from recpolicy.evaluation.off_policy.results import Estimates, OffPolicyResult
from recpolicy.evaluation.off_policy.rounds import Units

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """How estimates of slates and sessions are made; kept with them."""

    level: float = LEVEL
    """Probability with which an interval holds the truth."""
    resamples: int = RESAMPLES
    """Bootstrap resamples of the users."""
    seed: int = 0
    """Of the resamples and the folds."""
    folds: int = 2
    """Parts into which the users are dealt for cross-fitting; 2 or 3 are usual."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"SequenceConfig.level is {self.level}; expected between 0 and 1, such as 0.95")
        if self.resamples < 1:
            raise ConfigError(f"SequenceConfig.resamples is {self.resamples}; expected 1 or more, 1000 are usual")
        if self.folds < 2:
            raise ConfigError(f"SequenceConfig.folds is {self.folds}; expected 2 or more: no row may predict itself")


def folds_of(units: Units, config: SequenceConfig) -> NDArray[np.int64]:
    """Deal users to folds and return each row's fold [N]. Raises DataError when there are fewer users than folds."""
    users = len(units)
    if users < config.folds:
        raise DataError(f"cross-fitting: {users} users cannot be dealt to {config.folds} folds; it needs one each")
    dealt = generator(config.seed, "off_policy/folds").permutation(users) % config.folds
    return dealt[units.index]


def summarise(
    forms: Mapping[str, Form], weights: Mapping[str, Array], units: Units, config: SequenceConfig
) -> Estimates:
    """Intervals and diagnostics of estimators by name; weights [N] are those that each estimator leans on.

    Intervals: bootstrap by user, t, sequence (intervals.py says what each assumes). Raises DataError for a single user.
    """
    rng = generator(config.seed, "off_policy/bootstrap")
    resampled = bootstrap(list(forms.values()), units, rng, config.resamples)
    results = {
        name: OffPolicyResult(
            estimator=name,
            value=form.value,
            intervals={
                "bootstrap": percentile_interval(form.value, _defined(values), config.level),
                "t": student_t(form.terms, units, config.level),
                "sequence": confidence_sequence(form.terms, units, config.level),
            },
            diagnostics=diagnose(weights[name], weights[name], units),
            choice=None,
            model=None,
        )
        for (name, form), values in zip(forms.items(), resampled, strict=True)
    }
    return Estimates(results, asdict(config))


def _defined(values: Array) -> Array:
    """Resampled estimates without those that had nothing to divide by; a single NaN where that is all."""
    defined = values[np.isfinite(values)]
    return defined if defined.size else np.full(1, np.nan)
