"""How many recommendations a second, how long does one wait, how much memory does a worker take?

Ours (`recpolicy serve`: lists of 10 with reasons and propensities, each event on the disk before it is answered) beside
a plain server (peer.py: one item id an instance, nothing kept), in one run, in turns, on loopback. wrk asks from a
second process (Debian: apt-get install wrk). The policy is LinUCB on u1 with all 1,682 items.

    python benchmarks/serving/run.py [--quick] --out results.json
"""

import contextlib
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, arguments, context, write_results

COMMAND = Path(sys.executable).with_name("recpolicy")
HERE = Path(__file__).parent
SEED = 0
CONNECTIONS = (1, 4, 8, 16, 32)
KINDS = ("single", "batch")
MAX_P99_MS = 25.0
BATCH = 20
LIMITS = "[limits]\nrate = 1000000.0\nburst = 1000000\nin_flight = 1024\n"
TARGET_REQUESTS = 100_000
SCRIPT = """
local n = 0
local open, close = [[%s]], [[%s]]
local batch = %d
request = function()
  local users = {}
  for i = 1, batch do n = n + 1; users[i] = open .. ((n * 7) %% 943 + 1) .. close end
  local body = table.concat(users, ",")
  if [[%s]] == "list" then body = '{"instances":[' .. body .. ']}' end
  return wrk.format("POST", [[%s]], {["Content-Type"] = "application/json"}, body)
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw."""

    connections: int
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A server process, and the seconds until it was ready."""
    begun = time.perf_counter()
    environment = {**os.environ, "RECPOLICY_ADMIN_KEY": "benchmark-key-mQ7zR2vX9pL4tW8nB5dK"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
                break
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {process.returncode}")
            time.sleep(0.02)
        yield process, time.perf_counter() - begun
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wrk(port: int, path: str, shape: str, connections: int, seconds: int, batch: int = 1) -> Load:
    """Load one path; `shape` is list (instances) or one (a bare request)."""
    tail = ',"k":10}' if ("predict" in path and "v1" in path) or shape == "one" else "}"
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % ('{"user":', tail, batch, shape, path))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script.name]
        said = subprocess.run([*command, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True).stdout
    failed = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", said)))
    failed += sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", said)))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])  # type: ignore[index]
    return Load(connections, rate * batch, _ms(said, "50"), _ms(said, "99"), failed)


def _ms(said: str, share: str) -> float:
    number, unit = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", said).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def best(loads: list[Load]) -> Load:
    """The most a server did while 99 % of its answers came in time; the fastest answers where none did."""
    in_time = [load for load in loads if load.p99_ms <= MAX_P99_MS]
    return max(in_time, key=lambda load: load.per_second) if in_time else min(loads, key=lambda load: load.p99_ms)


def ours(policy: Path, folder: Path, config: Path, workers: int, port: int) -> list[str]:
    words = ["--state", folder, "--config", config, "--workers", workers, "--port", port]
    return [str(COMMAND), "serve", str(policy), *map(str, words)]


def measure_ours(policy: Path, folder: Path, config: Path, seconds: int, workers: int) -> dict[str, Any]:
    port = free_port()
    with running(ours(policy, folder, config, workers, port), port):
        wrk(port, "/v1/recommend", "one", 8, 2)
        singles = [wrk(port, "/v1/recommend", "one", c, seconds) for c in CONNECTIONS]
        path = "/v1/models/recpolicy:predict"
        batches = [wrk(port, path, "list", c, seconds, BATCH) for c in (1, 2, 4)]
    return {"single": singles, "batch": batches}


def measure_peer(policy: Path, seconds: int) -> dict[str, Any]:
    port = free_port()
    with running([sys.executable, str(HERE / "peer.py"), str(policy), str(port)], port) as (process, ready):
        wrk(port, "/predict", "list", 4, 2)
        singles = [wrk(port, "/predict", "list", c, seconds) for c in (1, 2, 4, 8)]
        batches = [wrk(port, "/predict", "list", c, seconds, BATCH) for c in (1, 2)]
        memory = rss_mib(process.pid)
    return {"single": singles, "batch": batches, "rss_mib": memory, "cold_start_s": ready}


def memory_over(policy: Path, folder: Path, config: Path, requests: int) -> list[float]:
    """Memory of a worker at the start and after each tenth of the requests."""
    port = free_port()
    with running(ours(policy, folder, config, 1, port), port) as (process, _):
        said, asked, readings = 0.0, 0, [rss_mib(process.pid)]
        while asked < requests and len(readings) < 60:
            load = wrk(port, "/v1/recommend", "one", 16, 10)
            asked += int(load.per_second * 10)
            said = rss_mib(process.pid)
            readings.append(said)
    return [*readings, float(asked)]


def cold_start(policy: Path, folder: Path, config: Path) -> float:
    port = free_port()
    with running(ours(policy, folder, config, 1, port), port) as (_, ready):
        return ready


def main() -> None:
    """Measure, write."""
    options = arguments(__doc__ or "")
    seconds, rounds = (2, 1) if options.quick else (6, 3)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        policy, config = folder / "policy", folder / "server.toml"
        config.write_text(LIMITS)
        words = (
            "train",
            "linucb",
            "--split",
            "u1",
            "--seed",
            str(SEED),
            "--total-timesteps",
            "6400",
            "--out",
            str(policy),
        )
        subprocess.run([str(COMMAND), *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        told: dict[str, list[Any]] = {"ours_1": [], "ours_2": [], "peer": []}
        for number in range(rounds):  # in turns: what else the machine does meets all of them
            told["peer"].append(measure_peer(policy, seconds))
            told["ours_1"].append(measure_ours(policy, folder / f"one-{number}", config, seconds, 1))
            told["ours_2"].append(measure_ours(policy, folder / f"two-{number}", config, seconds, 2))
        starts = [cold_start(policy, folder / "start", config) for _ in range(3 if options.quick else 7)]
        memory = memory_over(policy, folder / "memory", config, 5_000 if options.quick else TARGET_REQUESTS)
    figures = summary(told, starts, memory)
    for name, value in figures.items():
        print(f"{name:34} {value:10.3f}")
    loads = {who: [_plain(run) for run in runs] for who, runs in told.items()}
    told_more = {"loads": loads, "cold_starts_s": starts, "memory_mib": memory, "quick": options.quick}
    write_results(options.out, figures, context([SEED], **told_more))


def _plain(run: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    return {kind: [asdict(load) for load in run[kind]] for kind in KINDS}


def summary(told: dict[str, list[Any]], starts: list[float], memory: list[float]) -> dict[str, float]:
    """Medians over the rounds. The headline is the default, one worker, asked in the peer's own form (instances)."""

    def rate(who: str, kind: str) -> float:
        return statistics.median(best(run[kind]).per_second for run in told[who])

    def most(who: str, kind: str) -> float:
        return statistics.median(max(load.per_second for load in run[kind]) for run in told[who])

    def p99(who: str, kind: str) -> float:
        return statistics.median(best(run[kind]).p99_ms for run in told[who])

    *readings, asked = memory
    failed = float(sum(load.failed for runs in told.values() for run in runs for kind in KINDS for load in run[kind]))
    return {
        "throughput_ratio": rate("ours_1", "batch") / rate("peer", "batch"),
        "throughput_ratio_two_workers": rate("ours_2", "batch") / rate("peer", "batch"),
        "throughput_ratio_single": rate("ours_1", "single") / rate("peer", "single"),
        "throughput_ratio_single_at_most": most("ours_1", "single") / most("peer", "single"),
        "recommends_per_s": rate("ours_1", "batch"),
        "recommends_per_s_single": rate("ours_1", "single"),
        "recommends_per_s_single_at_most": most("ours_1", "single"),
        "peer_per_s": rate("peer", "batch"),
        "peer_per_s_single": rate("peer", "single"),
        "p50_ms": statistics.median(run["single"][0].p50_ms for run in told["ours_1"]),
        "peer_p50_ms": statistics.median(run["single"][0].p50_ms for run in told["peer"]),
        "p99_ms": p99("ours_1", "batch"),
        "p99_single_ms": p99("ours_1", "single"),
        "peer_p99_ms": p99("peer", "batch"),
        "peer_p99_single_ms": p99("peer", "single"),
        "failed": failed,
        "rss_mib": max(readings),
        "rss_growth_mib": readings[-1] - readings[len(readings) // 2],
        "requests_of_the_memory_run": asked,
        "peer_rss_mib": statistics.median(run["rss_mib"] for run in told["peer"]),
        "cold_start_s": statistics.median(starts),
        "peer_cold_start_s": statistics.median(run["cold_start_s"] for run in told["peer"]),
    }


if __name__ == "__main__":
    main()
