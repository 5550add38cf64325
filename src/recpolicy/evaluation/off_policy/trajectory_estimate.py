"""Off-policy evaluation of sessions in one call: values of a target policy with intervals and diagnostics.

    sessions = LoggedTrajectories(reward, logged_prob, target_prob, length, user, gamma=0.95)
    model = table_model(sessions, state, action, target_probs)
    print(estimate_trajectories(sessions, model=model).table())

N sessions, T steps. The value is the target's expected discounted sum of rewards in a session.
docs/off_policy_slates.md says what each estimator assumes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, unknown_name
from recpolicy.evaluation.off_policy.estimators import ips_terms
from recpolicy.evaluation.off_policy.forms import Form, mean_form, ratio_form
from recpolicy.evaluation.off_policy.results import Estimates
from recpolicy.evaluation.off_policy.sequence_results import SequenceConfig, summarise
from recpolicy.evaluation.off_policy.step_models import StepModel
from recpolicy.evaluation.off_policy.stepwise import (
    cumulative_weights,
    discounts,
    per_decision_dr_terms,
    per_decision_terms,
    returns,
    weighted_per_decision_terms,
)
from recpolicy.evaluation.off_policy.trajectories import LoggedTrajectories

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Evidence:
    sessions: LoggedTrajectories
    given: StepModel | None

    @cached_property
    def cumulative(self) -> Array:
        """W [N, T]; after the end as at the end."""
        return cumulative_weights(self.sessions.ratio)

    @cached_property
    def whole(self) -> Array:
        """Weight of the whole session [N]."""
        return np.ascontiguousarray(self.cumulative[:, -1])

    @cached_property
    def earned(self) -> Array:
        """Discounted sum of each session's rewards [N]."""
        return returns(self.sessions.paid, self.sessions.gamma)

    @cached_property
    def model(self) -> StepModel:
        if self.given is None:
            raise ConfigError("this estimator needs `model`")
        return self.given.inside(self.sessions.inside)


def _per_decision(evidence: _Evidence) -> Form:
    sessions = evidence.sessions
    return mean_form(per_decision_terms(evidence.cumulative, sessions.paid, sessions.gamma))


def _weighted_per_decision(evidence: _Evidence) -> Form:
    weight, reward, gamma = evidence.cumulative, evidence.sessions.paid, evidence.sessions.gamma
    steps = reward.shape[1]

    def combine(means: Array) -> Array:
        above, below = means[:steps], means[steps:]
        each = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
        return np.asarray(np.tensordot(discounts(steps, gamma), each, 1))

    return Form(weighted_per_decision_terms(weight, reward, gamma), (*(weight * reward).T, *weight.T), combine)


def _doubly_robust(evidence: _Evidence) -> Form:
    sessions, model = evidence.sessions, evidence.model
    return mean_form(
        per_decision_dr_terms(evidence.cumulative, sessions.paid, model.predicted, model.direct, sessions.gamma)
    )


@dataclass(frozen=True)
class TrajectoryRecipe:
    """One estimator of sessions."""

    form: Callable[[_Evidence], Form]
    model: bool = False
    """Whether it needs a model."""
    ratio: bool = False
    """Whether it divides by the sum of the weights, which must then be above 0."""


TRAJECTORY_ESTIMATORS: Mapping[str, TrajectoryRecipe] = {
    "trajectory_is": TrajectoryRecipe(lambda e: mean_form(ips_terms(e.whole, e.earned))),
    "trajectory_wis": TrajectoryRecipe(lambda e: ratio_form(e.whole, e.earned), ratio=True),
    "per_decision_is": TrajectoryRecipe(_per_decision),
    "per_decision_wis": TrajectoryRecipe(_weighted_per_decision, ratio=True),
    "per_decision_dr": TrajectoryRecipe(_doubly_robust, model=True),
    "fqe": TrajectoryRecipe(lambda e: mean_form(np.ascontiguousarray(e.model.direct[:, 0])), model=True),
}


def estimate_trajectories(
    sessions: LoggedTrajectories,
    estimators: Sequence[str] | None = None,
    config: SequenceConfig | None = None,
    *,
    model: StepModel | None = None,
) -> Estimates:
    """Estimate what the target would have earned per session.

    estimators: names in TRAJECTORY_ESTIMATORS; None takes all that the inputs allow. model: predictions [N, T] of
    step_models.py or of your own. Diagnostics are about the weights of whole sessions, the heaviest that occur.
    Raises ConfigError for unknown names and a missing model; DataError for a single user, for weights too large for a
    number, and where no logged session says anything of the target.
    """
    evidence = _Evidence(sessions, model)
    names = (
        [name for name, recipe in TRAJECTORY_ESTIMATORS.items() if _allowed(recipe, evidence)]
        if estimators is None
        else estimators
    )
    for name in names:
        if name not in TRAJECTORY_ESTIMATORS:
            raise unknown_name("estimator of sessions", name, TRAJECTORY_ESTIMATORS)
        if TRAJECTORY_ESTIMATORS[name].model and model is None:
            raise ConfigError(f"estimator {name!r} needs `model`: predictions for all steps (see step_models.py)")
    forms = {name: TRAJECTORY_ESTIMATORS[name].form(evidence) for name in names}
    weights = dict.fromkeys(names, evidence.whole)
    return summarise(forms, weights, sessions.units, config or SequenceConfig())


def _allowed(recipe: TrajectoryRecipe, evidence: _Evidence) -> bool:
    return (evidence.given is not None or not recipe.model) and (evidence.whole.sum() > 0 or not recipe.ratio)
