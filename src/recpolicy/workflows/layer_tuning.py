"""Tune the ranking formula of a trained policy on a log of uniform weights, and evaluate the tuned layer.

The first half of a shuffled log trains and chooses the best static weights; the second half is for the gates. Policy
and control are then compared in both simulated worlds, where all outcomes are exact: the training world that the log
is from, and the evaluation world, with other users and another model class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.agents.utility_tuning import (
    UtilityTuningConfig,
    best_static_action,
    mean_weights_action,
    train_tuning,
)
from recpolicy.core.config import Number, OpenFraction, config_dataclass
from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.plotting import draw_legend, new_axes, to_svg
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import LEVEL, Interval, paired_difference
from recpolicy.core.types import Array
from recpolicy.data.tuning_log import TuningLog
from recpolicy.evaluation.hit_values import HitValue, log_hits
from recpolicy.evaluation.tuning_gates import TuningGates, tuning_gates
from recpolicy.inference.predictor import Policy
from recpolicy.inference.ranking_utility import NO_OWN_HEADS, OwnHeads
from recpolicy.inference.tuned_layer import TunedLayer, UserFeatures, write_tuned_layer
from recpolicy.inference.tuned_scorer import write_tuned_policy
from recpolicy.models.ranking_formula import ActionGrid
from recpolicy.models.session_world import SessionWorld
from recpolicy.models.tuning_policy import TunedPolicy
from recpolicy.workflows.artifacts import check_absent
from recpolicy.workflows.weight_logs import OBJECTIVES, SlateTable, read_weight_log, slate_table

PARETO = "pareto.svg"
ALPHAS = tuple(np.linspace(0.0, 1.0, 25).tolist())
"""Weights of a like in the sweep over objectives; the rest is that of novelty."""


@config_dataclass
class LayerTuningConfig:
    """Settings of a tuned layer."""

    reward: Mapping[str, Number] = field(default_factory=lambda: {"like": 1.0})
    """Weight of each objective in the reward: like, session_continues, novelty."""
    evaluation_share: OpenFraction = 0.5
    """Share of the log that only the gates see."""
    static_weights: Mapping[str, Number] | None = None
    """The weights that serve today, the nearest grid point of which is the fallback and the rival of the lift; None
    takes the best of the log."""
    agent: UtilityTuningConfig = UtilityTuningConfig(method="value_regression", learning_rate=0.003)
    """Method and settings of the training."""

    def __post_init__(self) -> None:
        for name in self.reward:
            if name not in OBJECTIVES:
                raise unknown_name_error("objective", name, OBJECTIVES)
        if not any(self.reward.values()):
            raise ConfigError("reward: every weight is 0; nothing to tune for")

    @property
    def reward_weights(self) -> tuple[float, ...]:
        """The weights in the order of OBJECTIVES."""
        return tuple(float(self.reward.get(name, 0.0)) for name in OBJECTIVES)


@dataclass(frozen=True)
class TuningResult:
    """A tuned layer and what the held-out half of the log says of it."""

    layer: TunedLayer
    gates: TuningGates
    mean_action: int
    """Grid point nearest to the mean weights of the layer: the control of personalization."""
    pareto: list[dict[str, float]]
    """For each alpha: objectives by hits of the held-out half, their simultaneous limits, and the number of hits."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        grid = self.layer.policy.grid
        named = dict(zip(grid.names, grid.weights(self.layer.static_action).tolist(), strict=True))
        mean = dict(zip(grid.names, grid.weights(self.mean_action).tolist(), strict=True))
        return {"gates": self.gates.as_dict(), "static_weights": named, "mean_weights": mean, "pareto": self.pareto}


