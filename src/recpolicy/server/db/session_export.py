"""Export of the complete sessions of a server as a session log (data/session_log_files.py).

A session is complete when its last event is older than the wait window and the gap of sessions. Its steps are the items
that it has shown, each with the propensity and the candidates that the event stored. What a session has shown, and
liked, follows from the histories of its events; rewards join by event id and position. No rule looks at the responses:
of the last list, all items count as shown, and a like that came late changes only the reward. A session with a fault is
left out as a whole, counted by its reason (SessionExported.left_out). Each session has the days until its user came
back (session_returns.py). The whole log is in memory: about 1 kB per step.

A policy of single rounds does not look at the history, so its propensities are exact, too. But only the history tells
what was shown: sessions whose requests had none are left out, from their first list on.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, select

from recpolicy.core.errors import ConfigError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.candidates import CandidateSets
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_log_files import SESSIONS, write_sessions
from recpolicy.data.session_returns import SessionReturns
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.export_policy import NEW_USER, NO_PROPENSITY, OTHER_POLICY, LogPolicy
from recpolicy.server.db.guardrail_record import unpack_list
from recpolicy.server.db.schema import events, rewards
from recpolicy.server.db.session_history import unpack_history
from recpolicy.server.db.session_returns import read_returns

BROKEN, UNPLACED, NO_HISTORY = "broken", "unplaced", "no_history"
"""Reasons: events are missing or contradict each other, or a reward is for an item that was not shown; a request of the
user within the gap fits no session, as during an outage, so the session may have gone on; a policy of single rounds
answered a request without a history, so nobody knows what the session had shown."""
_HOUR_MS, _MINUTE_MS = 3_600_000, 60_000
_SESSIONS_AT_ONCE = 500
_LIKE_AT = 0.75
"""Share of the scale from which a reward is a like: 4 of 1 to 5."""
_COLUMNS = (
    "id", "time", "user_key", "version", "policy_digest", "agent", "item_ids", "propensities", "allowed", "context",
    "history", "guardrails", "session_id", "step",
)  # fmt: skip
Rewards = Mapping[tuple[str, int], float]
"""Rewards on the scale of the ratings by event id and position."""


@dataclass(frozen=True)
class SessionExportOptions:
    """The options of an export of sessions."""

    out: Path
    since: int = 0
    """Sessions whose last event is earlier (milliseconds since 1970) are ignored."""
    until: int | None = None
    """Sessions whose last event is later are ignored; None: now."""
    wait_hours: float = 24.0
    """Rewards that came this long after their event count; a session is complete only then."""
    gap_minutes: float = 30.0
    """A session without a request for so long has ended."""
    max_steps: int = 20
    """Items after which the session of a policy of single rounds is cut; a session policy has a longest session."""

    def last_time(self) -> int:
        """Return the latest time that the last event of a complete session may have."""
        wait = max(self.wait_hours * _HOUR_MS, self.gap_minutes * _MINUTE_MS)
        latest = now_ms() - round(wait)
        return latest if self.until is None else min(latest, self.until)


@dataclass(frozen=True)
class SessionExported:
    """The content of an exported session log."""

    sessions: int
    steps: int
    until: int
    """Sessions whose last event is later are not in the log; milliseconds since 1970."""
    left_out: Mapping[str, int]
    """Sessions left out, by reason."""
    returned: int = 0
    """Sessions whose user came back; the others are censored at the time of the export."""
    users_without_return: int = 0
    """Users none of whose sessions has a return."""

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        return asdict(self)


class Step(NamedTuple):
    """A shown item."""

    event_id: str
    time: int
    user_key: str
    session: str
    step: int
    item: Any
    propensity: float
    liked: bool
    """As the next list saw it."""
    earned: bool
    """A like, also one that came later."""
    reward: float | None
    """On the scale of the ratings; None: there was none within the wait window."""
    policy: str
    version: str
    candidates: bytes
    """Packed bits over the catalog: the items that the step could show, and those that the session has shown."""


def export_sessions(engine: Engine, policy: LogPolicy, options: SessionExportOptions) -> SessionExported:
    """Write the complete sessions as `sessions.parquet` in `options.out`; no file if there are none.

    Raises:
        ConfigError: `max_steps` is below 1.
    """
    if options.max_steps < 1:
        raise ConfigError(f"max_steps is {options.max_steps}; expected 1 or more")
    longest = _longest(policy, options)
    until, left_out, steps = options.last_time(), Counter[str](), list[Step]()
    last = dict[str, tuple[str, int]]()
    gap = round(options.gap_minutes * _MINUTE_MS)
    with engine.connect() as connection:
        complete = _complete_sessions(connection, options.since, until)
        unplaced = _unplaced_requests(connection, complete, until + gap)
        ids = list(complete)
        for first in range(0, len(ids), _SESSIONS_AT_ONCE):
            part = ids[first : first + _SESSIONS_AT_ONCE]
            joined = _read_rewards(connection, part, options.wait_hours)
            for session in _read_sessions(connection, part):
                result = session_steps(session, joined, policy, longest)
                if _is_unplaced(session, unplaced, gap):
                    result = UNPLACED
                if isinstance(result, str):
                    left_out[result] += 1
                else:
                    steps += result
                    last[session[0].session_id] = session[0].user_key, session[-1].time
        returns = read_returns(connection, last, now_ms())
    if steps:
        log = make_log(steps, policy, longest, returns)
        options.out.mkdir(parents=True, exist_ok=True)
        write_sessions(options.out / SESSIONS, log, _vocabulary(policy))
    back, alone = int(returns.returned.sum()), returns.without_return(np.array([key for key, _ in last.values()]))
    return SessionExported(len(last), len(steps), until, dict(left_out), back, alone)


def _complete_sessions(connection: Connection, since: int, until: int) -> dict[str, int]:
    """Return the time of the first event of each session whose last event is in since..until, by id in order."""
    last = func.max(events.c.time)
    query = select(events.c.session_id, func.min(events.c.time)).where(events.c.session_id.is_not(None))
    if since > 0:
        recent = select(events.c.session_id).where(events.c.session_id.is_not(None), events.c.time >= since)
        query = query.where(events.c.session_id.in_(recent))
    query = query.group_by(events.c.session_id).having(last >= since, last <= until).order_by(events.c.session_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def _unplaced_requests(connection: Connection, complete: Mapping[str, int], until: int) -> dict[str, list[int]]:
    """Return the times of requests with a history that fits no session, by user key."""
    if not complete:
        return {}
    query = select(events.c.user_key, events.c.time).where(
        events.c.session_id.is_(None), events.c.step.is_not(None),
        events.c.time >= min(complete.values()), events.c.time <= until,
    )  # fmt: skip
    times: dict[str, list[int]] = {}
    for user_key, time in connection.execute(query):
        times.setdefault(user_key, []).append(time)
    return times


def _is_unplaced(session: Sequence[Any], unplaced: Mapping[str, Sequence[int]], gap: int) -> bool:
    """Return True if a request of the user may have continued the session."""
    times = [event.time for event in session]
    return any(min(times) <= time <= max(times) + gap for time in unplaced.get(session[0].user_key, ()))


def _read_sessions(connection: Connection, ids: Sequence[str]) -> Iterator[list[Any]]:
    """Yield the events of each session, by step."""
    query = select(*(events.c[name] for name in _COLUMNS)).where(events.c.session_id.in_(ids))
    query = query.order_by(events.c.session_id, events.c.step, events.c.seq)
    for _, session in groupby(connection.execute(query).all(), key=lambda row: row.session_id):
        yield list(session)


def _read_rewards(connection: Connection, ids: Sequence[str], wait_hours: float) -> Rewards:
    """Return the rewards of sessions that came within the wait window."""
    query = select(rewards.c.event_id, rewards.c.position, rewards.c.reward).join(
        events, events.c.id == rewards.c.event_id
    )
    in_time = rewards.c.time - events.c.time <= round(wait_hours * _HOUR_MS)
    query = query.where(events.c.session_id.in_(ids), in_time)
    return {(event, position): reward for event, position, reward in connection.execute(query)}


def _longest(policy: LogPolicy, options: SessionExportOptions) -> int:
    return int(policy.artifact.policy["steps"]) if policy.artifact.sequential else options.max_steps


def session_steps(session: Sequence[Any], joined: Rewards, policy: LogPolicy, longest: int) -> list[Step] | str:
    """Return the steps of a session, or the reason for leaving it out.

    Args:
        session: Its events, by step.
        joined: The rewards of its items.
        policy: The policy of the log.
        longest: Most steps; later ones are left out.
    """
    lists = [json.loads(event.item_ids) for event in session]
    propensities = [json.loads(event.propensities) for event in session]
    reason = _refusal(session, propensities, policy)
    if reason is not None:
        return reason
    latest, steps = dict(enumerate(_history(session[-1], policy))), list[Step]()
    for place, event in enumerate(session):
        if [item for item, _ in _history(event, policy)] != [step.item for step in steps]:
            return BROKEN
        following = None if place + 1 == len(session) else _history(session[place + 1], policy)
        count = len(lists[place]) if following is None else session[place + 1].step - event.step
        if not 0 < count <= len(lists[place]) or (following is not None and len(following) != event.step + count):
            return BROKEN
        if any((event.id, position) in joined for position in range(count, len(lists[place]))):
            return BROKEN
        sets = list_candidates(event, count, policy)
        if sets is None:
            return OTHER_POLICY
        for position in range(count):
            reward, step = joined.get((event.id, position)), event.step + position
            rewarded = _is_like(reward, policy)
            liked = rewarded if following is None else following[step][1]
            earned = rewarded or (step in latest and latest[step][1])
            row, item = f"{event.id}:{position}", lists[place][position]
            chosen = (item, propensities[place][position], liked, earned, reward, event.agent, event.policy_digest)
            steps.append(Step(row, event.time, event.user_key, event.session_id, step, *chosen, sets[position]))
    return steps[:longest]


def _refusal(session: Sequence[Any], propensities: Sequence[Sequence[float]], policy: LogPolicy) -> str | None:
    """Return the reason why the log cannot have one of the events; None if it can have all."""
    times = [event.time for event in session]
    if session[0].step != 0 or len({event.user_key for event in session}) > 1 or times != sorted(times):
        return BROKEN
    for event, probability in zip(session, propensities, strict=True):
        if event.history is None:
            return NO_HISTORY
        if not policy.takes(event.version):
            return OTHER_POLICY
        if event.context is not None or json.loads(event.user_key) not in policy.user_rows:
            return NEW_USER
        if not probability or min(probability) <= 0:
            return NO_PROPENSITY
    return None


def list_candidates(event: Any, places: int, policy: LogPolicy) -> list[bytes] | None:
    """Return the packed candidates [A] of the first places of a list; None if the catalog of the log lacks one.

    Items that the session has shown before are in the sets, so that most lists of a session share one. Items at earlier
    places are, too.
    """
    catalog, actions = policy.artifact.action_items, policy.actions(event.version)
    arms = policy.catalog if actions is None else policy.catalog[actions]
    allowed = _unpacked(event.allowed, len(arms))
    in_catalog = np.zeros(len(policy.item_id), bool)  # [I]
    in_catalog[catalog] = True
    if not in_catalog[arms[allowed]].all():
        return None
    closed = {} if event.guardrails is None else dict(unpack_list(event.guardrails, len(arms))[1])
    shown, sets = unpack_history(event.history)[0], list[bytes]()
    for place in range(places):
        if place in closed:
            allowed = allowed & ~_unpacked(closed[place].tobytes(), len(arms))
        if place in closed or not sets:
            members = np.zeros(len(policy.item_id), bool)  # [I]
            members[arms[allowed]] = True
            members[shown] = True
            packed = np.packbits(members[catalog]).tobytes()
        sets.append(packed)
    return sets


def _unpacked(packed: bytes | None, count: int) -> NDArray[np.bool_]:
    """Return the bits of a set; all are True without one."""
    if packed is None:
        return np.ones(count, bool)
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)


def _history(event: Any, policy: LogPolicy) -> list[tuple[Any, bool]]:
    """Return the items and likes that the policy saw, oldest first."""
    rows, liked = unpack_history(event.history)
    return list(zip(policy.item_id[rows].tolist(), liked.tolist(), strict=True))


def _is_like(reward: float | None, policy: LogPolicy) -> bool:
    low, high = policy.artifact.scale
    return reward is not None and reward >= low + _LIKE_AT * (high - low)


def make_log(
    steps: Sequence[Step], policy: LogPolicy, longest: int, returns: SessionReturns | None = None
) -> SessionLog:
    """Return the steps as a session log, with rewards in the unit of the policy's training."""
    reward, scale = _in_unit(steps, policy)
    item_row = {item: row for row, item in enumerate(policy.artifact.tables.item_ids)}
    columns: dict[str, Any] = dict(zip(Step._fields, zip(*steps, strict=True), strict=True))
    return SessionLog(
        event_id=np.array(columns["event_id"], object), time=np.array(columns["time"], np.int64),
        user=np.array([policy.user_rows[json.loads(key)] for key in columns["user_key"]], np.int32),
        session=np.array(columns["session"], object), step=np.array(columns["step"], np.int32),
        item=np.array([item_row[item] for item in columns["item"]], np.int32),
        log_propensity=np.log(np.minimum(columns["propensity"], 1.0)), reward=reward,
        liked=np.array(columns["liked"], bool), ended=_ended(columns["session"], columns["step"], longest),
        policy=np.array(columns["policy"], object), version=np.array(columns["version"], object),
        action_items=policy.artifact.action_items, scale=scale, name="sessions of a server",
        candidates=_joined(columns["candidates"], len(policy.artifact.action_items)), returns=returns,
    )  # fmt: skip


