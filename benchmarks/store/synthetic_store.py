"""A server's state folder with any number of events, written in bulk: what a year of requests leaves behind.

Each event has ten items out of about 1,480 candidates of 1,682, a set of candidates of its own, and the propensities of
the draw that made it. A fifth of the events are of users whom the policy does not know: each has another context
vector, as for users whose ratings grow. A third of the events have a reward, so that most users have five or more.
"""

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import open_store, sqlite_url
from recpolicy.server.db.events import Event

PLACES, ALLOWED, SHORTLIST = 10, 0.88, 24
"""Items of an event, share of the catalog that it may show, and best items of which it draws."""
GREEDY = 0.7
"""Probability of the best item that is left; else one of the ten best, all alike."""
NEW_SHARE, NEW_USERS, REWARDED = 0.2, 4_000, 0.333
DAYS, AT_ONCE, SEED = 6, 2_000, 0
_REWARD_COLUMNS = ("event_id", "position", "reward", "time", "user_key", "version", "variant", "rollout", "explored")
_FEEDBACK_COLUMNS = ("event_id", "position", "type", "value", "time", "late")


def write_store(policy_folder: Path, state: Path, count: int) -> dict[str, int]:
    """Register the policy and write `count` events with their rewards; return the sizes."""
    registry = Registry(state / "registry")
    registry.register(policy_folder, gate={"verdict": "pass"})
    registry.promote(1)
    database = state / "server.db"
    open_store(sqlite_url(database)).dispose()
    policy, rewards = load_policy(policy_folder), 0
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=OFF")
    for events, block in _blocks(policy, registry.version(1).policy_digest, count):
        _insert(connection, "events", Event._fields, events)
        _insert(connection, "rewards", _REWARD_COLUMNS, block)
        feedback = [(row[0], row[1], "rating", row[2], row[3], False) for row in block]
        _insert(connection, "feedback", _FEEDBACK_COLUMNS, feedback)
        connection.commit()
        rewards += len(block)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return {"events": count, "rewards": rewards, "database_mib": round(database.stat().st_size / 2**20)}


def _insert(connection: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: list[Any]) -> None:
    marks = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def _blocks(policy: Policy, digest: str, count: int) -> Iterator[tuple[list[Event], list[Any]]]:
    """Yield events and the rows of their rewards, in order of time."""
    artifact, rng = policy.artifact, np.random.default_rng(SEED)
    users, item_id = artifact.users["user_id"].to_numpy(), artifact.items["item_id"].to_numpy()[artifact.action_items]
    known, _ = policy.scores()
    typical = artifact.context[rng.integers(0, len(users), NEW_USERS)]
    end = time.time_ns() // 1_000_000 - 86_400_000
    times = np.sort(end - rng.integers(0, DAYS * 86_400_000, count))
    for first in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - first)
        new = rng.random(size) < NEW_SHARE
        user = np.where(new, rng.integers(0, NEW_USERS, size), rng.integers(0, len(users), size))
        vector = (typical[user * new] + rng.normal(0, 0.02, (size, typical.shape[1]))).astype(np.float32)
        score = np.where(new[:, np.newaxis], policy.scores(vector)[0], known[user * ~new])[:, artifact.action_items]
        allowed = rng.random(score.shape) < ALLOWED
        arm, propensity = _draw(np.where(allowed, score, -np.inf), rng)
        packed = np.packbits(allowed, axis=1)
        rating = np.clip(np.take_along_axis(score, arm, axis=1), *artifact.scale)
        events, rewards = [], []
        texts = (
            _texts(item_id[arm].tolist()),
            _texts(propensity.tolist()),
            _texts(np.round(rating, 4).astype(float).tolist()),
        )
        digits = rng.bytes(10 * size)
        place = np.minimum(rng.geometric(0.4, size) - 1, PLACES - 1)
        value = np.clip(np.round(rating[np.arange(size), place] + rng.normal(0, 0.9, size)), *artifact.scale)
        for row in range(size):
            at = int(times[first + row])
            name = f"{at:012x}{digits[10 * row : 10 * row + 10].hex()}"
            key = str(1_000_000 + user[row]) if new[row] else str(users[user[row]])
            context = vector[row].tobytes() if new[row] else None
            explored = bool((propensity[row] < GREEDY).any())
            events.append(
                Event(name, at, key, 1, digest, artifact.agent, "champion", None, explored, *(t[row] for t in texts),
                      packed[row].tobytes(), context)
            )  # fmt: skip
        for row in np.flatnonzero(rng.random(size) < REWARDED):
            one = events[row]
            rewards.append((one.id, int(place[row]), float(value[row]), one.time + 60_000, one.user_key, 1, "champion",
                            None, one.explored))  # fmt: skip
        yield events, rewards


def _draw(score: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the arms [n, K] of lists and their propensities, each given the items before it."""
    best = np.argpartition(-score, SHORTLIST, axis=1)[:, :SHORTLIST]
    order = np.argsort(-np.take_along_axis(score, best, axis=1), axis=1)
    left = np.take_along_axis(best, order, axis=1)  # [n, SHORTLIST], best first
    rows, arms, propensities = np.arange(len(score)), [], []
    for _ in range(PLACES):
        place = np.where(rng.random(len(score)) < GREEDY, 0, rng.integers(0, 10, len(score)))
        arms.append(left[rows, place])
        propensities.append(np.where(place == 0, GREEDY, 0.0) + (1 - GREEDY) / 10)
        after = np.arange(left.shape[1] - 1)
        left = left[rows[:, np.newaxis], after + (after >= place[:, np.newaxis])]
    return np.stack(arms, axis=1), np.stack(propensities, axis=1)


def _texts(lists: list[list[Any]]) -> list[str]:
    return [json.dumps(values) for values in lists]
