"""`train_sessions`: same seed, same numbers; what the worlds may know; what it refuses and leaves behind."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_dataset import miniature_ratings
from trained_policies import miniature_split

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.core.metrics import read_csv
from recpolicy.data.splits import split
from recpolicy.training import tensorflow_export
from recpolicy.workflows import session_plan
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds
from recpolicy.workflows.session_training import train_sessions

TINY = {
    "total_timesteps": 256,
    "batch_size": 16,
    "log_rows": 2,
    "checkpoint_every_steps": 128,
    "rating_model": "svd",
    "rank": 5,
    "max_episode_steps": 8,
}
"""Four blocks of tabular Q-learning in two calls of one compiled loop."""


@pytest.fixture(autouse=True)
def without_saved_models(monkeypatch):
    """Their bytes are TensorFlow's affair; tests/serving reads them."""
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)


@pytest.fixture(scope="module")
def worlds():
    return make_worlds(miniature_split(), SessionTrainConfig(**TINY), 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, worlds):
    """A policy and its folder."""
    out = tmp_path_factory.mktemp("trained") / "policy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
        return train_sessions("q_learning", miniature_split(), out, config=TINY, worlds=worlds), out


def test_the_artifact_says_where_it_comes_from(trained, worlds):
    policy, out = trained
    assert policy.sequential
    metadata = policy.metadata
    assert metadata["agent"] == "q_learning"
    assert metadata["training"] == {
        "mode": "sessions", "total_timesteps": 256, "world": worlds.training_world.name, "rewards": "simulated",
    }  # fmt: skip
    assert metadata["state_dim"] == policy.artifact.context.shape[1] + len(policy.artifact.policy["genres"][0]) + 7
    assert metadata["config"]["train"]["simulator"]["fatigue_genre"] == 4.0
    assert metadata["rating_model"]["name"] == "svd"
    assert [row["step"] for row in read_csv(out / "metrics.csv")] == [128, 256]
    assert not out.with_name("policy.incomplete").exists()


