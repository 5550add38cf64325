"""Rounds to learn from, and their order: N rounds with a profile, a situation, an action and a reward.

A round of a session is followed by the next round of that session, whose state is its next state. The last round of a
session, and every round without a session, has no next state. The order of learning is that in which sessions end.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array, Bools
from recpolicy.strategies.config import ACTIONS, SITUATION, TRAIT_RANGE, StrategyConfig


@dataclass(frozen=True)
class StrategyRounds:
    """N rounds in any order; `check_rounds` compares them with a config."""

    event_id: NDArray[np.object_]  # [N] str, unique
    time: NDArray[np.int64]  # [N], milliseconds since 1970
    user: NDArray[np.object_]  # [N] str or int
    profile: Array  # [N, K], traits in 0..100
    situation: NDArray[np.int64]  # [N, 3], codes of content type, mood and time of day
    action: NDArray[np.int64]  # [N], 0..26
    log_propensity: Array  # [N], logarithm of the probability of the action
    reward: Array  # [N], finite
    session: NDArray[np.object_] | None = None  # [N] str or None; None: every round is a request of its own

    def __post_init__(self) -> None:
        """Raise DataError for columns of different lengths."""
        lengths = {len(column) for column in vars(self).values() if column is not None}
        if len(lengths) != 1:
            raise DataError(f"rounds of strategies: columns of different lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.event_id)

    def select(self, rows: NDArray[Any]) -> "StrategyRounds":
        """Return the rounds at positions [n], or those that a mask [N] marks."""
        columns: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        selected: dict[str, Any] = {name: None if column is None else column[rows] for name, column in columns.items()}
        return StrategyRounds(**selected)


@dataclass(frozen=True)
class LearningOrder:
    """The order in which N rounds are learned."""

    rows: NDArray[np.int64]  # [N], positions of the rounds, in order
    has_next: Bools  # [N], in that order: True if the next row is the next round of the same session
    sessions: int
    """Sessions; a round without a session is one."""


def check_rounds(rounds: StrategyRounds, config: StrategyConfig) -> None:
    """Raise DataError for the first round that does not fit the config."""
    low, high = TRAIT_RANGE
    traits = config.profile.traits
    if rounds.profile.shape[1:] != (len(traits),) or rounds.situation.shape[1:] != (len(SITUATION),):
        raise DataError(f"rounds of strategies: expected {len(traits)} traits and {len(SITUATION)} codes a round")
    inside = (rounds.profile >= low) & (rounds.profile <= high)
    if not inside.all():
        row, trait = (int(place[0]) for place in np.nonzero(~inside))
        raise DataError(f"round {row}: {traits[trait]} is {rounds.profile[row, trait]:g}; expected {low:g}..{high:g}")
    for place, part in enumerate(SITUATION):
        count = len(config.situation.names(part))
        _refuse((rounds.situation[:, place] < 0) | (rounds.situation[:, place] >= count), f"{part} is no known code")
    _refuse((rounds.action < 0) | (rounds.action >= ACTIONS), f"the action is none of 0..{ACTIONS - 1}")
    _refuse(~np.isfinite(rounds.reward), "the reward is not finite")
    _refuse(~(rounds.log_propensity <= 0), "the log-propensity is not that of a probability in (0, 1]")


def _refuse(wrong: Bools, what: str) -> None:
    if wrong.any():
        raise DataError(f"round {int(wrong.argmax())}: {what}")


def learning_order(rounds: StrategyRounds) -> LearningOrder:
    """Return the rounds of each session in order of time, and the sessions in the order of their ends.

    Rounds of one time keep their order.
    """
    count = len(rounds)
    number = np.arange(count)
    if rounds.session is None:
        return LearningOrder(np.argsort(rounds.time, kind="stable"), np.zeros(count, bool), count)
    import pyarrow as pa

    encoded = pa.array(rounds.session, pa.large_string()).dictionary_encode()
    codes = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
    known = len(encoded.dictionary)
    codes = np.where(codes < 0, known + number, codes)  # a round without a session is one
    end = np.full(known + count, np.iinfo(np.int64).min)
    np.maximum.at(end, codes, rounds.time)
    rows = np.lexsort((number, rounds.time, codes, end[codes]))
    same = codes[rows][1:] == codes[rows][:-1]
    has_next = np.append(same, False)[:count]
    return LearningOrder(rows, has_next, count - int(has_next.sum()))
