"""Offline learning from logged sessions: top-K REINFORCE from whole sessions, other agents from single steps.

M sessions, N steps in all, F figures. An epoch is every session or step once, in a seeded order. It consists of pieces
of whole batches: one XLA program handles a piece given its bounds, a second one the incomplete last batch. A checkpoint
holds the learner, the number of batches and the sums of their figures. A resumed run ends with the same numbers as an
uninterrupted one.

- topk_reinforce: blocks of sessions, `passes` gradient steps each, with the logged probability as beta (capped weight,
  lambda_K, rewards to the end of the session), or the behavior head's estimate if the log has no propensities.
- dqn: batches of steps, one double-DQN step each. The target includes later values for a session that was cut, but
  not for one that ended. Q(s, a) is conditional on s and a, so it needs no propensities.
- offpolicy_actor_critic: batches of steps, `n_epochs` gradient steps each. Its critics need no propensities; its actor
  needs them in the logged form, unless beta is the behavior head's estimate.
- behavior_cloning: batches of steps, one gradient step each; it needs propensities only if they are its target.

Sources: Chen et al. 2019 (1812.02353); Chen et al. 2022 (10.1145/3523227.3546758); van Hasselt et al. 2015
(1509.06461).
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents.behavior_cloning import BehaviorCloning
from recpolicy.agents.dqn import DQN
from recpolicy.agents.offpolicy_actor_critic import OffPolicyActorCritic
from recpolicy.agents.sequence import Figures, SessionAgent, SessionLearner
from recpolicy.agents.topk_reinforce import TopKReinforce
from recpolicy.core.config import Count, CountOrZero, Size, config_dataclass
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.progress import progress
from recpolicy.core.seeds import generator
from recpolicy.core.tensorflow_random import fold_in
from recpolicy.data.session_log import SessionLog
from recpolicy.training.checkpoints import make_checkpoint_manager, restore
from recpolicy.training.divergence import check_variables
from recpolicy.training.observation_builder import (
    ObservationBuilder,
    ReplayedSessions,
    make_block,
    make_step_block,
    make_steps,
    replay,
)

logger = logging.getLogger(__name__)

LEARN_FROM_LOGS = ("topk_reinforce", "offpolicy_actor_critic", "dqn", "behavior_cloning")
"""Session agents that can learn from other policies' sessions."""
PIECE = 2048
"""Approximate number of items between progress updates and checks for Ctrl-C: 2 s of topk_reinforce, .5 s of dqn."""


@config_dataclass
class OfflineRunConfig:
    """Settings of a run on logged sessions: its length and its checkpoints."""

    epochs: Count = 1
    """Number of passes over the log."""
    batch_size: Size = 64
    """Sessions per block; agents that learn from single steps use their own batch size."""
    checkpoint_every_steps: Count = 50_000
    """Items between checkpoints, rounded up to whole pieces; each epoch also ends with a checkpoint."""
    log_every_steps: CountOrZero = 0
    """Items between lines on stdout where there is no terminal, rounded up to whole batches; 0 prints a line on stderr
    every ten seconds."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The division of a log: an epoch is `units` in batches of `size`, of which the last may be smaller."""

    unit: str
    """The units of a batch: sessions or items."""
    units: int
    size: int
    items: int
    """Number N of items in an epoch."""
    epochs: int
    piece: int
    """Number of batches in a piece."""
    keep: int
    """Number of batches between checkpoints."""
    every: float
    """Number of units between lines on stdout; 0 has none."""

    @classmethod
    def from_log(cls, learner: SessionLearner, log: SessionLog, config: OfflineRunConfig) -> "Plan":
        """Return the plan for a learner and a log."""
        whole = learner.whole_sessions
        units, size = (len(log.length), config.batch_size) if whole else (len(log), learner.config.batch_size)
        size = min(size, units)
        items = size * len(log) / units  # mean items of a batch
        keep = math.ceil(config.checkpoint_every_steps / items)
        line = math.ceil(config.log_every_steps / items) or keep
        return cls(
            unit="sessions" if whole else "items", units=units, size=size, items=len(log), epochs=config.epochs,
            piece=max(1, min(keep, line, int(PIECE / items))), keep=keep,
            every=config.log_every_steps * units / len(log),
        )  # fmt: skip

    @property
    def whole(self) -> int:
        """Whole batches of an epoch."""
        return self.units // self.size

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-self.units // self.size)

    def units_until(self, batch: int) -> int:
        """Return the number of units in the first `batch` batches of the run."""
        epochs, batches = divmod(batch, self.batches)
        return epochs * self.units + batches * self.size

    def items_until(self, batch: int) -> int:
        """Return the number of items in the first `batch` batches of the run, if all sessions have mean length."""
        return round(self.units_until(batch) * self.items / self.units)