def test_an_own_like_model_is_in_the_world_and_in_the_metadata(tmp_path, worlds):
    def like(user, item, history):
        return np.where(item % 2 == 0, 0.9, 0.1)

    policy = train_sessions("q_learning", miniature_split(), tmp_path / "own", config=TINY, like_model=like)
    assert policy.metadata["like_model"]["name"].endswith("like")
    assert "as like model on" in policy.metadata["training"]["world"]
    with pytest.raises(ConfigError, match="give no log and no worlds"):
        train_sessions("q_learning", miniature_split(), tmp_path / "no", config=TINY, like_model=like, worlds=worlds)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(trained, tmp_path):
    again = train_sessions("q_learning", miniature_split(), tmp_path / "again", config=TINY)
    for name in ("arrays.npz", "metrics.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (trained[1] / name).read_bytes()
    other = train_sessions("q_learning", miniature_split(), tmp_path / "other", config=TINY, seed=1)
    assert (other.artifact.policy["q_table"] != again.artifact.policy["q_table"]).any()
    assert other.metadata["training"]["total_timesteps"] == 256


def test_the_world_to_train_in_knows_nothing_of_the_test_part(worlds):
    parts = miniature_split()
    turned = make_worlds(
        replace(parts, test=replace(parts.test, rating=6 - parts.test.rating)), SessionTrainConfig(**TINY), 0
    )
    assert turned.training_world.digest == worlds.training_world.digest
    assert turned.evaluation_world.digest != worlds.evaluation_world.digest
    assert not set(worlds.training_world.users) & set(worlds.evaluation_world.users)


def test_a_training_that_fails_leaves_no_policy_behind_and_can_be_finished(trained, tmp_path, monkeypatch, worlds):
    def full_disk(*_):
        raise OSError("no space left on device")

    def again(agent="q_learning", **changed):
        return train_sessions(agent, miniature_split(), tmp_path / "policy", config=TINY | changed, worlds=worlds)

    with monkeypatch.context() as patch:
        patch.setattr(tensorflow_export, "write_saved_models", full_disk)
        with pytest.raises(OSError, match="no space"):
            again()
    assert [path.name for path in tmp_path.iterdir()] == ["policy.incomplete"]
    for agent, changed in (("q_learning", {"reward": "watch"}), ("dqn", {})):
        with pytest.raises(ArtifactError, match=r"policy\.incomplete: an unfinished training with other settings"):
            again(agent, **changed)
    again()
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert (tmp_path / "policy" / "arrays.npz").read_bytes() == (trained[1] / "arrays.npz").read_bytes()


@pytest.mark.parametrize(
    ("agent", "config", "agent_config", "message"),
    [
        ("qlearning", {}, {}, r"no agent named 'qlearning'\. Did you mean 'q_learning'"),
        ("linucb", {}, {}, "linucb learns in single rounds"),
        ("ppo", {"total_timestep": 5}, {}, r"no setting named 'total_timestep'\. Did you mean 'total_timesteps'"),
        ("ppo", {"total_timesteps": 0}, {}, "total_timesteps is 0: expected"),
        ("ppo", {"checkpoint_every_steps": 0}, {}, "checkpoint_every_steps is 0: expected greater than or equal to 1"),
        (
            "ppo",
            {"view": "interests"},
            {},
            "view is 'interests': expected .* 'last_n', 'gru' or 'transformer'",
        ),
        ("ppo", {"reward": "likes"}, {}, "train: reward is 'likes': expected 'like', 'watch', 'rating', 'simi"),
        ("ppo", {"reward_decay": 0}, {}, "reward_decay is 0: expected"),
        ("ppo", {"last_n": 0}, {}, "last_n is 0: expected"),
        ("ppo", {"simulator": {"fatigue": 1}}, {}, r"train: simulator: no setting named 'fatigue'"),
        ("ppo", {"simulator": {"drift": -1}}, {}, "drift is -1"),
        ("ppo", {}, {"gamma": 2}, "gamma is 2: expected"),
        ("dqn", {}, {"head": "dott"}, "dqn: head"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_fitted(
    tmp_path, monkeypatch, agent, config, agent_config, message
):
    monkeypatch.setattr(session_plan, "prepare_features", lambda *_, **__: pytest.fail("a rating model is fitted"))
    with pytest.raises(ConfigError, match=message):
        train_sessions(agent, miniature_split(), tmp_path / "policy", config=TINY | config, agent_config=agent_config)
    assert list(tmp_path.iterdir()) == []


def test_what_needs_the_data_to_be_refused_leaves_nothing_behind(tmp_path, worlds):
    out = tmp_path / "policy"
    with pytest.raises(ConfigError, match=r"columns .*: the observation has 30 columns"):
        train_sessions(
            "q_learning", miniature_split(), out, config=TINY, worlds=worlds,
            agent_config={"columns": [99], "edges": [[0.0]]},
        )  # fmt: skip
    with pytest.raises(ConfigError, match="the world knows 8 steps"):
        train_sessions("ppo", miniature_split(), out, config=TINY | {"max_episode_steps": 9}, worlds=worlds)
    with pytest.raises(ConfigError, match="there are 6 items to show"):
        train_sessions("ppo", miniature_split(), out, config=TINY | {"items": 6}, worlds=worlds)
    timeless = split(replace(miniature_ratings(), timestamp=None), "random")
    with pytest.raises(DataError, match="timestamp"):
        train_sessions("ppo", timeless, out, config=TINY)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(trained):
    before = json.loads((trained[1] / "recpolicy.json").read_text())
    with pytest.raises(ArtifactError, match=r"policy: already exists"):
        train_sessions("q_learning", miniature_split(), trained[1], config=TINY)
    assert json.loads((trained[1] / "recpolicy.json").read_text()) == before


def test_the_policy_was_told_how_it_saw_its_sessions(trained):
    arrays = trained[0].artifact.policy
    assert (str(arrays["view"]), int(arrays["steps"]), int(arrays["last_n"])) == ("interest", 8, 5)
    length = np.linalg.norm(arrays["genres"], axis=1)
    assert length[0] == 0  # the item whose genre is unknown
    np.testing.assert_allclose(length[1:], 1, rtol=1e-6)
