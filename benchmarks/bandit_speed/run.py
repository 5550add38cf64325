"""How fast does an agent learn online, beside TF-Agents' own trainer on TF-Agents' own MovieLens example?

Each measurement is a process of its own, so that peak memory is its own too; peer and ours take turns.

    python benchmarks/bandit_speed/run.py [--quick] --out results.json
"""

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ours
import peer
from common import ROOT, arguments, context, write_results

from recpolicy.core.seeds import integer_seed
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.loaders import load_ratings

AGENTS = ("linucb", "neural_eps_greedy")
DATA = ROOT / "ml-100k" / "u.data"
SEEDS = (0, 1, 2)
LOOPS = {"linucb": 65, "neural_eps_greedy": 65}
"""Training loops of the peer; 16 interactions each. Below 100, where it saves its policy a second time."""
GRAPH_LOOPS = 33
"""Training loops of the peer in tf.functions, of which only the rate counts."""
ROUNDS = {"linucb": 20_000, "neural_eps_greedy": 10_000}
"""Rounds in one timed call of ours: about a second."""
MORE_SEEDS = 3
"""Further seeds of our regret, per process; ours is quick enough to have them."""
FULL_ROUNDS = 100
CALLS = 5


def of_peer(agent: str, loops: int, seed: int, graph: bool) -> dict[str, Any]:
    silence_libraries()
    rate, regret = peer.train(agent, DATA, loops, seed, graph)
    return {"rate": rate, "regret": float(np.mean(regret)), "interactions": len(regret), "rss_mb": peak_mb()}


def of_ours(agent: str, interactions: int, seed: int) -> dict[str, Any]:
    silence_libraries()
    measured = ours.train(agent, interactions, ROUNDS[agent], CALLS, seed)
    memory = peak_mb()
    regrets = [ours.regret_of(agent, interactions, integer_seed(seed, f"regret/{k}")) for k in range(MORE_SEEDS)]
    return {**measured, "regrets": [measured["regret"], *regrets], "rss_mb": memory}


def of_full_catalog(rounds: int, seed: int) -> dict[str, Any]:
    silence_libraries()
    return {**ours.full_catalog(rounds, CALLS, seed), "rss_mb": peak_mb()}


def peak_mb() -> float:
    """Peak resident memory of this process; TensorFlow's import alone is some 600 MB of it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(function: Callable[..., dict[str, Any]], *parameters: Any) -> dict[str, Any]:
    """Call the function in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *parameters).result()


def measure(quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Every measurement, by name, one entry a seed."""
    taken: dict[str, list[dict[str, Any]]] = {}

    def take(name: str, function: Callable[..., dict[str, Any]], *parameters: Any) -> dict[str, Any]:
        result = alone(function, *parameters)
        taken.setdefault(name, []).append(result)
        print(name, {key: value for key, value in result.items() if key != "regrets"}, flush=True)
        return result

    for seed in SEEDS[:1] if quick else SEEDS:
        for agent in AGENTS:
            loops = 6 if quick else LOOPS[agent]
            played = take(f"{agent}_peer", of_peer, agent, loops, seed, False)
            take(agent, of_ours, agent, played["interactions"], seed)
            take(f"{agent}_peer_graph", of_peer, agent, min(loops, GRAPH_LOOPS), seed, True)
        take("full_catalog", of_full_catalog, 20 if quick else FULL_ROUNDS, seed)
    return taken


def compare(agent: str, taken: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """The figures of one agent; rates are medians, regrets means over seeds.

    A speed-up is the ratio of our median rate to the peer's, of runs that follow each other.
    """
    mine, theirs, graph = (taken[name] for name in (agent, f"{agent}_peer", f"{agent}_peer_graph"))
    rates = [float(np.median(run["rates"])) for run in mine]
    figures: dict[str, float] = {}
    for name, runs in (("speedup", theirs), ("speedup_over_graph", graph)):
        ratios = [rate / run["rate"] for rate, run in zip(rates, runs, strict=True)]
        low, high = min(ratios), max(ratios)
        figures |= {
            f"{agent}_{name}": float(np.median(ratios)),
            f"{agent}_{name}_min": low,
            f"{agent}_{name}_max": high,
        }
    regret = float(np.mean([regret for run in mine for regret in run["regrets"]]))
    peer_regret = float(np.mean([run["regret"] for run in theirs]))
    return figures | {
        f"{agent}_rate": float(np.median(rates)),
        f"{agent}_peer_rate": float(np.median([run["rate"] for run in theirs])),
        f"{agent}_peer_graph_rate": float(np.median([run["rate"] for run in graph])),
        f"{agent}_regret_ratio": regret / peer_regret,
        f"{agent}_mean_regret": regret,
        f"{agent}_peer_mean_regret": peer_regret,
        f"{agent}_compile_s": float(np.median([run["compile_s"] for run in mine])),
        f"{agent}_peak_rss_mb": max(run["rss_mb"] for run in mine),
        f"{agent}_peer_peak_rss_mb": max(run["rss_mb"] for run in theirs),
    }


def spread(taken: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Every rate and regret behind the figures, per measurement."""
    told: dict[str, Any] = {}
    for name, runs in taken.items():
        rates = [one for run in runs for one in run.get("rates", [run.get("rate")])]
        told[name] = {"rates": [float(f"{rate:.4g}") for rate in rates]}
        if name != "full_catalog" and not name.endswith("_graph"):
            regrets = [one for run in runs for one in run.get("regrets", [run["regret"]])]
            told[name]["mean_regrets"] = [round(regret, 4) for regret in regrets]
    return told


def main() -> None:
    """Measure, compare, write."""
    options = arguments(__doc__ or "")
    ratings = load_ratings("ml-100k")
    taken = measure(options.quick)
    figures: dict[str, float] = {}
    for agent in AGENTS:
        figures |= compare(agent, taken)
    full = taken["full_catalog"]
    figures["full_catalog_rate"] = float(np.median([rate for run in full for rate in run["rates"]]))
    figures["full_catalog_compile_s"] = float(np.median([run["compile_s"] for run in full]))
    figures["full_catalog_peak_rss_mb"] = max(run["rss_mb"] for run in full)
    told = context(
        SEEDS[:1] if options.quick else SEEDS,
        data={"name": ratings.name, "digest": ratings.digest},
        interactions_compared={agent: taken[f"{agent}_peer"][0]["interactions"] for agent in AGENTS},
        spread=spread(taken),
        quick=options.quick,
    )
    write_results(options.out, figures, told)


if __name__ == "__main__":
    main()