def learn_from_sessions(
    agent: SessionAgent,
    log: SessionLog,
    sight: ObservationBuilder,
    config: OfflineRunConfig | None = None,
    *,
    seed: int = 0,
    folder: Path | None = None,
    show_progress: bool | None = None,
) -> dict[str, Any]:
    """Train the agent on logged sessions; return the figures of the run, with update figures of the last pass.

    With a `folder`, write checkpoints there and resume an interrupted run. Raises what `check_log` raises,
    ArtifactError for a checkpoint that does not fit this agent, DivergedError if a variable of the learner is not
    finite; the last good checkpoint remains.
    """
    check_log(agent.learner, log, sight)
    plan = Plan.from_log(agent.learner, log, config or OfflineRunConfig())
    passes = Passes(agent, plan, replay(log, sight), len(sight.action_items), seed)
    manager = None if folder is None else _manager(folder, passes, agent)
    if folder is not None and manager is not None:
        restore(manager, folder)
    saved = done = passes.done
    bar_context = progress("learning", plan.epochs * plan.units, unit=plan.unit, done=plan.units_until(done),
                      show=show_progress, every=plan.every)  # fmt: skip
    with bar_context as bar:
        while done < plan.epochs * plan.batches and not agent.learner.stopped:
            before, done = done, passes.learn_piece()
            if done - saved >= plan.keep or done % plan.batches == 0 or agent.learner.stopped:
                saved_items = plan.items_until(saved) if manager else 0
                check_variables(agent.learner, plan.items_until(done), saved_items, folder or Path(log.name))
                if manager is not None:
                    manager.save(checkpoint_number=plan.items_until(done))
                saved = done
            bar.advance(plan.units_until(done) - plan.units_until(before), f"loss {passes.figures()['loss']:.3f}")
    if done < plan.epochs * plan.batches:
        logger.warning(
            "%s items: the policy reached its limit of divergence from the initial policy; the training ends here",
            f"{plan.items_until(done):,}",
        )
    return {"mode": "log", "rows": len(log), "sessions": len(log.length), "epochs": plan.epochs, **passes.figures()}


def check_log(learner: SessionLearner, log: SessionLog, sight: ObservationBuilder) -> None:
    """Raise ConfigError for an agent that cannot learn from sessions of others, DataError for a log it cannot use."""
    if type(learner) not in _UPDATES:
        raise ConfigError(
            f"{learner.name} learns from its own sessions, not from logged ones; of the session agents"
            f" {', '.join(LEARN_FROM_LOGS)} learn from logs"
        )
    if not len(log):
        raise DataError(f"{log.name}: no sessions to learn from")
    if log.log_propensity is None:
        _check_propensities_unused(learner, log.name)
    strange = ~np.isin(log.item, sight.action_items)
    if strange.any():
        raise DataError(
            f"{log.name}: {int(strange.sum())} of {len(log)} steps show items that are not among the"
            f" {len(sight.action_items)} of the policy; learn from a log with the policy's catalog, or train a policy"
            " with the log's"
        )
    longest = int(log.length.max())
    if longest > sight.steps:
        raise DataError(
            f"{log.name}: a session of {longest} steps, but the policy's sessions have at most {sight.steps}; set"
            " max_episode_steps to as many"
        )


def _check_propensities_unused(learner: SessionLearner, log: str) -> None:
    """Raise DataError if the learner needs the propensities that the log lacks."""
    if isinstance(learner, BehaviorCloning) and learner.config.target == "propensities":
        raise DataError(
            f"{log}: no propensities, which behavior_cloning has as its target; log them, or imitate the actions with"
            " the agent's setting target = 'actions'"
        )
    weights = isinstance(learner, TopKReinforce | OffPolicyActorCritic) and learner.config.behavior == "logged"
    if weights and not (isinstance(learner, OffPolicyActorCritic) and learner.config.actor == "all_actions"):
        raise DataError(
            f"{log}: no propensities, which {learner.name} needs as weights; log them, or estimate them from the"
            " log with the agent's setting behavior = 'head'"
        )