def tune_layer(
    policy: Policy, log_path: str | Path, out: str | Path, *, base: Path | None = None,
    heads: Sequence[str] | None = None, config: LayerTuningConfig | None = None, own: OwnHeads = NO_OWN_HEADS,
    seed: int = 0,
) -> TuningResult:  # fmt: skip
    """Tune a layer on a log of uniform weights, write it to `out` and return it.

    Args:
        policy: The policy that the log ranked.
        log_path: Folder of the log.
        out: The folder to write; it must not exist.
        base: The artifact of the policy. `out` becomes an artifact of it under the layer; None writes the layer only.
        heads: The expected heads; None takes those of the log.
        config: Rewards, share of the gates, and training.
        own: Heads from files.
        seed: Seed of the halves and of the training.

    Raises:
        DataError: The log is not uniform, or of another policy.
        ConfigError: A setting is out of range, the log has other heads, or static weights are outside of its grid.
        ArtifactError: `out` exists.
    """
    config = config or LayerTuningConfig()
    check_absent(Path(out))
    log, utility, grid, described = read_weight_log(log_path, policy, heads, own)
    log.check_uniform("tuning")
    log = log.with_reward(np.array(config.reward_weights))
    train, holdout = split_log(log, config.evaluation_share, seed)
    today = None if config.static_weights is None else grid.check_weights(config.static_weights)
    tuned, values = _trained(train, grid, config, seed)
    static = best_static_action(train, grid) if today is None else int(grid.nearest_weights(today))
    action = served_actions(tuned, holdout)
    gates = tuning_gates(holdout, action, static, generator(seed, "tune/gates"))
    metadata = {
        "log": str(log_path), "log_digest": log.digest, "seed": seed, "method": config.agent.method,
        "reward": dict(config.reward), "slate_size": described["config"]["slate_size"], "gates": gates.as_dict(),
        "continuation_probability": described["config"]["continuation_probability"],
        "evaluation_share": config.evaluation_share, "log_until": described.get("until"),
    }  # fmt: skip
    layer = TunedLayer(utility, tuned, UserFeatures.fit(policy.scorer), static, metadata)
    mean = mean_weights_action(grid, served_actions(tuned, train))
    pareto = [] if values is None else _pareto(values, holdout)
    texts = {PARETO: pareto_figure(pareto, holdout, static)} if pareto else {}
    if base is None:
        write_tuned_layer(layer, Path(out), texts)
    else:
        write_tuned_policy(base, layer, Path(out), texts)
    return TuningResult(layer, gates, mean, pareto)


def split_log(log: TuningLog, holdout: float, seed: int) -> tuple[TuningLog, TuningLog]:
    """Return the parts of a log for training and for the gates, shuffled."""
    order = generator(seed, "tune/halves").permutation(len(log))
    count = max(1, round(len(log) * (1 - holdout)))
    return log.take(order[:count]), log.take(order[count:] if count < len(log) else order[-1:])


def _trained(
    train: TuningLog, grid: ActionGrid, config: LayerTuningConfig, seed: int
) -> tuple[TunedPolicy, TunedPolicy | None]:
    """Return the tuned policy, and the policy of values for the sweep, if that is the method."""
    if config.agent.method != "value_regression":
        return train_tuning(train, grid, config.agent, seed), None
    values = train_tuning(train, grid, config.agent, seed)
    return values.with_objectives(config.reward_weights), values


def served_actions(policy: TunedPolicy, log: TuningLog) -> NDArray[np.int64]:
    """Return the grid points [N] that a policy would serve in the requests of a log; users come again and again."""
    features, row = log.features.distinct()
    return policy.actions(features)[row]


def _pareto(values: TunedPolicy, holdout: TuningLog) -> list[dict[str, float]]:
    """Return the objectives for each alpha of the sweep, with intervals that hold for all alphas together.

    Whoever picks the best of 25 points picks luck, too. So each interval has the level 1 - 0.05 / 25 (Bonferroni).
    """
    level = 1 - (1 - LEVEL) / len(ALPHAS)
    points = []
    features, row = holdout.features.distinct()
    for alpha in ALPHAS:
        hits = log_hits(holdout, values.with_objectives((alpha, 0.0, 1.0 - alpha)).actions(features)[row])
        point = {"alpha": alpha, "hits": float(hits.count)}
        for name, part in _by_objective(holdout).items():
            interval = HitValue.of_hits(part, hits).interval(part, level)
            point |= {name: interval.value, f"{name}_lo": interval.lo, f"{name}_hi": interval.hi}
        points.append(point)
    return points


def _by_objective(log: TuningLog) -> dict[str, TuningLog]:
    """Return the log with each objective as the reward."""
    return {name: log.with_reward(np.eye(len(OBJECTIVES))[place]) for place, name in enumerate(OBJECTIVES)}


def pareto_figure(points: list[dict[str, float]], holdout: TuningLog, static_action: int) -> str:
    """Return the plot of likes and novelty over the sweep, with static and random weights, as SVG."""
    figure, axes = new_axes()
    axes.plot([p["novelty"] for p in points], [p["like"] for p in points], marker=".", label="tuned, by alpha")
    static = {
        name: HitValue.of_hits(part, log_hits(part, static_action)).value
        for name, part in _by_objective(holdout).items()
    }
    random = dict(zip(OBJECTIVES, holdout.objectives.mean(axis=0).tolist(), strict=True))
    for label, mean, marker in (("best static weights", static, "s"), ("random weights", random, "x")):
        axes.plot([mean["novelty"]], [mean["like"]], marker=marker, ls="", label=label)
    axes.set_xlabel("novelty of the slate, 0 to 1")
    axes.set_ylabel("likes per slate")
    draw_legend(axes)
    return to_svg(figure, themed=False)


