"""Predictions of what follows each step, for doubly robust estimates of sessions and slates.

N sessions, T steps, F features. Models come from fitted Q evaluation of the target (fqe.py), cross-fitted: the sessions
of a user are predicted from those of users in other folds. A slate is a session of K steps
(`LoggedSlates.trajectories`); as its slots differ, give its features through `by_position`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.ope.fqe import FQEConfig, Transitions, fit_linear, fit_table
from recpolicy.ope.multi_step import SequenceConfig, folds_of
from recpolicy.ope.results import ModelFit
from recpolicy.ope.trajectories import LoggedTrajectories

Array = NDArray[np.float64]
_Cell = TypeVar("_Cell", bound=np.generic)
_Fit = Callable[[NDArray[np.bool_]], tuple[Array, Array]]
"""Sessions to learn from [N] to what they say of all sessions: predicted and direct [N, T]."""


@dataclass(frozen=True)
class StepModel:
    """A model of the target's value, seen at the steps of a log."""

    predicted: Array  # [N, T]
    """Reward of the logged action and of all that follows under the target."""
    direct: Array  # [N, T]
    """The same, on average over the target's choices at this step."""

    def inside(self, steps: NDArray[np.bool_]) -> "StepModel":
        """The model with 0 where steps [N, T] has none. Raises DataError for other shapes and for NaN inside."""
        found = {"predicted": self.predicted, "direct": self.direct}
        for name, values in found.items():
            if values.shape != steps.shape:
                raise DataError(f"step model: {name} {values.shape}; expected {steps.shape}")
            if not np.isfinite(values[steps]).all():
                raise DataError(f"step model: {name} holds numbers that are not finite")
        return StepModel(*(np.where(steps, values, 0.0) for values in found.values()))


def table_model(
    trajectories: LoggedTrajectories,
    state: NDArray[np.integer],
    action: NDArray[np.integer],
    target_probs: NDArray[np.floating],
    config: SequenceConfig | None = None,
    fqe: FQEConfig | None = None,
) -> StepModel:
    """Cross-fit Q by table; state and action [N, T] numbered from 0, target_probs [S, A].

    Raises DataError for numbers outside the table and for fewer users than folds, DivergedError as `fit_table`.
    """
    _check_steps(trajectories, {"state": state, "action": action})
    safe_state, safe_action = (np.where(trajectories.inside, values, 0) for values in (state, action))
    following = _shifted(safe_state)

    def fit(learn: NDArray[np.bool_]) -> tuple[Array, Array]:
        used = trajectories.fittable & learn[:, None]
        paid, last = trajectories.paid[used], trajectories.last[used]
        steps = Transitions(safe_state[used], safe_action[used], paid, following[used], last)
        table = fit_table(steps, target_probs, trajectories.gamma, fqe)
        return table.q[safe_state, safe_action], table.value[safe_state]

    return _cross_fitted(trajectories, fit, config or SequenceConfig())


def linear_model(
    trajectories: LoggedTrajectories,
    features: NDArray[np.floating],
    expected: NDArray[np.floating],
    config: SequenceConfig | None = None,
    fqe: FQEConfig | None = None,
) -> StepModel:
    """Cross-fit Q linear in features [N, T, F] of the logged pairs.

    expected [N, T, F]: the features of the same states, on average over the target's choices. Raises DataError for
    other shapes and fewer users than folds, and as `fit_linear`, with DivergedError.
    """
    _check_steps(trajectories, {"features": features, "expected": expected})
    inside = trajectories.inside[..., None]
    phi, mean = (np.where(inside, values, 0.0) for values in (features, expected))
    following = _shifted(mean)

    def fit(learn: NDArray[np.bool_]) -> tuple[Array, Array]:
        used = trajectories.fittable & learn[:, None]
        paid, last = trajectories.paid[used], trajectories.last[used]
        theta = fit_linear(phi[used], following[used], paid, last, trajectories.gamma, fqe)
        return phi @ theta, mean @ theta

    return _cross_fitted(trajectories, fit, config or SequenceConfig())


def one_step_fit(trajectories: LoggedTrajectories, model: StepModel) -> ModelFit | None:
    """How well predicted q_t agrees with r_t + gamma v_{t+1}, what was paid and the model's own word for what follows.

    v is `direct`, 0 after the end of a session. All logged steps count alike, without weights; the last one of a
    session that was cut off does not, for what followed is not known. None where no step is left. Of an exact model the
    error has mean 0 for every state and action, whoever chose the action, and is nothing but the noise of rewards and
    of the next state: bias is 0, but rmse only where nothing is random. A small error does not prove the model right
    where the target goes and the log does not. Weighed with gamma^t W_t and added up over all steps of a session, the
    error has the mean `fqe` - `per_decision_dr`: what the model's value is off by, as far as the log can tell.
    """
    known = model.inside(trajectories.inside)
    steps = trajectories.fittable
    if not steps.any():
        return None
    following = np.where(trajectories.last, 0.0, _shifted(known.direct))
    reached = trajectories.paid + trajectories.gamma * following
    return ModelFit.of(known.predicted[steps], reached[steps])


def by_position(features: NDArray[np.floating]) -> Array:
    """Features [N, T, F] of their own at each step, [N, T, T F]: Q is then fitted position by position."""
    sessions, steps, size = features.shape
    placed = np.zeros((sessions, steps, steps, size))
    each = np.arange(steps)
    placed[:, each, each] = features
    return placed.reshape(sessions, steps, steps * size)


def _cross_fitted(trajectories: LoggedTrajectories, fit: _Fit, config: SequenceConfig) -> StepModel:
    fold = folds_of(trajectories.units, config)
    predicted, direct = np.zeros(trajectories.reward.shape), np.zeros(trajectories.reward.shape)
    for k in range(config.folds):
        mine = fold == k
        for into, found in zip((predicted, direct), fit(~mine), strict=True):
            into[mine] = found[mine]
    return StepModel(predicted, direct).inside(trajectories.inside)


def _shifted(values: NDArray[_Cell]) -> NDArray[_Cell]:
    """What the next step holds, axis 1; of the last column itself, which is never read."""
    return np.concatenate([values[:, 1:], values[:, -1:]], axis=1)


def _check_steps(trajectories: LoggedTrajectories, arrays: dict[str, NDArray[np.generic]]) -> None:
    shape = trajectories.reward.shape
    for name, values in arrays.items():
        if values.shape[:2] != shape:
            raise DataError(f"step model: {name} {values.shape}; expected {shape} sessions by steps first")
