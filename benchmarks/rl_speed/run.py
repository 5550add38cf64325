"""How fast do agents learn in sessions, beside Stable-Baselines3, and what bounds it?

python benchmarks/rl_speed/run.py --peer-python PEER/bin/python --out benchmarks/rl_speed/results.json
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from beside_jax import beside_jax
from call_peer import HERE, SOURCE, add_jax_option, add_option, measure_ours, measure_peer

sys.path.insert(0, str(HERE.parent))
from common import context, write_results

SEEDS = (0, 1)
STEPS = {("ppo", 100): 25_000, ("a2c", 100): 50_000, ("ppo", 1682): 6_000, ("a2c", 1682): 15_000}
"""Steps that both learn from: what the peer does in a minute or so."""
ALIKE: Mapping[str, dict[str, Any]] = {
    "ppo": {"n_steps": 64, "n_epochs": 10, "minibatch_size": 64, "target_kl": 0.0, "gamma": 0.99, "learning_rate": 3e-4,
            "ent_coef": 0.0},
    "a2c": {"n_steps": 5, "gamma": 0.99, "learning_rate": 7e-4, "ent_coef": 0.0},
}  # fmt: skip
"""Ours at the peer's settings: as many updates, of the same size; no early stop."""
PEER: Mapping[str, dict[str, Any]] = {
    "ppo": {"n_steps": 64, "batch_size": 64, "n_epochs": 10, "gamma": 0.99},
    "a2c": {"n_steps": 5, "gamma": 0.99},
}
BEST: Mapping[str, dict[str, Any]] = {
    "ppo": {"n_steps": 32, "n_epochs": 4, "minibatch_size": 2048},
    "a2c": {"n_steps": 5},
}
BATCHES = (64, 512)
EVALUATED = 1024
"""Fresh sessions that judge each trained policy."""


def write_worlds(folder: Path) -> dict[int, Path]:
    """The training world of MovieLens 100K u1, with its 100 most rated items and with all."""
    sys.path.insert(0, str(SOURCE))
    from worlds import write_world

    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.splits import split
    from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds
    from recpolicy.workflows.training_data import prepare_features

    parts = split(load_ratings("ml-100k"), "u1")
    paths = {}
    for items in (100, parts.train.shape[1]):
        settings = SessionTrainConfig(items=items)
        features = prepare_features(parts.train, settings)
        world = make_worlds(parts, settings, 0).training_world
        paths[items] = folder / f"world_{items}.npz"
        write_world(paths[items], world, features.context, features.embeddings.item, features.action_items)
    return paths


def beside_the_peer(paths: Mapping[int, Path], python: str, seeds: tuple[int, ...], quick: bool) -> dict[str, float]:
    """Speed and return of both, turn by turn on one core, and their ratios."""
    figures = {"a2c_peer_unbound_steps_per_s_100": unbound_peer(paths[100], python)}
    for items, path in paths.items():
        for algorithm in ("ppo", "a2c"):
            steps = STEPS[algorithm, items] // (10 if quick else 1)
            rows = []
            for seed in seeds:
                shared = {"world": str(path), "algorithm": algorithm, "total_steps": steps, "seed": seed,
                          "evaluation_sessions": EVALUATED, "cores": 1}  # fmt: skip
                agent = {**ALIKE[algorithm], "head": "plain"}
                peer = measure_peer(python, {**shared, **PEER[algorithm], "threads": 1})
                mine = measure_ours({**shared, "agent": agent, "seconds": 4.0})
                row = (mine["steps_per_processor_s"], peer["processor_rate"], mine["return_sampled"],
                       peer["sampled"]["return"], peer["environment_share"])  # fmt: skip
                rows.append(row)
                print(items, algorithm, seed, [round(value, 3) for value in row], flush=True)
            figures |= _ratios(algorithm, items, np.array(rows))
    return figures


def _ratios(algorithm: str, items: int, rows: Any) -> dict[str, float]:
    mine, peer, earned, peer_earned, share = rows.T
    figures = {
        f"{algorithm}_speedup_{items}": float(np.median(mine / peer)),
        f"{algorithm}_speedup_{items}_lo": float((mine / peer).min()),
        f"{algorithm}_speedup_{items}_hi": float((mine / peer).max()),
        f"{algorithm}_steps_per_s_{items}": float(np.median(mine)),
        f"{algorithm}_peer_steps_per_s_{items}": float(np.median(peer)),
        f"{algorithm}_peer_environment_share_{items}": float(share.mean()),
        f"{algorithm}_return_{items}": float(earned.mean()),
        f"{algorithm}_peer_return_{items}": float(peer_earned.mean()),
        f"{algorithm}_return_ratio_{items}": float(earned.mean() / peer_earned.mean()),
    }
    if items == 100:
        figures[f"{algorithm}_return_ratio"] = figures[f"{algorithm}_return_ratio_{items}"]
    return figures


