"""How long do all estimators take on a long log, and what do they need?

A made-up world of 1,000 users and 100 actions; the log is uniform, so that replay takes part, too. Each log size runs
in a process of its own: `estimate` with every single-action estimator, cross-fitted reward models and 1,000 bootstrap
resamples. Drawing the log is not counted.

    python benchmarks/ope_speed/run.py [--quick] --out results.json
"""

import cProfile
import os
import pstats
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import arguments, context, write_results

from recpolicy.core.seeds import generator
from recpolicy.ope.benchmark.logged_world import LoggedWorld, cluster_actions, draw_log
from recpolicy.ope.config import OffPolicyConfig
from recpolicy.ope.engine import estimate
from recpolicy.ope.estimators import ESTIMATORS

SEED = 0
USERS, ACTIONS, WIDTH = 1_000, 100, 20
SIZES = (100_000, 300_000, 1_000_000)
RUNS = 3
STAGES = {
    "resample": "bootstrap", "fit_reward_model": "reward models", "_scan": "tables of all actions",
    "check_support": "support", "marginal_probs": "clusters", "tune": "tuning", "student_t": "t",
    "confidence_sequence": "sequence", "empirical_bernstein": "bernstein", "diagnose": "diagnostics",
}  # fmt: skip
"""Functions that none of the others calls, by what they do."""


def made_up_world() -> LoggedWorld:
    """Expected rewards linear in 20 numbers; the target is a softmax of them."""
    rng = generator(SEED, "ope_speed/world")
    user = rng.normal(size=(USERS, WIDTH)).astype(np.float32)
    expected = np.clip(3 + user @ rng.normal(0, 0.2, (WIDTH, ACTIONS)), 1, 5)
    target = np.exp((expected - expected.max(axis=1, keepdims=True)) / 0.3)
    target /= target.sum(axis=1, keepdims=True)
    uniform = np.full(expected.shape, 1 / ACTIONS)
    return LoggedWorld(
        expected, (1, 5), target, {"uniform": uniform}, expected, user, cluster_actions(expected, 20), ""
    )


def one_size(rounds: int, given_model: bool, profiled: bool) -> dict[str, Any]:
    """Seconds, seconds of the processor, peak memory and, if profiled, the share of each stage."""
    world = made_up_world()
    settings = OffPolicyConfig(reward_range=world.scale, weight_bound=world.max_weight("uniform"))
    first = draw_log(world, "uniform", 1_000, 10, generator(SEED, "ope_speed/first"))
    estimate(
        first.feedback, first.target, None, settings, action_clusters=world.action_clusters
    )  # what is imported on the way
    log = draw_log(world, "uniform", rounds, 10, generator(SEED, f"ope_speed/{rounds}"))
    profile = cProfile.Profile()
    start, busy = time.perf_counter(), time.process_time()
    if profiled:
        profile.enable()
    found = estimate(
        log.feedback,
        log.target,
        None,
        settings,
        q=log.q if given_model else None,
        action_clusters=world.action_clusters,
    )
    profile.disable()
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    assert set(found) == set(ESTIMATORS)
    return {
        "seconds": round(seconds, 3), "processor_seconds": round(busy, 3), "load_before": round(os.getloadavg()[0], 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "shares": _shares(profile, seconds) if profiled else None,
    }  # fmt: skip


def _shares(profile: cProfile.Profile, seconds: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for (_, _, function), (_, _, _, total, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if function in STAGES:
            found[STAGES[function]] = found.get(STAGES[function], 0.0) + total
    return {name: round(total / seconds, 3) for name, total in sorted(found.items(), key=lambda item: -item[1])}


def apart(rounds: int, given_model: bool = False, profiled: bool = False) -> dict[str, Any]:
    """The same in a process of its own, so that peaks do not add up."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(one_size, rounds, given_model, profiled).result()


def main() -> None:
    """Measure, write."""
    options = arguments(__doc__ or "")
    sizes, runs = ((10_000, 30_000), 1) if options.quick else (SIZES, RUNS)
    measured = {size: [apart(size) for _ in range(runs)] for size in sizes}
    middle = {size: float(np.median([one["seconds"] for one in found])) for size, found in measured.items()}
    largest = sizes[-1]
    given, profiled = apart(largest, given_model=True), apart(largest, profiled=True)
    slope = np.polyfit(np.log([*middle]), np.log([*middle.values()]), 1)[0]
    figures = {f"seconds_{size:.0e}".replace("e+0", "e"): seconds for size, seconds in middle.items()}
    figures |= {
        "peak_gib": max(one["peak_gib"] for one in measured[largest]),
        "seconds_given_model": given["seconds"],
        "microseconds_a_round": 1e6 * middle[largest] / largest,
        "growth_exponent": float(slope),
    }
    told = context(
        [SEED], measured={str(size): found for size, found in measured.items()}, given_model=given,
        shares_of_time=profiled["shares"], actions=ACTIONS, width=WIDTH, estimators=list(ESTIMATORS),
        resamples=OffPolicyConfig().resamples, quick=options.quick,
    )  # fmt: skip
    for name, value in figures.items():
        print(f"{name:24} {value:9.3f}")
    print(profiled["shares"])
    write_results(options.out, figures, told)


if __name__ == "__main__":
    main()
