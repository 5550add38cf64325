"""The compiled offline loop: learn from a table of (context, action, reward) without choosing anything.

N rows in batches of B, in a seeded order, a whole epoch inside one XLA program; the incomplete last batch is a second
program, so that every row counts exactly once an epoch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents.learner import BanditAgent
from recpolicy.agents.observation import read_observation
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.data.logged_rounds import LoggedRounds


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
    """Let the agent learn from the rows; returns the mean squared error before each update, [epochs * batches]."""
    rows = len(action)
    if not rows:
        raise DataError("offline training: no rows to learn from")
    size = min(batch, rows)
    batches, left = divmod(rows, size)
    order_rng = generator(seed, "offline/order")
    losses = []
    epoch = tf.function(_epoch(agent, batches, size), jit_compile=True, autograph=False)
    remainder = tf.function(_epoch(agent, 1, left), jit_compile=True, autograph=False) if left else None
    for _ in range(epochs):
        order = order_rng.permutation(rows)
        taken = order[: batches * size]
        losses.append(epoch(context[taken], action[taken], reward[taken]).numpy())
        if remainder is not None:
            rest = order[batches * size :]
            losses.append(remainder(context[rest], action[rest], reward[rest]).numpy())
    return np.concatenate(losses)


def learn_from_log(
    agent: BanditAgent,
    log: LoggedRounds,
    context: NDArray[np.float32],  # [U, D]
    catalogue: NDArray[np.int32],  # [A], movie rows of the agent's arms
    *,
    epochs: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Let the agent learn from logged rounds; returns the figures of the training.

    What an agent estimates given the context is right whoever chose the movies; an agent whose estimates know no
    context would take over the choices of the logging policy. A baseline learns nothing: its error is measured. Raises
    what `logged_actions` raises.
    """
    action = logged_actions(agent, log, catalogue)
    reward = log.reward.astype(np.float32)
    losses = learn_offline(agent, context[log.user], action, reward, epochs=epochs, seed=seed)
    return {"mode": "log", "rows": len(log), "epochs": epochs, "last_loss": float(losses[-1])}


def logged_actions(agent: BanditAgent, log: LoggedRounds, catalogue: NDArray[np.int32]) -> NDArray[np.int32]:
    """The agent's action [N] in each round of the log: the place of the movie in the catalogue [A].

    Raises ConfigError for an agent that cannot learn from logs, DataError for a log that is empty or shows movies that
    are not in the catalogue.
    """
    if not agent.learner.learns_from_logs:
        raise ConfigError(
            f"{agent.learner.name} cannot learn from a log: its estimates know nothing of the user, so they would"
            " inherit whom the logging policy showed what; train it online, or take an agent with context (linucb)"
        )
    if not len(log):
        raise DataError(f"{log.name}: no rounds to learn from")
    strange = ~np.isin(log.movie, catalogue)
    if strange.any():
        raise DataError(
            f"{log.name}: {int(strange.sum())} of {len(log)} rounds show movies that are not among the {len(catalogue)}"
            " of the policy; learn from a log with the policy's catalogue, or train a policy with the log's"
        )
    return np.searchsorted(catalogue, log.movie).astype(np.int32)


def _epoch(agent: BanditAgent, batches: int, size: int) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    def epoch(context: tf.Tensor, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        def one_batch(row: tf.Tensor, losses: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = row * size + tf.range(size)
            observation = read_observation(tf.gather(context, rows))
            loss = agent.learner.learn(observation, tf.gather(action, rows), tf.gather(reward, rows))
            return row + 1, tf.tensor_scatter_nd_update(losses, [[row]], [loss])

        start = (tf.constant(0), tf.zeros([batches]))
        _, losses = tf.while_loop(lambda row, _: row < batches, one_batch, start)
        agent.train_step_counter.assign_add(batches)
        return losses

    return epoch