class Passes:
    """The passes of an agent over a log, one piece per call.

    A piece never extends beyond its epoch's whole batches; the incomplete last batch is a separate piece.
    """

    def __init__(self, agent: SessionAgent, plan: Plan, replayed: ReplayedSessions, actions: int, seed: int):
        self._plan, self._replayed, self._names = plan, replayed, _figures(agent.learner)
        self._rng, self._order, self._drawn = generator(seed, "offline/sessions"), np.zeros(0, np.int32), 0
        self._whole, self._rest = (
            tf.function(_batches(agent, size, actions), jit_compile=True, autograph=False)
            for size in (plan.size, plan.units % plan.size)
        )
        self._done = tf.Variable(0, dtype=tf.int64, trainable=False, name="batches")
        # Figures of the epoch: sums over its whole batches, and those of the incomplete batch.
        self._sums = tf.Variable(tf.zeros([2, len(self._names)]), trainable=False, name="sums")

    @property
    def state(self) -> dict[str, tf.Variable]:
        """All that a checkpoint must hold, by name, besides the agent."""
        return {"batches": self._done, "sums": self._sums}

    @property
    def done(self) -> int:
        """The number of completed batches in all epochs."""
        return int(self._done.numpy())

    def learn_piece(self) -> int:
        """Learn from the next piece; return the number of completed batches."""
        plan, (epoch, first) = self._plan, divmod(self.done, self._plan.batches)
        order, cut = self._epoch_order(epoch), plan.whole * plan.size
        whole, rest = tf.unstack(self._sums if first else tf.zeros_like(self._sums))
        if first < plan.whole:
            last = min(first + plan.piece, plan.whole)
            whole = self._whole(self._replayed, tf.constant(order[:cut]), tf.constant(first), tf.constant(last), whole)
        else:
            last = plan.batches
            rest = self._rest(self._replayed, tf.constant(order[cut:]), tf.constant(0), tf.constant(1), rest)
        self._sums.assign(tf.stack([whole, rest]))
        self._done.assign_add(last - first)
        return self.done

    def figures(self) -> dict[str, float]:
        """Return the means per unit of the figures over the current epoch so far."""
        plan, (whole, rest) = self._plan, self._sums.numpy()
        batches = (self.done - 1) % plan.batches + 1
        means = whole / min(batches, plan.whole)
        if batches > plan.whole:
            cut = plan.whole * plan.size
            means = (means * cut + rest * (plan.units - cut)) / plan.units
        return dict(zip(self._names, means.tolist(), strict=True))

    def _epoch_order(self, epoch: int) -> NDArray[np.int32]:
        """Return the units [M or N] in the order of an epoch; earlier epochs' orders are drawn first."""
        while self._drawn <= epoch:
            self._order = self._rng.permutation(self._plan.units).astype(np.int32)
            self._drawn += 1
        return self._order


def _manager(folder: Path, passes: Passes, agent: SessionAgent) -> tf.train.CheckpointManager:
    learner = {f"learner_{agent.learner.name}": agent.learner}
    return make_checkpoint_manager(folder, **passes.state, **learner, train_step=agent.train_step_counter)


def _by_sessions(
    learner: TopKReinforce, replayed: ReplayedSessions, rows: tf.Tensor, actions: int, seed: tf.Tensor
) -> Figures:
    return learner.update(make_block(replayed, rows, actions), seed)


def _by_steps(learner: DQN, replayed: ReplayedSessions, rows: tf.Tensor, actions: int, seed: tf.Tensor) -> Figures:  # noqa: ARG001
    return learner.update_batch(make_steps(replayed, rows, actions))


def _by_step_blocks(
    learner: SessionLearner, replayed: ReplayedSessions, rows: tf.Tensor, actions: int, seed: tf.Tensor
) -> Figures:
    return learner.update(make_step_block(replayed, rows, actions), seed)


_UPDATES: Mapping[type[SessionLearner], Callable[..., Figures]] = {
    TopKReinforce: _by_sessions, OffPolicyActorCritic: _by_step_blocks, BehaviorCloning: _by_step_blocks,
    DQN: _by_steps,
}  # fmt: skip


def _figures(learner: SessionLearner) -> tuple[str, ...]:
    """Return the names of the reported figures; the explained variance is omitted, since it would count padding."""
    return tuple(name for name in learner.figures if name != "explained_variance")


def _batches(agent: SessionAgent, size: int, actions: int) -> Callable[..., tf.Tensor]:
    """Return a program that learns from batches first..last - 1 of an order [>= last * size] and sums the figures.

    The bounds are arguments, so that one program serves all pieces. With a program per length, XLA might fuse the
    arithmetic differently, and the numbers would depend on the interruptions.
    """
    learner = agent.learner
    update, names = _UPDATES[type(learner)], _figures(learner)

    def batches(
        replayed: ReplayedSessions, order: tf.Tensor, first: tf.Tensor, last: tf.Tensor, sums: tf.Tensor
    ) -> tf.Tensor:
        def one_batch(index: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.gather(order, index * size + tf.range(size))
            metrics = update(learner, replayed, rows, actions, fold_in(agent.learn_seed, index))
            return index + 1, sums + tf.stack([metrics[name] for name in names])

        _, sums = tf.while_loop(lambda index, _: index < last, one_batch, (first, sums))
        agent.train_step_counter.assign_add(tf.cast(last - first, tf.int64))
        return sums

    return batches
