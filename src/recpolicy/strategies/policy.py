"""A strategy policy: the Q-table, the chain of estimates that answers where the table is thin, and exact propensities.

N states, A = 27 actions. The estimate of a cell is the first of these that rests on enough rounds (`min_visits`):

    cell         the Q-table's own value; or the value shrunk to the factored one, with n visits and k = prior_rounds:
                 (n q + k factored) / (n + k)
    factored     the factored model, if each of its parts was seen often enough with the action
    trait_blind  the mean reward of the action
    static       the mean reward of all rounds, for the static strategy of the config; other actions have no estimate

The greedy action has the highest estimate. With share epsilon the policy draws one of the 27 actions uniformly, so an
action has probability (1 - epsilon) [greedy] + epsilon / 27; ties share the greedy part. The draw depends on the seed,
such as the event id, and on the probabilities only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.files import content_digest
from recpolicy.core.hashes import Hashes
from recpolicy.core.types import Array, Bools
from recpolicy.inference.rank_request import draw
from recpolicy.strategies.config import ACTIONS, StrategyConfig
from recpolicy.strategies.factored import FactoredModel, code_columns, fit_factored
from recpolicy.strategies.q_table import QTable, effective_visits, means, ucb1
from recpolicy.strategies.rounds import StrategyRounds, check_rounds, learning_order
from recpolicy.strategies.state import (
    States,
    StrategyRequest,
    codes_of_states,
    request_arrays,
    state_codes,
    state_numbers,
)

Source = Literal["cell", "factored", "trait_blind", "static", "network"]
NETWORK: Source = "network"
"""The estimate of a policy without a chain (network_policy.py)."""
SOURCES: tuple[Source, ...] = ("cell", "factored", "trait_blind", "static")
"""The chain, first choice first."""
CELL, FACTORED, TRAIT_BLIND, STATIC = range(4)
_ROWS = 1 << 14


@dataclass(frozen=True)
class StrategyAnswer:
    """The answer to one request."""

    strategy: Mapping[str, str]
    """Level of energy, diversity and novelty."""
    action: int
    """Number of the strategy, 9 energy + 3 diversity + novelty."""
    parameters: Mapping[str, float | int]
    """Numbers for the recommender, clipped to their limits."""
    propensity: float
    """Probability with which the policy drew the strategy."""
    expected_reward: float
    source: Source
    """The estimate that the expected reward comes from."""
    explored: bool
    """True if the strategy is not a greedy one."""


@dataclass(frozen=True)
class Estimates:
    """Estimates of N states."""

    value: Array  # [N, A], expected rewards
    source: NDArray[np.int8]  # [N, A], positions in SOURCES
    eligible: Bools  # [N, A], False for actions without an estimate, which are never greedy


@dataclass(frozen=True)
class StrategyPolicy:
    """A trained strategy policy; immutable, so several threads may share it."""

    config: StrategyConfig
    table: QTable = field(default_factory=QTable.empty)
    sessions: int = 0
    """Sessions that the policy learned from; a request without a session counts as one."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Origin: log, seed, versions, figures of the training."""
    learned_events: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))
    """[n], ascending: the events that the policy learned from (data/learned_events.py)."""

    @cached_property
    def policy_digest(self) -> str:
        """SHA-256 of everything that determines the policy's choices; equal policies have equal digests."""
        table = self.table
        return content_digest(self.config.digest, table.states, table.q, table.visits, self.sessions)

    @property
    def rounds(self) -> int:
        """Rounds that the policy learned from."""
        return int(self.table.visits.sum())

    @cached_property
    def epsilon(self) -> float:
        """Share of uniform actions."""
        learning = self.config.learning
        if learning.exploration == "ucb1":
            return learning.exploration_final_eps
        blocks = self.sessions // learning.exploration_block
        decayed = learning.exploration_initial_eps * learning.exploration_decay**blocks
        return max(decayed, learning.exploration_final_eps)

    @cached_property
    def factored(self) -> FactoredModel:
        """The factored model of the table, and the means of the rest of the chain."""
        return fit_factored(self.table, self.config)

    def recommend(self, request: StrategyRequest, seed: int | str | None = None) -> StrategyAnswer:
        """Draw a strategy for a request.

        Args:
            request: Profile and situation.
            seed: Seed of the draw, such as the event id; None draws at random.

        Raises:
            DataError: A trait is missing, unknown or outside 0..100, or a name of the situation is unknown.
        """
        states = self._states(request)
        estimates = self.estimates(states)
        greedy = self._greedy(states, estimates)[0]
        probability = self._mixed(greedy)
        action = draw(probability, seed)
        return StrategyAnswer(
            strategy=self.config.strategies[action], action=action, parameters=self.config.parameters[action],
            propensity=float(probability[action]), expected_reward=float(estimates.value[0, action]),
            source=SOURCES[estimates.source[0, action]], explored=bool(greedy[action] == 0),
        )  # fmt: skip

    def probabilities(self, request: StrategyRequest) -> Array:
        """Return the probability [A] of each action; raise DataError as `recommend` does."""
        return self.state_probabilities(self._states(request))[0]

    def state_probabilities(self, states: States) -> Array:
        """Return the probability [N, A] of each action in states [N]."""
        return self._mixed(self.greedy_probabilities(states))

    def greedy_probabilities(self, states: States) -> Array:
        """Return the probability [N, A] of each action without uniform draws: 1, or equal shares of ties."""
        parts = [states[first : first + _ROWS] for first in range(0, len(states), _ROWS)]
        return np.concatenate([np.empty((0, ACTIONS)), *(self._greedy(part, self.estimates(part)) for part in parts)])

    def estimates(self, states: States) -> Estimates:
        """Return the estimates of states [N] and their sources, by the chain."""
        learning, model = self.config.learning, self.factored
        columns = code_columns(codes_of_states(states, self.config), self.config)
        factored = model.values(columns)
        has_factored = model.support(columns) >= learning.min_visits
        has_mean = np.broadcast_to(model.action_visits >= learning.min_visits, factored.shape)
        value = np.where(has_factored, factored, np.where(has_mean, model.action_mean, model.mean))
        source = np.where(has_factored, FACTORED, np.where(has_mean, TRAIT_BLIND, STATIC)).astype(np.int8)
        if learning.estimator != "factored":
            mean, weight, visits = self._cells(states)
            enough = visits >= learning.min_visits
            if learning.estimator == "shrunk":
                shrunk = (weight * mean + learning.prior_rounds * factored) / (weight + learning.prior_rounds)
                use = has_factored | enough
                value = np.where(use, np.where(has_factored, shrunk, mean), value)
            else:
                value = np.where(enough, mean, value)
            source = np.where(enough, CELL, source).astype(np.int8)
        eligible = source != STATIC
        eligible[:, self.config.static_action] = True
        return Estimates(value, source, eligible)

    def updated(self, rounds: StrategyRounds) -> "StrategyPolicy":
        """Return the policy after learning rounds, in the order in which their sessions end.

        Learning in several parts equals learning at once if no session is cut. The caller sees to it that no round is
        learned twice (`learned_events`).

        Raises:
            DataError: A round does not fit the config.
        """
        from recpolicy.core.hashes import text_hashes
        from recpolicy.data.learned_events import merge

        check_rounds(rounds, self.config)
        order = learning_order(rounds)
        states = state_numbers(state_codes(rounds.profile, rounds.situation, self.config), self.config)
        table = self.table.updated(
            states[order.rows], rounds.action[order.rows], rounds.reward[order.rows], order.has_next,
            self.config.learning,
        )  # fmt: skip
        events = np.unique(text_hashes(rounds.event_id))
        return replace(
            self,
            table=table,
            sessions=self.sessions + order.sessions,
            learned_events=merge(self.learned_events, events),
        )

    def states_of(self, rounds: StrategyRounds) -> States:
        """Return the numbers of the states [N] of rounds; raise DataError for a round that does not fit the config."""
        check_rounds(rounds, self.config)
        return state_numbers(state_codes(rounds.profile, rounds.situation, self.config), self.config)

    def stats(self) -> dict[str, float | int]:
        """Return the statistics of the table: states, cells, Q-values, coverage, exploration."""
        table, minimum = self.table, self.config.learning.min_visits
        visited = table.visits > 0
        q = table.q[visited]
        cells, possible = int(visited.sum()), self.config.states * ACTIONS
        enough = int((table.visits >= minimum).sum())
        return {
            "rounds": self.rounds, "sessions": self.sessions,
            "total_states": len(table.states), "total_state_actions": cells,
            "avg_q_value": float(q.mean()) if cells else 0.0, "max_q_value": float(np.abs(q).max(initial=0.0)),
            "possible_states": self.config.states, "possible_state_actions": possible,
            "state_coverage": len(table.states) / self.config.states, "coverage": cells / possible,
            "cells_with_min_visits": enough, "share_with_min_visits": enough / possible,
            "share_of_visited_with_min_visits": enough / cells if cells else 0.0, "min_visits": minimum,
            "epsilon": self.epsilon,
        }  # fmt: skip

    def _states(self, request: StrategyRequest) -> States:
        return state_numbers(state_codes(*request_arrays(request, self.config), self.config), self.config)

    def _cells(self, states: States) -> tuple[Array, Array, NDArray[np.int64]]:
        """Return mean, effective visits and visits [N, A] of the table's cells; zeros for states that it lacks."""
        row = self.table.rows(states)
        seen = row < len(self.table.states)
        q, visits = np.zeros((len(states), ACTIONS)), np.zeros((len(states), ACTIONS), np.int64)
        q[seen], visits[seen] = self.table.q[row[seen]], self.table.visits[row[seen]]
        learning = self.config.learning
        return means(q, visits, learning), effective_visits(visits, learning), visits

    def _greedy(self, states: States, estimates: Estimates) -> Array:
        """Return the probability [N, A] of each action without uniform draws."""
        score = np.where(estimates.eligible, estimates.value, -np.inf)
        if self.config.learning.exploration == "ucb1":
            visits = self._cells(states)[2].astype(np.float64)
            score = ucb1(estimates.value, visits, self.config.learning.ucb_c)
        best = score == score.max(axis=1, keepdims=True)
        return best / best.sum(axis=1, keepdims=True)

    def _mixed(self, greedy: Array) -> Array:
        """Return probabilities with the share of uniform draws."""
        return (1 - self.epsilon) * greedy + self.epsilon / ACTIONS
