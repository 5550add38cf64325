"""What do new users cost, and users who learn?

`recpolicy serve` with `[users] mode = "learn"` stores each event; the policy is a LinUCB of rank 21 with the
size of MovieLens 100K, drawn at random: costs do not depend on what was learned. One connection
asks in turn for a known user, a new user, a new user with 20 ratings, and a known user of a server whose mode is off.
A filter on years keeps all lists out of the caches. Memory and updates are measured in this process, without HTTP.

    python benchmarks/serving/users.py [--quick] --out benchmarks/serving/users.json
"""

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from common import arguments, context, write_results
from servers import USERS, Connection, ours
from sqlalchemy import Engine

from recpolicy.inference.artifact import Artifact, write_arrays, write_manifest
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.user_vectors import UserVectors
from recpolicy.server.db.engine import open_store, sqlite_url
from recpolicy.server.db.user_ratings import RatingRow
from recpolicy.server.users.reader import UserReader
from recpolicy.server.users.state import fold

SEED, RANK, ITEMS, RATINGS, FEW = 0, 21, 1_682, 20, 2
LIMITS = "[limits]\nrate = 0\n[jobs]\nenabled = false\n[online]\nenabled = false\n[users]\nmode = "
NEW, LEARNING = 1_000_000, 2_000_000
"""First ids of users without ratings, and of users with them."""


def write_policy(folder: Path) -> Path:
    """Write a LinUCB policy of MovieLens 100K's size, drawn at random; each user has rated 20 items."""
    rng, (rows, columns) = np.random.default_rng(SEED), np.triu_indices(RANK)
    factor = rng.normal(size=(ITEMS, RANK, RANK))
    packed = (factor @ factor.transpose(0, 2, 1))[:, rows, columns] * np.where(rows == columns, 1, 2)
    policy = {
        "theta": rng.normal(1, 0.5, (ITEMS, RANK)).astype(np.float32),
        "covariance": (0.01 * packed).astype(np.float32),
        "prior_precision": np.float32(1.0),
        "bias": np.bool_(False),
    }
    rated = np.concatenate([rng.permutation(ITEMS)[:20] for _ in range(USERS)]).astype(np.int32)
    titles = pd.Series([f"Item {number}" for number in range(1, ITEMS + 1)], dtype="str")
    artifact = Artifact(
        agent="linucb",
        estimator="linear",
        head="upper_confidence",
        settings={"alpha": 0.5},
        uniform_mix=0.1,
        policy=policy,
        context=rng.normal(0, 1 / np.sqrt(RANK), (USERS, RANK)).astype(np.float32),
        item=rng.normal(0, 0.5, (ITEMS, RANK)).astype(np.float32),
        offset=rng.uniform(2, 4, ITEMS).astype(np.float32),
        rating_std=rng.uniform(0.1, 0.9, (USERS, ITEMS)).astype(np.float32),
        action_items=np.arange(ITEMS, dtype=np.int32),
        rated_user=np.repeat(np.arange(USERS, dtype=np.int32), 20),
        rated_item=rated,
        users=pd.DataFrame({"user_id": np.arange(1, USERS + 1)}),
        items=pd.DataFrame(
            {
                "item_id": np.arange(1, ITEMS + 1), "title": titles, "year": pd.array([1990] * ITEMS, dtype="Int64"),
                "genres": pd.Series([""] * ITEMS, dtype="str"),
            }
        ),
        scale=(1.0, 5.0),
        noise_std=0.9,
        metadata={"data": "random"},
    )  # fmt: skip
    folder.mkdir()
    write_arrays(artifact, folder)
    (folder / "action").mkdir()
    (folder / "action" / "saved_model.pb").write_bytes(b"no graph")
    write_manifest(artifact, folder)
    return folder


def add_ratings(engine: Engine, users: range, items: list[int], count: int) -> None:
    """Write some ratings of each user."""
    chance = random.Random(SEED)
    rows = (
        (str(user), str(item), float(chance.randint(1, 5)), 1) for user in users for item in chance.sample(items, count)
    )
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("BEGIN")
        connection.cursor().executemany(
            "INSERT INTO user_ratings (user_key, item, rating, time) VALUES (?, ?, ?, ?)", rows
        )
        connection.commit()
    finally:
        connection.close()


