"""The compiled loop of sessions: one XLA program for steps, advantages and updates of many blocks.

A block is T steps of B sessions. All randomness is a function of (seed, block number), and variables hold the sessions'
state. A run resumed between two calls gives the same numbers as an uninterrupted one. In an environment of slates a
step is a slate of K items, drawn without replacement.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from recpolicy.agents.categorical import draw_slate
from recpolicy.agents.experience import Experience, SlateExperience
from recpolicy.agents.sequence import SessionAgent
from recpolicy.core.errors import ConfigError
from recpolicy.core.tensorflow_random import fold_in, uniform
from recpolicy.environments.session_base import Session, SessionEnvironmentBase


@dataclass(frozen=True)
class LoopMetrics:
    """The metrics of a call: means over its blocks, and over the sessions that ended in it."""

    figures: dict[str, float]
    """Figures that the updates reported."""
    sessions: int
    """Number of ended sessions."""
    reward: float
    """Mean sum of rewards of the ended sessions; NaN without any."""
    length: float
    """Mean number of items of the ended sessions; NaN without any."""
    reward_per_step: float
    explored: float
    """Share of actions whose score is lower than the best; ties are greedy. Of a slate its first place counts."""


class SessionLoop:
    """A loop in which an agent acts and learns, many blocks per call."""

    def __init__(self, environment: SessionEnvironmentBase, agent: SessionAgent, *, learns: bool = True):
        self._environment, self._agent, self._learns = environment, agent, learns
        learner = agent.learner
        if environment.slate_size and not learner.learns_from_slates:
            raise ConfigError(f"{learner.name} learns from single items, not from slates; topk_reinforce can")
        self.steps = environment.config.max_episode_steps if learner.whole_sessions else learner.n_steps
        learner.prepare(self.block_size)
        self.names = learner.figures if learns else ()
        self.block = tf.Variable(0, dtype=tf.int64, trainable=False, name="block")
        self._structure = environment.restart(None, None, environment.noise(tf.constant(0, tf.int64)))
        self.session = [tf.Variable(part, trainable=False) for part in tf.nest.flatten(self._structure)]
        # Rewards and items so far and, in a block of whole sessions, ended sessions.
        self.running = tf.Variable(tf.zeros([3, environment.batch_size]), trainable=False)
        self._compiled: dict[int, Callable[..., Any]] = {}

    @property
    def state(self) -> dict[str, tf.Variable]:
        """All that a checkpoint must hold, by name, besides the agent."""
        session = {f"session_{index}": variable for index, variable in enumerate(self.session)}
        return {"block": self.block, "running": self.running, **session}

    @property
    def block_size(self) -> int:
        """Steps in a block: T B."""
        return int(self.steps * self._environment.batch_size)

    def run(self, blocks: int) -> LoopMetrics:
        """Run `blocks` blocks from the sessions' current state."""
        if blocks not in self._compiled:
            self._compiled[blocks] = tf.function(self.many_blocks(blocks), jit_compile=True, autograph=False)
        return self.metrics(blocks, *self._compiled[blocks]())

    def metrics(self, blocks: int, figures: tf.Tensor, totals: tf.Tensor) -> LoopMetrics:
        """Return the metrics of a call from the sums that its function returned."""
        figures, totals = figures.numpy(), totals.numpy()
        earned, reward, length, ended, explored = totals.tolist()
        named = dict(zip(self.names, (figures / blocks).tolist(), strict=True))
        return LoopMetrics(
            named, round(ended), reward / ended if ended else math.nan, length / ended if ended else math.nan,
            earned / (blocks * self.block_size), explored / (blocks * self.block_size),
        )  # fmt: skip

    def many_blocks(self, blocks: int) -> Callable[[], tuple[tf.Tensor, ...]]:
        """Return the function, to be compiled, that runs `blocks` blocks and returns sums of figures and of totals."""
        agent = self._agent

        def one_block(
            index: tf.Tensor, session: Session, running: tf.Tensor, figures: tf.Tensor, totals: tf.Tensor
        ) -> tuple[Any, ...]:
            block = self.block.read_value() + tf.cast(index, tf.int64) + 1  # block 0 drew the first sessions
            experience, session, running, counted = self._rollout(block, session, running)
            if self._learns:
                reported = agent.learner.update(experience, fold_in(agent.learn_seed, block))
                figures += tf.stack([reported[name] for name in self.names])
            return index + 1, session, running, figures, totals + counted

        def many_blocks() -> tuple[tf.Tensor, ...]:
            session = tf.nest.pack_sequence_as(self._structure, [part.read_value() for part in self.session])
            start = (tf.constant(0), session, self.running.read_value(), tf.zeros([len(self.names)]), tf.zeros([5]))
            _, session, running, figures, totals = tf.while_loop(lambda index, *_: index < blocks, one_block, start)
            for variable, part in zip(self.session, tf.nest.flatten(session), strict=True):
                variable.assign(part)
            self.running.assign(running)
            self.block.assign_add(blocks)
            if self._learns:
                agent.train_step_counter.assign_add(blocks)
            return figures, totals

        return many_blocks

    def _rollout(
        self, block: tf.Tensor, session: Session, running: tf.Tensor
    ) -> tuple[Any, Session, tf.Tensor, tf.Tensor]:
        """Run T steps; return the experience, the sessions' state, their rewards so far, and the totals [5]."""
        environment, learner = self._environment, self._agent.learner
        noise = environment.noise(block, self.steps + 1)  # [T + 1, B, NOISE_DIMS], the last for fresh sessions
        places = [environment.slate_size] if environment.slate_size else []
        points = uniform([self.steps, environment.batch_size, *places], fold_in(self._agent.action_seed, block))
        if learner.whole_sessions:
            session, running = environment.restart(None, None, noise[-1]), tf.zeros_like(running)

        def one_step(
            step: tf.Tensor, session: Session, running: tf.Tensor, totals: tf.Tensor, record: tuple[tf.TensorArray, ...]
        ) -> tuple[Any, ...]:
            observation, mask = environment.observe(session)
            point = tf.gather(points, step)  # [B] or [B, K]
            if environment.slate_size:
                action, log_probability = draw_slate(learner.logits(observation, mask), point)
            else:
                action, log_probability = learner.sample_action(observation, mask, point)
            first = action[:, 0] if environment.slate_size else action  # [B]
            drawn = tf.gather(noise, step)
            scores = learner.scores(observation, mask)
            explores = tf.cast(tf.gather(scores, first, batch_dims=1) < tf.reduce_max(scores, axis=1), tf.float32)
            done = environment.transition(session, action, drawn)
            following, next_mask = environment.observe(done.session)
            seen = [observation, mask, action, log_probability, done.reward, done.terminated, done.truncated, following]
            if learner.wants_next_mask:
                seen.append(next_mask)
            if environment.slate_size:
                seen += [done.response.read, done.response.liked]
            record = tuple(array.write(step, part) for array, part in zip(record, seen, strict=True))
            ended = done.terminated | done.truncated
            over = tf.cast(ended, tf.float32)
            reward, items, before = tf.unstack(running)
            reward, items = reward + done.reward, items + 1.0
            # In a block of whole sessions only the first of each column counts: later ones fit only if they are short.
            counts = over * tf.cast(before < 1.0, tf.float32) if learner.whole_sessions else over
            parts = (done.reward, counts * reward, counts * items, counts, explores)
            totals += tf.stack([tf.reduce_sum(part) for part in parts])
            session = environment.restart(done.session, ended, drawn)
            running = tf.stack([reward * (1.0 - over), items * (1.0 - over), before + over])
            return step + 1, session, running, totals, record

        kinds = [tf.float32, tf.bool, tf.int32, tf.float32, tf.float32, tf.bool, tf.bool, tf.float32]
        kinds += [tf.bool] if learner.wants_next_mask else []
        kinds += [tf.bool, tf.bool] if environment.slate_size else []
        record = tuple(tf.TensorArray(kind, size=self.steps) for kind in kinds)
        _, session, running, totals, record = tf.while_loop(
            lambda step, *_: step < self.steps, one_step, (tf.constant(0), session, running, tf.zeros([5]), record)
        )
        parts: Any = [array.stack() for array in record]
        following_mask = parts[8] if learner.wants_next_mask else None
        seen = Experience._make([*parts[:8], following_mask])
        if environment.slate_size:
            return SlateExperience(seen, *parts[-2:]), session, running, totals
        return seen, session, running, totals


class SessionLoops:
    """Independent loops, such as those of several seeds, that run in one compiled call."""

    def __init__(self, loops: Sequence[SessionLoop]):
        self._loops = loops
        self._compiled: dict[tuple[tuple[int, ...], int], Callable[..., Any]] = {}

    def run(self, members: Sequence[int], blocks: int) -> list[LoopMetrics]:
        """Run `blocks` blocks of the loops with these places in the list; a single one runs as it would alone."""
        loops = [self._loops[place] for place in members]
        if len(loops) == 1:
            return [loops[0].run(blocks)]
        key = tuple(members), blocks
        if key not in self._compiled:
            parts = [loop.many_blocks(blocks) for loop in loops]
            self._compiled[key] = tf.function(lambda: [part() for part in parts], jit_compile=True, autograph=False)
        return [loop.metrics(blocks, *sums) for loop, sums in zip(loops, self._compiled[key](), strict=True)]
