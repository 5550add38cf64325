"""The compiled offline loop: learn from a table of (context, action, reward) without choosing anything.

N rows in batches of B, in a seeded order, an epoch per XLA program. A second program handles the incomplete last batch,
so every row counts exactly once per epoch. Agents whose state is a function of sums learn from a log in one pass
without that loop (CLOSED_FORM).
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents.learner import BanditAgent, Learner
from recpolicy.agents.lints import LinTS
from recpolicy.agents.linucb import DisjointLinear, LinUCB
from recpolicy.agents.linucb_user import UserLinUCB
from recpolicy.agents.observation import read_observation
from recpolicy.agents.ucb1 import UCB1
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.data.bandit_log import BanditLog
from recpolicy.inference.artifact import REAL_REWARDS
from recpolicy.training.divergence import check_offline
from recpolicy.training.ipw_means import IPWMeans
from recpolicy.training.sufficient_statistics import SufficientStatistics, places, posterior

_CONTEXTS = 1_024
"""Contexts whose expected ratings of all arms are in memory at once."""


def learn_offline(
    agent: BanditAgent,
    context: NDArray[np.float32],  # [N, D]
    action: NDArray[np.int32],  # [N]
    reward: NDArray[np.float32],  # [N]
    *,
    epochs: int = 1,
    batch: int = 256,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Let the agent learn from the rows; returns the mean squared error before each update, [epochs * batches].

    Raises DataError without rows, DivergedError after an epoch with numbers that are not finite or absurdly large.
    """
    rows = len(action)
    if not rows:
        raise DataError("offline training: no rows to learn from")

    def update(context: tf.Tensor, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        agent.train_step_counter.assign_add(1)
        return agent.learner.update(read_observation(context), action, reward)

    def check(losses: NDArray[np.float32]) -> None:
        check_offline(agent.learner, losses, reward, f"{rows:,} rows")

    return learn_in_batches(update, (context, action, reward), check, epochs=epochs, batch=batch, seed=seed)


def learn_in_batches(
    update: Callable[..., tf.Tensor],
    columns: tuple[NDArray[Any], ...],
    check: Callable[[NDArray[np.float32]], None],
    *,
    epochs: int,
    batch: int,
    seed: int,
) -> NDArray[np.float32]:
    """Update with batches of rows in a seeded order; return the loss of each, [epochs * batches].

    Args:
        update: A function of the columns of a batch that takes one step and returns the loss.
        columns: Columns of N rows each.
        check: A function of the losses of an epoch that raises an error to stop the training.
        epochs: Passes over the rows.
        batch: Rows per step.
        seed: Seed of the order.
    """
    rows = len(columns[0])
    size = min(batch, rows)
    batches, left = divmod(rows, size)
    order_rng = generator(seed, "offline/order")
    losses = []
    epoch = tf.function(_epoch(update, batches, size), jit_compile=True, autograph=False)
    remainder = tf.function(_epoch(update, 1, left), jit_compile=True, autograph=False) if left else None
    for _ in range(epochs):
        order = order_rng.permutation(rows)
        taken = order[: batches * size]
        losses.append(epoch(*(column[taken] for column in columns)).numpy())
        if remainder is not None:
            rest = order[batches * size :]
            losses.append(remainder(*(column[rest] for column in columns)).numpy())
        check(losses[-1])
    return np.concatenate(losses)


def learn_from_log(
    agent: BanditAgent,
    log: BanditLog,
    context: NDArray[np.float32],  # [U, D]
    action_items: NDArray[np.int32],  # [A], item rows of the agent's arms
    *,
    epochs: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Train the agent on logged rounds; return the figures of the run.

    Estimates conditional on the context are valid under any logging policy. Without context, estimates would inherit
    the bias of the logging policy, so ucb1 weights the rounds by 1 / propensity and exp3 is rejected. A baseline learns
    nothing; only its error is measured. `last_loss` is the mean squared error of the last batch before its update. For
    CLOSED_FORM learners it is that of all rounds afterwards. Raises what `logged_actions` raises, and DivergedError for
    numbers that are not finite or absurdly large.
    """
    action = logged_actions(agent, log, context, action_items)
    at_once = CLOSED_FORM.get(type(agent.learner))
    loss = None if at_once is None else at_once(agent.learner, log, context, action_items, epochs)
    if loss is None:
        reward = log.reward.astype(np.float32)
        seen = log.contexts(context)
        loss = float(learn_offline(agent, seen, action, reward, epochs=epochs, seed=seed)[-1])
    else:
        agent.train_step_counter.assign_add(epochs)
        check_offline(agent.learner, loss, log.reward, log.name)
    rewards = REAL_REWARDS if log.simulator is None else "simulated"
    return {"mode": "log", "rewards": rewards, "rows": len(log), "epochs": epochs, "last_loss": loss}


def _linear_at_once(
    learner: DisjointLinear, log: BanditLog, context: NDArray[np.float32], action_items: NDArray[np.int32], epochs: int
) -> float | None:
    """Learn the posterior in one pass; return the squared error, or None if the order of rounds matters."""
    if learner.forgets:
        return None
    table, row = log.distinct_contexts(context)  # [U + V, D]
    features = learner.features(read_observation(tf.constant(table))).numpy()  # [U + V, D (+ 1)]
    sums = SufficientStatistics.from_log(log, features, action_items, row)
    beliefs = learner.posterior
    theta, covariance = posterior(sums * epochs, beliefs.theta.numpy(), beliefs.covariance.numpy())
    beliefs.theta.assign(theta.astype(np.float32))
    beliefs.covariance.assign(covariance.astype(np.float32))
    return sums.squared_error(theta)


def _means_at_once(
    learner: UCB1, log: BanditLog, context: NDArray[np.float32], action_items: NDArray[np.int32], epochs: int
) -> float:
    """Learn the means over all users in one pass; return the squared error."""
    del context
    sums = IPWMeans.from_log(log, action_items)
    learner.arms.include(sums.effective * epochs, sums.mean)
    guess = learner.arms.mean.numpy()[places(log, action_items)]
    return float(np.square(log.reward - guess).mean())


def _errors_at_once(
    learner: UserLinUCB, log: BanditLog, context: NDArray[np.float32], action_items: NDArray[np.int32], epochs: int
) -> float:
    """Learn the posterior of the items' errors in one pass; return the squared error."""
    table, row = log.distinct_contexts(context)  # [U + V, C]
    arm, arms = places(log, action_items), len(action_items)
    residual, variance = np.empty((2, len(log)))
    order = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[order], np.arange(0, len(table) + _CONTEXTS, _CONTEXTS))
    for block, (first, last) in enumerate(pairwise(starts)):
        if first == last:
            continue
        rows = order[first:last]
        at = row[rows] - block * _CONTEXTS, arm[rows]
        seen = read_observation(tf.constant(table[block * _CONTEXTS : (block + 1) * _CONTEXTS]))
        residual[rows] = log.reward[rows] - learner.rating_model_mean(seen).numpy()[at]
        variance[rows] = learner.rating_variance(seen).numpy()[at]
    learner.add(*(epochs * np.bincount(arm, sums / variance, arms) for sums in (np.ones(len(log)), residual)))
    return float(np.square(residual - learner.error_mean().numpy()[arm]).mean())


CLOSED_FORM: Mapping[type[Learner], Callable[..., float | None]] = {
    LinUCB: _linear_at_once, LinTS: _linear_at_once, UCB1: _means_at_once, UserLinUCB: _errors_at_once,
}  # fmt: skip
"""Learners whose state is a function of sums over rounds."""


def logged_actions(
    agent: BanditAgent, log: BanditLog, context: NDArray[np.float32], action_items: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return the agent's action [N] in each round of the log: the position of the item in the catalog [A].

    Raises ConfigError for an agent that cannot learn from logs. Raises DataError for a log that is empty, shows items
    outside the catalog, or has vectors of another space than the agent's contexts [U, D].
    """
    if not agent.learner.learns_from_logs:
        raise ConfigError(
            f"{agent.learner.name} cannot learn from a log: what it learns depends on its own choices; train it online,"
            " or use an agent with context (linucb)"
        )
    if not len(log):
        raise DataError(f"{log.name}: no rounds to learn from")
    log.check_features(context)
    return places(log, action_items)


def _epoch(update: Callable[..., tf.Tensor], batches: int, size: int) -> Callable[..., tf.Tensor]:
    def epoch(*columns: tf.Tensor) -> tf.Tensor:
        def one_batch(row: tf.Tensor, losses: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = row * size + tf.range(size)
            loss = update(*(tf.gather(column, rows) for column in columns))
            return row + 1, tf.tensor_scatter_nd_update(losses, [[row]], [loss])

        start = (tf.constant(0), tf.zeros([batches]))
        _, losses = tf.while_loop(lambda row, _: row < batches, one_batch, start)
        return losses

    return epoch
