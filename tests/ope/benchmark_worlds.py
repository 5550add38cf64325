"""A world of 40 users and 6 actions, small enough to enumerate, to put estimators to the test in."""

from dataclasses import replace
from functools import cache

import numpy as np

from recpolicy.ope.benchmark.logged_world import LoggedWorld, cluster_actions
from recpolicy.ope.benchmark.run_benchmark import BenchmarkConfig, run_benchmark
from recpolicy.ope.benchmark.scores import BenchmarkResult

USERS, ACTIONS = 40, 6
SCALE = (1.0, 5.0)
CONFIG = BenchmarkConfig(sizes=(200, 2_000), repetitions=60, resamples=100, rounds_per_user=5)


def softmax(score, temperature):
    raised = np.exp((score - score.max(axis=1, keepdims=True)) / temperature)
    return raised / raised.sum(axis=1, keepdims=True)


@cache
def logged_world(seed: int = 0) -> LoggedWorld:
    """The reward model is off by 0.4 in every cell, so that dm is wrong and dr is not."""
    rng = np.random.default_rng([seed, 23])
    context = rng.normal(size=(USERS, 2)).astype(np.float32)
    expected = np.clip(3 + context @ rng.normal(0, 0.5, (2, ACTIONS)) + rng.normal(0, 0.3, ACTIONS), 1, 5)
    near = 0.8 * softmax(expected, 0.6) + 0.2 / ACTIONS
    return LoggedWorld(
        expected=expected, scale=SCALE, target=softmax(expected, 0.3),
        logging_policies={"near": near / near.sum(axis=1, keepdims=True), "far": np.full(expected.shape, 1 / ACTIONS)},
        q=np.clip(expected + 0.4, 1, 5), context=context, action_clusters=cluster_actions(expected, 3), name="planted",
    )  # fmt: skip


@cache
def planted_result() -> BenchmarkResult:
    """The result of that world; made once, read by several tests."""
    return run_benchmark(logged_world(), CONFIG)


def with_tables(**changes) -> LoggedWorld:
    """The world with other tables."""
    return replace(logged_world(), **changes)
