"""Do the session agents solve problems whose answers are known?

Every agent on a ten-armed bandit and on a two-step chain, where it must look ahead: with gamma .9 and, which has to
fail, with gamma 0. What is told is the policy that explored at the end, after the last update.

    python benchmarks/known_problems/run.py [--quick] --out results.json
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import arguments, context, write_results

from recpolicy.core.tensorflow_setup import silence_libraries

silence_libraries()  # before anything imports TensorFlow

from problems import (  # noqa: E402
    BEST_ARM,
    BEST_RETURN,
    BLOCKS,
    OPENER,
    SESSIONS,
    SETTINGS,
    bandit,
    chain,
    mean_return,
    opening,
    trained,
)

GAMMAS = (0.9, 0.0)


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean, lowest and highest seed."""
    print(f"{name:36} {np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})", flush=True)
    return {name: float(np.mean(values)), f"{name}_lo": min(values), f"{name}_hi": max(values)}


def bandit_figures(name: str, seeds: Sequence[int]) -> dict[str, float]:
    """Share of pulls of the best arm."""
    problem = bandit()
    pulls = [
        float(opening(agent, problem)[BEST_ARM]) for _, agent in trained(name, problem, 0.9, seeds, BLOCKS["bandit"])
    ]
    return spread(f"optimal_pulls_{name}", pulls)


def chain_figures(name: str, gamma: float, seeds: Sequence[int]) -> dict[str, float]:
    """Share of sessions that open with the right item, and likes per session as a share of the best possible."""
    problem, open_state, earned = chain(), [], []
    for _, agent in trained(name, problem, gamma, seeds, BLOCKS["chain"]):
        open_state.append(float(opening(agent, problem)[OPENER]))
        earned.append(mean_return(agent, problem) / BEST_RETURN)
    return spread(f"chain_{name}_gamma_{gamma:g}", open_state) | spread(f"chain_return_{name}_gamma_{gamma:g}", earned)


def main() -> None:
    """Train, look, write."""
    options = arguments(__doc__ or "")
    seeds = (0,) if options.quick else (0, 1, 2, 3, 4)
    figures: dict[str, float] = {}
    start = time.perf_counter()
    for name in ("q_learning",) if options.quick else SETTINGS:
        figures |= bandit_figures(name, seeds)
        for gamma in GAMMAS:
            figures |= chain_figures(name, gamma, seeds)
    settings: Mapping[str, Mapping[str, object]] = {name: dict(given) for name, given in SETTINGS.items()}
    told = context(
        seeds, sessions=SESSIONS, blocks=dict(BLOCKS), settings=settings, spread="_lo and _hi: over seeds",
        seconds=round(time.perf_counter() - start), quick=options.quick,
    )  # fmt: skip
    write_results(options.out, figures, told)


if __name__ == "__main__":
    main()
