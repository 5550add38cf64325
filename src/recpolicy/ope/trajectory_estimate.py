"""Off-policy evaluation of sessions in one call: values of a target policy, or its gains over an incumbent.

    sessions = LoggedTrajectories(reward, logged_prob, target_prob, length, user, gamma=0.95)
    model = table_model(sessions, state, action, target_probs)
    print(estimate_trajectories(sessions, model=model).table())
    won = trajectory_gains(sessions, None, model=model)  # over the logging policy
    print(won["per_decision_dr"].verdict(margin=0.01))

N sessions, T steps. The value is the target's expected discounted sum of rewards in a session.
docs/explanation/off_policy_slates.md says what each estimator assumes.
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
from recpolicy.ope.intervals import weighted_bracket
from recpolicy.ope.multi_step import SequenceConfig, check_rewards, check_weights, paired_gains, refuse_model_alone
from recpolicy.ope.results import Estimates, Gain, ModelFit
from recpolicy.ope.rounds import Units
from recpolicy.ope.step_models import StepModel, one_step_fit
from recpolicy.ope.stepwise import (
    cumulative_weights,
    discounts,
    per_decision_dr_terms,
    per_decision_terms,
    returns,
    weighted_per_decision_terms,
)
from recpolicy.ope.trajectories import LoggedTrajectories
from recpolicy.ope.weights import effective_size

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Evidence:
    sessions: LoggedTrajectories
    given: StepModel | None
    config: SequenceConfig
    incumbent: bool = False

    @property
    def units(self) -> Units:
        return self.sessions.units

    @property
    def columns(self) -> dict[str, object]:
        """Nothing after the end of a session."""
        log = self.sessions
        shared: dict[str, object] = {name: getattr(log, name) for name in ("length", "user", "gamma")}
        shared["reward"], shared["ended"] = log.paid, np.ones(len(log), bool) if log.ended is None else log.ended
        shared["logged_prob"] = np.where(log.inside, log.logged_prob, 1.0)
        return shared

    @cached_property
    def cumulative(self) -> Array:
        """W [N, T]; after the end as at the end."""
        return cumulative_weights(self.sessions.ratio)

    @cached_property
    def worst_step(self) -> Array:
        """The weights up to the step where their effective size is least [N]; sessions that end keep theirs."""
        return np.ascontiguousarray(min(self.cumulative.T, key=effective_size))

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
        assert self.given is not None, "_check asks for a model"
        return self.given.inside(self.sessions.inside)

    @cached_property
    def fit(self) -> ModelFit | None:
        return one_step_fit(self.sessions, self.model)


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
    stepwise: bool = False
    """Whether each step has a weight of its own."""
    bounded: bool = False
    """Whether it is a mean of weight times return, so that bounds of the two bound it."""


TRAJECTORY_ESTIMATORS: Mapping[str, TrajectoryRecipe] = {
    "trajectory_is": TrajectoryRecipe(lambda e: mean_form(ips_terms(e.whole, e.earned)), bounded=True),
    "trajectory_wis": TrajectoryRecipe(lambda e: ratio_form(e.whole, e.earned), ratio=True),
    "per_decision_is": TrajectoryRecipe(_per_decision, stepwise=True),
    "per_decision_wis": TrajectoryRecipe(_weighted_per_decision, ratio=True, stepwise=True),
    "per_decision_dr": TrajectoryRecipe(_doubly_robust, model=True, stepwise=True),
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
    step_models.py or of your own. Diagnostics are about the weights of whole sessions; of estimators that
    weigh step by step, about those up to the step where the fewest effective sessions are left.
    Raises ConfigError for unknown names and a missing model; DataError for a single user, for weights too large for a
    number, and where no logged session says anything of the target.
    """
    config = config or SequenceConfig()
    made = _make(estimators, config, _Evidence(sessions, model, config))[0]
    return Estimates(results_of(made, sessions.units, config), asdict(config))


def trajectory_gains(
    candidate: LoggedTrajectories,
    incumbent: LoggedTrajectories | None,
    estimators: Sequence[str] | None = None,
    config: SequenceConfig | None = None,
    *,
    model: StepModel | None = None,
    incumbent_model: StepModel | None = None,
) -> dict[str, Gain]:
    """Estimate by how much the candidate earns more per session than the incumbent, paired session by session.

    Both are one log of sessions, seen with two target_prob. Incumbent None is the logging policy itself: its value is
    the mean logged return. estimators: None takes all that the inputs allow for both; `model` and `incumbent_model` are
    predictions under each. Raises DataError where the two are not one log; else as `estimate_trajectories`.
    """
    config = config or SequenceConfig()
    refuse_model_alone("trajectory_gains", incumbent, incumbent_model)
    other = None if incumbent is None else _Evidence(incumbent, incumbent_model, config, incumbent=True)
    return paired_gains(partial(_make, estimators, config), _Evidence(candidate, model, config), other, config)


def _make(estimators: Sequence[str] | None, config: SequenceConfig, *seen: _Evidence) -> list[dict[str, Estimation]]:
    """The estimators that are asked for, or that all evidence allows, on each piece of evidence."""
    check_rewards(seen[0].earned, config)
    for evidence in seen:
        check_weights(evidence.whole, config)
    names = (
        [name for name, recipe in TRAJECTORY_ESTIMATORS.items() if all(_allowed(recipe, one) for one in seen)]
        if estimators is None
        else estimators
    )
    for name in names:
        if name not in TRAJECTORY_ESTIMATORS:
            raise unknown_name_error("estimator of sessions", name, TRAJECTORY_ESTIMATORS)
        for evidence in seen:
            if TRAJECTORY_ESTIMATORS[name].model and evidence.given is None:
                lacking = "incumbent_model" if evidence.incumbent else "model"
                raise ConfigError(
                    f"estimator {name!r} needs `{lacking}`: predictions for all steps (see step_models.py)"
                )
    return [{name: _estimation(TRAJECTORY_ESTIMATORS[name], evidence) for name in names} for evidence in seen]


def _estimation(recipe: TrajectoryRecipe, evidence: _Evidence) -> Estimation:
    span, largest, bracket = evidence.config.reward_range, evidence.config.weight_bound, None
    if recipe.bounded and span is not None and np.isfinite(largest):
        bracket = weighted_bracket(evidence.whole, evidence.earned, span, largest)
    fit = evidence.fit if recipe.model else None
    weight = evidence.worst_step if recipe.stepwise else evidence.whole
    return Estimation(recipe.form(evidence), weight, weight, bracket, model=fit)


def _allowed(recipe: TrajectoryRecipe, evidence: _Evidence) -> bool:
    return (evidence.given is not None or not recipe.model) and (evidence.whole.sum() > 0 or not recipe.ratio)
