"""An online training with a life: its metrics, and that a run cut anywhere ends as an unbroken one does."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tiny_dataset import miniature_ratings

from recpolicy.agents import agent_entry
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.metrics import read_csv
from recpolicy.data.splits import split
from recpolicy.environments.item_bandit import ItemBandit, ItemBanditConfig
from recpolicy.models.world import World
from recpolicy.training import tensorflow_export
from recpolicy.training.trainer import OnlineConfig, train_online

USERS, ARMS, RANK, BATCH = 12, 6, 3, 8


def world(seed=0):
    """An environment of 12 users and 6 arms, and tables of the arms that know the truth."""
    rng = np.random.default_rng(seed)
    user, item = (rng.normal(size=(rows, RANK)).astype(np.float32) for rows in (USERS, ARMS))
    offset = np.full(ARMS, 3, np.float32)
    expected = np.clip(user @ item.T + offset, 1, 5)
    environment = ItemBandit(
        World(expected, np.zeros(expected.shape, bool), (1.0, 5.0), "planted"), user, np.arange(ARMS, dtype=np.int32),
        ItemBanditConfig(batch_size=BATCH),
    )  # fmt: skip
    return environment, ItemFeatures(item, offset, np.ones(ARMS, np.float32), offset, (1.0, 5.0))


def played(agent_name, folder, total_timesteps, log_rows, checkpoint_every_steps=None):
    """Train in `folder`, with a checkpoint after each row of metrics; the agent as arrays, and the pulls."""
    environment, tables = world()
    entry = agent_entry(agent_name)
    agent = entry.make(environment.time_step_spec(), environment.action_spec(), entry.config(), tables, seed=1)
    config = OnlineConfig(
        total_timesteps=total_timesteps,
        log_rows=log_rows,
        checkpoint_every_steps=checkpoint_every_steps or total_timesteps // log_rows,
    )
    pulls = train_online(environment, agent, config, folder)
    return agent.learner.export().arrays, pulls


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of LinUCB: its folder, the agent as arrays, the pulls."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, *played("linucb", folder, total_timesteps=400, log_rows=5)


def test_metrics_say_what_happened(finished):
    folder, _, pulls = finished
    rows = read_csv(folder / "metrics.csv")
    assert [row["step"] for row in rows] == [80, 160, 240, 320, 400]
    per_row = np.array([row["regret/per_interaction"] for row in rows])
    np.testing.assert_allclose([row["regret/cumulative"] for row in rows], np.cumsum(per_row * 80), rtol=1e-5)
    assert rows[-1]["coverage/share_of_arms_ever_shown"] == (pulls > 0).mean()
    assert pulls.sum() == 400
    assert all(1 <= row["reward/mean"] <= 5 and 0 <= row["suboptimal/share"] <= 1 for row in rows)
    assert all(0 <= row["exploration/share"] <= 1 and row["exploration/mean_width"] > 0 for row in rows)


def test_tensorboard_gets_the_same_numbers(finished):
    folder = finished[0]
    (events,) = (folder / "tensorboard").iterdir()
    seen = {
        (event.step, value.tag): float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    for row in read_csv(folder / "metrics.csv"):
        assert seen[int(row["step"]), "regret/cumulative"] == pytest.approx(row["regret/cumulative"], rel=1e-6)


def test_a_finished_run_is_not_played_again(finished, tmp_path):
    folder, arrays, pulls = finished
    again, pulls_again = played("linucb", shutil.copytree(folder, tmp_path / "run"), total_timesteps=400, log_rows=5)
    np.testing.assert_array_equal(arrays["theta"], again["theta"])
    np.testing.assert_array_equal(pulls, pulls_again)
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()


def test_interactions_are_rounded_up_to_whole_rounds_and_the_last_row_may_be_short(tmp_path):
    _, pulls = played("random", tmp_path, total_timesteps=81, log_rows=3, checkpoint_every_steps=32)
    assert pulls.sum() == 88
    assert [row["step"] for row in read_csv(tmp_path / "metrics.csv")] == [32, 64, 88]


def test_a_run_in_two_parts_is_the_unbroken_run(tmp_path):
    whole, whole_pulls = played("exp3", tmp_path / "whole", total_timesteps=320, log_rows=4)
    first, _ = played("exp3", tmp_path / "parts", total_timesteps=160, log_rows=2)
    with (tmp_path / "parts" / "metrics.csv").open("a") as stream:
        stream.write("240,1.0,1.0,1.0,1.0,1.0,1.0\n320,1.0,")  # what a killed run wrote after its last checkpoint
    parts, parts_pulls = played("exp3", tmp_path / "parts", total_timesteps=320, log_rows=4)
    assert any((first[name] != whole[name]).any() for name in whole)
    for name in whole:
        np.testing.assert_array_equal(parts[name], whole[name])
    np.testing.assert_array_equal(parts_pulls, whole_pulls)
    assert (tmp_path / "parts" / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_a_checkpoint_of_another_agent_or_a_damaged_one_is_refused(tmp_path):
    played("exp3", tmp_path, total_timesteps=80, log_rows=1)
    for other in ("ucb1", "random", "linucb", "eps_greedy"):  # the first two have no more variables than the checkpoint
        with pytest.raises(ArtifactError, match=r"its checkpoint ckpt-\d+ is damaged or belongs to another agent"):
            played(other, tmp_path, total_timesteps=160, log_rows=2)
    (index,) = (tmp_path / "checkpoints").glob("*.index")
    index.write_bytes(b"not a checkpoint")
    with pytest.raises(ArtifactError, match=r"its checkpoint ckpt-\d+ is damaged or belongs to another agent"):
        played("exp3", tmp_path, total_timesteps=160, log_rows=2)


@pytest.mark.parametrize("setting", ["total_timesteps", "log_rows", "checkpoint_every_steps"])
def test_settings_below_one_are_refused(setting):
    with pytest.raises(ConfigError, match=f"{setting} is 0: expected greater than or equal to 1"):
        OnlineConfig(**{setting: 0})


def test_frequent_checkpoints_make_more_rows_of_metrics(tmp_path):
    environment, tables = world()
    entry = agent_entry("random")
    agent = entry.make(environment.time_step_spec(), environment.action_spec(), entry.config(), tables, seed=1)
    every = 3 * environment.batch_size
    config = OnlineConfig(total_timesteps=12 * environment.batch_size, log_rows=1, checkpoint_every_steps=every)
    train_online(environment, agent, config, tmp_path)
    steps = [every, 2 * every, 3 * every, 4 * every]
    assert [row["step"] for row in read_csv(tmp_path / "metrics.csv")] == steps


SETTINGS = {
    "total_timesteps": 16 * 400, "batch_size": 16, "log_rows": 25, "checkpoint_every_steps": 256, "rating_model": "svd",
    "world": "item_knn", "rank": 5,
}  # fmt: skip
AGENT = "neural_linucb", {"encoder_batches": 150}  # a network and its optimizer, then a posterior
TRAIN = f"""
import sys, threading
sys.path[:0] = {[path for path in sys.path if path]!r}
from tiny_dataset import miniature_ratings
from recpolicy import split, train
from recpolicy.training import trainer

