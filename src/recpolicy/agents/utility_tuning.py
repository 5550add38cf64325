"""Utility tuning: learn from logged weight vectors which weights to rank with, request by request (DRL-PUT).

B logged requests of a batch, A grid points, G groups, K objectives. A request with features s was served by grid point
a, drawn with propensity mu, and paid r. Methods (each loss is a mean over the batch; pi is the softmax over the grid):

    reinforce                  -r log pi(a|s)                    the paper's form: no baseline, no importance weight
    reinforce_centered         -(r - mean r) log pi(a|s)
    reinforce_weighted         -min(pi/mu, cap) r log pi(a|s)
    actor_critic               -(r - V(s)) log pi(a|s)           V fitted by squared error in the same steps
    actor_critic_weighted      -min(pi/mu, cap) (r - V(s)) log pi(a|s)
    gaussian_reinforce         -r log N(u; m(s), sigma)          u: the grid point in the unit cube
    gaussian_actor_critic      -(r - V(s)) log N(u; m(s), sigma)
    value_regression           squared error of each objective; serves the argmax of their weighted sum

Without a weight, a uniform log leads `reinforce` to pi proportional to E[r | s, a]: its argmax is optimal, its
distribution is not. `actor_critic` without a weight has a loss without lower bound, which collapses pi onto few points.
The Gaussian's mean is the reward-weighted mean of the logged weights, near the middle of the box.

Sources: Yang et al. 2025 (DRL-PUT, arXiv 2509.05292); PRL-PUTS 2026 (arXiv 2605.16344, values and trade-offs);
Williams 1992. The paper's full text was not available: losses follow its abstract and secondary descriptions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import Count, LearningRate, Number, PositiveNumber, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.seeds import generator
from recpolicy.data.tuning_log import TuningFeatures, TuningLog
from recpolicy.models.ranking_formula import ActionGrid
from recpolicy.models.tuning_network import Adam, TuningNetwork, TuningNetworkConfig
from recpolicy.models.tuning_policy import TunedPolicy, grid_features, sigmoid, softmax_rows

Method = Literal[
    "reinforce", "reinforce_centered", "reinforce_weighted", "actor_critic", "actor_critic_weighted",
    "gaussian_reinforce", "gaussian_actor_critic", "value_regression",
]  # fmt: skip
METHODS: tuple[str, ...] = get_args(Method)
WEIGHTED = ("reinforce_weighted", "actor_critic_weighted")
"""Methods that correct for the propensities, and so learn from any log that explores; all others need a uniform one,
except value_regression, which needs no propensities."""
_VALUE_WIDTH = 24  # length of the vectors whose products are the values
_MIN_STD, _MAX_STD = 0.05, 1.0  # of the Gaussian, in the unit cube


@config_dataclass
class UtilityTuningConfig:
    """Settings of a training."""

    method: Method = "reinforce"
    """Loss; see the module."""
    steps: Count = 1_500
    """Gradient steps."""
    batch_size: Count = 512
    """Logged requests of a step, drawn in random order."""
    learning_rate: LearningRate = 0.01
    """Step size of Adam at the first step; it falls to 0 in a straight line, so that the noise averages out."""
    max_weight: PositiveNumber = 10.0
    """Cap of the importance weight pi/mu."""
    network: TuningNetworkConfig = TuningNetworkConfig()
    """Sizes of the networks of policy, baseline and values."""
    objective_weights: tuple[Number, ...] = ()
    """value_regression: weight of each objective in the argmax; empty: 1 each."""


Watch = Callable[[int, TunedPolicy], None]
"""Called with the step and the policy as it is then."""


@dataclass(frozen=True)
class _Batches:
    """Endless batches of a log in random order."""

    log: TuningLog
    size: int
    rng: np.random.Generator

    def __iter__(self):  # type: ignore[no-untyped-def]
        count, size = len(self.log), min(self.size, len(self.log))
        while True:
            order = self.rng.permutation(count)
            for first in range(0, count - size + 1, size):
                yield np.sort(order[first : first + size])


def train_tuning(
    log: TuningLog, grid: ActionGrid, config: UtilityTuningConfig | None = None, seed: int = 0,
    watch: Watch | None = None, watch_steps: Sequence[int] = (),
) -> TunedPolicy:  # fmt: skip
    """Return a policy trained on a log.

    Args:
        log: Logged requests whose actions are points of the grid. Values learn from all of them; policy gradients leave
            out fallbacks, whose rewards the weights did not earn.
        grid: The grid.
        config: Method and settings.
        seed: Seed of the initial weights and of the order of the batches.
        watch: Called after the steps in `watch_steps`.
        watch_steps: Steps, counted from 1.

    Raises:
        ConfigError: The grid is not that of the log.
        DataError: The method needs a uniform log, and this one is not.
        DivergedError: The training gave numbers that are not finite.
    """
    config = config or UtilityTuningConfig()
    if log.actions != grid.size:
        raise ConfigError(f"the log has {log.actions} actions; expected the {grid.size} of the grid")
    if config.method not in WEIGHTED and config.method != "value_regression":
        log.check_uniform(f"method {config.method!r}")
    if log.fallback.all():
        raise ConfigError("every logged request is a fallback: nothing to learn from; lower the reserve")
    training: _ValueTrainer | _PolicyTrainer
    if config.method == "value_regression":
        training = _ValueTrainer(log, grid, config, seed)
    else:
        chosen = log.take(np.flatnonzero(~log.fallback)) if log.fallback.any() else log
        training = _PolicyTrainer(chosen, grid, config, seed)
    wanted = set(watch_steps)
    for step, batch in enumerate(_Batches(training.log, config.batch_size, generator(seed, "tuning/batches")), 1):
        training.set_rate(config.learning_rate * (1 - (step - 1) / config.steps))
        training.step(batch)
        if watch is not None and step in wanted:
            watch(step, training.policy())
        if step >= config.steps:
            break
    return training.policy()


class _PolicyTrainer:
    """The state of a training by a policy gradient."""

    def __init__(self, log: TuningLog, grid: ActionGrid, config: UtilityTuningConfig, seed: int):
        self.log, self.grid, self.config = log, grid, config
        rng, sizes, numeric = generator(seed, "tuning/weights"), log.features.sizes, log.features.numeric.shape[1]
        self.gaussian = config.method.startswith("gaussian")
        self.critic_used, self.weighted = "actor_critic" in config.method, config.method in WEIGHTED
        outputs = grid.groups if self.gaussian else grid.size
        self.network = TuningNetwork.initial(sizes, numeric, outputs, config.network, rng)
        self.adam = Adam(self.network.params, config.learning_rate)
        self.critic = TuningNetwork.initial(sizes, numeric, 1, config.network, rng)
        self.critic_adam = Adam(self.critic.params, config.learning_rate)
        self.log_std = np.full(grid.groups, np.log(0.3), np.float32)
        self.std_adam = Adam({"log_std": self.log_std}, config.learning_rate)
        self.mean_reward = float(log.reward.mean())
        self.scale = 1.0 / max(float(np.abs(log.reward).mean()), 1e-12)
        """Rewards have mean size 1 inside, so that a learning rate suits any unit; the fixed points stay the same."""

    def step(self, rows: NDArray[np.intp]) -> None:
        """Take one gradient step on these requests."""
        features, action = self.log.features.take(rows), self.log.action[rows]
        reward = self.log.reward[rows]
        advantage = reward
        if self.config.method == "reinforce_centered":
            advantage = reward - self.mean_reward
        elif self.critic_used:
            advantage = reward - self._fit_critic(features, reward)
        scaled = (advantage * self.scale).astype(np.float32)
        if self.gaussian:
            self._gaussian_step(features, action, scaled)
        else:
            self._softmax_step(features, action, scaled, self.log.propensity[rows])

    def set_rate(self, rate: float) -> None:
        """Set the step size of all optimizers."""
        self.adam.learning_rate = self.critic_adam.learning_rate = self.std_adam.learning_rate = rate

    def _fit_critic(self, features: TuningFeatures, reward: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return V(s) [B] before this step of its own regression."""
        value = self.critic.forward(features, training=True)[:, 0].astype(np.float64)
        error = (value - reward * self.scale).astype(np.float32)
        self.critic_adam.step(self.critic.backward(2 * error[:, np.newaxis] / np.float32(len(reward))))
        return value / self.scale

    def _softmax_step(
        self, features: TuningFeatures, action: NDArray[np.int64], advantage: NDArray[np.float32],
        propensity: NDArray[np.float64],
    ) -> None:  # fmt: skip
        gradient = softmax_rows(self.network.forward(features, training=True))  # [B, A], pi
        place = np.arange(len(action))
        if self.weighted:
            ratio = gradient[place, action] / propensity
            advantage = advantage * np.minimum(ratio, self.config.max_weight).astype(np.float32)
        weight = advantage / np.float32(len(action))
        gradient *= weight[:, np.newaxis]
        gradient[place, action] -= weight
        self.adam.step(self.network.backward(gradient))

    def _gaussian_step(
        self, features: TuningFeatures, action: NDArray[np.int64], advantage: NDArray[np.float32]
    ) -> None:
        mean = sigmoid(self.network.forward(features, training=True))  # [B, G]
        away = self.grid.unit(action).astype(np.float32) - mean
        std = np.exp(self.log_std)
        weight = (advantage / np.float32(len(action)))[:, np.newaxis]
        self.adam.step(self.network.backward(-weight * away / std**2 * mean * (1 - mean)))
        self.std_adam.step({"log_std": (-weight * ((away / std) ** 2 - 1)).sum(axis=0)})
        np.clip(self.log_std, np.log(_MIN_STD), np.log(_MAX_STD), out=self.log_std)

    def policy(self) -> TunedPolicy:
        """Return the policy as it is now."""
        network = TuningNetwork.from_arrays({name: part.copy() for name, part in self.network.arrays().items()})
        form: Literal["softmax", "gaussian"] = "gaussian" if self.gaussian else "softmax"
        return TunedPolicy(
            form, self.grid, network, log_std=self.log_std.copy() if self.gaussian else np.zeros(0, np.float32)
        )


