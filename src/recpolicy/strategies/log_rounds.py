"""Strategies in a feature log: contexts with traits and situation, and 27 actions with their levels as features.

    context   {"openness": 71.0, ..., "content_type": "music", "mood": "calm", "time_of_day": "evening", "session": "s"}
    action    id "low/focused/familiar", features {"energy": "low", "diversity": "focused", "novelty": "familiar"}

So every command for feature logs works on a log of strategies, too. `session` is optional; it is an id among the
sessions of one user.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.core.types import Array
from recpolicy.strategies.config import DIMENSIONS, OTHER, SESSION, SITUATION, TRAIT_RANGE, StrategyConfig
from recpolicy.strategies.rounds import StrategyRounds
from recpolicy.strategies.state import StrategyRequest

if TYPE_CHECKING:
    from recpolicy.data.feature_log import FeatureLog


def action_name(strategy: Mapping[str, str]) -> str:
    """Return the id of an action, such as low/focused/familiar."""
    return "/".join(strategy[dimension] for dimension in DIMENSIONS)


def strategy_actions(config: StrategyConfig) -> list[tuple[str, dict[str, str]]]:
    """Return id and features of the actions 0..26."""
    return [(action_name(strategy), dict(strategy)) for strategy in config.strategies]


def request_context(request: StrategyRequest, session: str | None = None) -> dict[str, Any]:
    """Return the context features of a request."""
    situation = {part: getattr(request, part) for part in SITUATION}
    return {**request.profile, **situation, **({} if session is None else {SESSION: session})}


def context_request(context: Mapping[str, Any], config: StrategyConfig) -> StrategyRequest:
    """Return the request of context features; raise DataError for a part of the situation that is missing."""
    missing = [part for part in SITUATION if part not in context]
    if missing:
        raise DataError(f"{missing[0]} is missing; expected {', '.join((*config.profile.traits, *SITUATION))}")
    profile = {name: value for name, value in context.items() if name not in (*SITUATION, SESSION)}
    return StrategyRequest(profile, *(context[part] for part in SITUATION))


def rounds_from_log(log: "FeatureLog", config: StrategyConfig) -> StrategyRounds:
    """Return the rewarded rounds of a feature log as rounds of strategies.

    Args:
        log: The log; its contexts have the traits and the situation, its actions the levels.
        config: The names of traits, situations and levels.

    Raises:
        DataError: A feature is missing, or a value is out of range or unknown; names the round.
    """
    rows = np.flatnonzero(log.has_reward)
    if not len(rows):
        raise DataError(f"{log.name}: no round has a reward")
    expected = (*config.profile.traits, *SITUATION)
    if missing := [name for name in expected if name not in log.context]:
        raise DataError(f"{log.name}: no context feature {missing[0]}; expected {', '.join(expected)}")
    ids = log.event_id[rows]
    session = log.context.get(SESSION)
    user = np.full(len(rows), None, object) if log.user is None else log.user[rows]
    return StrategyRounds(
        event_id=ids, time=log.time[rows], user=user,
        profile=np.stack([_trait(log.context[name][rows], name, log.name, ids) for name in config.profile.traits], 1),
        situation=np.stack([_codes(log.context[part][rows], part, log.name, ids, config) for part in SITUATION], 1),
        action=_actions(log, config)[log.chosen_action[rows]], log_propensity=log.log_propensity[rows],
        reward=log.reward[rows], session=None if session is None else _sessions(session[rows], user),
    )  # fmt: skip


def offered_actions(log: "FeatureLog", config: StrategyConfig) -> NDArray[np.int64]:
    """Return the action 0..26 of each offer [K] of a log; raise DataError for an action that is no strategy."""
    return _actions(log, config)[log.offered]


def _trait(column: NDArray[Any], name: str, log: str, ids: NDArray[np.object_]) -> Array:
    low, high = TRAIT_RANGE
    values = np.array([value if _is_number(value) else np.nan for value in column.tolist()], np.float64)
    wrong = ~((values >= low) & (values <= high))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{log}: event {ids[row]}: {name} is {_short(column[row])}; expected a number in {low:g}..{high:g}"
        )
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _codes(
    column: NDArray[Any], part: str, log: str, ids: NDArray[np.object_], config: StrategyConfig
) -> NDArray[np.int64]:
    known = {name: code for code, name in enumerate(config.situation.names(part))}
    other = known[OTHER] if config.situation.allow_other else -1
    codes = np.array(
        [known.get(value, other) if isinstance(value, str) else -1 for value in column.tolist()], np.int64
    )  # fmt: skip
    if (codes < 0).any():
        row = int((codes < 0).argmax())
        error = unknown_name_error(part, _short(column[row]), known)
        raise DataError(f"{log}: event {ids[row]}: {error} Or set allow_other = true in [situation].")
    return codes


def _actions(log: "FeatureLog", config: StrategyConfig) -> NDArray[np.int64]:
    """Return the action 0..26 of each distinct action [M] of a log."""
    if missing := [name for name in DIMENSIONS if name not in log.actions]:
        raise DataError(f"{log.name}: no action feature {missing[0]}; expected {', '.join(DIMENSIONS)}")
    columns: Sequence[list[Any]] = [log.actions[name].tolist() for name in DIMENSIONS]
    actions = np.empty(len(log.action_id), np.int64)
    for row, levels in enumerate(zip(*columns, strict=True)):
        strategy = dict(zip(DIMENSIONS, map(str, levels), strict=True))
        try:
            actions[row] = config.action_of(strategy)
        except ConfigError as error:
            raise DataError(f"{log.name}: action {log.action_id[row]!r}: {error}") from None
    return actions


def _sessions(column: NDArray[Any], user: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return texts [N] that name user and session; None where the session is missing."""
    sessions = np.empty(len(column), object)
    sessions[:] = [
        None if session is None or session != session else f"{owner!r} {session}"
        for owner, session in zip(user.tolist(), column.tolist(), strict=True)
    ]
    return sessions


def _short(value: Any) -> str:
    return str(value)[:64]
