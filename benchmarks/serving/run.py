"""How many recommendations per second, how long does a client wait, how much memory does a worker take?

`recpolicy serve` with and without the durable event, beside three forms of a TensorFlow server (peer.py) and a server
that does nothing (bare.py), on loopback, in turns within one run. The policy is LinUCB on u1 with all 1,682 items; 943
users ask in turn. Each side counts with its best number of connections, round by round.

    python benchmarks/serving/run.py [--quick] --out results.json
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, arguments, context, write_results
from servers import COMMAND, PREDICT, RECOMMEND, USERS, Load, Server, bare, ours, peer, wrk

SEED = 0
BATCHES = (1, 20)
CONNECTIONS = (1, 2, 4)
MANY_CONNECTIONS = (64, 256, 512)
LIMITS = "[limits]\nrate = 1000000.0\nburst = 1000000\nin_flight = 1024\n"
MEMORY_REQUESTS = 100_000
Rounds = dict[str, list[list[Load]]]
"""By measurement, the loads [rounds][numbers of connections]."""


def train(folder: Path) -> Path:
    words = ["train", "linucb", "--split", "u1", "--seed", SEED, "--total-timesteps", 6400, "--out", folder]
    subprocess.run([str(COMMAND), *map(str, words)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def response_bytes(server: Server) -> int:
    """Mean length of the answer to a single request."""
    lengths = [len(server.post(RECOMMEND, {"user": user + 1, "k": 10})) for user in range(USERS)]
    return round(statistics.mean(lengths))


def same_answers(server: Server, other: Server) -> float:
    """Share of the users to whom both servers recommend the same ten items in the same order, of lists that do not
    explore.
    """
    same = total = 0
    for start in range(0, USERS, 20):
        body = {"instances": [{"user": user + 1, "k": 10} for user in range(start, min(start + 20, USERS))]}
        mine = json.loads(server.post(PREDICT, body))["predictions"]
        theirs = json.loads(other.post(other.path, body))["predictions"]
        pairs = [
            ([item["item_id"] for item in answer["items"]], ids)
            for answer, ids in zip(mine, theirs, strict=True)
            if not answer["explored"]
        ]
        same, total = same + sum(first == second for first, second in pairs), total + len(pairs)
    return same / total


def measure(policy: Path, config: Path, folder: Path, rounds: int, seconds: float) -> tuple[Rounds, dict[str, float]]:
    """Load all servers in turn, several times: other work of the machine meets each of them."""
    loads: Rounds = {}
    with ExitStack() as stack:
        start = stack.enter_context
        servers = {"durable": start(ours(policy, config, folder / "state")), "ours": start(ours(policy, config, None))}
        servers |= {form: start(peer(form, policy)) for form in ("topk", "policy", "sample")}
        servers["bare"] = start(bare(response_bytes(servers["durable"])))
        figures = {
            "same_answers_topk": same_answers(servers["ours"], servers["topk"]),
            "same_answers_policy": same_answers(servers["ours"], servers["policy"]),
            "peer_rss_mib": servers["topk"].rss_mib(),
            "peer_cold_start_s": servers["topk"].start_seconds,
        }
        for server in servers.values():
            server.warm()
        for _ in range(rounds):
            for batch in BATCHES:
                for name in ("topk", "ours", "policy", "durable", "sample"):
                    several = [wrk(servers[name], count, seconds, batch) for count in CONNECTIONS]
                    loads.setdefault(f"{name}_{batch}", []).append(several)
            for name in ("bare", "durable"):
                single = [wrk(servers[name], count, seconds, path=RECOMMEND) for count in (1, *MANY_CONNECTIONS)]
                loads.setdefault(f"{name}_single", []).append(single)
    return loads, figures


def memory_over(policy: Path, config: Path, folder: Path, requests: int) -> tuple[list[float], int]:
    """Memory of a worker at the start and after each tenth of a number of requests, and their number."""
    with ours(policy, config, folder) as server:
        answered, readings = 0, [server.rss_mib()]
        while answered < requests and len(readings) < 60:
            answered += int(wrk(server, 32, 5, path=RECOMMEND).per_second * 5)
            readings.append(server.rss_mib())
    return readings, answered


def cold_start(policy: Path, config: Path, folder: Path) -> float:
    with ours(policy, config, folder) as server:
        return server.start_seconds


def best(loads: list[Load]) -> float:
    """Recommendations per second with the best number of connections."""
    return max(load.per_second for load in loads)


def spread(name: str, values: list[float]) -> dict[str, float]:
    """Return median, minimum and maximum over the rounds as figures."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def ratio(loads: Rounds, first: str, second: str) -> list[float]:
    """The ratio of two rates in each round."""
    return [best(mine) / best(theirs) for mine, theirs in zip(loads[first], loads[second], strict=True)]


def summary(loads: Rounds) -> dict[str, float]:
    figures: dict[str, float] = {}
    for batch in BATCHES:
        for name, peer_name in (("batched_peer", "topk"), ("policy_peer", "policy"), ("sample_peer", "sample")):
            figures |= spread(f"ratio_{name}_{batch}", ratio(loads, f"ours_{batch}", f"{peer_name}_{batch}"))
            figures |= spread(f"ratio_{name}_{batch}_durable", ratio(loads, f"durable_{batch}", f"{peer_name}_{batch}"))
    figures |= spread("share_of_bare_server", ratio(loads, "durable_single", "bare_single"))
    for name, rounds in loads.items():
        figures |= spread(f"per_second_{name}", [best(several) for several in rounds])
    for name in ("durable_single", "bare_single", "topk_1", "ours_1"):
        figures |= spread(f"p50_ms_{name}", [several[0].p50_ms for several in loads[name]])
        figures |= spread(f"p99_ms_{name}", [several[0].p99_ms for several in loads[name]])
    figures["failed"] = float(sum(load.failed for rounds in loads.values() for several in rounds for load in several))
    return figures


def main() -> None:
    """Measure, write."""
    options = arguments(__doc__ or "")
    seconds, rounds = 1, 1 if options.quick else 5
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = folder / "server.toml"
        config.write_text(LIMITS)
        policy = train(folder / "policy")
        loads, figures = measure(policy, config, folder, rounds, seconds)
        starts = [cold_start(policy, config, folder / "start") for _ in range(3 if options.quick else 5)]
        requests = 5_000 if options.quick else MEMORY_REQUESTS
        memory, answered = memory_over(policy, config, folder / "memory", requests)
    figures = summary(loads) | figures | spread("cold_start_s", starts)
    growth = memory[-1] - memory[len(memory) // 2]
    figures |= {"rss_mib": max(memory), "rss_growth_mib": growth, "requests_of_the_memory_run": float(answered)}
    for name, value in figures.items():
        print(f"{name:42} {value:12.3f}")
    more: Mapping[str, Any] = {
        "loads": {name: [[asdict(load) for load in several] for several in each] for name, each in loads.items()},
        "memory_mib": memory,
        "quick": options.quick,
    }
    write_results(options.out, figures, context([SEED], **more))


if __name__ == "__main__":
    main()
