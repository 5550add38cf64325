"""Session training with metrics, progress, checkpoints, exact resume and checks for NaN and collapse.

A checkpoint holds the learner, the running sessions and the block number; on resume, the metrics file is truncated to
it. A run resumed at any point ends with the same numbers as an uninterrupted one.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import tensorflow as tf

from recpolicy.agents.sequence import SessionAgent
from recpolicy.core.config import Count, config_dataclass
from recpolicy.core.metrics import CsvWriter, TeeWriter, TensorBoardWriter, read_csv
from recpolicy.core.progress import progress
from recpolicy.environments.session import SessionEnvironment
from recpolicy.training.checkpoints import make_checkpoint_manager, restore
from recpolicy.training.divergence import check_metrics, check_variables
from recpolicy.training.session_loop import LoopMetrics, SessionLoop
from recpolicy.training.snapshots import Snapshots
from recpolicy.training.trainer import METRICS_FILE, TENSORBOARD_FOLDER

logger = logging.getLogger(__name__)

_ENTROPY, _REWARD = "update/entropy", "sessions/reward"
_WINDOW = 5
"""Number of rows of metrics compared with the same number of earlier rows, to detect growth of the reward."""
_LOW_ENTROPY = 0.05
"""Share of the initial entropy below which a policy has almost stopped exploring."""


@config_dataclass
class SessionRunConfig:
    """Settings of a training run in sessions: its length, metrics and checkpoints."""

    total_timesteps: Count = 300_000
    """Total number of shown items, rounded up to whole blocks."""
    log_rows: Count = 50
    """Number of rows of metrics; each is one call of the compiled loop. Frequent checkpoints make more rows."""
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
    chunk = min(-(-blocks // config.log_rows), max(config.checkpoint_every_steps // loop.block_size, 1))
    manager = _manager(folder, loop, agent)
    restore(manager, folder)
    done = int(loop.block.numpy())
    csv = CsvWriter(folder / METRICS_FILE, keep_until=done * loop.block_size if done else None)
    writer = TeeWriter((csv, TensorBoardWriter(folder / TENSORBOARD_FOLDER)))
    total = blocks * loop.block_size
    bar_context = progress("training", total, unit="items", done=done * loop.block_size, show=show_progress)
    snapshots = Snapshots(folder, blocks, loop.block_size, agent.learner.export)
    if not done:
        snapshots.start()
    watch, saved = CollapseWatch(read_csv(folder / METRICS_FILE) if done else ()), done * loop.block_size
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
            bar.advance(step - done * loop.block_size, f"reward {metrics.reward:.3f}")
            done = int(loop.block.numpy())
    if done < blocks:
        logger.warning(
            "step %s: the policy reached its limit of divergence from the initial policy; the training ends here",
            f"{done * loop.block_size:,}",
        )
    return done * loop.block_size


def _manager(folder: Path, loop: SessionLoop, agent: SessionAgent) -> tf.train.CheckpointManager:
    # Save the learner under its name: A2C, PPO and REINFORCE have the same variables, which must not be confused.
    learner = {f"learner_{agent.learner.name}": agent.learner}
    return make_checkpoint_manager(folder, **loop.state, **learner, train_step=agent.train_step_counter)


def metrics_row(metrics: LoopMetrics) -> dict[str, float]:
    """Return a row of metrics; `sessions/` figures are means over ended sessions, `update/` figures over updates."""
    return {
        "reward/per_step": metrics.reward_per_step,
        _REWARD: metrics.reward,
        "sessions/length": metrics.length,
        "sessions/ended": float(metrics.sessions),
        "exploration/share": metrics.explored,
        **{f"update/{name}": value for name, value in metrics.figures.items()},
    }


class CollapseWatch:
    """A monitor that warns once if a policy stops exploring while its reward does not grow.

    `past`: rows of metrics from before a resume; they cause no warning.
    """

    def __init__(self, past: Iterable[Mapping[str, float]] = ()) -> None:
        self._entropy: list[float] = []
        self._reward: list[float] = []
        self._warned = False
        for row in past:
            self._warned |= self._collapses(row)

    def _collapses(self, row: Mapping[str, float]) -> bool:
        if not math.isfinite(row.get(_ENTROPY, math.nan)) or not math.isfinite(row[_REWARD]):
            return False
        self._entropy.append(row[_ENTROPY])
        self._reward.append(row[_REWARD])
        return collapsed(self._entropy, self._reward)

    def look(self, row: Mapping[str, float], step: int) -> None:
        """Check a row of metrics."""
        if self._collapses(row) and not self._warned:
            self._warned = True
            logger.warning(
                "step %s: the policy's entropy is %.3f nats (%.2f at first) and the reward stays at %.3f: it may"
                " have collapsed. Try a larger ent_coef, a smaller learning_rate, or a higher temperature",
                f"{step:,}", self._entropy[-1], self._entropy[0], self._reward[-1],
            )  # fmt: skip


def collapsed(entropy: Sequence[float], reward: Sequence[float]) -> bool:
    """Return True if entropy fell below a twentieth of its initial value while the reward did not grow."""
    if len(entropy) < 2 * _WINDOW or entropy[-1] >= _LOW_ENTROPY * entropy[0]:
        return False
    return _mean(reward[-_WINDOW:]) <= _mean(reward[-2 * _WINDOW : -_WINDOW])


def _mean(values: Any) -> float:
    return sum(values) / len(values)