def unbound_peer(path: Path, python: str) -> float:
    """Steps per second of processor time of the peer's A2C with one thread, not bound to one core."""
    settings = {"world": str(path), "algorithm": "a2c", "total_steps": 14_000, "evaluation_sessions": 256,
                "threads": 1, **PEER["a2c"]}  # fmt: skip
    return float(measure_peer(python, settings)["processor_rate"])


def at_our_best(paths: Mapping[int, Path], quick: bool) -> dict[str, float]:
    """Steps/s of our default head against sessions side by side, catalog and cores; share of the arithmetic."""
    figures: dict[str, float] = {"peak_gflops": peak_gflops()}
    for algorithm in ("ppo", "a2c"):
        for items, path in paths.items():
            for sessions in BATCHES[:1] if quick else BATCHES:
                agent = {**BEST[algorithm], "minibatch_size": min(2048, 8 * sessions)} if algorithm == "ppo" else {}
                shared = {"world": str(path), "algorithm": algorithm, "total_steps": 20_000, "sessions": sessions,
                          "evaluation_sessions": 0, "seconds": 3.0, "agent": agent}  # fmt: skip
                told = measure_ours(shared)
                name = f"{algorithm}_{items}_items_{sessions}_sessions"
                figures[f"{name}_steps_per_s"] = told["steps_per_s"]
                done = told["steps_per_s"] * flops_per_step(items, algorithm)
                figures[f"{name}_share_of_peak"] = done / (figures["peak_gflops"] * 1e9)
                if sessions == 512:
                    figures[f"{name}_1_core_steps_per_s"] = measure_ours({**shared, "cores": 1})["steps_per_s"]
                print(name, round(told["steps_per_s"]), flush=True)
    return figures


def flops_per_step(items: int, algorithm: str) -> float:
    """Floating-point operations of the matrix products behind one step, D 20, G 19, two layers of 64.

    Acting: one forward pass of the scores. Learning: the values before and after, then forward and backward (twice a
    forward) of both networks, each epoch.
    """
    observation, features = 61, 39
    hidden = observation * 64 + 64 * 64
    scores, value = hidden + 64 * features + features * items, hidden + 64
    epochs = 4 if algorithm == "ppo" else 1
    return 2.0 * (scores + 2 * value + 3 * epochs * (scores + value))


def peak_gflops() -> float:
    """What NumPy's matrix product reaches on this machine, all cores, float32."""
    left, right = (np.random.default_rng(0).random((1024, 1024), dtype=np.float32) for _ in range(2))
    best = 0.0
    for _ in range(20):
        start = time.perf_counter()
        left @ right
        best = max(best, 2 * 1024**3 / (time.perf_counter() - start) / 1e9)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast do agents learn in sessions?")
    parser.add_argument("--quick", action="store_true", help="a small part, to see that it runs; not for results.json")
    parser.add_argument("--out", type=Path, required=True, help="where the figures are written, as JSON")
    parser.add_argument(
        "--only", choices=["sb3", "jax", "best"], help="measure one part; the file keeps the other parts' figures"
    )
    add_option(parser)
    add_jax_option(parser)
    asked = parser.parse_args()
    seeds = SEEDS[:1] if asked.quick else SEEDS
    parts = [asked.only] if asked.only else ["sb3", "jax", "best"]
    figures, told = _before(asked.out) if asked.only else ({}, {})
    with tempfile.TemporaryDirectory() as folder:
        paths = write_worlds(Path(folder))
        if "sb3" in parts:
            figures |= beside_the_peer(paths, asked.peer_python, seeds, asked.quick)
            steps = {f"{a}_{m}": s for (a, m), s in STEPS.items()}
            told["sb3"] = context(seeds, steps=steps)
        if "jax" in parts:
            found, versions = beside_jax(paths, asked.jax_python, seeds, ALIKE["ppo"], asked.quick)
            figures |= found
            told["jax"] = context(seeds, peer_versions=versions)
        if "best" in parts:
            figures |= at_our_best(paths, asked.quick)
            told["best"] = context(SEEDS[:1])
    write_results(asked.out, figures, told)


def _before(path: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures of an earlier run and the circumstances of each of its parts."""
    if not path.exists():
        return {}, {}
    body = json.loads(path.read_text(encoding="utf-8"))
    told = body["context"]
    return body["figures"], told if "hardware" not in told else {"sb3": told, "best": told}


if __name__ == "__main__":
    main()