class Stuck(trainer.OnlineLoop):
    runs = 0

    def run(self, rounds):
        Stuck.runs += 1
        if Stuck.runs > 5:
            print("stuck", flush=True)
            threading.Event().wait()
        return super().run(rounds)

trainer.OnlineLoop = Stuck
agent, agent_config = {AGENT!r}
train(agent, split(miniature_ratings(), "u1"), sys.argv[1], config={SETTINGS!r}, agent_config=agent_config)
"""


def train_here(out):
    from recpolicy.workflows.policy_training import train

    agent, agent_config = AGENT
    train(agent, split(miniature_ratings(), "u1"), out, config=SETTINGS, agent_config=agent_config)


def kill_after_five_rows(out):
    """Train in another process and kill it with SIGKILL after five rows of metrics; return how many are written."""
    with subprocess.Popen([sys.executable, "-c", TRAIN, out], stdout=subprocess.PIPE, text=True) as training:
        assert "stuck\n" in iter(training.stdout.readline, "")
        training.kill()
    return len((out.with_name(f"{out.name}.incomplete") / "metrics.csv").read_text().splitlines()) - 1


def test_a_training_killed_in_the_middle_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)  # their bytes are TensorFlow's affair
    assert kill_after_five_rows(tmp_path / "killed") == 5 < SETTINGS["log_rows"]
    assert not (tmp_path / "killed").exists()
    train_here(tmp_path / "killed")
    train_here(tmp_path / "unbroken")
    for name in ("metrics.csv", "arrays.npz"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes(), name
    killed, unbroken = (json.loads((tmp_path / name / "recpolicy.json").read_text()) for name in ("killed", "unbroken"))
    assert killed["metadata"] == unbroken["metadata"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "unbroken"]
