"""Session training with metrics, progress, checkpoints, exact resume and checks of its health.

A checkpoint holds the learner, the running sessions and the block number; on resume, the metrics file is truncated to
it. A run resumed at any point ends with the same numbers as an uninterrupted one.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import tensorflow as tf

from recpolicy.agents.sequence import SessionAgent
from recpolicy.core.config import Count, CountOrZero, config_dataclass
from recpolicy.core.errors import DivergedError
from recpolicy.core.metrics import CsvWriter, TeeWriter, TensorBoardWriter, read_csv
from recpolicy.core.progress import progress
from recpolicy.environments.session import SessionEnvironment
from recpolicy.training.checkpoints import make_checkpoint_manager, restore
from recpolicy.training.divergence import check_metrics, check_variables
from recpolicy.training.health import HealthWatch
from recpolicy.training.session_loop import LoopMetrics, SessionLoop, SessionLoops
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


class SessionRun(NamedTuple):
    """A training with its own environment, agent and folder; `name` distinguishes it from others in warnings."""

    environment: SessionEnvironment
    agent: SessionAgent
    folder: Path
    name: str = ""


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
    (result,) = train_together([SessionRun(environment, agent, folder)], config, show_progress)
    if isinstance(result, DivergedError):
        raise result
    return result


def train_together(
    runs: Sequence[SessionRun], config: SessionRunConfig, show_progress: bool | None = None
) -> list[int | DivergedError]:
    """Train several agents in one compiled program; return the total of shown items of each, or why it diverged.

    Each learns what it would learn alone. One that ends early lets the others go on; of resumed trainings those run
    first that are behind.
    """
    trainings = [_Training(run, config) for run in runs]
    loops = SessionLoops([training.loop for training in trainings])
    unit = trainings[0].loop.block_size
    total, done = sum(training.blocks for training in trainings) * unit, sum(training.done for training in trainings)
    title = "training" if len(runs) == 1 else f"training {len(runs)} policies"
    with ExitStack() as stack:
        for training in trainings:
            stack.enter_context(closing(training))
        every = config.log_every_steps * len(runs)
        bar = stack.enter_context(
            progress(title, total, unit="items", done=done * unit, show=show_progress, every=every)
        )  # fmt: skip
        while active := [place for place, training in enumerate(trainings) if training.active]:
            behind = min(trainings[place].done for place in active)
            members = [place for place in active if trainings[place].done == behind]
            blocks = min(trainings[members[0]].chunk, trainings[members[0]].blocks - behind)
            metrics = loops.run(members, blocks)
            for place, row in zip(members, metrics, strict=True):
                trainings[place].take(row)
            bar.advance(len(members) * blocks * unit, _note(metrics))
    return [training.result() for training in trainings]


class _Training:
    """A run with its loop and its files: metrics, checkpoints and snapshots."""

    def __init__(self, run: SessionRun, config: SessionRunConfig):
        self._run, self._every = run, config.checkpoint_every_steps
        self.loop = SessionLoop(run.environment, run.agent)
        unit = self.loop.block_size
        self.blocks = -(-config.total_timesteps // unit)
        self.chunk = blocks_per_row(self.blocks, unit, config.log_rows, self._every, config.log_every_steps)
        self._manager = _manager(run.folder, self.loop, run.agent)
        restore(self._manager, run.folder)
        self.done = int(self.loop.block.numpy())
        self._saved = self.done * unit
        self.failure: DivergedError | None = None
        path = run.folder / METRICS_FILE
        self._csv = CsvWriter(path, keep_until=self.done * unit if self.done else None)
        self._writer = TeeWriter((self._csv, TensorBoardWriter(run.folder / TENSORBOARD_FOLDER)))
        self._snapshots = Snapshots(run.folder, self.blocks, unit, run.agent.learner.export)
        if not self.done:
            self._snapshots.start()
        self._watch = HealthWatch(run.environment.max_return, read_csv(path) if self.done else (), run.name)

    @property
    def active(self) -> bool:
        """True if there is more to train."""
        stopped = self.done and self._run.agent.learner.stopped
        return self.done < self.blocks and not stopped and self.failure is None

    def take(self, metrics: LoopMetrics) -> None:
        """Write the row of a call and, if due, a snapshot and a checkpoint; a divergence becomes `failure`."""
        before, self.done = self.done, int(self.loop.block.numpy())
        step = self.done * self.loop.block_size
        try:
            self._take(metrics, before, step)
        except DivergedError as error:
            self.failure = error

    def _take(self, metrics: LoopMetrics, before: int, step: int) -> None:
        learner, folder = self._run.agent.learner, self._run.folder
        check_metrics(metrics.figures, step, self._saved, folder)
        row = metrics_row(metrics)
        self._writer.write(step, row)
        self._watch.look(row, step)
        self._snapshots.look(before, self.done)
        if step - self._saved >= self._every or self.done >= self.blocks or learner.stopped:
            check_variables(learner, step, self._saved, folder)
            # Metrics first: a checkpoint must never be ahead of its rows of metrics.
            self._writer.flush()
            self._manager.save(checkpoint_number=step)
            self._saved = step

    def result(self) -> int | DivergedError:
        """Return the total of shown items, or why the training diverged; warn if it ended early at its limit."""
        if self.failure is not None:
            return self.failure
        steps = self.done * self.loop.block_size
        if self.done < self.blocks:
            logger.warning(
                "%sstep %s: the policy reached its limit of divergence from the initial policy; the training ends here",
                f"{self._run.name}: " if self._run.name else "", f"{steps:,}",
            )  # fmt: skip
        return steps

    def close(self) -> None:
        """Close the file of metrics."""
        self._csv.close()


def _note(metrics: Sequence[LoopMetrics]) -> str:
    """Return the figures of a line of progress: means over the policies."""
    losses = [row.figures["loss"] for row in metrics if "loss" in row.figures]
    loss = f", loss {fmean(losses):.4g}" if losses else ""
    return f"reward {fmean(row.reward for row in metrics):.3f}{loss}"


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
