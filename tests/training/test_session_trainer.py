"""A training in sessions with a life: its metrics, its guards, and that a run cut anywhere ends as an unbroken one."""

import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.agents import SESSION_AGENTS
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.core.errors import ArtifactError, ConfigError, DivergedError
from recpolicy.core.metrics import read_csv
from recpolicy.environments.session import SessionConfig, SessionEnvironment
from recpolicy.testing import planted_sessions
from recpolicy.testing.synthetic_sessions import ITEMS, STEPS
from recpolicy.training import session_trainer
from recpolicy.training.session_loop import LoopMetrics, SessionLoop
from recpolicy.training.session_trainer import SessionRunConfig, train_in_sessions

ROWS = 6
_SMALL = {"layers": (16,), "learning_rate": 0.01}
AGENTS = {
    "ppo": _SMALL | {"n_steps": 6, "n_epochs": 2, "minibatch_size": 16},
    "dqn": _SMALL | {"batch_size": 32, "gradient_steps": 2, "buffer_size": 96},  # three blocks
    "q_learning": {"learning_rate": 0.5},
    "a2c": _SMALL,
    "reinforce": _SMALL,
    "topk_reinforce": _SMALL,
    "offpolicy_actor_critic": _SMALL,
}
BLOCK = {
    "ppo": 48, "dqn": 32, "q_learning": 32, "a2c": 40, "reinforce": 64, "topk_reinforce": 64,
    "offpolicy_actor_critic": 40,
}  # fmt: skip
"""Steps in a block of 8 sessions."""


def config(name, rows=ROWS):
    """One block a row, a checkpoint every other row."""
    return SessionRunConfig(total_timesteps=rows * BLOCK[name], log_rows=rows, checkpoint_every_steps=2 * BLOCK[name])


def environment(batch_size=8):
    """The planted sessions."""
    planted, settings = planted_sessions(), SessionConfig(batch_size=batch_size, max_episode_steps=STEPS)
    items = np.arange(ITEMS, dtype=np.int32)
    return SessionEnvironment(planted.world, planted.context, planted.embedding, items, settings, seed=2)


def make(name, **given):
    """A small agent that knows the planted items."""
    planted, game, entry = planted_sessions(), environment(), SESSION_AGENTS[name]
    level = np.full(ITEMS, 3, np.float32)
    arms = ItemFeatures(planted.embedding, level, level, level, (1.0, 5.0), planted.world.genres)
    return entry.make(
        game.time_step_spec(), game.action_spec(), entry.config(**AGENTS[name] | given), arms, seed=1
    )  # fmt: skip


def everything(agent):
    """All that a learner knows, optimizer and remembered steps included."""
    return [variable.numpy() for variable in agent.learner.variables]


def assert_same(one, other):
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


class Run(NamedTuple):
    """A finished run, and the folder as a power cut before its fourth row would have left it."""

    folder: Path
    variables: list[np.ndarray]
    cut: Path


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Finished runs by the agent's name."""

    @cache
    def run(name):
        folder, calls = tmp_path_factory.mktemp(name), []
        cut = folder.with_name(f"{folder.name}-cut")

        class Watched(SessionLoop):
            def run(self, blocks):
                if len(calls) == 3:
                    shutil.copytree(folder, cut)
                calls.append(blocks)
                return super().run(blocks)

        agent = make(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session_trainer, "SessionLoop", Watched)
            assert train_in_sessions(environment(), agent, config(name), folder) == ROWS * BLOCK[name]
        assert calls == [1] * ROWS
        return Run(folder, everything(agent), cut)

    return run


@pytest.mark.parametrize("name", ["ppo", "dqn", "q_learning"])
def test_metrics_say_what_happened(unbroken, name):
    rows = read_csv(unbroken(name).folder / "metrics.csv")
    assert [row["step"] for row in rows] == [BLOCK[name] * number for number in range(1, ROWS + 1)]
    common = ["reward/per_step", "sessions/reward", "sessions/length", "sessions/ended", "exploration/share"]
    assert list(rows[0]) == ["step", *common, *(f"update/{figure}" for figure in make(name).learner.figures)]
    for row in rows:
        assert 0 < row["reward/per_step"] < 1
        assert 1 <= row["sessions/length"] <= 8
        assert row["sessions/reward"] <= row["sessions/length"]
        assert 0 < row["exploration/share"] < 1
        assert np.isfinite(list(row.values())).all()
    # Every step belongs to a session, and 8 are still going on.
    shown = sum(row["sessions/ended"] * row["sessions/length"] for row in rows)
    assert ROWS * BLOCK[name] - 8 * 8 <= shown <= ROWS * BLOCK[name]


