"""One training: the rounds of the last days that are new, of users with enough interactions, learned once.

The window ends at the last round, or at a given time, and begins `days_back` days before. A user counts by the
interactions in the window, those learned before included. A round that the policy learned before is never learned
again, so the same training twice is refused.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.hashes import text_hashes
from recpolicy.core.types import Bools, Ints
from recpolicy.data.reward_signals import summarize_rewards
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.strategies.rounds import StrategyRounds

DAYS_BACK, MIN_INTERACTIONS = 7.0, 5
"""Defaults of a training."""
DAY_MS = 86_400_000


@dataclass(frozen=True)
class TrainingStatistics:
    """Counts and figures of one training."""

    days_back: float
    min_interactions: int
    window_start: int
    """Milliseconds since 1970."""
    window_end: int
    rounds_in_log: int
    outside_window: int
    """Rounds before or after the window."""
    few_interactions: int
    """Rounds in the window of users with fewer interactions, left out."""
    already_learned: int
    """Rounds that the policy learned before, left out."""
    interactions: int
    """Rounds learned."""
    users: int
    """Users of the rounds learned."""
    sessions: int
    average_reward: float
    reward_std: float
    share_positive: float
    """Share of rewards above 0."""
    new_states: int
    """States seen for the first time."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        return asdict(self)


def train_on_rounds(
    policy: StrategyPolicy,
    rounds: StrategyRounds,
    *,
    days_back: float = DAYS_BACK,
    min_interactions: int = MIN_INTERACTIONS,
    until: int | None = None,
) -> tuple[StrategyPolicy, TrainingStatistics]:
    """Return the policy after learning the new rounds of a window, and the statistics of the training.

    Args:
        policy: The policy to continue from; `StrategyPolicy(config)` starts a new one.
        rounds: Rounds with rewards, in any order.
        days_back: Length of the window in days.
        min_interactions: Interactions in the window that a user needs.
        until: End of the window in milliseconds since 1970; None is the time of the last round.

    Raises:
        ConfigError: `days_back` or `min_interactions` is out of range.
        DataError: There is nothing new to learn; says why.
    """
    start, end = training_window(rounds, days_back, min_interactions, until)
    inside = (rounds.time > start) & (rounds.time <= end)
    parts = rounds_to_learn(policy, rounds, min_interactions, inside)
    enough = parts.new | parts.already_learned
    if not parts.new.any():
        raise DataError(_nothing_new(inside, enough, parts.interactions, days_back, min_interactions))
    selected = rounds.select(np.flatnonzero(parts.new))
    updated = policy.updated(selected)
    rewards = summarize_rewards(selected.reward)
    return updated, TrainingStatistics(
        days_back=days_back, min_interactions=min_interactions, window_start=start, window_end=end,
        rounds_in_log=len(rounds), outside_window=int((~inside).sum()),
        few_interactions=int(parts.few_interactions.sum()),
        already_learned=int(parts.already_learned.sum()), interactions=len(selected),
        users=len({(type(user), user) for user in selected.user.tolist() if user is not None}),
        sessions=updated.sessions - policy.sessions, average_reward=rewards.mean, reward_std=rewards.std,
        share_positive=rewards.share_positive, new_states=len(updated.table.states) - len(policy.table.states),
    )  # fmt: skip


def training_window(
    rounds: StrategyRounds, days_back: float, min_interactions: int, until: int | None = None
) -> tuple[int, int]:
    """Return the times between which a training learns, in milliseconds since 1970; the first is excluded.

    Raises:
        ConfigError: `days_back` or `min_interactions` is out of range.
        DataError: There are no rounds.
    """
    if not 0 < days_back <= 36_500:
        raise ConfigError(f"days_back is {days_back:g}; expected above 0 and at most 36,500 days")
    if not 1 <= min_interactions <= 10**9:
        raise ConfigError(f"min_interactions is {min_interactions}; expected 1 or more")
    if not len(rounds):
        raise DataError("no rounds to learn from")
    end = int(rounds.time.max()) if until is None else until
    return end - round(days_back * DAY_MS), end


def rounds_of_window(rounds: StrategyRounds, days_back: float, min_interactions: int) -> Bools:
    """Return the rounds [N] of the last days that belong to users with enough interactions in them.

    Raises:
        ConfigError: `days_back` or `min_interactions` is out of range.
        DataError: There is no such round; says why.
    """
    start, end = training_window(rounds, days_back, min_interactions)
    inside = (rounds.time > start) & (rounds.time <= end)
    number = interactions_of_users(rounds, inside)
    enough = inside & (number >= min_interactions)
    if not enough.any():
        raise DataError(_nothing_new(inside, enough, number, days_back, min_interactions))
    return enough


@dataclass(frozen=True)
class RoundParts:
    """The rounds [N] of a window by what a training does with them; each round of the window is in one part."""

    new: Bools
    already_learned: Bools
    few_interactions: Bools
    """Rounds of users with too few interactions in the window."""
    interactions: Ints
    """Interactions of the round's user in the window."""


def rounds_to_learn(
    policy: StrategyPolicy, rounds: StrategyRounds, min_interactions: int, inside: Bools | None = None
) -> RoundParts:
    """Return which rounds a training learns: new ones of users with enough interactions in the window.

    A user's interactions in the window count whether or not they were learned before: a user who was active enough last
    week stays so while those days are in the window.

    Args:
        policy: The policy that learns.
        rounds: The rounds [N].
        min_interactions: Interactions in the window that a user needs.
        inside: The rounds [N] of the window; None: all.
    """
    window = np.ones(len(rounds), bool) if inside is None else inside
    number = interactions_of_users(rounds, window)
    enough = window & (number >= min_interactions)
    known = np.isin(text_hashes(rounds.event_id), policy.learned_events)
    return RoundParts(enough & ~known, enough & known, window & ~enough, number)


def interactions_of_users(rounds: StrategyRounds, inside: Bools | None = None) -> Ints:
    """Return for each round [N] the rounds of its user, inside the window [N] if one is given; 1 without a user."""
    codes: dict[Any, int] = {}
    code = np.array(
        [-1 if user is None else codes.setdefault((type(user), user), len(codes)) for user in rounds.user.tolist()],
        np.int64,
    )
    counted = code >= 0 if inside is None else inside & (code >= 0)
    count = np.bincount(code[counted], minlength=len(codes) + 1)
    return np.where(code >= 0, count[code], 1)


def _nothing_new(inside: Any, enough: Any, number: Any, days_back: float, min_interactions: int) -> str:
    """Return one line: why a training has nothing to learn."""
    if not inside.any():
        return f"no round in the last {days_back:g} days; choose a longer window with days_back"
    if not enough.any():
        return (
            f"no user has {min_interactions} interactions or more in the last {days_back:g} days; the most are"
            f" {int(number[inside].max())}: wait, or change min_interactions or days_back"
        )
    return (
        f"nothing new to learn: the policy has learned all {int(enough.sum()):,} rounds of the last {days_back:g} days"
        " already"
    )
