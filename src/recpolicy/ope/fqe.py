"""Fitted Q evaluation: the value of a target policy from logged transitions, and its predictions at logged steps.

M transitions, S states, A actions, F features. Starting from Q = 0, each sweep regresses the expected-SARSA target

    y = r + gamma (1 - done) sum_a' pi(a'|s') Q(s', a')

on (s, a), until Q converges. For Q by table the fixed point solves Q = R + gamma P_pi Q in the model of transition
counts. For Q linear in features it is the point at which the regression returns its input, which need not exist. There
are no importance weights: the number of transitions of a pair determines the precision of its value, not the value
itself. But the limits of the features bias the result, and so does a log that covers few of the target's choices.

Both fits first reduce the transitions to sums (counts or products of features), so a sweep does not depend on M.

Doubly robust estimates of N sessions of T steps read the predictions of cross-fitted models: the sessions of a user are
predicted from users in other folds. A slate is a session of K steps (`SlateFeedback.trajectories`). Slots differ, so
expand their features with `by_position`.
Sources: Ernst, Geurts & Wehenkel 2005; Le, Voloshin & Yue 2019; van Seijen et al. 2009 (expected SARSA).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import Count, NonNegativeNumber, OpenFraction, config_dataclass
from recpolicy.core.errors import DataError, DivergedError
from recpolicy.core.types import Array, Bools, Floats, Ints
from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.feedback import TrajectoryFeedback
from recpolicy.ope.results import ModelFit
from recpolicy.ope.reward_model import user_folds

_Cell = TypeVar("_Cell", bound=np.generic)
_Fit = Callable[[Bools], tuple[Array, Array]]
"""Sessions to fit on [N] to predictions for all sessions: logged_q and expected_q [N, T]."""


@config_dataclass
class FQEConfig:
    """Settings of the fit."""

    ridge: NonNegativeNumber = 0.0
    """Strength that shrinks each value or weight towards 0, in transitions; above 0 if features are collinear."""
    sweeps: Count = 10_000
    """Maximum number of sweeps."""
    tolerance: OpenFraction = 1e-9
    """Change of the values in a sweep at which Q has converged, relative to the largest value."""


@dataclass(frozen=True)
class Transitions:
    """M steps between numbered states."""

    state: Ints  # [M], 0..S-1
    action: Ints  # [M], 0..A-1
    reward: Floats  # [M]
    next_state: Ints  # [M]; any of the S where done
    done: Bools  # [M], True for the last step of a session

    def __post_init__(self) -> None:
        if len(self.state) == 0:
            raise DataError("transitions: none")
        for name in ("action", "reward", "next_state", "done"):
            if getattr(self, name).shape != self.state.shape:
                raise DataError(f"transitions: {name} {getattr(self, name).shape}; expected {self.state.shape}")
        if not np.isfinite(self.reward).all():
            raise DataError("transitions: rewards that are not finite numbers")


@dataclass(frozen=True)
class QTable:
    """Q as a table."""

    q: Array  # [S, A]; 0 where a pair was never logged
    count: NDArray[np.int64]  # [S, A], transitions of each pair
    target_probs: Array  # [S, A]

    @property
    def value(self) -> Array:
        """Value of the target from each state on [S]."""
        return np.einsum("sa,sa->s", self.target_probs, self.q)

    @property
    def unlogged_prob(self) -> Array:
        """The target's probability [S] of actions that were never logged in each state; their Q is 0."""
        return np.where(self.count == 0, self.target_probs, 0.0).sum(axis=1)


def fit_table(
    transitions: Transitions,
    target_probs: Floats,
    gamma: float,
    config: FQEConfig | None = None,
) -> QTable:
    """Fit Q as a table.

    Args:
        transitions: the logged steps. target_probs: [S, A], the target policy. gamma: discount per step.
        config: settings of the fit.

    Raises:
        DataError: states or actions outside the table.
        DivergedError: Q does not converge; gamma is 1 and the log never leaves some states.
    """
    config = config or FQEConfig()
    states, actions = target_probs.shape
    _check_range(transitions, states, actions)
    probs = target_probs.astype(np.float64)
    pair = transitions.state.astype(np.int64) * actions + transitions.action  # [M]
    count = np.bincount(pair, minlength=states * actions)
    weight = 1 / np.maximum(count + config.ridge, 1.0)  # below 1 only for a pair without transitions, which has no sums
    reward = np.bincount(pair, transitions.reward, states * actions) * weight
    continues = ~transitions.done
    link, times = np.unique(pair[continues] * states + transitions.next_state[continues], return_counts=True)
    source, destination = np.divmod(link, states)
    discounted = gamma * times * weight[source]  # of all logged links [L]

    def sweep(q: Array) -> Array:
        value = np.einsum("sa,sa->s", probs, q.reshape(states, actions))
        return reward + np.bincount(source, discounted * value[destination], states * actions)

    q = _iterate(sweep, np.zeros(states * actions), config)
    return QTable(q.reshape(states, actions), count.reshape(states, actions), probs)


