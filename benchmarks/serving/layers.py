"""What does a tuned layer cost per request?

`recpolicy serve` twice in one run: LinUCB on u1 (943 users, 1,682 items), and the same policy under a layer of three
heads (like, novelty, genre_match) and 64 grid points. The network of the layer is drawn at random, because costs do not
depend on what it has learned. One connection asks both servers in turn, request by request: first for new users with
five ratings, whose lists are never cached, then for known users, whose lists are. Nothing is stored. A third server
draws the weights of every list. Without HTTP, in this process, the CPU time of one list that is not cached.

    python benchmarks/serving/layers.py [--quick] --out benchmarks/serving/layers.json
"""

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import arguments, context, write_results
from servers import COMMAND, USERS, Connection, Server, ours

from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.ranking_utility import RankingUtility
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.inference.tuned_layer import SCORE, TunedLayer, UserFeatures
from recpolicy.inference.tuned_scorer import write_tuned_policy
from recpolicy.models.ranking_formula import ActionGrid
from recpolicy.models.tuning_network import TuningNetwork, TuningNetworkConfig
from recpolicy.models.tuning_policy import TunedPolicy
from recpolicy.server.computed_lists import compute_list
from recpolicy.server.live_models import LoadedVersion
from recpolicy.server.schemas.requests import RecommendRequest

SEED, HEADS, POINTS = 0, ("like", "novelty", "genre_match"), 4
SETTINGS = "[limits]\nrate = 0\n[jobs]\nenabled = false\n[online]\nenabled = false\n[exploration]\nshare = 0\n"
DRAWN = f"{SETTINGS}[tuning]\nexplore_share = 1.0\n"
TARGET_MS, NEW = 0.5, 1_000_000


def write_layer(base: Path, out: Path) -> Path:
    """Write the policy under a layer whose network is drawn at random."""
    scorer = load_scorer(base)
    grid = ActionGrid.full(HEADS, [0.0] * len(HEADS), [1.0] * len(HEADS), POINTS)
    features = UserFeatures.fit(scorer)
    described = features.of(scorer, scorer.user_ids[:1])
    network = TuningNetwork.initial(
        described.sizes, described.numeric.shape[1], grid.size, TuningNetworkConfig(), np.random.default_rng(SEED)
    )
    utility = RankingUtility(scorer, (SCORE, *HEADS))
    write_tuned_policy(base, TunedLayer(utility, TunedPolicy("softmax", grid, network), features, 0, {}), out)
    return out


def ask(connection: Connection, turn: int, *, cached: bool) -> float:
    """Return the milliseconds until the whole answer, for a known user or for a new one with ratings."""
    request: dict[str, object] = {"user": turn * 7 % USERS + 1, "k": 10}
    if not cached:
        ratings = [{"item": turn * step % 1_000 + 1, "rating": 1 + step % 5} for step in (3, 7, 11, 13, 17)]
        request |= {"user": NEW + turn, "ratings": list({each["item"]: each for each in ratings}.values())}
    return connection.ask(request)


def latencies(servers: dict[str, Server], requests: int, *, cached: bool) -> dict[str, list[float]]:
    """Return the times of each server; they take turns, request by request, in a changing order."""
    connections = {name: Connection(server) for name, server in servers.items()}
    times: dict[str, list[float]] = {name: [] for name in servers}
    names = list(servers)
    for turn in range(-2 * USERS if cached else -100, requests):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            value = ask(connections[name], turn + 2 * USERS, cached=cached)
            times[name] += [value] if turn >= 0 else []
    return times


def cpu_times(folders: dict[str, Path], lists: int) -> dict[str, list[float]]:
    """Return the CPU milliseconds to compute one list, in this process; other jobs of the machine matter less here."""
    versions = {name: LoadedVersion(load_scorer(folder), None) for name, folder in folders.items()}
    greedy, times = ExplorationConfig(share=0.0), dict[str, list[float]]()
    for turn in range(-100, lists):
        request = RecommendRequest(user=turn * 7 % USERS + 1, k=10)
        for name, version in versions.items():
            start = time.thread_time()
            compute_list(version, request, greedy, explored=False)
            value = 1e3 * (time.thread_time() - start)
            times.setdefault(name, []).extend([value] if turn >= 0 else [])
    return times


def main() -> None:
    """Measure, write."""
    options = arguments(__doc__ or "")
    requests = 200 if options.quick else 3_000
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        words = f"train linucb --split u1 --seed {SEED} --total-timesteps 6400 --out".split()
        subprocess.run([COMMAND, *words, folder / "base"], check=True, stdout=subprocess.DEVNULL)
        tuned = write_layer(folder / "base", folder / "tuned")
        servers = {}
        for name, policy, text in (
            ("base", folder / "base", SETTINGS), ("layer", tuned, SETTINGS), ("drawn", tuned, DRAWN),
        ):  # fmt: skip
            (folder / f"{name}.toml").write_text(text)
            servers[name] = stack.enter_context(ours(policy, folder / f"{name}.toml", None))
        cpu = cpu_times({"base": folder / "base", "layer": tuned}, requests)
        more = np.array(cpu["layer"]) - np.array(cpu["base"])
        figures = {
            "cpu_ms_base": statistics.median(cpu["base"]), "cpu_ms_more": float(np.median(more)),
            "cpu_ms_p99_more": float(np.quantile(cpu["layer"], 0.99) - np.quantile(cpu["base"], 0.99)),
        }  # fmt: skip
        for kind in ("computed", "cached"):
            times = latencies(servers, requests, cached=kind == "cached")
            for name, values in times.items():
                figures[f"p50_ms_{kind}_{name}"] = statistics.median(values)
                figures[f"p99_ms_{kind}_{name}"] = float(np.quantile(values, 0.99))
            for share in ("p50", "p99"):
                figures[f"{share}_ms_more_{kind}"] = (
                    figures[f"{share}_ms_{kind}_layer"] - figures[f"{share}_ms_{kind}_base"]
                )
            paired = np.array(times["layer"]) - np.array(times["base"])
            figures[f"mean_ms_more_{kind}"] = float(paired.mean())
            figures[f"paired_p50_ms_more_{kind}"] = float(np.median(paired))
    for name, value in figures.items():
        print(f"{name:30} {value:12.4f}")
    write_results(options.out, figures, context([SEED], heads=list(HEADS), points=POINTS, requests=requests,
                                                target_ms=TARGET_MS, quick=options.quick))  # fmt: skip


if __name__ == "__main__":
    main()
