"""Benchmark of the off-policy estimators: their distance from the true value and the coverage of their intervals.

Logs are drawn repeatedly from a world with a known true value (logged_world.py), and every estimator that a log allows
estimates the target's value. R repetitions. For each logging policy, log size and estimator:

- bias and rmse, in units of the reward; `error`, the mean of |estimate - true value| / |true value|;
- the fraction of its intervals that contain the true value, by kind, and their mean half-width.

A reward on 1..5 is never near 0, so a relative error looks small. Compare it with the target's difference to the
logging policy, which the result reports too.

The recommended estimator has the smallest rmse among those whose bootstrap intervals cover: at least 93 %, or no
further below than two standard errors of a fraction over R repetitions. There is no recommendation if the mean
effective sample size is below 50. If no interval covers and the effective sample size allows, dr is recommended,
because it is unbiased in theory.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numpy as np
from annotated_types import Interval

from recpolicy.core.config import Count, OpenFraction, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.progress import progress
from recpolicy.core.seeds import generator, integer_seed
from recpolicy.core.types import Array
from recpolicy.ope.benchmark.logged_world import LoggedWorld, draw_log
from recpolicy.ope.benchmark.scores import BenchmarkResult, Cell, Score
from recpolicy.ope.config import OffPolicyConfig
from recpolicy.ope.engine import estimate
from recpolicy.ope.results import Estimates
from recpolicy.ope.tuning import TuningMethod

LARGE = 100_000
"""Log size above which there are fewer repetitions."""


@config_dataclass
class BenchmarkConfig:
    """Settings of the logs and of the estimates."""

    sizes: tuple[Count, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """Rounds of a log."""
    repetitions: Annotated[int, Interval(ge=2, le=10**6)] = 200
    """Logs of each size and logging policy."""
    repetitions_large: Annotated[int, Interval(ge=2, le=10**6)] = 10
    """The same for logs of more than 100,000 rounds."""
    rounds_per_user: Count = 10
    """Rounds of a visitor; intervals are by visitor."""
    resamples: Count = 400
    """Bootstrap resamples of one estimate; 1,000 are usual for a single estimate."""
    level: OpenFraction = 0.95
    """Nominal probability that an interval contains the true value."""
    tuning: TuningMethod = "bound"
    """Method that chooses clip, tau and lambda."""

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 2 * self.rounds_per_user or len(set(self.sizes)) < len(self.sizes):
            raise ConfigError(
                f"sizes is {list(self.sizes)}: expected different log sizes, each of two users or more "
                f"({2 * self.rounds_per_user} rounds)"
            )

    def get_repetitions(self, size: int) -> int:
        """Return the number of logs of this size."""
        return self.repetitions if size <= LARGE else self.repetitions_large


def run_benchmark(
    world: LoggedWorld,
    config: BenchmarkConfig | None = None,
    seed: int = 0,
    *,
    workers: int = 1,
    show_progress: bool | None = None,
) -> BenchmarkResult:
    """Draw the logs, apply every estimator, and score the estimates.

    Args:
        world: the simulated world, with the target and the logging policies.
        config: sizes and repetitions. seed: of all logs and estimates.
        workers: threads that share the repetitions; their number does not change the result.
        show_progress: None shows a progress bar on a terminal.

    Raises:
        ConfigError: fewer than one worker.
    """
    config = config or BenchmarkConfig()
    if workers < 1:
        raise ConfigError(f"workers is {workers}; expected 1 or more")
    total = sum(size * config.get_repetitions(size) for size in config.sizes) * len(world.logging_policies)
    world.tables, world.cumulative_probs  # noqa: B018  computed here once, not by every thread
    cells = []
    with (
        progress("estimating", total, unit="rounds", show=show_progress) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        for logging_policy in world.logging_policies:
            for size in sorted(config.sizes):

                def repeat(number: int, logging_policy: str = logging_policy, size: int = size) -> Estimates:
                    return run_repetition(world, logging_policy, size, number, config, seed)

                repetitions = []
                for estimates in pool.map(repeat, range(config.get_repetitions(size))):
                    repetitions.append(estimates)
                    bar.advance(size, f"{logging_policy}, {size:,}")
                cells.append(score_repetitions(world, logging_policy, size, repetitions))
    return BenchmarkResult(
        world=world.name, true_value=world.true_value,
        users=len(world.expected), actions=world.expected.shape[1],
        logged_values={name: world.logged_value(name) for name in world.logging_policies},
        max_weights={name: world.max_weight(name) for name in world.logging_policies},
        cells=tuple(cells), level=config.level, seed=seed,
    )  # fmt: skip


def run_repetition(
    world: LoggedWorld,
    logging_policy: str,
    size: int,
    number: int,
    config: BenchmarkConfig | None = None,
    seed: int = 0,
) -> Estimates:
    """Return the estimates of repetition `number` of one kind of log; each repetition has its own random stream."""
    config = config or BenchmarkConfig()
    stream = f"estimator_card/{logging_policy}/{size}/{number}"
    log = draw_log(world, logging_policy, size, config.rounds_per_user, generator(seed, stream))
    settings = OffPolicyConfig(
        level=config.level, resamples=config.resamples, seed=integer_seed(seed, stream), tuning=config.tuning,
        reward_range=world.scale, weight_bound=world.max_weight(logging_policy),
    )  # fmt: skip
    return estimate(log.feedback, log.target, None, settings, q=log.q, action_clusters=world.action_clusters)


def score_repetitions(world: LoggedWorld, logging_policy: str, size: int, repetitions: list[Estimates]) -> Cell:
    """Return the scores over the repetitions of one logging policy and log size."""
    scores = {
        name: score_estimates(np.array(values), limits, world.true_value)
        for name, values, limits in _by_estimator(repetitions)
    }
    effective = [next(iter(estimates.values())).diagnostics.effective_sample_size for estimates in repetitions]
    return Cell(logging_policy, size, len(repetitions), float(np.mean(effective)), scores)


def score_estimates(values: Array, limits: Mapping[str, Array], true_value: float) -> Score:
    """Score estimates [R] with their intervals [R, 2], by kind, against the true value."""
    error = values - true_value
    return Score(
        bias=float(error.mean()),
        rmse=float(np.sqrt(np.mean(error**2))),
        error=float(np.mean(np.abs(error)) / abs(true_value)) if true_value else float("nan"),
        coverage={
            kind: float(np.mean((ends[:, 0] <= true_value) & (true_value <= ends[:, 1])))
            for kind, ends in limits.items()
        },
        half_width={kind: float(np.mean(ends[:, 1] - ends[:, 0])) / 2 for kind, ends in limits.items()},
    )


def _by_estimator(repetitions: list[Estimates]) -> Iterator[tuple[str, list[float], dict[str, Array]]]:
    for name, first in repetitions[0].items():
        results = [estimates[name] for estimates in repetitions]
        limits = {
            kind: np.array([(result.intervals[kind].lo, result.intervals[kind].hi) for result in results])
            for kind in first.intervals
        }
        yield name, [result.value for result in results], limits
