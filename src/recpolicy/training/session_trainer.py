"""Session training with metrics, progress, checkpoints, exact resume and checks of its health.

A checkpoint holds the learner, the running sessions and the block number; on resume, the metrics file is truncated to
it. A run resumed at any point ends with the same numbers as an uninterrupted one.
"""

import logging
from contextlib import closing
from pathlib import Path

import tensorflow as tf

from recpolicy.agents.sequence import SessionAgent
from recpolicy.core.config import Count, CountOrZero, config_dataclass
from recpolicy.core.metrics import CsvWriter, TeeWriter, TensorBoardWriter, read_csv
from recpolicy.core.progress import progress
from recpolicy.environments.session import SessionEnvironment
from recpolicy.training.checkpoints import make_checkpoint_manager, restore
from recpolicy.training.divergence import check_metrics, check_variables
from recpolicy.training.health import HealthWatch
from recpolicy.training.session_loop import LoopMetrics, SessionLoop
from recpolicy.training.snapshots import Snapshots
from recpolicy.training.trainer import METRICS_FILE, TENSORBOARD_FOLDER, blocks_per_row

logger = logging.getLogger(__name__)


@config_dataclass
class SessionRunConfig:
    """Settings of a training run in sessions: its length, metrics and checkpoints."""

    total_timesteps: Count = 300_000
    """Total number of shown items, rounded up to whole blocks."""
    log_rows: Count = 50
    """Number of rows of metrics; each is one call of the compiled loop. Frequent checkpoints and lines make more."""
    log_every_steps: CountOrZero = 0
    """Number of shown items between lines on stdout where there is no terminal, rounded to whole blocks; 0 prints a
    line on stderr every ten seconds."""
    checkpoint_every_steps: Count = 50_000
    """Number of shown items between checkpoints, rounded to whole blocks and up to whole rows."""


def train_in_sessions(
    environment: SessionEnvironment,
    agent: SessionAgent,
    config: SessionRunConfig,
    folder: Path,
    show_progress: bool | None = None,
) -> int:
    """Train, writing metrics, TensorBoard events, checkpoints and snapshots; return the total of shown items.

    A policy that reaches its limit of divergence (agents/reference_policy.py) ends the training after the row.
    Resumes an interrupted run in `folder`. Raises ConfigError for settings out of range, ArtifactError for
    checkpoints that do not fit this agent, DivergedError if a figure is not finite or absurdly large; the last good
    checkpoint remains.
    """
    loop = SessionLoop(environment, agent)
    blocks = -(-config.total_timesteps // loop.block_size)
    every = config.checkpoint_every_steps, config.log_every_steps
    chunk = blocks_per_row(blocks, loop.block_size, config.log_rows, *every)
    manager = _manager(folder, loop, agent)
    restore(manager, folder)
    done = int(loop.block.numpy())
    csv = CsvWriter(folder / METRICS_FILE, keep_until=done * loop.block_size if done else None)
    writer = TeeWriter((csv, TensorBoardWriter(folder / TENSORBOARD_FOLDER)))
    total = blocks * loop.block_size
    bar_context = progress(
        "training", total, unit="items", done=done * loop.block_size, show=show_progress, every=config.log_every_steps
    )
    snapshots = Snapshots(folder, blocks, loop.block_size, agent.learner.export)
    if not done:
        snapshots.start()
    watch = HealthWatch(environment.max_return, read_csv(folder / METRICS_FILE) if done else ())
    saved = done * loop.block_size
    with closing(csv), bar_context as bar:
        while done < blocks and not (done and agent.learner.stopped):
            metrics = loop.run(min(chunk, blocks - done))
            step = int(loop.block.numpy()) * loop.block_size
            check_metrics(metrics.figures, step, saved, folder)
            row = metrics_row(metrics)
            writer.write(step, row)
            watch.look(row, step)
            snapshots.look(done, step // loop.block_size)
            if step - saved >= config.checkpoint_every_steps or step >= total or agent.learner.stopped:
                check_variables(agent.learner, step, saved, folder)
                # Metrics first: a checkpoint must never be ahead of its rows of metrics.
                writer.flush()
                manager.save(checkpoint_number=step)
                saved = step
            bar.advance(step - done * loop.block_size, _note(metrics))
            done = int(loop.block.numpy())
    if done < blocks:
        logger.warning(
            "step %s: the policy reached its limit of divergence from the initial policy; the training ends here",
            f"{done * loop.block_size:,}",
        )
    return done * loop.block_size


def _note(metrics: LoopMetrics) -> str:
    """Return the figures of a line of progress."""
    loss = f", loss {metrics.figures['loss']:.4g}" if "loss" in metrics.figures else ""
    return f"reward {metrics.reward:.3f}{loss}"


def _manager(folder: Path, loop: SessionLoop, agent: SessionAgent) -> tf.train.CheckpointManager:
    # Save the learner under its name: A2C, PPO and REINFORCE have the same variables, which must not be confused.
    learner = {f"learner_{agent.learner.name}": agent.learner}
    return make_checkpoint_manager(folder, **loop.state, **learner, train_step=agent.train_step_counter)


def metrics_row(metrics: LoopMetrics) -> dict[str, float]:
    """Return a row of metrics; `sessions/` figures are means over ended sessions, `update/` figures over updates."""
    return {
        "reward/per_step": metrics.reward_per_step,
        "sessions/reward": metrics.reward,
        "sessions/length": metrics.length,
        "sessions/ended": float(metrics.sessions),
        "exploration/share": metrics.explored,
        **{f"update/{name}": value for name, value in metrics.figures.items()},
    }
