"""A training in sessions with a life: metrics, progress, checkpoints, exact resume, guards against NaN and collapse.

A checkpoint holds the learner, the running sessions and the block number; the metrics file is cut back to it on
resume. Killed anywhere and taken up again, a run ends with the same numbers as an unbroken one.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recpolicy.agents.sequence import SequenceAgent
from recpolicy.core.errors import ConfigError, DivergedError
from recpolicy.core.metrics import CsvWriter, TeeWriter, TensorBoardWriter
from recpolicy.core.progress import progress
from recpolicy.environments.session import SessionEnvironment
from recpolicy.training.checkpoints import checkpoints_of, restore
from recpolicy.training.run import METRICS_FILE, TENSORBOARD_FOLDER
from recpolicy.training.sessions import Played, SessionLoop

logger = logging.getLogger(__name__)

_WINDOW = 5
"""Rows of metrics that are compared with as many before them, to see whether the reward still grows."""
_LOW_ENTROPY = 0.05
"""Share of the first entropy below which a policy has all but stopped to explore."""


@dataclass(frozen=True, kw_only=True)
class SessionRunConfig:
    """How long to train in sessions, and how often to look."""

    total_timesteps: int = 300_000
    """Movies shown in all, rounded up to whole blocks."""
    points: int = 50
    """Rows of metrics; each is one call of the compiled loop."""
    checkpoint_every: int = 50_000
    """Movies shown between checkpoints, rounded up to whole rows."""


def train_in_sessions(
    environment: SessionEnvironment,
    agent: SequenceAgent,
    config: SessionRunConfig,
    folder: Path,
    show_progress: bool | None = None,
) -> int:
    """Train, writing metrics, TensorBoard events and checkpoints to `folder`; returns the movies shown in all.

    Takes up what a killed run left in `folder`. Raises ConfigError for settings out of range, ArtifactError for
    checkpoints that do not fit this agent, DivergedError when a figure is not finite: the last good checkpoint stays.
    """
    if min(config.total_timesteps, config.points, config.checkpoint_every) < 1:
        raise ConfigError("training: total_timesteps, points and checkpoint_every: expected at least 1")
    loop = SessionLoop(environment, agent)
    blocks = -(-config.total_timesteps // loop.block_size)
    chunk = -(-blocks // config.points)
    manager = checkpoints_of(folder, **loop.state, learner=agent.learner, train_step=agent.train_step_counter)
    restore(manager, folder)
    done = int(loop.block.numpy())
    csv = CsvWriter(folder / METRICS_FILE, keep_until=done * loop.block_size if done else None)
    writer = TeeWriter((csv, TensorBoardWriter(folder / TENSORBOARD_FOLDER)))
    total = blocks * loop.block_size
    bar_of = progress("training", total, unit="movies", done=done * loop.block_size, show=show_progress)
    watch, saved = CollapseWatch(), done * loop.block_size
    with closing(csv), bar_of as bar:
        while done < blocks:
            played = loop.run(min(chunk, blocks - done))
            step = int(loop.block.numpy()) * loop.block_size
            refuse_divergence(played, step, saved, folder)
            writer.write(step, metrics_of(played))
            watch.look(played, step)
            if step - saved >= config.checkpoint_every or step >= total:
                # Metrics first: a checkpoint must never be ahead of the rows that lead to it.
                writer.flush()
                manager.save(checkpoint_number=step)
                saved = step
            bar.advance(step - done * loop.block_size, f"reward {played.reward:.3f}")
            done = int(loop.block.numpy())
    return total


def metrics_of(played: Played) -> dict[str, float]:
    """One row of metrics; `sessions/` figures are means over the sessions that ended, `update/` ones over updates."""
    return {
        "reward/per_step": played.reward_per_step,
        "sessions/reward": played.reward,
        "sessions/length": played.length,
        "sessions/ended": float(played.sessions),
        **{f"update/{name}": value for name, value in played.figures.items()},
    }


def refuse_divergence(played: Played, step: int, saved: int, folder: Path) -> None:
    """Raise DivergedError when an update's figure is not finite."""
    for name, value in played.figures.items():
        if not math.isfinite(value):
            kept = f"the checkpoint of step {saved:,} in {folder} is kept" if saved else "no checkpoint was made yet"
            raise DivergedError(
                f"training diverged before step {step:,}: {name} is {value}; {kept}. A smaller learning_rate or"
                " gradient_norm usually helps; start again in a new folder"
            )


class CollapseWatch:
    """Warns once when a policy has stopped to explore although its reward has stopped to grow."""

    def __init__(self) -> None:
        self._entropy: list[float] = []
        self._reward: list[float] = []
        self._warned = False

    def look(self, played: Played, step: int) -> None:
        """Take in a row of metrics."""
        if "entropy" not in played.figures or not math.isfinite(played.reward):
            return
        self._entropy.append(played.figures["entropy"])
        self._reward.append(played.reward)
        if not self._warned and collapsed(self._entropy, self._reward):
            self._warned = True
            logger.warning(
                "step %s: the policy's entropy is %.3f nats (%.2f at first) and the reward stands still at %.3f: it may"
                " have collapsed. Try a larger entropy_weight, a smaller learning_rate, or a higher temperature",
                f"{step:,}", self._entropy[-1], self._entropy[0], self._reward[-1],
            )  # fmt: skip


def collapsed(entropy: Sequence[float], reward: Sequence[float]) -> bool:
    """Whether entropy has fallen below a twentieth of its start while the reward of the last rows did not grow."""
    if len(entropy) < 2 * _WINDOW or entropy[-1] >= _LOW_ENTROPY * entropy[0]:
        return False
    return _mean(reward[-_WINDOW:]) <= _mean(reward[-2 * _WINDOW : -_WINDOW])


def _mean(values: Any) -> float:
    return sum(values) / len(values)
