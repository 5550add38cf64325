"""Compiled loops over chains of sessions: roll out a policy, learn off-policy from a ring of recent blocks, evaluate.

T requests of each chain, B chains, H weights, O observation, W users. A block is T requests of B chains that all begin
anew. One XLA program rolls out, stores and learns; it serves all variants and seeds, since settings are variables.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents.rlur import RLUR, Batch, normal
from recpolicy.core.config import Count, Size, config_dataclass
from recpolicy.core.seeds import stateless_seed
from recpolicy.core.tensorflow_random import fold_in, integers, split, uniform
from recpolicy.environments.session_retention import ChainState, RetentionEnvironment
from recpolicy.models.return_time import RETURN_DAYS

Policy = Callable[[tf.Tensor], tf.Tensor]
"""observation [B, O] -> head weights [B, H] in -1..1."""


@config_dataclass
class RetentionTrainConfig:
    """Settings of a training in chains of sessions."""

    chains: Size = 256
    """Number B of chains of a block."""
    requests: Size = 50
    """Number T of requests of each chain in a block."""
    blocks: Count = 20
    """Blocks in all; the first one explores with uniform weights."""
    ring: Size = 8
    """Blocks that the ring of recent requests holds."""
    updates: Count = 100
    """Updates of the actor in each block; the critics take two for each."""
    batch_size: Size = 256
    """Requests in a batch of an update."""


class Rollout(tf.Module):
    """Blocks of chains of users drawn from a world."""

    def __init__(self, environment: RetentionEnvironment, chains: int, requests: int, copies: int = 1):
        """Roll out `copies` sets of chains, one after the other, with equal users and random numbers."""
        super().__init__(name="rollout")
        self.environment, self.chains, self.requests, self.copies = environment, chains, requests, copies

    def __call__(self, policy: Policy, noise: tf.Tensor, uniform_weights: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return the records [T, B, O + 2 H + 5 + O] of a block; `unpack` names their parts.

        Args:
            policy: The policy; it acts with Gaussian `noise` of this standard deviation.
            uniform_weights: True for weights that are uniform in -1..1 and constant in a session.
            seed: int32 [2].
        """
        environment = self.environment
        user_seed, world_seed, action_seed = split(seed, 3)
        each = self.chains // self.copies
        user = tf.tile(integers([each], user_seed, 0, environment.users), [self.copies])
        shape = [self.requests, self.chains, environment.head_count]
        gauss, points = (
            draw(tf.constant(shape), part) for draw, part in zip((normal, uniform), split(action_seed, 2), strict=True)
        )
        world = tf.tile(environment.noise(each, self.requests, world_seed), [1, self.copies, 1])
        place = tf.range(self.chains)

        def one_request(
            step: tf.Tensor, state: ChainState, record: tf.TensorArray
        ) -> tuple[tf.Tensor, ChainState, tf.TensorArray]:
            observation = environment.observe(state)
            mean = policy(observation)
            gaussian = tf.clip_by_value(mean + noise * tf.gather(gauss, step), -1.0, 1.0)
            session = tf.minimum(state.session, self.requests - 1)
            flat = 2.0 * tf.gather_nd(points, tf.stack([session, place], axis=1)) - 1.0
            action = tf.where(uniform_weights, flat, gaussian)
            following, outcome = environment.step(state, action, tf.gather(world, step))
            figures = [outcome.like, outcome.day, tf.cast(outcome.last, tf.float32), tf.cast(user, tf.float32)]
            figures.append(tf.zeros_like(outcome.like) + tf.cast(uniform_weights, tf.float32))
            parts = [observation, action, mean, tf.stack(figures, axis=1)]
            row = tf.concat([*parts, environment.observe(following)], axis=1)
            return step + 1, following, record.write(step, row)

        record = tf.TensorArray(tf.float32, size=self.requests)
        start = (tf.constant(0), environment.begin(user), record)
        return tf.while_loop(lambda step, *_: step < self.requests, one_request, start)[2].stack()


@dataclass(frozen=True)
class Records:
    """The parts of records [..., width]."""

    observation: tf.Tensor
    action: tf.Tensor
    mean: tf.Tensor
    like: tf.Tensor
    day: tf.Tensor
    last: tf.Tensor
    user: tf.Tensor
    explored: tf.Tensor
    next_observation: tf.Tensor