def _joined(packed: Sequence[bytes], actions: int) -> CandidateSets | None:
    """Return the candidates of all steps [N]; None if every step could show the whole catalog."""
    sets = {each: row for row, each in enumerate(dict.fromkeys(packed))}
    if list(sets) == [np.packbits(np.ones(actions, bool)).tobytes()]:
        return None
    matrix = np.frombuffer(b"".join(sets), np.uint8).reshape(len(sets), -1)
    return CandidateSets.without_exclusions(matrix, np.array([sets[each] for each in packed]), actions)


def _ended(session: Sequence[str], step: Sequence[int], longest: int) -> Any:
    """Return True [N] for the last step of each session that is shorter than the longest."""
    last = np.append(np.array(session[1:], object) != np.array(session[:-1], object), True)
    return last & (np.array(step) + 1 < longest)


def _in_unit(steps: Sequence[Step], policy: LogPolicy) -> tuple[Any, tuple[float, float]]:
    """Return the rewards [N] in the unit of the policy's training, and their scale.

    They are likes if the training had no feedback, and for a policy of single rounds.
    """
    settings = policy.artifact.metadata.get("config", {}).get("train", {})
    kind, decay = settings.get("reward", "like"), float(settings.get("reward_decay", 1.0))
    low, high = policy.artifact.scale
    earned = np.array([step.earned for step in steps], np.float64)
    without = np.where(earned > 0, low + _LIKE_AT * (high - low), low)  # a like without a reward is the lowest like
    rating = np.array([np.nan if step.reward is None else step.reward for step in steps], np.float64)
    rating = np.where(np.isnan(rating), without, rating)
    value = {"watch": (rating - low) / (high - low), "rating": rating}.get(kind, earned)
    scale = (0.0, 1.0) if kind != "rating" else (low if decay == 1 else 0.0, high)
    return value * decay ** np.array([step.step for step in steps]), scale


def _vocabulary(policy: LogPolicy) -> IdVocabulary:
    tables = policy.artifact.tables
    users, items = pd.DataFrame({"user_id": tables.user_ids}), pd.DataFrame({"item_id": tables.item_ids})
    return IdVocabulary(users, items, policy.artifact.scale)
