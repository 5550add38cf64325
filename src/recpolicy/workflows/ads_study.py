"""Study of DRL-PUT in a synthetic world of ads: six configurations, rivals and controls, gates next to the truth.

One seed draws uniform logs of weight vectors, trains every configuration on one and passes it through the gates on
another. The world is ours, so the true value of every policy is known: expected rewards of the same requests, and the
best static weights by enumeration of the grid. A gate that passes a policy that is worse than these is a false pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from recpolicy.core.statistics import Interval
from recpolicy.core.types import Array
from recpolicy.data.tuning_log import TuningLog
from recpolicy.evaluation.diversity import action_diversity
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
    holdout: Count = 1_000_000
    """Logged requests of the gates."""
    full_holdout: Count = 300_000
    """The same on the full grid, where finding out which grid points share a slate costs ten times as much."""
    more_data: Count = 2
    """Factor of the rounds for the full grid with more data."""
    true_requests: Count = 20_000
    """Requests of the true values."""
    enumerated_requests: Count = 600
    """Requests on which all grid points are enumerated."""
    steps: Count = 600
    """Gradient steps of a training."""
    full_steps: Count = 100
    """Gradient steps on the full grid, whose steps cost ten times as much."""
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
    "rounds": 20_000, "holdout": 20_000, "full_holdout": 5_000, "more_data": 2, "true_requests": 1_000,
    "enumerated_requests": 50, "steps": 40, "full_steps": 3, "batch_size": 128, "seeds": 1,
}  # fmt: skip
"""A small part of the study, to see that it runs."""


@dataclass(frozen=True)
class Configuration:
    """One trained row of the table."""

    name: str
    grid: Literal["grouped", "full"]
    method: str
    control: Literal["", "permuted features", "revenue only", "more data"] = ""
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
    Configuration("full grid, REINFORCE, more data", "full", "reinforce", "more data"),
    Configuration("grouped grid, REINFORCE, permuted features", "grouped", "reinforce", "permuted features"),
    Configuration("grouped grid, REINFORCE, revenue only", "grouped", "reinforce", "revenue only"),
)
GROUPED_REINFORCE, GROUPED_ACTOR_CRITIC = CONFIGURATIONS[0].name, CONFIGURATIONS[1].name
GAUSSIAN = (CONFIGURATIONS[4].name, CONFIGURATIONS[5].name)
PERMUTED, REVENUE_ONLY = CONFIGURATIONS[9].name, CONFIGURATIONS[10].name
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
) -> list[list[StudyRow]]:  # fmt: skip
    """Run the study.

    Args:
        config: Sizes.
        show_progress: Show a progress bar; None shows it on a terminal, and lines elsewhere.
        store: Called with each seed and its rows.

    Returns:
        The rows of each seed, in the same order.
    """
    config = config or AdsStudyConfig()
    world = AdsWorld(config.world)
    truths = _true_values(world, config)
    rows = []
    with progress("study", config.seeds * len(CONFIGURATIONS), unit="trainings", show=show_progress) as bar:
        for seed in range(config.seed, config.seed + config.seeds):
            rows.append(_run_seed(world, truths, config, seed, lambda: bar.advance(1)))
            if store is not None:
                store(seed, rows[-1])
    return rows


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
    sizes = {"grouped": config.holdout, "full": config.full_holdout}
    logs = {
        name: (
            draw_ads_log(world, truth.grid, config.rounds, rng),
            draw_held_out(world, truth.grid, sizes[name], rng),
        )
        for name, truth in truths.items()
    }
    static = {name: best_static_action(train, truths[name].grid) for name, (train, _) in logs.items()}
    rows, served = [], np.zeros(0, np.int64)
    for configuration in CONFIGURATIONS:
        truth, (train, holdout) = truths[configuration.grid], logs[configuration.grid]
        fixed = static[configuration.grid]
        if configuration.control == "more data":
            train = draw_ads_log(world, truth.grid, config.rounds * config.more_data, rng)
            fixed = best_static_action(train, truth.grid)
        policy, history = _train(_prepared(train, configuration, rng), truth, configuration, config, seed)
        action = policy.actions(holdout.log.features)
        gates = _gates(action, holdout, fixed, generator(seed, f"ads study/{configuration.name}"))
        rows.append(_row(configuration.name, gates, truth, policy.actions(truth.requests.features), history))
        if configuration.name == GROUPED_REINFORCE:
            served = np.array([mean_weights_action(policy, train.features.take(slice(0, _SERVED)))])
        advance()
    truth, (_, holdout) = truths["grouped"], logs["grouped"]
    rng = generator(seed, RANDOM)
    count, many = len(holdout.log), len(truth.requests)
    fixed = static["grouped"]
    for name, action, true_action in (
        (BEST_STATIC, np.full(count, fixed), np.full(many, fixed)),
        (MEAN_WEIGHTS, np.full(count, served[0]), np.full(many, served[0])),
        (RANDOM, uniform_actions(GROUPED, count, rng)[0], uniform_actions(GROUPED, many, rng)[0]),
    ):
        rows.append(_row(name, _gates(action, holdout, fixed, generator(seed, name)), truth, true_action))
    return rows


def _gates(action: NDArray[np.int64], holdout: HeldOutAds, fixed: int, rng: np.random.Generator) -> TuningGates:
    static = holdout.hits(np.full(len(action), fixed))
    return hit_gates(holdout.log, holdout.hits(action), static, action, rng)


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
    steps = config.full_steps if configuration.grid == "full" else config.steps
    some = truth.requests.features.take(slice(0, 4_000))
    history: list[tuple[int, float]] = []

    def watch(step: int, policy: TunedPolicy) -> None:
        share = np.bincount(policy.actions(some), minlength=truth.grid.size).astype(np.float64)
        history.append((step, action_diversity(share).diversity))

    full = configuration.grid == "full"
    settings = UtilityTuningConfig(
        method=configuration.method,  # type: ignore[arg-type]
        steps=steps, batch_size=config.full_batch_size if full else config.batch_size,
        learning_rate=config.learning_rate,
    )  # fmt: skip
    watched = [max(1, round(share * steps)) for share in _WATCHED]
    policy = train_tuning(log, truth.grid, settings, seed, watch, watched)
    return policy, tuple(history)


def _row(
    name: str, gates: TuningGates, truth: _Truth, action: NDArray[np.int64],
    history: tuple[tuple[int, float], ...] = (),
) -> StudyRow:  # fmt: skip
    revenue, user_value = truth.objectives(action).tolist()
    value = revenue + user_value
    return StudyRow(name, gates, value / truth.uniform - 1, value / truth.static - 1, revenue, user_value, history)


def study_figures(rows: list[list[StudyRow]]) -> dict[str, float]:
    """Return the figures of the benchmark: shares of seeds, false passes, and the lift of the control.

    passes_grouped: grouped REINFORCE passes all gates; fails_gaussian: both Gaussian rows fail the diversity;
    fails_actor_critic: grouped unweighted actor-critic fails the diversity; false_passes: rows that pass although the
    best static weights are truly at least as good; control_lift_lo: mean lower limit of the lift of permuted features.
    """
    by_name = [{row.name: row for row in seed} for seed in rows]

    def share(holds: Callable[[Mapping[str, StudyRow]], bool]) -> float:
        return float(np.mean([holds(seed) for seed in by_name]))

    def fails_diversity(seed: Mapping[str, StudyRow], name: str) -> bool:
        return seed[name].gates.verdicts["diversity"] == "fail"

    passing = [row for seed in rows for row in seed if row.gates.verdict == "pass"]
    lift = [seed[GROUPED_REINFORCE].gates.lift for seed in by_name]
    return {
        "passes_grouped": share(lambda seed: seed[GROUPED_REINFORCE].gates.verdict == "pass"),
        "fails_gaussian": share(lambda seed: all(fails_diversity(seed, name) for name in GAUSSIAN)),
        "fails_actor_critic": share(lambda seed: fails_diversity(seed, GROUPED_ACTOR_CRITIC)),
        "false_passes": float(sum(row.true_lift <= 0 for row in passing)),
        "passes": float(len(passing)),
        "control_lift_lo": float(np.mean([seed[PERMUTED].gates.lift.lo for seed in by_name])),
        "control_lift_hi": float(np.mean([seed[PERMUTED].gates.lift.hi for seed in by_name])),
        "grouped_lift": float(np.mean([interval.value for interval in lift])),
        "grouped_lift_lo": float(np.min([interval.lo for interval in lift])),
        "grouped_true_lift": float(np.mean([seed[GROUPED_REINFORCE].true_lift for seed in by_name])),
        "personalization_true_gain": float(
            np.mean([seed[GROUPED_REINFORCE].true_lift - seed[MEAN_WEIGHTS].true_lift for seed in by_name])
        ),
        "revenue_only_user_value": float(
            np.mean([seed[REVENUE_ONLY].user_value / seed[GROUPED_REINFORCE].user_value - 1 for seed in by_name])
        ),
    }


def study_table(rows: list[list[StudyRow]]) -> list[dict[str, Any]]:
    """Return one record for each policy, over all seeds: gates passed, means, and the paper's verdict."""
    paper = {configuration.name: configuration.paper for configuration in CONFIGURATIONS}
    records = []
    for several in zip(*rows, strict=True):
        gates = [row.gates for row in several]
        verdicts = [gate.verdict for gate in gates]
        counts = {name: verdicts.count(name) for name in ("pass", "fail", "cannot tell")}
        passed = {
            name: sum(gate.verdicts[name] == "pass" for gate in gates)
            for name in ("diversity", "relative_gain", "lift")
        }
        records.append(
            {
                "policy": several[0].name,
                "diversity": _mean(gates, "diversity"),
                "relative_gain": _mean(gates, "relative_gain"),
                "lift": _mean(gates, "lift"),
                "hits": float(np.mean([gate.hits for gate in gates])),
                "true_gain": float(np.mean([row.true_gain for row in several])),
                "true_lift": float(np.mean([row.true_lift for row in several])),
                "revenue": float(np.mean([row.revenue for row in several])),
                "user_value": float(np.mean([row.user_value for row in several])),
                "gates_passed": passed, "verdicts": counts, "seeds": len(several),
                "paper": paper.get(several[0].name, ""),
                "history": [
                    [pairs[0][0], float(np.mean([pair[1] for pair in pairs]))]
                    for pairs in zip(*(row.history for row in several), strict=True)
                ],
            }
        )  # fmt: skip
    return records


def _mean(gates: list[TuningGates], name: str) -> dict[str, float]:
    """Return the mean value and the lowest and highest limits of a gate over seeds."""
    intervals: list[Interval] = [getattr(gate, name) for gate in gates]
    return {
        "value": float(np.mean([part.value for part in intervals])), "lo": min(part.lo for part in intervals),
        "hi": max(part.hi for part in intervals),
    }  # fmt: skip