def unpack(records: tf.Tensor, observation: int, heads: int) -> Records:
    """Return the parts of records, arrays or tensors [..., width]."""
    ends = np.cumsum([observation, heads, heads, 1, 1, 1, 1, 1])
    parts: list[Any] = [
        records[..., low:high] for low, high in zip([0, *ends], [*ends, records.shape[-1]], strict=True)
    ]
    like, day, last, user, explored = (part[..., 0] for part in parts[3:8])
    return Records(parts[0], parts[1], parts[2], like, day, last, user, explored, parts[8])


class ReturnCost(tf.Module):
    """Costs of return days: min(day * scale[user], cap) * unit, as variables."""

    def __init__(self, users: int):
        super().__init__(name="return_cost")
        self.scale = tf.Variable(tf.ones([users]), trainable=False, name="scale")
        self.cap = tf.Variable(1e9, trainable=False, name="cap")
        self.unit = tf.Variable(1.0, trainable=False, name="unit")

    def __call__(self, day: tf.Tensor, user: tf.Tensor) -> tf.Tensor:
        """Return the costs [B] of days [B], 0 where no session ended."""
        return tf.minimum(day * tf.gather(self.scale, user), self.cap) * self.unit

    def assign(self, scale: NDArray[np.floating], cap: float, unit: float) -> None:
        """Set the costs of a training."""
        self.scale.assign(scale.astype(np.float32))
        self.cap.assign(cap)
        self.unit.assign(unit)


