"""How fast does the strategy engine learn and answer?

Updates of the Q-table and the answers of a policy in Python. Then over HTTP: one client on one kept connection, a raw
socket, which reads until an answer is complete. In turns /healthz (HTTP alone), and strategies, whose events are on
disk before the answer. Processor time counts where other jobs disturb the clock.

    python benchmarks/strategies/speed.py [--quick] --out benchmarks/strategies/speed.json
"""

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import arguments, context, write_results
from worlds import draw_contexts, make_world, rounds_of

from recpolicy.core.seeds import generator
from recpolicy.strategies.config import ACTIONS, StrategyConfig
from recpolicy.strategies.factored import fit_factored
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.strategies.q_table import QTable
from recpolicy.strategies.state import StrategyRequest, state_codes, state_numbers

SETTINGS = "[limits]\nrate = 0\n[rank]\nstart_uniform = true\n[online]\nenabled = false\n[strategies]\nenabled = true\n"
SERVE = [sys.executable, "-c", "from recpolicy.cli.main import main; main()", "serve"]
ROUNDS, REQUESTS, WARM_UP = 20, 100, 200
UPDATES, FEW_UPDATES, FEW_STATES = 1_000_000, 50_000, 100
TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")


def measure_learning(rounds: int, few: int) -> dict[str, float]:
    """Return updates per second of batches, half of whose rounds have a next one, and times of other parts."""
    world = make_world("situations", 0)
    rng = generator(0, "strategies speed")
    profile, situation = draw_contexts(world, rounds, 0, "speed")
    states, action, reward = (
        state_numbers(state_codes(profile, situation, world.config), world.config),
        rng.integers(ACTIONS, size=rounds),
        rng.normal(size=rounds),
    )
    has_next = np.append(rng.random(rounds - 1) < 0.5, False)
    learning = world.config.learning
    table = QTable.empty()
    figures: dict[str, float] = {}

    def per_second(function: Any, count: int, clock: Any = time.perf_counter) -> float:
        seconds = []
        for _ in range(3):
            start = clock()
            function()
            seconds.append(clock() - start)
        return count / statistics.median(seconds)

    def learn() -> None:
        table.updated(states, action, reward, has_next, learning)

    figures["updates_per_second"] = per_second(learn, rounds)
    figures["updates_per_cpu_second"] = per_second(learn, rounds, time.process_time)
    short = slice(0, few)
    ends = np.append(has_next[: few - 1], False)
    few_states = states % FEW_STATES
    figures["updates_per_cpu_second_few_states"] = per_second(
        lambda: table.updated(few_states, action, reward, has_next, learning), rounds, time.process_time
    )
    log = rounds_of(profile, situation, action, np.full(rounds, 1 / ACTIONS), reward, 0)
    figures["policy_updates_per_second"] = per_second(lambda: StrategyPolicy(world.config).updated(log), rounds)
    full = table.updated(states[short], action[short], reward[short], ends, learning)
    figures["fit_factored_seconds"] = 1 / per_second(lambda: fit_factored(full, world.config), 1)
    policy = StrategyPolicy(StrategyConfig(), full)
    request = StrategyRequest(dict.fromkeys(world.config.profile.traits, 40.0), "music", "calm", "evening")
    policy.recommend(request, 0)
    times = []
    for seed in range(2_000):
        start = time.perf_counter()
        policy.recommend(request, seed)
        times.append(time.perf_counter() - start)
    figures["recommend_p50_ms"] = 1_000 * statistics.median(times)
    return figures


def requests(count: int, first: int) -> list[bytes]:
    """Return HTTP requests of `count` users with profiles of their own, who agree that the event keeps them."""
    made = []
    for user in range(first, first + count):
        profile = {trait: (user * 37 + place * 19) % 101 for place, trait in enumerate(TRAITS)}
        situation = {"content_type": "music", "mood": "calm", "time_of_day": "evening"}
        body = json.dumps({**situation, "profile": profile, "user": user, "opt_in": True}).encode()
        head = "POST /v1/strategies/recommend HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        made.append(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return made


HEALTH = [b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"]


def exchange(connection: socket.socket, request: bytes) -> bytes:
    """Return the whole answer to a request."""
    connection.sendall(request)
    answer = connection.recv(1 << 16)
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1 << 16)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(1 << 16)
    assert b" 200 " in head.split(b"\r\n")[0], head
    return body


class Server:
    """A server process over an empty registry, which serves strategies, and one connection to it."""

    def __init__(self, stack: ExitStack, folder: Path, *options: str):
        folder.mkdir()
        (folder / "server.toml").write_text(SETTINGS)
        (folder / "registry").mkdir()
        command = [*SERVE, str(folder / "registry"), "--port", "0", "--config", str(folder / "server.toml"), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        stack.callback(self.process.wait)
        stack.callback(self.process.kill)
        assert self.process.stdout is not None
        host, port = self.process.stdout.readline().split()[-1].removeprefix("http://").split(":")
        self.connection = stack.enter_context(closing(socket.create_connection((host, int(port)))))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.times: dict[str, list[float]] = {}
        self.processor: dict[str, float] = {}

    def ask(self, name: str, asked: list[bytes]) -> None:
        """Time requests, one after the other, under a name."""
        before = processor_seconds(self.process.pid)
        for request in asked:
            start = time.perf_counter()
            exchange(self.connection, request)
            self.times.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        self.processor[name] = self.processor.get(name, 0.0) + processor_seconds(self.process.pid) - before


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has taken, all threads, from the scheduler's exact counts."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def main() -> None:
    """Measure and write."""
    options = arguments(__doc__ or "")
    rounds = 2 if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        durable = Server(stack, Path(temporary) / "durable", "--state", str(Path(temporary) / "state"))
        profiles = requests(WARM_UP + rounds * REQUESTS, 0)
        for request in profiles[:WARM_UP]:
            exchange(durable.connection, request)
        for number in range(rounds):
            durable.ask("healthz", HEALTH * REQUESTS)
            first = WARM_UP + number * REQUESTS
            durable.ask("strategy", profiles[first : first + REQUESTS])
    figures = measure_learning(UPDATES // 10 if options.quick else UPDATES, FEW_UPDATES)
    for name, times in durable.times.items():
        figures[f"http_{name}_p50_ms"] = statistics.median(times)
        figures[f"http_{name}_p95_ms"] = statistics.quantiles(times, n=20)[-1]
        figures[f"http_{name}_min_ms"] = min(times)
        figures[f"http_{name}_processor_ms"] = 1e3 * durable.processor[name] / len(times)
    for name, value in figures.items():
        print(f"{name:36} {value:12.3f}")
    write_results(options.out, figures, context([0], requests=rounds * REQUESTS))


if __name__ == "__main__":
    main()