@dataclass(frozen=True)
class WorldComparison:
    """Exact rewards of the tuned layer and its rivals in one world, means over users."""

    world: str
    values: Mapping[str, Mapping[str, float]]
    """For each policy: reward, likes, continued sessions, and the mean novelty of its slates in bits."""
    over_static: Interval
    """Tuned layer minus best static weights, per slate, over users."""
    over_policy: Interval
    """Tuned layer minus the policy without a layer."""
    over_mean_weights: Interval
    """Tuned layer minus its own mean weights: the gain of personalization."""
    by_activity: Sequence[Mapping[str, float]]
    """For each bucket of activity: users, mean weights of the layer, its reward and that of the static weights."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        intervals = ("over_static", "over_policy", "over_mean_weights")
        return {
            "world": self.world, "values": {name: dict(part) for name, part in self.values.items()},
            **{name: getattr(self, name).as_dict() for name in intervals},
            "by_activity": [dict(part) for part in self.by_activity],
        }  # fmt: skip


TUNED, STATIC, POLICY, MEAN, UNIFORM = (
    "tuned layer",
    "best static weights",
    "policy alone",
    "mean weights",
    "random weights",
)


def compare_in_world(result: TuningResult, world: SessionWorld, seed: int = 0) -> WorldComparison:
    """Return the exact rewards of the layer and its rivals in a world; the policy alone has all weights 0."""
    layer, grid = result.layer, result.layer.policy.grid
    sizes = int(layer.metadata["slate_size"]), float(layer.metadata["continuation_probability"])
    table = slate_table(layer.utility, grid, world, *sizes)
    zeros = ActionGrid(grid.names, (0,) * len(grid.names), (0.0,) * len(grid.names), (1.0,) * len(grid.names), 2)
    alone = slate_table(layer.utility, zeros, world, *sizes)  # 0 need not be in the grid of the layer
    features = layer.features.of(layer.utility.scorer, table.users)
    served = layer.policy.actions(features)
    weights = np.array([float(layer.metadata["reward"].get(name, 0.0)) for name in OBJECTIVES])
    reward = table.objectives() @ weights  # [W, A]
    everyone = np.arange(len(table.users))
    first = np.zeros(len(everyone), np.int64)
    reward_alone = alone.objectives() @ weights
    chosen = {
        TUNED: served, STATIC: np.full(len(everyone), layer.static_action),
        MEAN: np.full(len(everyone), result.mean_action),
    }  # fmt: skip
    values = {name: _figures(table, reward, everyone, action) for name, action in chosen.items()}
    values[POLICY] = _figures(alone, reward_alone, everyone, first)
    values[UNIFORM] = {
        "reward": float(reward.mean()), "like": float(table.likes.mean()),
        "session_continues": float(table.continues.mean()), "novelty": float(table.novelty.mean()),
    }  # fmt: skip
    rng = generator(seed, "tune/compare")

    def gain(other: str) -> Interval:
        rival = reward_alone[:, 0] if other == POLICY else reward[everyone, chosen[other]]
        return paired_difference(reward[everyone, served], rival, rng)

    buckets = []
    for bucket in range(features.sizes[0]):
        rows = np.flatnonzero(features.categorical[:, 0] == bucket)
        if not len(rows):
            continue
        mean = grid.weights(served[rows]).mean(axis=0)
        buckets.append(
            {
                "bucket": float(bucket), "users": float(len(rows)), **dict(zip(grid.names, mean.tolist(), strict=True)),
                "tuned": float(reward[rows, served[rows]].mean()),
                "static": float(reward[rows, layer.static_action].mean()),
            }
        )  # fmt: skip
    return WorldComparison(world.name, values, gain(STATIC), gain(POLICY), gain(MEAN), buckets)


def _figures(table: SlateTable, reward: Array, rows: NDArray[np.intp], action: NDArray[np.int64]) -> dict[str, float]:
    return {
        "reward": float(reward[rows, action].mean()), "like": float(table.likes[rows, action].mean()),
        "session_continues": float(table.continues[rows, action].mean()),
        "novelty": float(table.novelty[rows, action].mean()),
    }  # fmt: skip