class RetentionTraining(tf.Module):
    """RLUR and its variants in one environment."""

    def __init__(self, environment: RetentionEnvironment, agent: RLUR, config: RetentionTrainConfig | None = None):
        super().__init__(name="retention_training")
        self.config = config = config or RetentionTrainConfig()
        self.agent, self.cost = agent, ReturnCost(environment.users)
        self._rollout = Rollout(environment, config.chains, config.requests)
        self._widths = environment.observation_width, environment.head_count
        width = 2 * self._widths[0] + 2 * self._widths[1] + 5
        self._rows = config.chains * config.requests
        self._ring = tf.Variable(tf.zeros([config.ring, self._rows, width]), trainable=False, name="ring")
        self._block = tf.function(self._one_block, jit_compile=True, autograph=False)

    def run(self, seed: int) -> NDArray[np.float32]:
        """Train from the agent's current state; return the figures of each block, [blocks, 4].

        They are likes per request, days per session, and the losses of the retention and the immediate critic.
        """
        base = tf.constant(stateless_seed(seed, "retention"), tf.int32)
        figures = [self._block(tf.constant(number), fold_in(base, number)) for number in range(self.config.blocks)]
        return np.array([figure.numpy() for figure in figures], np.float32)

    def _one_block(self, number: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        config, agent = self.config, self.agent
        roll_seed, learn_seed = split(seed, 2)
        rows = self._rollout(agent.actor, agent.settings["noise"], tf.equal(number, 0), roll_seed)
        rows = tf.reshape(rows, [self._rows, rows.shape[2]])
        self._ring.scatter_update(tf.IndexedSlices(rows[tf.newaxis], tf.reshape(number % config.ring, [1])))
        filled = tf.minimum(number + 1, config.ring) * self._rows
        everything = tf.reshape(self._ring.read_value(), [config.ring * self._rows, rows.shape[1]])
        picks = uniform([config.updates, 2, config.batch_size], fold_in(learn_seed, tf.constant(0)))
        picks = tf.cast(picks * tf.cast(filled, tf.float32), tf.int32)

        def one_update(step: tf.Tensor, losses: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            seeds = split(fold_in(learn_seed, step + 1), 3)
            pick = tf.gather(picks, step)
            batches = [self._batch(tf.gather(everything, pick[half])) for half in range(2)]
            for half in range(2):
                losses += tf.stack(agent.update_critics(batches[half], seeds[half])) / (2.0 * config.updates)
            agent.update_actor(batches[1], seeds[2])
            return step + 1, losses

        start = (tf.constant(0), tf.zeros([2]))
        _, losses = tf.while_loop(lambda step, _: step < config.updates, one_update, start)
        parts = unpack(rows, *self._widths)
        days = tf.reduce_sum(parts.day) / tf.reduce_sum(parts.last)
        return tf.concat([tf.stack([tf.reduce_mean(parts.like), days]), losses], axis=0)

    def _batch(self, rows: tf.Tensor) -> Batch:
        parts = unpack(rows, *self._widths)
        last = parts.last > 0.5
        cost = self.cost(parts.day, tf.cast(parts.user, tf.int32))
        never = tf.zeros_like(last)  # every user comes back, at the latest at the cap
        return Batch(
            parts.observation, parts.action, parts.mean, parts.explored > 0.5, parts.like, cost, last, never,
            parts.next_observation,
        )  # fmt: skip


@dataclass(frozen=True)
class ChainResults:
    """Means per user over the chains of a policy, each [W]; sessions are fixed in number, then also in time."""

    days: NDArray[np.float64]
    """Days until the next session."""
    day_1: NDArray[np.float64]
    """Share of returns on day 1."""
    cap: NDArray[np.float64]
    """Share of returns at the cap of ten days."""
    likes: NDArray[np.float64]
    """Likes per session."""
    requests: NDArray[np.float64]
    """Requests per session."""
    novelty: NDArray[np.float64]
    """Mean novelty of a request."""
    sessions: NDArray[np.float64]
    """Sessions that begin within the horizon, of the fixed number at most."""


class ChainEvaluation:
    """Evaluation of policies in the same chains: user, seed, session and request determine the random numbers."""

    def __init__(
        self, environment: RetentionEnvironment, policy: Policy, *, sessions: int = 10, chains: int = 10,
        horizon: float = 14.0,
    ):  # fmt: skip
        """Play `chains` chains of each user, each with `sessions` sessions; the horizon is in days."""
        self._environment, self._policy = environment, policy
        self._sessions, self._chains, self._horizon = sessions, chains, horizon
        self._play = tf.function(self._run, jit_compile=True, autograph=False)

    def run(self, seed: int) -> ChainResults:
        """Return the results of the policy as it is now."""
        base = tf.constant(stateless_seed(seed, "retention evaluation"), tf.int32)
        total = np.zeros((self._environment.users, 8))
        for chain in range(self._chains):
            total += self._play(fold_in(base, chain)).numpy()
        requests, likes, novelty, sessions, days, day_1, cap, within = total.T
        return ChainResults(
            days / sessions, day_1 / sessions, cap / sessions, likes / sessions, requests / sessions,
            novelty / requests, within / self._chains,
        )  # fmt: skip

    def _run(self, seed: tf.Tensor) -> tf.Tensor:
        """Return sums [W, 8] of one chain of each user."""
        environment, most = self._environment, self._environment.config.requests
        steps = self._sessions * most
        user = tf.range(environment.users)
        noise = environment.noise(environment.users, steps, seed)

        def one_request(
            step: tf.Tensor, state: ChainState, elapsed: tf.Tensor, total: tf.Tensor
        ) -> tuple[tf.Tensor, ChainState, tf.Tensor, tf.Tensor]:
            going = tf.cast(state.session < self._sessions, tf.float32)
            place = tf.minimum(state.session * most + state.request, steps - 1)
            drawn = tf.gather_nd(noise, tf.stack([place, user], axis=1))
            # A session's return day has the same number whatever the session's length.
            begin = tf.minimum(state.session * most, steps - 1)
            day_point = tf.gather_nd(noise[:, :, 0], tf.stack([begin, user], axis=1))
            drawn = tf.concat([day_point[:, tf.newaxis], drawn[:, 1:]], axis=1)
            first = tf.cast(tf.equal(state.request, 0) & (elapsed <= self._horizon), tf.float32)
            state, outcome = environment.step(state, self._policy(environment.observe(state)), drawn)
            last, day = tf.cast(outcome.last, tf.float32), outcome.day
            parts = [
                tf.ones_like(going), outcome.like, outcome.novelty, last, day,
                tf.cast(tf.equal(day, 1.0), tf.float32), tf.cast(day >= RETURN_DAYS, tf.float32), first,
            ]  # fmt: skip
            return step + 1, state, elapsed + day, total + going[:, tf.newaxis] * tf.stack(parts, axis=1)

        zero = tf.zeros([environment.users])
        start = (tf.constant(0), environment.begin(user), zero, tf.zeros([environment.users, 8]))
        return tf.while_loop(lambda step, *_: step < steps, one_request, start)[3]


def mean_results(results: list[ChainResults]) -> ChainResults:
    """Return the means of several results per user, such as those of training seeds."""
    return ChainResults(
        *(np.mean([getattr(result, field.name) for result in results], axis=0) for field in fields(ChainResults))
    )
