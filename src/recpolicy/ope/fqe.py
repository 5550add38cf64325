"""Fitted Q evaluation: what a target policy earns from a state and an action on, from transitions of another policy.

M transitions, S states, A actions, F features. Starting from Q = 0, each sweep regresses the expected-SARSA target

    y = r + gamma (1 - done) sum_a' pi(a'|s') Q(s', a')

on (s, a), until Q stands still: of Q by table that is the solution of Q = R + gamma P_pi Q in the model that the counts
of transitions make; of Q linear in features the point at which the regression returns what it was given, which need not
exist. No importance weights: how often the log holds a pair decides how well it is known, not what its value is. But
what the features cannot express is a bias, and a log that covers few of the target's choices is filled with guesses.

Both fits first reduce the transitions to sums (counts or products of features), which is all that a sweep reads.
Sources: Ernst, Geurts & Wehenkel 2005; Le, Voloshin & Yue 2019; van Seijen et al. 2009 (expected SARSA).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, DivergedError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FQEConfig:
    """How Q is fitted."""

    ridge: float = 0.0
    """Transitions' worth of pull of each value or weight to 0; must be above 0 where features repeat each other."""
    sweeps: int = 10_000
    """Most sweeps before the fit is given up."""
    tolerance: float = 1e-9
    """Largest change of a value or weight at which Q stands still, as a share of the largest."""

    def __post_init__(self) -> None:
        if not 0 <= self.ridge < np.inf:
            raise ConfigError(f"FQEConfig.ridge is {self.ridge}; expected 0 or more")
        if self.sweeps < 1 or not 0 < self.tolerance < 1:
            raise ConfigError(
                f"FQEConfig.sweeps is {self.sweeps}, tolerance {self.tolerance}; expected 1 or more and 0..1"
            )


@dataclass(frozen=True)
class Transitions:
    """M steps between numbered states."""

    state: NDArray[np.integer]  # [M], 0..S-1
    action: NDArray[np.integer]  # [M], 0..A-1
    reward: NDArray[np.floating]  # [M]
    next_state: NDArray[np.integer]  # [M]; any of the S where done
    done: NDArray[np.bool_]  # [M], whether nothing follows

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
    """Q by table."""

    q: Array  # [S, A]; 0 where a pair was never logged
    count: NDArray[np.int64]  # [S, A], transitions of each pair
    target_probs: Array  # [S, A]

    @property
    def value(self) -> Array:
        """What the target earns from each state on [S]."""
        return np.einsum("sa,sa->s", self.target_probs, self.q)

    @property
    def unknown(self) -> Array:
        """The target's probability [S] of actions that were never logged in each state; Q takes them for 0."""
        return np.where(self.count == 0, self.target_probs, 0.0).sum(axis=1)


def fit_table(
    transitions: Transitions,
    target_probs: NDArray[np.floating],
    gamma: float,
    config: FQEConfig | None = None,
) -> QTable:
    """Fit Q of the policy target_probs [S, A] by table.

    Raises DataError for states or actions outside the table, DivergedError where Q does not settle: gamma is 1 and some
    states are never left.
    """
    config = config or FQEConfig()
    states, actions = target_probs.shape
    _check_range(transitions, states, actions)
    probs = target_probs.astype(np.float64)
    pair = transitions.state.astype(np.int64) * actions + transitions.action  # [M]
    count = np.bincount(pair, minlength=states * actions)
    weight = 1 / np.maximum(count + config.ridge, 1.0)  # below 1 only for a pair without transitions, which has no sums
    earned = np.bincount(pair, transitions.reward, states * actions) * weight
    goes_on = ~transitions.done
    link, times = np.unique(pair[goes_on] * states + transitions.next_state[goes_on], return_counts=True)
    source, there = np.divmod(link, states)
    share = gamma * times * weight[source]  # of all logged links [L]

    def sweep(q: Array) -> Array:
        value = np.einsum("sa,sa->s", probs, q.reshape(states, actions))
        return earned + np.bincount(source, share * value[there], states * actions)

    q = _settle(sweep, np.zeros(states * actions), config)
    return QTable(q.reshape(states, actions), count.reshape(states, actions), probs)


def fit_linear(
    features: NDArray[np.floating],
    next_expected: NDArray[np.floating],
    reward: NDArray[np.floating],
    done: NDArray[np.bool_],
    gamma: float,
    config: FQEConfig | None = None,
) -> Array:
    """Fit weights theta [F] of Q(s, a) = phi(s, a) . theta.

    features [M, F]: phi of the logged pairs; next_expected [M, F]: sum_a' pi(a'|s') phi(s', a') of what followed, any
    numbers where done. Raises DataError for features that repeat each other while ridge is 0, DivergedError where the
    sweeps move apart.
    """
    config = config or FQEConfig()
    phi = features.astype(np.float64)
    if phi.shape != next_expected.shape or phi.ndim != 2:
        raise DataError(f"linear FQE: features {phi.shape}, next_expected {next_expected.shape}; expected (M, F) both")
    following = np.where(done[:, None], 0.0, next_expected)
    gram = phi.T @ phi + config.ridge * np.eye(phi.shape[1])
    if not np.linalg.cond(gram) < 1e12:  # false for NaN, too
        raise DataError(
            f"linear FQE: the {phi.shape[1]} features of {len(phi)} transitions repeat each other (or are not finite); "
            "leave some out or set FQEConfig.ridge above 0"
        )
    earned, carried = np.hsplit(np.linalg.solve(gram, phi.T @ np.column_stack([reward, gamma * following])), [1])
    return _settle(lambda theta: earned[:, 0] + carried @ theta, np.zeros(phi.shape[1]), config)


def _settle(sweep: Callable[[Array], Array], start: Array, config: FQEConfig) -> Array:
    """Repeat the sweep until it changes nothing."""
    now = start
    for _ in range(config.sweeps):
        before, now = now, sweep(now)
        largest = float(np.abs(now).max())
        if not largest < 1e100:  # false for NaN, too
            break
        if float(np.abs(now - before).max()) <= config.tolerance * largest:
            return now
    raise DivergedError(
        f"FQE: Q does not settle in {config.sweeps} sweeps; use a gamma below 1, sessions that end, fewer features or "
        "more ridge"
    )


def _check_range(transitions: Transitions, states: int, actions: int) -> None:
    for name, most in (("state", states), ("action", actions), ("next_state", states)):
        found = getattr(transitions, name)
        if found.min() < 0 or found.max() >= most:
            raise DataError(f"transitions: {name} {found.min()}..{found.max()}; target_probs has 0..{most - 1}")
