"""The report card of the off-policy estimators: how far from the truth, and how often their intervals hold it.

Logs are drawn again and again from a world whose truth is known (estimator_card_world.py); every estimator that a log
allows is asked what the target earns. R repetitions. By logging policy and log size, for each estimator:

- bias and rmse, in units of the reward; `error`, the mean of |estimate - truth| / |truth|;
- the share of its intervals that hold the truth, by kind, and their mean half-width.

A reward on 1..5 is never near 0, so a relative error looks small; compare it with what the target gains over the
logging policy, which the card tells as well.

The recommended estimator has the least rmse among those whose bootstrap intervals cover: at least 93 %, or no further
below than two standard errors of a share over R repetitions. Where the mean effective sample size is below 50 none is
recommended, and where no interval covers, dr is if the effective sample size allows, for its bias is none in theory.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError
from recpolicy.core.progress import progress
from recpolicy.core.seeds import generator, integer_seed
from recpolicy.ope.benchmark.logged_world import CardWorld, draw_log
from recpolicy.ope.benchmark.scores import Cell, EstimatorCard, Score
from recpolicy.ope.estimate import OffPolicyConfig, estimate
from recpolicy.ope.results import Estimates
from recpolicy.ope.tuning import METHODS

Array = NDArray[np.float64]

LARGE = 100_000
"""Rounds of a log beyond which repetitions are fewer."""


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """How much is drawn, and how estimates are made."""

    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """Rounds of a log."""
    repetitions: int = 200
    """Logs of each size and logging policy."""
    repetitions_large: int = 10
    """The same for logs of more than 100,000 rounds."""
    rounds_per_user: int = 10
    """Rounds of a visitor; intervals are by visitor."""
    resamples: int = 400
    """Bootstrap resamples of one estimate; 1,000 are usual where only one is made."""
    level: float = 0.95
    """Probability with which an interval should hold the truth."""
    tuning: str = "bound"
    """How clip, tau and lambda are chosen: bound or slope."""

    def __post_init__(self) -> None:
        for name in ("repetitions", "repetitions_large", "rounds_per_user", "resamples"):
            least = 2 if name.startswith("repetitions") else 1
            if getattr(self, name) < least:
                raise ConfigError(f"CardConfig.{name} is {getattr(self, name)}; expected {least} or more")
        if not self.sizes or min(self.sizes) < 2 * self.rounds_per_user or len(set(self.sizes)) < len(self.sizes):
            raise ConfigError(
                f"CardConfig.sizes is {list(self.sizes)}; expected different log sizes, each of two users or more "
                f"({2 * self.rounds_per_user} rounds)"
            )
        if not 0 < self.level < 1:
            raise ConfigError(f"CardConfig.level is {self.level}; expected between 0 and 1, such as 0.95")
        if self.tuning not in METHODS:
            raise ConfigError(f"CardConfig.tuning is {self.tuning!r}; expected one of {', '.join(METHODS)}")

    def repetitions_of(self, size: int) -> int:
        """Logs drawn of this size."""
        return self.repetitions if size <= LARGE else self.repetitions_large


def estimator_card(
    world: CardWorld,
    config: CardConfig | None = None,
    seed: int = 0,
    *,
    workers: int = 1,
    show_progress: bool | None = None,
) -> EstimatorCard:
    """Draw the logs, ask every estimator, and count.

    `workers` threads share the repetitions; their number changes nothing in the card. Raises ConfigError for a number
    of workers below 1.
    """
    config = config or CardConfig()
    if workers < 1:
        raise ConfigError(f"workers is {workers}; expected 1 or more")
    total = sum(size * config.repetitions_of(size) for size in config.sizes) * len(world.loggers)
    world.tables, world.ladders  # noqa: B018  made here once, not by every thread
    cells = []
    with (
        progress("estimating", total, unit="rounds", show=show_progress) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        for logger in world.loggers:
            for size in sorted(config.sizes):

                def one(number: int, logger: str = logger, size: int = size) -> Estimates:
                    return repetition(world, logger, size, number, config, seed)

                found = []
                for estimates in pool.map(one, range(config.repetitions_of(size))):
                    found.append(estimates)
                    bar.advance(size, f"{logger}, {size:,}")
                cells.append(cell_of(world, logger, size, found))
    return EstimatorCard(
        world=world.name, truth=world.truth, users=len(world.expected), actions=world.expected.shape[1],
        logged_values={logger: world.logged_value(logger) for logger in world.loggers},
        largest_weights={logger: world.largest_weight(logger) for logger in world.loggers},
        cells=tuple(cells), level=config.level, seed=seed,
    )  # fmt: skip


def repetition(
    world: CardWorld, logger: str, size: int, number: int, config: CardConfig | None = None, seed: int = 0
) -> Estimates:
    """What the estimators say of repetition `number` of one log; each repetition has random numbers of its own."""
    config = config or CardConfig()
    stream = f"estimator_card/{logger}/{size}/{number}"
    log = draw_log(world, logger, size, config.rounds_per_user, generator(seed, stream))
    settings = OffPolicyConfig(
        level=config.level, resamples=config.resamples, seed=integer_seed(seed, stream), tuning=config.tuning,
        reward_range=world.scale, weight_bound=world.largest_weight(logger),
    )  # fmt: skip
    return estimate(log.rounds, log.target, None, settings, q=log.q, clusters=world.clusters)


def cell_of(world: CardWorld, logger: str, size: int, found: list[Estimates]) -> Cell:
    """Count over the repetitions of one logging policy and log size."""
    scores = {name: score_of(np.array(values), bounds, world.truth) for name, values, bounds in _by_estimator(found)}
    effective = [next(iter(estimates.values())).diagnostics.effective_rounds for estimates in found]
    return Cell(logger, size, len(found), float(np.mean(effective)), scores)


def score_of(values: Array, bounds: Mapping[str, Array], truth: float) -> Score:
    """Score estimates [R] with their intervals [R, 2], by kind, against the truth."""
    off = values - truth
    return Score(
        bias=float(off.mean()),
        rmse=float(np.sqrt(np.mean(off**2))),
        error=float(np.mean(np.abs(off)) / abs(truth)) if truth else float("nan"),
        coverage={kind: float(np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))) for kind, ends in bounds.items()},
        half_width={kind: float(np.mean(ends[:, 1] - ends[:, 0])) / 2 for kind, ends in bounds.items()},
    )


def _by_estimator(found: list[Estimates]) -> Iterator[tuple[str, list[float], dict[str, Array]]]:
    for name, first in found[0].items():
        results = [estimates[name] for estimates in found]
        bounds = {
            kind: np.array([(result.intervals[kind].lo, result.intervals[kind].hi) for result in results])
            for kind in first.intervals
        }
        yield name, [result.value for result in results], bounds
