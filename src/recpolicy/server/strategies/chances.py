"""The chances of the 27 strategies in one state, as the policy gives them; without a profile, those of its means.

A state's chances do not change while a version serves, so each process keeps those of recent states.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array, Bools
from recpolicy.inference.rank_request import draw
from recpolicy.strategies.config import ACTIONS, SITUATION
from recpolicy.strategies.policy import SOURCES, STATIC, TRAIT_BLIND, StrategyAnswer, StrategyPolicy
from recpolicy.strategies.state import situation_code


@dataclass(frozen=True)
class Chances:
    """The distribution over the strategies of one state."""

    probability: Array  # [A], exact; the sum is 1
    value: Array  # [A], expected rewards
    source: Array  # [A], positions in SOURCES
    greedy: Bools  # [A], True for the best strategies

    @cached_property
    def probability_bytes(self) -> bytes:
        """The probabilities as an event stores them."""
        return self.probability.astype("<f8").tobytes()

    def ranking_bytes(self, action: int) -> bytes:
        """Return the actions as an event stores them: the drawn one, then the others by falling probability."""
        order = self._by_probability
        ranking: NDArray[np.uint16] = np.concatenate([[action], order[order != action]]).astype("<u2")
        return ranking.tobytes()

    @cached_property
    def _by_probability(self) -> NDArray[np.intp]:
        return np.argsort(-self.probability, kind="stable")

    def answer(self, policy: StrategyPolicy, seed: str) -> StrategyAnswer:
        """Draw a strategy; the same seed and chances give the same strategy."""
        action = draw(self.probability, seed)
        return StrategyAnswer(
            strategy=policy.config.strategies[action], action=action, parameters=policy.config.parameters[action],
            propensity=float(self.probability[action]), expected_reward=float(self.value[action]),
            source=SOURCES[int(self.source[action])], explored=not self.greedy[action],
        )  # fmt: skip


def state_chances(policy: StrategyPolicy, number: int) -> Chances:
    """Return the chances in the state of a number."""
    state = np.array([number])
    estimates, greedy = policy.estimates(state), policy.greedy_probabilities(state)[0]
    probability = policy.state_probabilities(state)[0]
    return Chances(probability, estimates.value[0], estimates.source[0], greedy > 0)


def chances_without_profile(policy: StrategyPolicy) -> Chances:
    """Return the chances for a request without a profile: the end of the policy's chain, trait_blind or static."""
    model, learning = policy.factored, policy.config.learning
    seen = model.action_visits >= learning.min_visits
    value = np.where(seen, model.action_mean, model.mean)
    eligible = seen.copy()
    eligible[policy.config.static_action] = True
    score = np.where(eligible, value, -np.inf)
    greedy = score == score.max()
    probability = (1 - policy.epsilon) * greedy / greedy.sum() + policy.epsilon / ACTIONS
    return Chances(probability, value, np.where(seen, TRAIT_BLIND, STATIC), greedy)


def check_situation(policy: StrategyPolicy, content_type: str, mood: str, time_of_day: str) -> None:
    """Raise DataError for an unknown name of the situation, which a request without a profile has, too."""
    for part, name in zip(SITUATION, (content_type, mood, time_of_day), strict=True):
        situation_code(part, name, policy.config)


def check_profile(policy: StrategyPolicy, profile: dict[str, float]) -> None:
    """Raise DataError for a trait that is missing, unknown or outside 0..100."""
    from recpolicy.strategies.state import profile_values

    try:
        profile_values(profile, policy.config)
    except DataError as error:
        raise DataError(str(error)) from None