class _ValueTrainer:
    """The state of a regression of the objectives on request and grid point."""

    def __init__(self, log: TuningLog, grid: ActionGrid, config: UtilityTuningConfig, seed: int):
        self.log, self.grid, self.config = log, grid, config
        rng, sizes, numeric = generator(seed, "tuning/weights"), log.features.sizes, log.features.numeric.shape[1]
        self.objectives = log.objectives.shape[1]
        weights = config.objective_weights or (1.0,) * self.objectives
        if len(weights) != self.objectives:
            raise ConfigError(f"objective_weights {list(weights)}; expected one for each of {log.objective_names}")
        width = self.objectives * _VALUE_WIDTH
        self.network = TuningNetwork.initial(sizes, numeric, width, config.network, rng)
        points = grid_features(grid, np.arange(1)).numeric.shape[1]
        self.action_network = TuningNetwork.initial((), points, width, config.network, rng)
        # Both towers near 0 would keep their product there; the first coordinate starts as a constant of 1.
        self.action_network.params["bias_out"][::_VALUE_WIDTH] = 1.0
        self.action_network.params["weight_out"] *= 10.0
        self.adams = (
            Adam(self.network.params, config.learning_rate),
            Adam(self.action_network.params, config.learning_rate),
        )
        self.scale = 1.0 / np.maximum(log.objectives.std(axis=0), 1e-12)
        self.weights = tuple(weights)

    def set_rate(self, rate: float) -> None:
        """Set the step size of both optimizers."""
        for adam in self.adams:
            adam.learning_rate = rate

    def step(self, rows: NDArray[np.intp]) -> None:
        """Take one gradient step on these requests."""
        count = len(rows)
        left = self.network.forward(self.log.features.take(rows), training=True).reshape(count, self.objectives, -1)
        points = grid_features(self.grid, self.log.action[rows])
        right = self.action_network.forward(points, training=True).reshape(left.shape)
        target = self.log.objectives[rows] * self.scale
        error = ((left * right).sum(axis=2) - target).astype(np.float32)[:, :, np.newaxis] * np.float32(2 / count)
        self.adams[0].step(self.network.backward((error * right).reshape(count, -1)))
        self.adams[1].step(self.action_network.backward((error * left).reshape(count, -1)))

    def policy(self) -> TunedPolicy:
        """Return the policy as it is now; its values are in the units of the objectives."""
        arrays = {name: part.copy() for name, part in self.network.arrays().items()}
        unit = np.repeat(1.0 / self.scale, _VALUE_WIDTH).astype(np.float32)
        arrays["weight_out"], arrays["bias_out"] = arrays["weight_out"] * unit, arrays["bias_out"] * unit
        second = {name: part.copy() for name, part in self.action_network.arrays().items()}
        return TunedPolicy(
            "values", self.grid, TuningNetwork.from_arrays(arrays), TuningNetwork.from_arrays(second), self.weights
        )


