"""Study of DRL-PUT in a synthetic world of ads: six configurations, rivals and controls, gates next to the truth.

One seed draws uniform logs of weight vectors, trains every configuration on one and passes it through the gates on
another. The world is ours, so the true value of every policy is known: expected rewards of the same requests, and the
best static weights by enumeration of the grid. A gate that passes a policy that is worse than these is a false pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recpolicy.agents.utility_tuning import (
    UtilityTuningConfig,
    best_static_action,
    mean_weights_action,
    train_tuning,
    uniform_actions,
)
from recpolicy.core.config import Count, LearningRate, Seed, config_dataclass
from recpolicy.core.progress import progress
from recpolicy.core.seeds import generator
from recpolicy.core.types import Array
from recpolicy.data.tuning_log import TuningFeatures, TuningLog
from recpolicy.evaluation.diversity import action_diversity
from recpolicy.evaluation.hit_values import Hits
from recpolicy.evaluation.tuning_gates import TuningGates, hit_gates
from recpolicy.models.ads_world import FULL, GROUPED, AdRequests, AdsWorld, AdsWorldConfig
from recpolicy.models.ranking_formula import ActionGrid
from recpolicy.models.tuning_policy import TunedPolicy
from recpolicy.workflows.ads_logs import STATIC, HeldOutAds, draw_ads_log, draw_held_out

_SERVED = 20_000  # requests of the mean weights
_WATCHED = (0.1, 0.2, 0.4, 0.7, 1.0)  # of the steps: diversity over training


@config_dataclass
class AdsStudyConfig:
    """Sizes of the study."""

    rounds: Count = 300_000
    """Logged requests to train on."""
    evaluation_rounds: Count = 300_000
    """Logged requests of the gates."""
    full_evaluation_rounds: Count = 60_000
    """The same on the full grid, where finding out which grid points share a slate costs ten times as much."""
    more_steps: Count = 10
    """Factor of the steps, and so of the requests seen, for the full grid with more data."""
    true_requests: Count = 20_000
    """Requests of the true values."""
    enumerated_requests: Count = 600
    """Requests on which all grid points are enumerated."""
    steps: Count = 1_500
    """Gradient steps of a training."""
    full_steps: Count = 100
    """Gradient steps of a policy gradient on the full grid, which cost ten times as much."""
    gaussian_steps: Count = 3_000
    """Gradient steps of a Gaussian, which cost a fifth: its mean takes long to stop."""
    batch_size: Count = 512
    """Requests of a step."""
    full_batch_size: Count = 256
    """Requests of a step on the full grid."""
    learning_rate: LearningRate = 0.003
    """Step size."""
    seeds: Count = 5
    """Seeds of logs and trainings; the world is the same."""
    seed: Seed = 0
    """First seed."""
    world: AdsWorldConfig = AdsWorldConfig()
    """The world."""


QUICK: Mapping[str, Any] = {
    "rounds": 20_000, "evaluation_rounds": 20_000, "full_evaluation_rounds": 5_000, "more_steps": 2,
    "true_requests": 1_000, "enumerated_requests": 50, "steps": 40, "full_steps": 3, "gaussian_steps": 40,
    "batch_size": 128, "seeds": 1,
}  # fmt: skip
"""A small part of the study, to see that it runs."""


@dataclass(frozen=True)
class Configuration:
    """One trained row of the table."""

    name: str
    grid: Literal["grouped", "full"]
    method: str
    control: Literal["", "permuted features", "revenue only", "more steps"] = ""
    logging: Literal["uniform", "Gaussian"] = "uniform"
    paper: str = ""
    """The verdict that secondary descriptions of the paper report."""


CONFIGURATIONS = (
    Configuration("grouped grid, REINFORCE", "grouped", "reinforce", paper="pass"),
    Configuration("grouped grid, actor-critic", "grouped", "actor_critic", paper="fail"),
    Configuration("full grid, REINFORCE", "full", "reinforce", paper="fail"),
    Configuration("full grid, actor-critic", "full", "actor_critic", paper="fail"),
    Configuration("Gaussian, REINFORCE", "grouped", "gaussian_reinforce", paper="fail"),
    Configuration("Gaussian, actor-critic", "grouped", "gaussian_actor_critic", paper="fail"),
    Configuration("grouped grid, weighted actor-critic", "grouped", "actor_critic_weighted"),
    Configuration("grouped grid, value regression", "grouped", "value_regression"),
    Configuration("Gaussian log, weighted REINFORCE", "grouped", "reinforce_weighted", logging="Gaussian"),
    Configuration("Gaussian log, weighted actor-critic", "grouped", "actor_critic_weighted", logging="Gaussian"),
    Configuration("full grid, REINFORCE, ten times the data", "full", "reinforce", "more steps"),
    Configuration("full grid, value regression", "full", "value_regression"),
    Configuration("grouped grid, REINFORCE, permuted features", "grouped", "reinforce", "permuted features"),
    Configuration("grouped grid, REINFORCE, revenue only", "grouped", "reinforce", "revenue only"),
)
GROUPED_REINFORCE, GROUPED_ACTOR_CRITIC = "grouped grid, REINFORCE", "grouped grid, actor-critic"
GAUSSIAN = ("Gaussian, REINFORCE", "Gaussian, actor-critic")
WEIGHTED = "grouped grid, weighted actor-critic"
PERMUTED, REVENUE_ONLY = "grouped grid, REINFORCE, permuted features", "grouped grid, REINFORCE, revenue only"
BEST_STATIC, MEAN_WEIGHTS, RANDOM = "best static weights", "mean weights of grouped REINFORCE", "random weights"


@dataclass(frozen=True)
class StudyRow:
    """One policy under one seed."""

    name: str
    gates: TuningGates
    true_gain: float
    """True value relative to that of uniform weights, less 1."""
    true_lift: float
    """True value relative to that of the best static weights, less 1; these by enumeration of the grouped grid."""
    revenue: float
    """True revenue of a request."""
    user_value: float
    """True user value of a request."""
    history: tuple[tuple[int, float], ...] = ()
    """Steps and diversity over training."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = ("true_gain", "true_lift", "revenue", "user_value")
        figures = {name: getattr(self, name) for name in names}
        return {"name": self.name, **figures, "history": [list(pair) for pair in self.history], **self.gates.as_dict()}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> "StudyRow":
        """Return the row that `as_dict` described."""
        figures = {name: float(body[name]) for name in ("true_gain", "true_lift", "revenue", "user_value")}
        history = tuple((int(step), float(value)) for step, value in body["history"])
        return cls(str(body["name"]), TuningGates.from_dict(body), **figures, history=history)


