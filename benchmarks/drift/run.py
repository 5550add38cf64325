"""Does forgetting help linear agents when preferences drift, and does the posterior stay sound?

ItemBandit on u1 with its 20 most rated items: preferences drift to another user's and back every 2,000 rounds of 64
interactions. Every agent plays two periods; the figure is the mean regret of the second. The same without drift.

    python benchmarks/drift/run.py [--quick] --out results.json
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import arguments, context, write_results

from recpolicy import load_ratings, split
from recpolicy.agents import AGENTS
from recpolicy.agents.item_features import compute_item_features
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.training.compiled_loop import OnlineLoop
from recpolicy.workflows.policy_training import TrainConfig, make_environment, prepare_features, training_world

ITEMS, PERIOD = 20, 2_000
LINEAR = ("linucb", "lints", "linucb_shared", "linucb_hybrid")
FORGETTING = (1.0, 0.999, 0.99, 0.9)
SEEDS, FEWER_SEEDS = (0, 1, 2, 3, 4), (0, 1, 2)
LESS_NOISE = {"scale": 0.3}
"""Of lints: draws with .3 of the posterior width."""
ROUNDS_APART = 1_000_000
"""Seed s plays the rounds from s times this on: other users, noise and actions, and the loop is compiled once."""
PRIORS: Mapping[str, Mapping[str, float]] = {
    "linucb": {"covariance": 100.0},
    "lints": {"covariance": 100.0},
    "linucb_shared": {"covariance": 100.0},
    "linucb_hybrid": {"covariance": 10.0, "shared_covariance": 100.0},
}
"""Default prior precision of each exported covariance."""


class World:
    """The environment in which all agents play the same rounds, with or without drift."""

    def __init__(self, period: int, drift: bool):
        train = split(load_ratings("ml-100k"), "u1").train
        settings = TrainConfig(items=ITEMS, drift_period=period if drift else 0)
        features = prepare_features(train, settings)
        self.environment = make_environment(training_world(train, settings, 0), features, settings, seed=0)
        self.arms = compute_item_features(features.action_items, features.embeddings, train)
        self.period = period

    def play(self, name: str, seeds: tuple[int, ...], **settings: float) -> NDArray[np.float64]:
        """Return the mean regret [S] of the second period of fresh agents; check their posteriors."""
        import tensorflow as tf

        entry, regret, started = AGENTS[name], [], time.perf_counter()
        specs = self.environment.time_step_spec(), self.environment.action_spec()
        agent = entry.make(*specs, entry.config(**settings), self.arms, 0)
        loop = OnlineLoop(self.environment, agent)
        with tempfile.TemporaryDirectory() as folder:
            fresh = tf.train.Checkpoint(learner=agent.learner)
            path = fresh.write(f"{folder}/fresh")
            for seed in seeds:
                fresh.read(path).assert_consumed()
                self.environment.round.assign(seed * ROUNDS_APART)
                loop.run(self.period)
                regret.append(float(loop.run(self.period).regret.astype(np.float64).mean()))
                check_posterior(agent.learner.export().arrays, PRIORS[name])
        print(f"{name} {settings}: {np.round(regret, 4)} ({time.perf_counter() - started:.0f} s)", flush=True)
        return np.array(regret)


def check_posterior(arrays: Mapping[str, NDArray[Any]], priors: Mapping[str, float]) -> None:
    """Assert that all arrays are finite and all covariances lie between 0 and the prior."""
    assert all(np.isfinite(value).all() for value in arrays.values())
    for part, precision in priors.items():
        values = np.linalg.eigvalsh(arrays[part].astype(np.float64))
        assert values.min() > 0, (part, values.min())
        assert values.max() <= (1 + 1e-4) / precision, (part, values.max())


def measure(quick: bool) -> dict[str, float]:
    """Return all figures: regret, and its paired difference to no forgetting, with 95 % t intervals over seeds."""
    figures: dict[str, float] = {}
    jobs: list[tuple[bool, str, dict[str, float], tuple[int, ...]]]
    jobs = [(True, "linucb", {}, SEEDS), (False, "linucb", {}, FEWER_SEEDS), (True, "lints", LESS_NOISE, FEWER_SEEDS)]
    jobs += [(True, name, {}, FEWER_SEEDS) for name in LINEAR[1:]]
    period = 50 if quick else PERIOD
    worlds = {drift: World(period, drift) for drift in (True, False)}
    for drift, name, settings, seeds in jobs[:1] if quick else jobs:
        regret = {f: worlds[drift].play(name, seeds, forgetting=f, **settings) for f in FORGETTING}
        for forgetting, values in regret.items():
            label = "_".join(["drift" if drift else "steady", name, *settings, f"{forgetting:g}"])
            figures |= with_interval(label, values)
            if forgetting < 1:
                figures |= with_interval(f"{label}_difference", values - regret[1.0])
    return figures


def with_interval(label: str, values: NDArray[np.float64]) -> dict[str, float]:
    """Return the mean over seeds with its 95 % t interval."""
    mean = float(values.mean())
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {label: mean, f"{label}_low": mean - half, f"{label}_high": mean + half}


def main() -> None:
    """Measure, and write the figures."""
    given = arguments(__doc__ or "")
    silence_libraries()
    figures = measure(given.quick)
    write_results(given.out, figures, context(SEEDS, items=ITEMS, period=PERIOD))


if __name__ == "__main__":
    main()
