"""Off-policy evaluation of slates in one call: values of a target policy, or its gains over an incumbent.

    slates = LoggedSlates(logged_prob, target_prob, reward, user, slot_reward=slot_reward)
    print(estimate_slates(slates).table())
    other = replace(slates, target_prob=incumbent_prob)
    print(slate_gains(slates, other)["pi_slots"].verdict(margin=0.01))  # other None: over the logging policy

N slates, K slots. docs/explanation/off_policy_slates.md says what each estimator assumes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.ope.estimators import ips_terms
from recpolicy.ope.forms import Form, mean_form, ratio_form
from recpolicy.ope.inference import Estimation, results_of
from recpolicy.ope.intervals import Bracket, weighted_bracket
from recpolicy.ope.multi_step import (
    SequenceConfig,
    check_rewards,
    check_weights,
    folds_of,
    paired_gains,
    refuse_model_alone,
)
from recpolicy.ope.results import Estimates, Gain, ModelFit
from recpolicy.ope.rounds import Units
from recpolicy.ope.slate_terms import (
    controlled_form,
    controlled_terms,
    cross_fitted_weights,
    independent_terms,
    pseudo_inverse_bracket,
    pseudo_inverse_weights,
)
from recpolicy.ope.slates import LoggedSlates
from recpolicy.ope.step_models import StepModel, one_step_fit
from recpolicy.ope.stepwise import cumulative_weights, per_decision_dr_terms, per_decision_terms
from recpolicy.ope.trajectories import LoggedTrajectories
from recpolicy.ope.weights import effective_size

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Evidence:
    """A log of slates seen through its weights."""

    slates: LoggedSlates
    given: StepModel | None
    config: SequenceConfig
    incumbent: bool = False

    @property
    def units(self) -> Units:
        return self.slates.units

    @cached_property
    def earned(self) -> Array:
        return self.slates.reward.astype(np.float64)

    @property
    def columns(self) -> dict[str, object]:
        shared = ("reward", "user", "logged_prob", "slot_reward", "independent")
        return {name: getattr(self.slates, name) for name in shared}

    @cached_property
    def sessions(self) -> LoggedTrajectories:
        return self.slates.trajectories()

    @cached_property
    def slot_reward(self) -> Array:
        return self.sessions.paid

    @cached_property
    def model(self) -> StepModel:
        assert self.given is not None, "_check asks for a model"
        return self.given.inside(self.sessions.inside)

    @cached_property
    def fit(self) -> ModelFit | None:
        return one_step_fit(self.sessions, self.model)

    @cached_property
    def cumulative(self) -> Array:
        """W [N, K]."""
        return cumulative_weights(self.slates.ratio)

    @cached_property
    def whole(self) -> Array:
        """Weight of the whole slate [N]."""
        return np.ascontiguousarray(self.cumulative[:, -1])

    @cached_property
    def pseudo(self) -> Array:
        """G [N]."""
        given = self.slates.pseudo_weight
        return pseudo_inverse_weights(self.slates.ratio) if given is None else given.astype(np.float64)

    @cached_property
    def outcome(self) -> Array:
        """G R [N]."""
        return self.pseudo * self.earned

    @cached_property
    def worst_slot(self) -> Array:
        """The ratio of the slot whose effective size is least [N]."""
        ratio = self.slates.ratio
        return np.ascontiguousarray(min(ratio.T, key=effective_size))

    @cached_property
    def slots(self) -> tuple[Array, Array]:
        """Variates of all slots and their squares, both [N, K]."""
        off = self.slates.ratio - 1
        return off, off**2

    @cached_property
    def single(self) -> tuple[Array, Array]:
        """The variate G - 1 and what its square is in expectation, both [N, 1]."""
        variate = self.pseudo[:, None] - 1
        return variate, self.slots[1].sum(axis=1, keepdims=True) if self.slates.independent else variate**2


def _cascade_dr(evidence: _Evidence) -> Form:
    model = evidence.model
    return mean_form(per_decision_dr_terms(evidence.cumulative, evidence.slot_reward, model.predicted, model.direct))


def _cross_fitted(evidence: _Evidence, variates: Array, squares: Array) -> Form:
    fold = folds_of(evidence.slates.units, evidence.config)
    weights = cross_fitted_weights(evidence.outcome, variates, squares, fold)
    return mean_form(controlled_terms(evidence.outcome, variates, weights))


@dataclass(frozen=True)
class SlateRecipe:
    """One estimator of slates."""

    form: Callable[[_Evidence], Form]
    weight: Callable[[_Evidence], Array]
    """The weights [N] that diagnostics are about."""
    needs: frozenset[str] = frozenset()
    """Names in _LACKS."""
    bracket: Callable[[_Evidence, tuple[float, float], float], Bracket | None] | None = None
    """Bounds on the truth, given the range of rewards and the largest such weight."""


def _recipe(
    form: Callable[[_Evidence], Form],
    weight: Callable[[_Evidence], Array],
    *needs: str,
    bracket: Callable[[_Evidence, tuple[float, float], float], Bracket | None] | None = None,
) -> SlateRecipe:
    return SlateRecipe(form, weight, frozenset(needs), bracket)


def _whole_bracket(evidence: _Evidence, span: tuple[float, float], largest: float) -> Bracket:
    return weighted_bracket(evidence.whole, evidence.earned, span, largest)


def _pseudo_bracket(evidence: _Evidence, span: tuple[float, float], largest: float) -> Bracket | None:
    if not evidence.slates.independent:
        return None  # given weights may be anything below 0
    return pseudo_inverse_bracket(evidence.pseudo, evidence.earned, evidence.slates.ratio.shape[1], span, largest)


def _whole(evidence: _Evidence) -> Array:
    return evidence.whole


def _pseudo(evidence: _Evidence) -> Array:
    return evidence.pseudo


SLATE_ESTIMATORS: Mapping[str, SlateRecipe] = {
    "ips": _recipe(lambda e: mean_form(ips_terms(e.whole, e.earned)), _whole, bracket=_whole_bracket),
    "snips": _recipe(lambda e: ratio_form(e.whole, e.earned), _whole, "whole_weight"),
    "iips": _recipe(
        lambda e: mean_form(independent_terms(e.slates.ratio, e.slot_reward)),
        lambda e: e.worst_slot,
        "independent",
        "slot_reward",
    ),
    "rips": _recipe(lambda e: mean_form(per_decision_terms(e.cumulative, e.slot_reward)), _whole, "slot_reward"),
    "cascade_dr": _recipe(_cascade_dr, _whole, "slot_reward", "model"),
    "pi": _recipe(lambda e: mean_form(e.outcome), _pseudo, "pseudo", bracket=_pseudo_bracket),
    "wpi": _recipe(lambda e: ratio_form(e.pseudo, e.earned), _pseudo, "pseudo", "pseudo_weight"),
    "pi_single": _recipe(lambda e: controlled_form(e.outcome, *e.single), _pseudo, "pseudo"),
    "pi_slots": _recipe(lambda e: controlled_form(e.outcome, *e.slots), _pseudo, "independent"),
    "pi_single_cross": _recipe(lambda e: _cross_fitted(e, *e.single), _pseudo, "pseudo"),
    "pi_slots_cross": _recipe(lambda e: _cross_fitted(e, *e.slots), _pseudo, "independent"),
}


def estimate_slates(
    slates: LoggedSlates,
    estimators: Sequence[str] | None = None,
    config: SequenceConfig | None = None,
    *,
    model: StepModel | None = None,
) -> Estimates:
    """Estimate what the target would have earned per slate.

    estimators: names in SLATE_ESTIMATORS; None takes all that the inputs allow. model: what cascade_dr reads, [N, K].
    Raises ConfigError for unknown names and what an estimator lacks; DataError for a single user and for weights too
    large for a number.
    """
    config = config or SequenceConfig()
    made = _make(estimators, config, _Evidence(slates, model, config))[0]
    return Estimates(results_of(made, slates.units, config), asdict(config))


def slate_gains(
    candidate: LoggedSlates,
    incumbent: LoggedSlates | None,
    estimators: Sequence[str] | None = None,
    config: SequenceConfig | None = None,
    *,
    model: StepModel | None = None,
    incumbent_model: StepModel | None = None,
) -> dict[str, Gain]:
    """Estimate by how much the candidate earns more per slate than the incumbent, paired slate by slate.

    Both are one log of slates, seen with two target_prob (and pseudo_weight). Incumbent None is the logging policy
    itself: its value is the mean logged reward. estimators: None takes all that the inputs allow for both; `model` and
    `incumbent_model` are predictions under each. Raises DataError where the two are not one log; else as
    `estimate_slates`.
    """
    config = config or SequenceConfig()
    refuse_model_alone("slate_gains", incumbent, incumbent_model)
    other = None if incumbent is None else _Evidence(incumbent, incumbent_model, config, incumbent=True)
    return paired_gains(partial(_make, estimators, config), _Evidence(candidate, model, config), other, config)


def _make(estimators: Sequence[str] | None, config: SequenceConfig, *seen: _Evidence) -> list[dict[str, Estimation]]:
    """The estimators that are asked for, or that all evidence allows, on each piece of evidence."""
    check_rewards(seen[0].earned, config)
    has = [_has(evidence) for evidence in seen]
    allowed = set.intersection(*has)
    names = (
        [name for name, recipe in SLATE_ESTIMATORS.items() if recipe.needs <= allowed]
        if estimators is None
        else estimators
    )
    for evidence, there in zip(seen, has, strict=True):
        for name in names:
            _check(name, there, evidence.incumbent)
    return [{name: _estimation(SLATE_ESTIMATORS[name], evidence) for name in names} for evidence in seen]


def _estimation(recipe: SlateRecipe, evidence: _Evidence) -> Estimation:
    weight, config, bracket = recipe.weight(evidence), evidence.config, None
    if recipe.bracket is not None:
        check_weights(weight, config)
        if config.reward_range is not None and np.isfinite(config.weight_bound):
            bracket = recipe.bracket(evidence, config.reward_range, config.weight_bound)
    fit = evidence.fit if "model" in recipe.needs else None
    return Estimation(recipe.form(evidence), weight, weight, bracket, model=fit)


_LACKS = {
    "independent": "slots that are filled independently; use ips, or pseudo_weight with pi and wpi",
    "pseudo": "slots that are filled independently, or `pseudo_weight` in LoggedSlates (pseudo_inverse.py makes it)",
    "slot_reward": "`slot_reward` in LoggedSlates: what each slot earned",
    "model": "`model`: predictions for each slot (step_models.py makes them)",
    "whole_weight": "a logged slate that the target might show as a whole; use a pseudo-inverse form",
    "pseudo_weight": "pseudo-inverse weights of a mean above 0; the logged slates hold hardly any item of the target",
}


def _has(evidence: _Evidence) -> set[str]:
    slates = evidence.slates
    given = {
        "independent": slates.independent,
        "pseudo": slates.independent or slates.pseudo_weight is not None,
        "slot_reward": slates.slot_reward is not None,
        "model": evidence.given is not None,
        "whole_weight": evidence.whole.sum() > 0,
        "pseudo_weight": evidence.pseudo.sum() > 0,
    }
    return {name for name, there in given.items() if there}


def _check(name: str, has: set[str], incumbent: bool) -> None:
    if name not in SLATE_ESTIMATORS:
        raise unknown_name_error("estimator of slates", name, SLATE_ESTIMATORS)
    for lacking in sorted(SLATE_ESTIMATORS[name].needs - has):
        needed = _LACKS[lacking]
        if incumbent:
            needed = needed.replace("`model`", "`incumbent_model`") + " (of the incumbent)"
        raise ConfigError(f"estimator {name!r} needs {needed}")