@dataclass(frozen=True)
class _Truth:
    """The true values of one grid, on requests that no log has."""

    world: AdsWorld
    requests: AdRequests
    grid: ActionGrid
    uniform: float
    """Value of uniform weights."""
    static: float
    """Value of the best static weights of the grouped grid."""

    def objectives(self, action: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the mean true objectives [2] of serving these actions [n]."""
        return _true_objectives(self.world, self.requests, self.grid.weights(action))


def _true_objectives(world: AdsWorld, requests: AdRequests, weights: Array) -> NDArray[np.float64]:
    slate, _ = world.serve(requests, weights, STATIC)
    mean: NDArray[np.float64] = world.expected(requests, slate).mean(axis=0)
    return mean


def run_ads_study(
    config: AdsStudyConfig | None = None, *, show_progress: bool | None = None,
    store: Callable[[int, list[StudyRow]], None] | None = None,
    done: Mapping[int, list[StudyRow]] = MappingProxyType({}),
) -> list[list[StudyRow]]:  # fmt: skip
    """Run the study.

    Args:
        config: Sizes.
        show_progress: Show a progress bar; None shows it on a terminal, and lines elsewhere.
        store: Called with each new seed and its rows.
        done: Rows of seeds that an earlier run has stored.

    Returns:
        The rows of each seed, in the same order.
    """
    config = config or AdsStudyConfig()
    seeds = range(config.seed, config.seed + config.seeds)
    missing = [seed for seed in seeds if seed not in done]
    world = AdsWorld(config.world)
    truths = _true_values(world, config) if missing else {}
    rows = dict(done)
    with progress("study", len(missing) * len(CONFIGURATIONS), unit="trainings", show=show_progress) as bar:
        for seed in missing:
            rows[seed] = _run_seed(world, truths, config, seed, lambda: bar.advance(1))
            if store is not None:
                store(seed, rows[seed])
    return [rows[seed] for seed in seeds]


def _true_values(world: AdsWorld, config: AdsStudyConfig) -> dict[str, _Truth]:
    """Return the true values of both grids. The best static weights are those of the grouped grid, by enumeration."""
    rng = generator(config.world.world_seed, "ads study/truth")
    values = world.action_values(world.requests(config.enumerated_requests, rng), GROUPED, STATIC).sum(axis=2)
    best = GROUPED.weights(int(values.mean(axis=0, dtype=np.float64).argmax()))
    requests = world.requests(config.true_requests, rng)
    static = float(_true_objectives(world, requests, np.tile(best, (len(requests), 1))).sum())
    truths = {}
    for name, grid in (("grouped", GROUPED), ("full", FULL)):
        action, _ = uniform_actions(grid, len(requests), rng)
        uniform = float(_true_objectives(world, requests, grid.weights(action)).sum())
        truths[name] = _Truth(world, requests, grid, uniform, static)
    return truths


def _run_seed(
    world: AdsWorld, truths: Mapping[str, _Truth], config: AdsStudyConfig, seed: int, advance: Callable[[], None]
) -> list[StudyRow]:
    rng = generator(seed, "ads study/logs")
    sizes = {"grouped": config.evaluation_rounds, "full": config.full_evaluation_rounds}
    logs = {name: draw_ads_log(world, truth.grid, config.rounds, rng) for name, truth in truths.items()}
    judges = {
        name: _Judge(
            draw_held_out(world, truth.grid, sizes[name], rng), truth, best_static_action(logs[name], truth.grid), seed
        )
        for name, truth in truths.items()
    }
    around_static = draw_ads_log(world, GROUPED, config.rounds, rng, gaussian=True)
    rows, mean_weights = [], 0
    for configuration in CONFIGURATIONS:
        judge, uniform = judges[configuration.grid], logs[configuration.grid]
        log = _prepared(uniform if configuration.logging == "uniform" else around_static, configuration, rng)
        policy, history = _train(log, judge.truth, configuration, config, seed)
        rows.append(judge.row(configuration.name, policy.actions, history))
        if configuration.name == GROUPED_REINFORCE:
            mean_weights = mean_weights_action(GROUPED, policy.actions(uniform.features.take(slice(0, _SERVED))))
        advance()
    judge, rng = judges["grouped"], generator(seed, RANDOM)
    rows.append(judge.row(BEST_STATIC, lambda features: np.full(len(features), judge.static)))
    rows.append(judge.row(MEAN_WEIGHTS, lambda features: np.full(len(features), mean_weights)))
    rows.append(judge.row(RANDOM, lambda features: uniform_actions(GROUPED, len(features), rng)[0]))
    return rows


@dataclass(frozen=True)
class _Judge:
    """The gates of one grid under one seed, and the truth."""

    held_out: HeldOutAds
    truth: _Truth
    static: int
    """The best static action that the training log shows."""
    seed: int

    @cached_property
    def static_hits(self) -> Hits:
        return self.held_out.hits(np.full(len(self.held_out.log), self.static))

    def row(
        self, name: str, actions: Callable[[TuningFeatures], NDArray[np.int64]],
        history: tuple[tuple[int, float], ...] = (),
    ) -> StudyRow:  # fmt: skip
        """Return the row of a policy, given what it serves for features."""
        log, truth = self.held_out.log, self.truth
        served, rng = actions(log.features), generator(self.seed, f"ads study/{name}")
        gates = hit_gates(log, self.held_out.hits(served), self.static_hits, served, rng)
        revenue, user_value = truth.objectives(actions(truth.requests.features)).tolist()
        value = revenue + user_value
        return StudyRow(name, gates, value / truth.uniform - 1, value / truth.static - 1, revenue, user_value, history)


def _prepared(log: TuningLog, configuration: Configuration, rng: np.random.Generator) -> TuningLog:
    """Return the log that a configuration learns from."""
    if configuration.control == "permuted features":
        return log.with_permuted_features(rng)
    if configuration.control == "revenue only":
        return log.with_reward(np.array([1.0, 0.0]))
    return log


def _train(
    log: TuningLog, truth: _Truth, configuration: Configuration, config: AdsStudyConfig, seed: int
) -> tuple[TunedPolicy, tuple[tuple[int, float], ...]]:
    steps, batch_size = config.steps, config.batch_size
    if configuration.method.startswith("gaussian"):
        steps = config.gaussian_steps
    elif configuration.grid == "full" and configuration.method != "value_regression":
        steps, batch_size = config.full_steps, config.full_batch_size
    steps *= config.more_steps if configuration.control == "more steps" else 1
    some = truth.requests.features.take(slice(0, 4_000))
    history: list[tuple[int, float]] = []

    def watch(step: int, policy: TunedPolicy) -> None:
        share = np.bincount(policy.actions(some), minlength=truth.grid.size).astype(np.float64)
        history.append((step, action_diversity(share).diversity))

    settings = UtilityTuningConfig(
        method=configuration.method,  # type: ignore[arg-type]
        steps=steps, batch_size=batch_size, learning_rate=config.learning_rate,
    )  # fmt: skip
    watched = [max(1, round(share * steps)) for share in _WATCHED]
    policy = train_tuning(log, truth.grid, settings, seed, watch, watched)
    return policy, tuple(history)