def best_static_action(log: TuningLog, grid: ActionGrid) -> int:
    """Return the grid point of highest mean reward, smoothed over its direct neighbors in the grid.

    A thousand points share the rounds of a log, so the highest single mean is often luck. Rounds and rewards of the
    neighbors (one index up or down in every group) are pooled, with half of their weight for each index that differs.
    Choose on other rounds than those that evaluate it.

    Raises:
        DataError: The log is not uniform.
    """
    log.check_uniform("the best static action")
    shape = (grid.points,) * grid.groups
    total: NDArray[np.float64] = np.bincount(log.action, log.reward, grid.size).astype(np.float64).reshape(shape)
    rounds: NDArray[np.float64] = np.bincount(log.action, minlength=grid.size).astype(np.float64).reshape(shape)
    for axis in range(grid.groups):
        total, rounds = _with_neighbors(total, axis), _with_neighbors(rounds, axis)
    mean = np.divide(total, rounds, out=np.full(shape, -np.inf), where=rounds > 0)
    return int(mean.argmax())


def _with_neighbors(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return each cell plus half of the cells before and after it along an axis."""
    padded = np.pad(values, [(1, 1) if place == axis else (0, 0) for place in range(values.ndim)])
    size = values.shape[axis]
    parts = [np.take(padded, range(start, start + size), axis=axis) for start in range(3)]
    return parts[1] + 0.5 * (parts[0] + parts[2])


def mean_weights_action(grid: ActionGrid, served: NDArray[np.integer]) -> int:
    """Return the grid point nearest to the mean of the weights that a policy serves [n]: the control of
    personalization."""
    return int(grid.nearest(grid.unit(served).mean(axis=0)))


def uniform_actions(
    grid: ActionGrid, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw grid points [n] uniformly; return them and their propensities [n]."""
    return rng.integers(grid.size, size=count), np.full(count, 1.0 / grid.size)


def gaussian_actions(
    grid: ActionGrid, count: int, center: NDArray[np.floating], std: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw grid points [n] around a center; return them and their propensities [n].

    The indices of the groups are independent, with probabilities proportional to a normal density at the points.

    Args:
        grid: The grid.
        count: n.
        center: [G], in the unit cube.
        std: Standard deviation in the unit cube.
        rng: Source of the draws.
    """
    points = np.arange(grid.points) / (grid.points - 1)
    density = np.exp(-0.5 * ((points - np.asarray(center)[:, np.newaxis]) / std) ** 2)  # [G, N]
    density /= density.sum(axis=1, keepdims=True)
    digits = np.stack([rng.choice(grid.points, size=count, p=row) for row in density], axis=1)
    return grid.action(digits), density[np.arange(grid.groups), digits].prod(axis=1)
