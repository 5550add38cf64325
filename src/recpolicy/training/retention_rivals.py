"""Training of RLUR's rivals in chains of sessions: dual-V, the cross-entropy method, and the return bandit.

T requests of each chain, B chains, H weights, O observation, W users.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents.dual_value import DualValue, alpha_at, mixed_advantage
from recpolicy.agents.return_bandit import CrossEntropySearch, ReturnBandit, fit_return_bandit
from recpolicy.agents.rlur import Actors
from recpolicy.core.seeds import generator, stateless_seed
from recpolicy.core.tensorflow_random import fold_in, split, uniform
from recpolicy.environments.session_retention import SESSION_FEATURES, RetentionEnvironment
from recpolicy.training.retention_loop import RetentionTrainConfig, ReturnCost, Rollout, unpack

CANDIDATES = 1_000
"""Weight vectors that the return bandit chooses from."""
_PROGRESS = 3  # features of a session before this place are known when it starts
_MEMBERS = 32


class DualValueTraining(tf.Module):
    """The dual-V variant, on policy: each block is learned once and then dropped."""

    def __init__(self, environment: RetentionEnvironment, agent: DualValue, config: RetentionTrainConfig):
        super().__init__(name="dual_value_training")
        self.config, self.agent, self.cost = config, agent, ReturnCost(environment.users)
        self._rollout = Rollout(environment, config.chains, config.requests)
        self._widths = environment.observation_width, environment.head_count
        self._block = tf.function(self._one_block, jit_compile=True, autograph=False)

    def run(self, seed: int) -> None:
        """Train from the agent's current state."""
        base = tf.constant(stateless_seed(seed, "dual value"), tf.int32)
        for number in range(self.config.blocks):
            progress = tf.constant(number / self.config.blocks, tf.float32)
            self._block(progress, fold_in(base, number))

    def _one_block(self, progress: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        agent, config = self.agent, self.config
        roll_seed, pick_seed = split(seed, 2)
        noise = tf.constant(agent.config.noise, tf.float32)
        records = self._rollout(agent.actor, noise, tf.constant(False), roll_seed)
        parts = unpack(records, *self._widths)
        cost = self.cost(parts.day, tf.cast(parts.user, tf.int32))
        last = parts.last > 0.5
        immediate, returns, likes_target, days_target = agent.advantages(
            parts.observation, parts.next_observation, parts.like, cost, last
        )
        advantage = mixed_advantage(immediate, returns, alpha_at(progress, agent.config.alpha))
        figures = tf.stack([advantage, likes_target, days_target], axis=2)  # [T, B, 3]
        rows = config.chains * config.requests
        flat, figures = tf.reshape(records, [rows, records.shape[2]]), tf.reshape(figures, [rows, 3])
        picks = tf.cast(uniform([config.updates, config.batch_size], pick_seed) * rows, tf.int32)

        def one_update(step: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            pick = tf.gather(picks, step)
            chosen, numbers = unpack(tf.gather(flat, pick), *self._widths), tf.gather(figures, pick)
            targets = tf.transpose(numbers[:, 1:])
            loss = agent.update(chosen.observation, chosen.action, chosen.mean, numbers[:, 0], targets)
            return step + 1, total + loss

        return tf.while_loop(lambda step, _: step < config.updates, one_update, (tf.constant(0), tf.constant(0.0)))[1]


class CrossEntropyTraining(tf.Module):
    """The cross-entropy method: all members of a population meet the same users and random numbers."""

    def __init__(self, environment: RetentionEnvironment, config: RetentionTrainConfig):
        super().__init__(name="cross_entropy_training")
        self.config, self._heads = config, environment.head_count
        self._each = max(config.chains // _MEMBERS, 1)
        self._rollout = Rollout(environment, self._each * _MEMBERS, config.requests, copies=_MEMBERS)
        self._widths = environment.observation_width, environment.head_count
        self._days = tf.function(self._days_of, jit_compile=True, autograph=False)

    def run(self, actor: Actors, seed: int) -> None:
        """Search the weights with the fewest days, and make `actor` that constant policy."""
        search = CrossEntropySearch(self._heads, generator(seed, "cross-entropy"))
        base = tf.constant(stateless_seed(seed, "cross-entropy"), tf.int32)
        for number in range(self.config.blocks):
            draws = search.draw(_MEMBERS)
            days = self._days(tf.constant(draws, tf.float32), fold_in(base, number)).numpy()
            search.refit(draws, days)
        actor.assign_constant(search.mean)

    def _days_of(self, draws: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return the mean days [members] of weight vectors [members, H]."""
        weights = tf.repeat(draws, self._each, axis=0)
        records = self._rollout(lambda _: weights, tf.constant(0.0), tf.constant(False), seed)
        parts = unpack(records, *self._widths)
        days, sessions = (
            tf.reduce_sum(tf.reshape(tf.reduce_sum(part, axis=0), [_MEMBERS, -1]), axis=1)
            for part in (parts.day, parts.last)
        )
        return days / sessions


class BanditPolicy(tf.Module):
    """The choices of a return bandit, as a compiled policy whose tables can be replaced."""

    def __init__(self, environment: RetentionEnvironment):
        super().__init__(name="return_bandit")
        features = environment.observation_width - SESSION_FEATURES + _PROGRESS
        heads = environment.head_count
        self._tables = {
            name: tf.Variable(tf.zeros(shape), trainable=False, name=name)
            for name, shape in (
                ("candidates", [CANDIDATES, heads]), ("common", [CANDIDATES]), ("by_feature", [features, CANDIDATES]),
            )
        }  # fmt: skip

    def assign(self, bandit: ReturnBandit) -> None:
        """Take the tables of a fitted bandit."""
        for name, variable in self._tables.items():
            variable.assign(getattr(bandit, name))

    def __call__(self, observation: tf.Tensor) -> tf.Tensor:
        """Return the weights [B, H] of lowest cost."""
        tables = self._tables
        cost = tables["common"] + tf.matmul(session_features(observation), tables["by_feature"])
        return tf.gather(tables["candidates"], tf.argmin(cost, axis=1, output_type=tf.int32))


def session_features(observation: tf.Tensor) -> tf.Tensor:
    """Return the features [..., C] of an observation that are known when a session starts."""
    return tf.concat([observation[..., :_PROGRESS], observation[..., SESSION_FEATURES:]], axis=-1)


class SessionTable:
    """N logged sessions with weights that were uniform and constant in each."""

    def __init__(self, records: NDArray[np.float32], observation: int, heads: int):
        """Cut the records [T, B, width] of a block into its complete sessions."""
        parts = unpack(records, observation, heads)
        last = np.asarray(parts.last) > 0.5  # [T, B]
        # [T, B] number of the session in its chain
        session: NDArray[np.int64] = np.cumsum(last, axis=0, dtype=np.int64) - last
        chain = np.arange(last.shape[1])
        likes = np.zeros((session.max() + 1, last.shape[1]))
        np.add.at(likes, (session, np.broadcast_to(chain, session.shape)), np.asarray(parts.like))
        first = np.ones_like(last)
        first[1:] = last[:-1]
        place = np.zeros(likes.shape, np.intp)
        step, column = np.nonzero(first)
        place[session[step, column], column] = step
        ended, column = np.nonzero(last)
        number = session[ended, column]
        begin = place[number, column]
        features = np.asarray(parts.observation)[begin, column]
        self.features = np.concatenate([features[:, :_PROGRESS], features[:, SESSION_FEATURES:]], axis=1)  # [N, C]
        self.weights = np.asarray(parts.action)[ended, column]  # [N, H]
        self.days, self.likes = np.asarray(parts.day)[ended, column], likes[number, column]  # [N]
        self.user = np.asarray(parts.user)[ended, column].astype(np.int32)  # [N]
        self.requests = last.size / last.sum()
        """Requests per session."""
        following = np.asarray(parts.next_observation)[last]
        self.centers = following[:, :2].mean(axis=0)
        """Means of the moving averages of likes and novelty at the ends of sessions."""


class UniformLog(tf.Module):
    """Sessions with uniform weights: the log of the bandit and of the return-time normalizer."""

    def __init__(self, environment: RetentionEnvironment, config: RetentionTrainConfig):
        super().__init__(name="uniform_log")
        self.config, self._heads = config, environment.head_count
        self._widths = environment.observation_width, environment.head_count
        rollout = Rollout(environment, config.chains, config.requests)
        zero = tf.zeros([config.chains, self._heads])
        self._block = tf.function(
            lambda seed: rollout(lambda _: zero, tf.constant(0.0), tf.constant(True), seed), jit_compile=True,
            autograph=False,
        )  # fmt: skip

    def run(self, seed: int, blocks: int) -> list[SessionTable]:
        """Return the sessions of each block."""
        base = tf.constant(stateless_seed(seed, "uniform log"), tf.int32)
        return [SessionTable(self._block(fold_in(base, block)).numpy(), *self._widths) for block in range(blocks)]


def fit_bandit(tables: list[SessionTable], seed: int, lambda_immediate: float = 0.0) -> ReturnBandit:
    """Return the bandit of logged sessions, over CANDIDATES uniform weight vectors."""
    heads = tables[0].weights.shape[1]
    candidates = generator(seed, "return bandit").uniform(-1, 1, (CANDIDATES, heads)).astype(np.float32)
    features, weights, days, likes = (
        np.concatenate([getattr(table, name) for table in tables]) for name in ("features", "weights", "days", "likes")
    )
    return fit_return_bandit(features, weights, days, likes, candidates, lambda_immediate=lambda_immediate)