def ask(connection: Connection, user: int) -> float:
    """Return the milliseconds until the whole answer: a list with a filter of years."""
    return connection.ask({"user": user, "k": 10, "years": [0, 9999]})


def latencies(policy: Path, folder: Path, items: list[int], requests: int) -> dict[str, float]:
    """Return medians in milliseconds, and their ratios; the kinds of users take turns, request by request."""
    times: dict[str, list[float]] = {"known": [], "new": [], "learning": [], "known_off": []}
    with ExitStack() as stack:
        connections = {}
        for mode in ("learn", "off"):
            config = folder / f"{mode}.toml"
            config.write_text(f'{LIMITS}"{mode}"\n')
            connections[mode] = Connection(stack.enter_context(ours(policy, config, folder / mode)))
        engine = open_store(sqlite_url(folder / "learn" / "server.db"))
        add_ratings(engine, range(LEARNING, LEARNING + requests), items, RATINGS)
        engine.dispose()
        for turn in range(-50, requests):
            known = turn * 7 % 943 + 1
            asked = {
                "known": ask(connections["learn"], known),
                "new": ask(connections["learn"], NEW + turn),
                "learning": ask(connections["learn"], LEARNING + max(turn, 0)),
                "known_off": ask(connections["off"], known),
            }
            for name, value in asked.items():
                times[name] += [value] if turn >= 0 else []
    figures = {f"p50_ms_{name}": statistics.median(values) for name, values in times.items()}
    known = figures["p50_ms_known"]
    return figures | {
        "p50_new_over_known": figures["p50_ms_new"] / known,
        "p50_learning_over_known": figures["p50_ms_learning"] / known,
        "p50_known_learn_over_off": known / figures["p50_ms_known_off"],
    }


def memory(vectors: UserVectors, folder: Path, items: list[int], users: int) -> dict[str, float]:
    """Return the memory that the posteriors of users with FEW ratings take, and the time of a cold user."""
    engine, keys = open_store(sqlite_url(folder / "memory.db")), range(LEARNING, LEARNING + users)
    add_ratings(engine, keys, items, FEW)
    reader = UserReader(engine, lambda: False, 1 << 30)
    reader.start()

    async def read_all() -> None:
        for start in range(0, users, 20):
            is_read = False
            while not is_read:  # a busy machine may take longer than a request waits
                _, is_read = await reader.read([vectors], [str(key) for key in keys[start : start + 20]])

    asyncio.run(reader.read([vectors], ["1"]))
    before, start = _rss_mib(), time.process_time()
    asyncio.run(read_all())
    seconds, cached = time.process_time() - start, len(reader._cache)
    grown = _rss_mib() - before
    assert cached == users
    reader.close()
    engine.dispose()
    return {"users": float(users), "learning_users_mib": grown, "counted_mib": reader._cache.size / 2**20,
            "cold_user_cpu_ms": 1e3 * seconds / users}  # fmt: skip


def _rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def update_ms(vectors: UserVectors, items: list[int], updates: int) -> float:
    """Return the median time to move a stored state by one rating."""
    chance, times = random.Random(SEED), []
    rows = [RatingRow(seq, chance.choice(items), float(chance.randint(1, 5))) for seq in range(1, updates + 1)]
    state = fold(vectors, LEARNING, rows[:1])
    for row in rows[1:]:
        start = time.perf_counter()
        state = fold(vectors, LEARNING, [row], state)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    """Measure, write."""
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        policy = write_policy(folder / "policy")
        scorer = load_scorer(policy)
        items = [int(str(item)) for item in scorer.item_ids]
        figures = {"update_ms": update_ms(scorer.user_vectors, items, 200)}
        figures |= latencies(policy, folder, items, 50 if options.quick else 500)
        figures |= memory(scorer.user_vectors, folder, items, 1_000 if options.quick else 100_000)
    for name, value in figures.items():
        print(f"{name:30} {value:12.4f}")
    write_results(
        options.out, figures, context([SEED], rank=RANK, ratings=RATINGS, ratings_of_memory=FEW, quick=options.quick)
    )


if __name__ == "__main__":
    main()
