"""The compiled online loop: environment step, action, update and metrics inside one XLA program.

Per round t (a batch of B users): draw users, choose actions, pay rewards, measure regret, learn. All randomness is a
function of (seed, t), so a resumed run gives the same numbers as an uninterrupted one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents.learner import BanditAgent, Estimate
from recpolicy.agents.observation import read_observation
from recpolicy.core.tensorflow_random import fold_in
from recpolicy.environments.base import RecommendationEnvironment


class Rounds(NamedTuple):
    """The metrics of R rounds of B interactions."""

    reward: NDArray[np.float32]  # [R], mean over the batch
    regret: NDArray[np.float32]  # [R], mean over the batch
    suboptimal: NDArray[np.float32]  # [R], share of interactions with regret > 0
    loss: NDArray[np.float32]  # [R], mean squared error of the learner before its update
    explored: NDArray[np.float32]  # [R], share of interactions whose action has a lower estimate than the best
    width: NDArray[np.float32]  # [R], mean standard deviation of the estimates of the chosen actions
    pulls: NDArray[np.int32]  # [A], interactions per arm over all R rounds


class OnlineLoop:
    """A loop of an agent in an environment, many rounds per call; it changes only the environment's round number."""

    def __init__(self, environment: RecommendationEnvironment, agent: BanditAgent, *, learns: bool = True):
        self._environment, self._agent = environment, agent
        self._compiled: dict[int, Callable[..., Any]] = {}
        self._learns = learns

    def run(self, rounds: int) -> Rounds:
        """Run `rounds` rounds from the environment's current round."""
        if rounds not in self._compiled:
            self._compiled[rounds] = tf.function(self._rounds(rounds), jit_compile=True, autograph=False)
        return Rounds(*(part.numpy() for part in self._compiled[rounds]()))

    def _rounds(self, rounds: int) -> Callable[[], tuple[tf.Tensor, ...]]:
        environment, agent = self._environment, self._agent
        arms = tf.range(environment.actions)

        def one_round(row: tf.Tensor, start: tf.Tensor, curves: tf.Tensor, pulls: tf.Tensor) -> tuple[tf.Tensor, ...]:
            now = start + tf.cast(row, tf.int64)
            draw = environment.sample_round(now)
            observation = environment.observation(draw)
            read = read_observation(observation)
            seed = fold_in(agent.action_seed, now)
            action = agent.collect_policy.sample_action(observation, seed)
            estimate = agent.learner.estimate(read)  # of this round's action: before the update
            reward = environment.reward(draw, action, now)
            regret = environment.regret(draw, action, now)
            environment.record(draw, action, reward)
            loss = agent.learner.update(read, action, reward) if self._learns else 0.0
            worse = tf.reduce_mean(tf.cast(regret > 0, tf.float32))
            explored, width = _exploration(estimate, read.mask, action)
            figures = tf.stack([tf.reduce_mean(reward), tf.reduce_mean(regret), worse, loss, explored, width])
            curves = tf.tensor_scatter_nd_update(curves, [[row]], figures[tf.newaxis])
            # Count by comparison: on the CPU, a scatter would be a loop over the batch.
            pulls += tf.reduce_sum(tf.cast(action[:, tf.newaxis] == arms, tf.int32), axis=0)
            return row + 1, start, curves, pulls

        def many_rounds() -> tuple[tf.Tensor, ...]:
            start = environment.round.read_value()
            nothing = (tf.constant(0), start, tf.zeros([rounds, 6]), tf.zeros([environment.actions], tf.int32))
            _, _, curves, pulls = tf.while_loop(lambda row, *_: row < rounds, one_round, nothing)
            environment.round.assign(start + rounds)
            if self._learns:
                agent.train_step_counter.assign_add(rounds)
            return (*tf.unstack(curves, axis=1), pulls)

        return many_rounds


def _exploration(estimate: Estimate, mask: tf.Tensor | None, action: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the share of actions [B] that are not greedy, and the mean width of the chosen ones; ties are greedy."""
    mean = estimate.mean if mask is None else tf.where(mask, estimate.mean, -np.inf)
    chosen = tf.gather(mean, action, batch_dims=1)
    differs = tf.cast(chosen < tf.reduce_max(mean, axis=1), tf.float32)
    return tf.reduce_mean(differs), tf.reduce_mean(tf.gather(estimate.width, action, batch_dims=1))