def fit_linear(
    features: Floats,
    next_expected: Floats,
    reward: Floats,
    done: Bools,
    gamma: float,
    config: FQEConfig | None = None,
) -> Array:
    """Fit the weights theta [F] of Q(s, a) = phi(s, a) . theta.

    Args:
        features: [M, F], phi of the logged pairs.
        next_expected: [M, F], sum_a' pi(a'|s') phi(s', a') of the next state; ignored where done.
        reward: [M]. done: [M]. gamma: discount per step.
        config: settings of the fit.

    Raises:
        DataError: collinear features while ridge is 0.
        DivergedError: Q does not converge.
    """
    config = config or FQEConfig()
    phi = features.astype(np.float64)
    if phi.shape != next_expected.shape or phi.ndim != 2:
        raise DataError(f"linear FQE: features {phi.shape}, next_expected {next_expected.shape}; expected (M, F) both")
    following = np.where(done[:, None], 0.0, next_expected)
    gram = phi.T @ phi + config.ridge * np.eye(phi.shape[1])
    if not np.linalg.cond(gram) < 1e12:  # false for NaN, too
        raise DataError(
            f"linear FQE: the {phi.shape[1]} features of {len(phi)} transitions are collinear or not finite; "
            "leave some out or set FQEConfig.ridge above 0"
        )
    constant, carried = np.hsplit(np.linalg.solve(gram, phi.T @ np.column_stack([reward, gamma * following])), [1])
    return _iterate(lambda theta: constant[:, 0] + carried @ theta, np.zeros(phi.shape[1]), config)


def _iterate(sweep: Callable[[Array], Array], start: Array, config: FQEConfig) -> Array:
    """Repeat the sweep until it converges."""
    now = start
    for _ in range(config.sweeps):
        before, now = now, sweep(now)
        largest = float(np.abs(now).max())
        if not largest < 1e100:  # false for NaN, too
            break
        if float(np.abs(now - before).max()) <= config.tolerance * largest:
            return now
    raise DivergedError(
        f"FQE: Q does not converge in {config.sweeps} sweeps; use a gamma below 1, sessions that end, fewer features "
        "or a larger ridge"
    )


def _check_range(transitions: Transitions, states: int, actions: int) -> None:
    for name, count in (("state", states), ("action", actions), ("next_state", states)):
        values = getattr(transitions, name)
        if values.min() < 0 or values.max() >= count:
            raise DataError(f"transitions: {name} {values.min()}..{values.max()}; target_probs has 0..{count - 1}")


@dataclass(frozen=True)
class StepModel:
    """Predictions of the target's value at the steps of a log."""

    logged_q: Array  # [N, T]
    """Reward of the logged action and of all following steps under the target."""
    expected_q: Array  # [N, T]
    """The same, averaged over the target's choices at this step."""

    def masked(self, is_step: Bools) -> "StepModel":
        """Return the model with 0 after the end of sessions.

        Raises:
            DataError: arrays of other shapes than is_step [N, T], and values in a session that are not finite.
        """
        for name, values in vars(self).items():
            if values.shape != is_step.shape:
                raise DataError(f"step model: {name} {values.shape}; expected {is_step.shape}")
            if not np.isfinite(values[is_step]).all():
                raise DataError(f"step model: {name} has values that are not finite")
        return StepModel(*(np.where(is_step, values, 0.0) for values in (self.logged_q, self.expected_q)))


def table_model(
    trajectories: TrajectoryFeedback,
    state: Ints,
    action: Ints,
    target_probs: Floats,
    config: MultiStepConfig | None = None,
    fqe: FQEConfig | None = None,
) -> StepModel:
    """Cross-fit Q as a table.

    Args:
        trajectories: the logged sessions.
        state: [N, T], numbered from 0. action: [N, T], numbered from 0.
        target_probs: [S, A], the target policy.
        config: folds and seed. fqe: settings of the fit.

    Returns:
        Q of the logged pairs and V of the states, each [N, T], cross-fitted by user.

    Raises:
        DataError: states or actions outside the table, or fewer users than folds.
        DivergedError: see `fit_table`.
    """
    _check_steps(trajectories, {"state": state, "action": action})
    state, action = (np.where(trajectories.is_step, values, 0) for values in (state, action))
    following = _next_step(state)

    def fit(training: Bools) -> tuple[Array, Array]:
        used = trajectories.has_known_next & training[:, None]
        reward, last = trajectories.masked_reward[used], trajectories.is_last[used]
        steps = Transitions(state[used], action[used], reward, following[used], last)
        table = fit_table(steps, target_probs, trajectories.gamma, fqe)
        return table.q[state, action], table.value[state]

    return _cross_fit(trajectories, fit, config or MultiStepConfig())


