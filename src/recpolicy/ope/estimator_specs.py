"""The estimators by name: which rounds and rewards each reads, how it tames weights, what form it has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.ope.estimators import dr_terms, ips_terms
from recpolicy.ope.forms import Form, beta_form, corrected_ratio_form, mean_form, ratio_form
from recpolicy.ope.intervals import Bracket, weighted_bracket
from recpolicy.ope.weights import clipped, harmonic, shrunk, switched

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What an estimator is given: the log seen through one set of weights and one reward model; all [N]."""

    weight: Array
    reward: Array
    direct: Array
    """Expected reward under the target according to the reward model; 0 without one."""
    predicted: Array
    """Reward of the logged action according to the reward model; 0 without one."""
    foreknown: bool = True
    """Whether weights and reward model were there before the rounds; False for a cross-fitted model."""


@dataclass(frozen=True)
class Taming:
    """A way to tame weights, with the settings to choose among, from tamest to none."""

    setting: str
    tame: Callable[[Array, float], Array]
    candidates: tuple[float, ...]
    largest: Callable[[float], float]
    """The largest tamed weight under a setting."""


@dataclass(frozen=True)
class Recipe:
    """One estimator."""

    source: str
    """Where its evidence comes from: log, model, mrdr, replay or clusters."""
    form: Callable[[Evidence, Array], Form]
    """Its form, given the evidence and the weights it uses [N]."""
    taming: Taming | None = None
    bracket: Callable[[Evidence, Array, tuple[float, float], float], Bracket] | None = None
    """Bounds on the truth, given the evidence, the weights used, the range of rewards and the largest such weight."""


def _weighted_bracket(evidence: Evidence, used: Array, span: tuple[float, float], largest: float) -> Bracket:
    """Bounds without a reward model, however hard the weights are tamed: with min(used, w), which only takes away."""
    return weighted_bracket(np.minimum(used, evidence.weight), evidence.reward, span, largest)


def doubly_robust_bracket(evidence: Evidence, used: Array, span: tuple[float, float], largest: float) -> Bracket:
    """DR terms -+ (high - low) (1 - used): what tamed weights leave out is at most that, for |r - q| <= high - low."""
    room = span[1] - span[0]
    terms = dr_terms(evidence.direct, used, evidence.reward, evidence.predicted)
    missing = 0.0 if np.array_equal(used, evidence.weight) else room * (1 - used)
    return Bracket(terms - missing, terms + missing, room * (1 + 2 * largest), span)


def _weighted(evidence: Evidence, used: Array) -> Form:
    return mean_form(ips_terms(used, evidence.reward))


def _self_normalised(evidence: Evidence, used: Array) -> Form:
    return ratio_form(used, evidence.reward)


def _control_variate(evidence: Evidence, used: Array) -> Form:
    return beta_form(used, evidence.reward)


def _direct(evidence: Evidence, _used: Array) -> Form:
    return mean_form(evidence.direct)


def _doubly_robust(evidence: Evidence, used: Array) -> Form:
    return mean_form(dr_terms(evidence.direct, used, evidence.reward, evidence.predicted))


def _self_normalised_doubly_robust(evidence: Evidence, used: Array) -> Form:
    return corrected_ratio_form(evidence.direct, used, evidence.reward, evidence.predicted)


_THRESHOLDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, np.inf)
CLIP = Taming("clip", clipped, _THRESHOLDS, lambda clip: clip)
SWITCH = Taming("tau", switched, (0.0, *_THRESHOLDS), lambda tau: tau)
SHRINK = Taming(
    "lambda", shrunk, (0.0, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, np.inf), lambda strength: float(np.sqrt(strength)) / 2
)
HARMONIC = Taming(
    "lambda",
    harmonic,
    (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 0.0),
    lambda strength: 1 / strength if strength else np.inf,
)

ESTIMATORS: Mapping[str, Recipe] = {
    "ips": Recipe("log", _weighted, bracket=_weighted_bracket),
    "clipped_ips": Recipe("log", _weighted, CLIP, _weighted_bracket),
    "sub_gaussian": Recipe("log", _weighted, HARMONIC, _weighted_bracket),
    "snips": Recipe("log", _self_normalised),
    "beta_ips": Recipe("log", _control_variate),
    "replay": Recipe("replay", _self_normalised),
    "mips": Recipe("clusters", _weighted, bracket=_weighted_bracket),
    "dm": Recipe("model", _direct),
    "dr": Recipe("model", _doubly_robust, bracket=doubly_robust_bracket),
    "sndr": Recipe("model", _self_normalised_doubly_robust),
    "switch_dr": Recipe("model", _doubly_robust, SWITCH, doubly_robust_bracket),
    "dros": Recipe("model", _doubly_robust, SHRINK, doubly_robust_bracket),
    "mrdr": Recipe("mrdr", _doubly_robust, bracket=doubly_robust_bracket),
}
