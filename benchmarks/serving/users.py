"""What do new users cost, and users who learn?

`recpolicy serve` with `[users] mode = "learn"` stores each event; the policy is LinUCB on u1 of rank 21. One connection
asks in turn for a known user, a new user, a new user with 20 ratings, and a known user of a server whose mode is off.
A filter on years keeps all lists out of the caches. Memory and updates are measured in this process, without HTTP.

    python benchmarks/serving/users.py [--quick] --out benchmarks/serving/users.json
"""

import asyncio
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, arguments, context, write_results
from servers import COMMAND, RECOMMEND, Server, ours
from sqlalchemy import Engine

from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.user_vectors import UserVectors
from recpolicy.server.db.engine import open_store, sqlite_url
from recpolicy.server.db.user_ratings import RatingRow
from recpolicy.server.users.reader import UserReader
from recpolicy.server.users.state import fold

SEED, RANK, RATINGS, FEW = 0, 21, 20, 2
LIMITS = "[limits]\nrate = 0\n[jobs]\nenabled = false\n[online]\nenabled = false\n[users]\nmode = "
NEW, LEARNING = 1_000_000, 2_000_000
"""First ids of users without ratings, and of users with them."""


def train(folder: Path) -> Path:
    config = folder.with_suffix(".toml")
    config.write_text(f'[train]\nrank = {RANK}\nrating_model = "svd"\n')
    words = ["train", "linucb", "--split", "u1", "--seed", SEED, "--total-timesteps", 6400, "--out", folder]
    words += ["--config", config]
    subprocess.run([str(COMMAND), *map(str, words)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
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


class Connection:
    """One connection that asks for lists of ten items."""

    def __init__(self, server: Server):
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def ask(self, user: int) -> float:
        """Return the milliseconds until the whole answer."""
        body = json.dumps({"user": user, "k": 10, "years": [0, 9999]})
        start = time.perf_counter()
        self._connection.request("POST", RECOMMEND, body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        answer.read()
        assert answer.status == 200
        return 1e3 * (time.perf_counter() - start)


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
                "known": connections["learn"].ask(known),
                "new": connections["learn"].ask(NEW + turn),
                "learning": connections["learn"].ask(LEARNING + max(turn, 0)),
                "known_off": connections["off"].ask(known),
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
        policy = train(folder / "policy")
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
