"""A training in sessions with a life: metrics, progress, checkpoints, exact resume, guards against NaN and collapse.

A checkpoint holds the learner, the running sessions and the block number; the metrics file is cut back to it on
resume. Killed anywhere and taken up again, a run ends with the same numbers as an unbroken one.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from pydantic import PositiveInt

from recpolicy.agents.sequence import SessionAgent
from recpolicy.core.config import config_dataclass
from recpolicy.core.errors import DivergedError
from recpolicy.core.metrics import CsvWriter, TeeWriter, TensorBoardWriter, read_csv
from recpolicy.core.progress import progress
from recpolicy.environments.session import SessionEnvironment
from recpolicy.training.checkpoints import make_checkpoint_manager, restore
from recpolicy.training.session_loop import Played, SessionLoop
from recpolicy.training.trainer import METRICS_FILE, TENSORBOARD_FOLDER

logger = logging.getLogger(__name__)

_ENTROPY, _REWARD = "update/entropy", "sessions/reward"
_WINDOW = 5
"""Rows of metrics that are compared with as many before them, to see whether the reward still grows."""
_LOW_ENTROPY = 0.05
"""Share of the first entropy below which a policy has all but stopped to explore."""


@config_dataclass
class SessionRunConfig:
    """How long to train in sessions, and how often to look."""

    total_timesteps: PositiveInt = 300_000
    """Items shown in all, rounded up to whole blocks."""
    log_rows: PositiveInt = 50
    """Rows of metrics; each is one call of the compiled loop."""
    checkpoint_every_steps: PositiveInt = 50_000
    """Items shown between checkpoints, rounded up to whole rows."""


def train_in_sessions(
    environment: SessionEnvironment,
    agent: SessionAgent,
    config: SessionRunConfig,
    folder: Path,
    show_progress: bool | None = None,
) -> int:
    """Train, writing metrics, TensorBoard events and checkpoints to `folder`; returns the items shown in all.

    Takes up what a killed run left in `folder`. Raises ConfigError for settings out of range, ArtifactError for
    checkpoints that do not fit this agent, DivergedError when a figure is not finite: the last good checkpoint stays.
    """
    loop = SessionLoop(environment, agent)
    blocks = -(-config.total_timesteps // loop.block_size)
    chunk = -(-blocks // config.log_rows)
    manager = _manager(folder, loop, agent)
    restore(manager, folder)
    done = int(loop.block.numpy())
    csv = CsvWriter(folder / METRICS_FILE, keep_until=done * loop.block_size if done else None)
    writer = TeeWriter((csv, TensorBoardWriter(folder / TENSORBOARD_FOLDER)))
    total = blocks * loop.block_size
    bar_of = progress("training", total, unit="items", done=done * loop.block_size, show=show_progress)
    watch, saved = CollapseWatch(read_csv(folder / METRICS_FILE) if done else ()), done * loop.block_size
    with closing(csv), bar_of as bar:
        while done < blocks:
            played = loop.run(min(chunk, blocks - done))
            step = int(loop.block.numpy()) * loop.block_size
            check_metrics_finite(played, step, saved, folder)
            row = metrics_of(played)
            writer.write(step, row)
            watch.look(row, step)
            if step - saved >= config.checkpoint_every_steps or step >= total:
                check_variables_finite(agent.learner, step, saved, folder)
                # Metrics first: a checkpoint must never be ahead of the rows that lead to it.
                writer.flush()
                manager.save(checkpoint_number=step)
                saved = step
            bar.advance(step - done * loop.block_size, f"reward {played.reward:.3f}")
            done = int(loop.block.numpy())
    return total


def _manager(folder: Path, loop: SessionLoop, agent: SessionAgent) -> tf.train.CheckpointManager:
    # The learner goes by its name: A2C, PPO and REINFORCE are made of the same variables, which must not be mixed up.
    learner = {f"learner_{agent.learner.name}": agent.learner}
    return make_checkpoint_manager(folder, **loop.state, **learner, train_step=agent.train_step_counter)


def metrics_of(played: Played) -> dict[str, float]:
    """One row of metrics; `sessions/` figures are means over the sessions that ended, `update/` ones over updates."""
    return {
        "reward/per_step": played.reward_per_step,
        _REWARD: played.reward,
        "sessions/length": played.length,
        "sessions/ended": float(played.sessions),
        **{f"update/{name}": value for name, value in played.figures.items()},
    }


def check_metrics_finite(played: Played, step: int, saved: int, folder: Path) -> None:
    """Raise DivergedError when an update's figure is not finite."""
    for name, value in played.figures.items():
        if not math.isfinite(value):
            raise _diverged(f"{name} is {value}", step, saved, folder)


def check_variables_finite(learner: tf.Module, step: int, saved: int, folder: Path) -> None:
    """Raise DivergedError when the learner holds a number that is not finite: its figures may lag an update behind."""
    for variable in learner.variables:
        if variable.dtype.is_floating and not np.isfinite(variable.numpy()).all():
            raise _diverged(f"{variable.name} holds numbers that are not finite", step, saved, folder)


def _diverged(found: str, step: int, saved: int, folder: Path) -> DivergedError:
    kept = f"the checkpoint of step {saved:,} in {folder} is kept" if saved else "no checkpoint was made yet"
    return DivergedError(
        f"training diverged before step {step:,}: {found}; {kept}. A smaller learning_rate or gradient_norm usually"
        " helps; start again in a new folder"
    )


class CollapseWatch:
    """Warns once when a policy has stopped to explore although its reward has stopped to grow.

    `past`: rows of metrics that a run taken up again has left; nothing is said of them.
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
        """Take in a row of metrics."""
        if self._collapses(row) and not self._warned:
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