def test_tensorboard_gets_the_same_numbers(unbroken):
    (events,) = (unbroken("ppo").folder / "tensorboard").iterdir()
    seen = {
        (event.step, value.tag): float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    for row in read_csv(unbroken("ppo").folder / "metrics.csv"):
        for name in ("sessions/reward", "update/entropy", "update/approximate_kl"):
            assert seen[int(row["step"]), name] == pytest.approx(row[name], rel=1e-6)


@pytest.mark.parametrize("name", ["ppo", "dqn", "q_learning"])
def test_a_run_cut_and_taken_up_again_ends_as_the_unbroken_one(unbroken, name):
    whole = unbroken(name)
    assert len(read_csv(whole.cut / "metrics.csv")) == 2  # the third row was not yet on the disk
    with (whole.cut / "metrics.csv").open("a") as stream:  # had it been, with half of the fourth
        stream.write((whole.folder / "metrics.csv").read_text().splitlines()[3] + "\n128,0.3")
    agent = make(name)
    train_in_sessions(environment(), agent, config(name), whole.cut)
    assert_same(everything(agent), whole.variables)
    assert (whole.cut / "metrics.csv").read_bytes() == (whole.folder / "metrics.csv").read_bytes()


def test_a_finished_run_is_not_played_again(unbroken, tmp_path):
    whole, agent = unbroken("dqn"), make("dqn")
    again = shutil.copytree(whole.folder, tmp_path / "run")
    train_in_sessions(environment(), agent, config("dqn"), again)
    assert_same(everything(agent), whole.variables)
    assert (again / "metrics.csv").read_bytes() == (whole.folder / "metrics.csv").read_bytes()


class Pretended(SessionLoop):
    """Says that all is well without playing, for what does not depend on it."""

    def run(self, blocks):
        self.block.assign_add(blocks)
        return LoopMetrics(
            {"loss": 0.5, "entropy": 2.0}, sessions=4, reward=3.0, length=5.0, reward_per_step=0.6, explored=0.5
        )


def test_steps_are_rounded_up_to_whole_blocks_and_the_last_row_may_be_short(tmp_path, monkeypatch):
    monkeypatch.setattr(session_trainer, "SessionLoop", Pretended)
    settings = SessionRunConfig(total_timesteps=65, log_rows=2, checkpoint_every_steps=64)
    assert train_in_sessions(environment(), make("q_learning"), settings, tmp_path) == 96
    assert [row["step"] for row in read_csv(tmp_path / "metrics.csv")] == [64, 96]


STUCK = f"""
import sys, threading
sys.path[:0] = {[path for path in sys.path if path]!r}
from pathlib import Path
from test_session_trainer import config, environment, make
from recpolicy.training import session_trainer

class Stuck(session_trainer.SessionLoop):
    runs = 0

    def run(self, blocks):
        Stuck.runs += 1
        if Stuck.runs > 3:  # one row after the checkpoint
            print("stuck", flush=True)
            threading.Event().wait()
        return super().run(blocks)

session_trainer.SessionLoop = Stuck
session_trainer.train_in_sessions(environment(), make("dqn"), config("dqn"), Path(sys.argv[1]))
"""


def test_a_run_killed_in_the_middle_ends_as_the_unbroken_one(unbroken, tmp_path):
    with subprocess.Popen([sys.executable, "-c", STUCK, tmp_path], stdout=subprocess.PIPE, text=True) as training:
        assert "stuck\n" in iter(training.stdout.readline, "")
        training.kill()
    assert (tmp_path / "checkpoints" / "checkpoint").exists()
    assert 2 <= len(read_csv(tmp_path / "metrics.csv")) < ROWS
    whole, agent = unbroken("dqn"), make("dqn")
    train_in_sessions(environment(), agent, config("dqn"), tmp_path)
    assert_same(everything(agent), whole.variables)
    assert (tmp_path / "metrics.csv").read_bytes() == (whole.folder / "metrics.csv").read_bytes()


@pytest.mark.parametrize("other", [name for name in AGENTS if name != "ppo"])
def test_a_checkpoint_of_another_agent_is_refused(unbroken, tmp_path, other):
    """A2C and REINFORCE are made of the very variables of PPO."""
    folder = shutil.copytree(unbroken("ppo").folder, tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"run: its checkpoint ckpt-\d+ is damaged or belongs to another agent"):
        train_in_sessions(environment(), make(other), config(other), folder)


def test_a_checkpoint_that_does_not_fit_or_is_damaged_is_refused(unbroken, tmp_path):
    folder = shutil.copytree(unbroken("ppo").folder, tmp_path / "run")
    refused = pytest.raises(ArtifactError, match=r"its checkpoint ckpt-\d+ is damaged or belongs to another agent")
    with refused:
        train_in_sessions(environment(), make("ppo", layers=(8,)), config("ppo"), folder)
    with refused:
        train_in_sessions(environment(batch_size=4), make("ppo"), config("ppo"), folder)
    for index in (folder / "checkpoints").glob("*.index"):
        index.write_bytes(b"not a checkpoint")
    with refused:
        train_in_sessions(environment(), make("ppo"), config("ppo"), folder)


@pytest.mark.parametrize("setting", ["total_timesteps", "log_rows", "checkpoint_every_steps"])
def test_settings_below_one_are_refused(setting):
    with pytest.raises(ConfigError, match=f"{setting} is 0: expected greater than or equal to 1"):
        SessionRunConfig(**{setting: 0})


def spoilt_after(game, rows, monkeypatch):
    """From the next row on the world pays NaN."""
    spoilt, transition, calls = tf.Variable(0.0), game.transition, []

    class Watched(SessionLoop):
        def run(self, blocks):
            calls.append(blocks)
            spoilt.assign(np.nan if len(calls) > rows else 0.0)
            return super().run(blocks)

    def spoil(session, action, noise):
        step = transition(session, action, noise)
        return step._replace(reward=step.reward + spoilt.read_value())

    monkeypatch.setattr(game, "transition", spoil)
    monkeypatch.setattr(session_trainer, "SessionLoop", Watched)


def test_a_world_that_pays_nan_stops_the_run_and_the_last_good_checkpoint_can_be_taken_up(
    unbroken, tmp_path, monkeypatch
):
    game = environment()
    spoilt_after(game, 3, monkeypatch)
    said = r"training diverged before step 128: loss is nan; the checkpoint of step 64 in .* is kept"
    with pytest.raises(DivergedError, match=said):
        train_in_sessions(game, make("dqn"), config("dqn"), tmp_path)
    assert all(np.isfinite(list(row.values())).all() for row in read_csv(tmp_path / "metrics.csv"))
    monkeypatch.undo()
    agent = make("dqn")
    train_in_sessions(environment(), agent, config("dqn"), tmp_path)
    assert_same(everything(agent), unbroken("dqn").variables)


def test_standardising_does_not_hide_that_a_world_pays_nan(tmp_path, monkeypatch):
    """It turns what does not vary into 0, and NaN compares with nothing."""
    game = environment()
    spoilt_after(game, 0, monkeypatch)
    with pytest.raises(DivergedError, match=r"before step 64: .* no checkpoint was made yet"):
        train_in_sessions(game, make("reinforce"), config("reinforce"), tmp_path)


def test_steps_far_too_large_stop_the_run(tmp_path):
    agent = make("ppo")
    agent.learner._trainer._rate = 1e30  # the config refuses such a setting
    with pytest.raises(DivergedError, match=r"diverged before step \d+: .* A smaller learning_rate"):
        train_in_sessions(environment(), agent, config("ppo"), tmp_path)


@pytest.mark.parametrize(("name", "part"), [("a2c", "kernel"), ("q_learning", "table")])
def test_numbers_that_are_not_finite_are_never_kept(tmp_path, monkeypatch, name, part):
    """The figures of a row are those before its last update: they can be finite while the weights no longer are."""
    agent = make(name)
    ruined = next(variable for variable in agent.learner.variables if part in variable.name)

    class Ruining(Pretended):
        def run(self, blocks):
            if int(self.block) == 2:
                ruined.assign(tf.fill(ruined.shape, np.inf))
            return super().run(blocks)

    monkeypatch.setattr(session_trainer, "SessionLoop", Ruining)
    size = BLOCK[name]
    said = rf"before step {4 * size}: .*{part}.* holds numbers that are not finite; the checkpoint of step {2 * size}"
    with pytest.raises(DivergedError, match=said):
        train_in_sessions(environment(), agent, config(name), tmp_path)
    assert {path.stem for path in (tmp_path / "checkpoints").glob("*.index")} == {f"ckpt-{2 * size}"}


def test_a_training_that_collapses_is_named_once(tmp_path, caplog, monkeypatch):
    """The second of two windows of rows has almost no entropy."""

    class Asleep(Pretended):
        def run(self, blocks):
            metrics = super().run(blocks)
            asleep = int(self.block.numpy()) > 5 * blocks
            return replace(metrics, figures={"loss": 0.5, "entropy": 0.1 if asleep else 4.0})

    monkeypatch.setattr(session_trainer, "SessionLoop", Asleep)
    with caplog.at_level(logging.WARNING, "recpolicy"):
        train_in_sessions(environment(), make("a2c"), config("a2c", rows=12), tmp_path)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"step {10 * BLOCK['a2c']:,}: collapse: the policy's entropy is 0.100 nats")


def test_lines_on_stdout_are_rows_of_metrics(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(session_trainer, "SessionLoop", Pretended)
    settings = SessionRunConfig(total_timesteps=320, log_rows=1, log_every_steps=64)
    train_in_sessions(environment(), make("q_learning"), settings, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"training: {step} of 320 items" for step in range(64, 321, 64)]
    assert lines[0].endswith("reward 3.000, loss 0.5")
    assert [row["step"] for row in read_csv(tmp_path / "metrics.csv")] == [64, 128, 192, 256, 320]
