"""Online training with metrics, progress, checkpoints and exact resume.

A checkpoint holds the learner, the round number and the running totals; on resume, the metrics file is truncated to it.
A run resumed at any point ends with the same numbers as an uninterrupted one. A run whose numbers are not finite or
absurdly large stops; its last good checkpoint remains.
"""

from contextlib import closing
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents.learner import BanditAgent
from recpolicy.core.config import Count, CountOrZero, config_dataclass
from recpolicy.core.metrics import CsvWriter, TeeWriter, TensorBoardWriter
from recpolicy.core.progress import progress
from recpolicy.environments.base import RecommendationEnvironment
from recpolicy.training.checkpoints import make_checkpoint_manager, restore
from recpolicy.training.compiled_loop import OnlineLoop, Rounds
from recpolicy.training.divergence import check_metrics, check_squared_error, check_variables, diverged
from recpolicy.training.snapshots import Snapshots

METRICS_FILE = "metrics.csv"
TENSORBOARD_FOLDER = "tensorboard"


@config_dataclass
class OnlineConfig:
    """Settings of an online training run: its length, metrics and checkpoints."""

    total_timesteps: Count = 200_000
    """Total number of interactions (rounds times batch size, rounded up to whole rounds)."""
    log_rows: Count = 100
    """Number of rows of metrics; each is one call of the compiled loop. Frequent checkpoints and lines make more."""
    log_every_steps: CountOrZero = 0
    """Number of interactions between lines on stdout where there is no terminal, rounded to whole rounds; 0 prints a
    line on stderr every ten seconds."""
    checkpoint_every_steps: Count = 20_000
    """Number of interactions between checkpoints, rounded to whole rounds and up to whole rows of metrics."""


def blocks_per_row(blocks: int, size: int, rows: int, *every_steps: int) -> int:
    """Return the number of blocks in a row of metrics.

    Args:
        blocks: Number of blocks of the training.
        size: Steps in a block.
        rows: Smallest number of rows.
        every_steps: Steps after which something else is due, which makes rows no longer than that; 0 is never due.
    """
    return min(-(-blocks // rows), *(max(steps // size, 1) for steps in every_steps if steps))


class Totals(tf.Module):
    """The totals accumulated over a run."""

    def __init__(self, arms: int):
        super().__init__(name="totals")
        self.regret = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.pulls = tf.Variable(tf.zeros([arms], tf.int64), trainable=False)  # [A]

    def add(self, rounds: Rounds, batch: int) -> None:
        """Count the rounds."""
        self.regret.assign_add(float(rounds.regret.astype(np.float64).sum() * batch))
        self.pulls.assign_add(rounds.pulls.astype(np.int64))


def train_online(
    environment: RecommendationEnvironment,
    agent: BanditAgent,
    config: OnlineConfig,
    folder: Path,
    show_progress: bool | None = None,
) -> NDArray[np.int64]:
    """Train, writing metrics, TensorBoard events, checkpoints and snapshots to `folder`; return the pulls per arm [A].

    Resumes an interrupted run in `folder`. Raises ConfigError for settings out of range, ArtifactError for
    checkpoints that do not fit this agent, DivergedError for numbers that are not finite or absurdly large.
    """
    batch = environment.batch_size
    rounds = -(-config.total_timesteps // batch)
    chunk = blocks_per_row(rounds, batch, config.log_rows, config.checkpoint_every_steps, config.log_every_steps)
    totals = Totals(environment.actions)
    manager = make_checkpoint_manager(
        folder, learner=agent.learner, train_step=agent.train_step_counter, round=environment.round, totals=totals,
        **environment.user_state,
    )  # fmt: skip
    restore(manager, folder)
    saved = done = int(environment.round.numpy())
    csv = CsvWriter(folder / METRICS_FILE, keep_until=done * batch if done else None)
    writer = TeeWriter((csv, TensorBoardWriter(folder / TENSORBOARD_FOLDER)))
    loop = OnlineLoop(environment, agent)
    snapshots = Snapshots(folder, rounds, batch, agent.learner.export)
    if not done:
        snapshots.start()
    bar_context = progress(
        "training", rounds * batch, unit="interactions", done=done * batch, show=show_progress,
        every=config.log_every_steps,
    )  # fmt: skip
    with closing(csv), bar_context as bar:
        while done < rounds:
            outcome = loop.run(min(chunk, rounds - done))
            done += len(outcome.reward)
            totals.add(outcome, batch)
            row = _figures(outcome, totals)
            _check_row(row, done * batch, saved * batch, folder)
            writer.write(done * batch, row)
            snapshots.look(done - len(outcome.reward), done)
            if done == rounds or (done - saved) * batch >= config.checkpoint_every_steps:
                check_variables(agent.learner, done * batch, saved * batch, folder)
                # Metrics first: a checkpoint must never be ahead of its rows of metrics.
                writer.flush()
                manager.save(checkpoint_number=done * batch)
                saved = done
            bar.advance(len(outcome.reward) * batch, f"regret {outcome.regret.mean():.3f}")
    return np.asarray(totals.pulls.numpy())


def _check_row(row: dict[str, float], step: int, saved: int, folder: Path) -> None:
    """Raise DivergedError if a figure is not finite, or the error of the estimates is absurd for such rewards."""
    check_metrics(row, step, saved, folder)
    fault = check_squared_error(row["loss/mean_squared_error"], row["reward/mean"])
    if fault:
        raise diverged(fault, step, saved, folder)


def _figures(rounds: Rounds, totals: Totals) -> dict[str, float]:
    pulls = totals.pulls.numpy()
    return {
        "reward/mean": float(rounds.reward.mean()),
        "regret/per_interaction": float(rounds.regret.mean()),
        "regret/cumulative": float(totals.regret.numpy()),
        "suboptimal/share": float(rounds.suboptimal.mean()),
        "coverage/share_of_arms_ever_shown": float((pulls > 0).mean()),
        "loss/mean_squared_error": float(rounds.loss.mean()),
        "exploration/share": float(rounds.explored.mean()),
        "exploration/mean_width": float(rounds.width.mean()),
    }