def linear_model(
    trajectories: TrajectoryFeedback,
    features: Floats,
    expected: Floats,
    config: MultiStepConfig | None = None,
    fqe: FQEConfig | None = None,
) -> StepModel:
    """Cross-fit Q linear in features.

    Args:
        trajectories: the logged sessions.
        features: [N, T, F], of the logged pairs.
        expected: [N, T, F], the features of the same states, averaged over the target's choices.
        config: folds and seed. fqe: settings of the fit.

    Returns:
        Q of the logged pairs and V of the states, each [N, T], cross-fitted by user.

    Raises:
        DataError: arrays of other shapes, fewer users than folds, or collinear features while ridge is 0.
        DivergedError: see `fit_linear`.
    """
    _check_steps(trajectories, {"features": features, "expected": expected})
    is_step = trajectories.is_step[..., None]
    phi, mean = (np.where(is_step, values, 0.0) for values in (features, expected))
    following = _next_step(mean)

    def fit(training: Bools) -> tuple[Array, Array]:
        used = trajectories.has_known_next & training[:, None]
        reward, last = trajectories.masked_reward[used], trajectories.is_last[used]
        theta = fit_linear(phi[used], following[used], reward, last, trajectories.gamma, fqe)
        return phi @ theta, mean @ theta

    return _cross_fit(trajectories, fit, config or MultiStepConfig())


def one_step_fit(trajectories: TrajectoryFeedback, model: StepModel) -> ModelFit | None:
    """Compare predicted q_t with r_t + gamma v_{t+1}, the reward plus the model's value of the next step.

    v is `expected_q`, 0 after the end of a session. All logged steps count equally, without weights, except the last
    step of a session that was cut off, because its continuation is unknown. Return None if no step is left.

    For an exact model the error has mean 0 for every state and action, regardless of the policy that chose the action.
    Then bias is 0, but rmse is 0 only where nothing is random. A small error does not prove the model right where the
    target acts and the log has no data. Weighted with gamma^t W_t and summed over all steps of a session, the error has
    the mean `fqe` - `per_decision_dr`: the error of the model's value, as far as the log can show it.
    """
    masked = model.masked(trajectories.is_step)
    steps = trajectories.has_known_next
    if not steps.any():
        return None
    following = np.where(trajectories.is_last, 0.0, _next_step(masked.expected_q))
    reached = trajectories.masked_reward + trajectories.gamma * following
    return ModelFit.from_predictions(masked.logged_q[steps], reached[steps])


def by_position(features: Floats) -> Array:
    """Return separate features for each step, [N, T, T F] from [N, T, F]: Q is then fitted position by position.

    Args:
        features: [N, T, F].

    Returns:
        [N, T, T F], zero outside the block of the step.
    """
    sessions, steps, size = features.shape
    placed = np.zeros((sessions, steps, steps, size))
    each = np.arange(steps)
    placed[:, each, each] = features
    return placed.reshape(sessions, steps, steps * size)


def _cross_fit(trajectories: TrajectoryFeedback, fit: _Fit, config: MultiStepConfig) -> StepModel:
    fold = user_folds(trajectories.clusters, config.folds, config.seed)
    logged_q, expected_q = np.zeros(trajectories.reward.shape), np.zeros(trajectories.reward.shape)
    for k in range(config.folds):
        held_out = fold == k
        for output, values in zip((logged_q, expected_q), fit(~held_out), strict=True):
            output[held_out] = values[held_out]
    return StepModel(logged_q, expected_q).masked(trajectories.is_step)


def _next_step(values: NDArray[_Cell]) -> NDArray[_Cell]:
    """Return the values of the next step, axis 1; the last column repeats itself and is never read."""
    return np.concatenate([values[:, 1:], values[:, -1:]], axis=1)


def _check_steps(trajectories: TrajectoryFeedback, arrays: dict[str, NDArray[np.generic]]) -> None:
    shape = trajectories.reward.shape
    for name, values in arrays.items():
        if values.shape[:2] != shape:
            raise DataError(f"step model: {name} {values.shape}; expected {shape} sessions by steps first")
