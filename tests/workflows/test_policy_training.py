"""`train`: same seed, same numbers; what it refuses; what it leaves behind when it fails."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny_dataset import miniature_ratings
from trained_policies import TINY, loaded, miniature_split, trained

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.data.loaders import load_ratings
from recpolicy.data.splits import split
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.training import tensorflow_export
from recpolicy.workflows.policy_training import TrainConfig, prepare_features, train, training_world

QUICK = TINY | {"mode": "offline"}


@pytest.fixture
def without_saved_models(monkeypatch):
    """Training without the two SavedModels, where they are not what is looked at."""
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)


def weights(policy):
    return policy.artifact.policy["theta"]


@pytest.mark.usefixtures("without_saved_models")
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path):
    again = train("linucb", miniature_split(), tmp_path / "again", config=TINY)
    arrays = trained("linucb") / "arrays.npz"
    assert (tmp_path / "again" / "arrays.npz").read_bytes() == arrays.read_bytes()
    assert (tmp_path / "again" / "metrics.csv").read_bytes() == (trained("linucb") / "metrics.csv").read_bytes()
    assert again.metadata["policy_digest"] == loaded("linucb").metadata["policy_digest"]
    other = train("linucb", miniature_split(), tmp_path / "other", config=TINY, seed=1)
    assert (weights(other) != weights(again)).any()
    assert other.metadata["training"]["pulls"] != again.metadata["training"]["pulls"]


@pytest.mark.usefixtures("without_saved_models")
def test_offline_every_fit_rating_counts_once(tmp_path):
    policy = train("ucb1", miniature_split(), tmp_path / "policy", config=QUICK | {"items": 20})
    fit, action_items = miniature_split().train, policy.artifact.action_items
    known = np.isin(fit.item, action_items)
    assert policy.metadata["training"]["rows"] == known.sum()
    total = np.bincount(fit.item[known], fit.rating[known], minlength=80)[action_items]
    count = np.bincount(fit.item[known], minlength=80)[action_items]
    np.testing.assert_allclose(policy.artifact.policy["mean"], total / count, rtol=1e-5)
    assert not (tmp_path / "policy" / "metrics.csv").exists()


@pytest.mark.usefixtures("without_saved_models")
def test_sparse_ratings_are_a_warning(tmp_path, caplog):
    parts = miniature_split()
    rating = np.full_like(parts.train.rating, 4)
    rating[:2] = 1
    sparse = replace(parts, train=replace(parts.train, rating=rating))
    policy = train("ucb1", sparse, tmp_path / "policy", config=QUICK | {"items": 20})
    assert "rewards are sparse: only 2 of" in caplog.text
    assert policy.metadata["training"]["share_positive"] > 0.99
    caplog.clear()
    policy = train("ucb1", parts, tmp_path / "other", config=QUICK | {"items": 20})
    assert not caplog.text
    assert 0 < policy.metadata["training"]["share_positive"] < 1


@pytest.mark.usefixtures("without_saved_models")
def test_other_held_out_ratings_lead_to_the_same_policy(tmp_path):
    """Features, world and training know nothing of the test part."""
    parts = miniature_split()
    turned = replace(parts, test=replace(parts.test, rating=6 - parts.test.rating))
    policy = train("rating_model", turned, tmp_path / "policy", config=TINY)
    for name in ("arrays.npz", "metrics.csv"):
        assert (tmp_path / "policy" / name).read_bytes() == (trained("rating_model") / name).read_bytes()
    assert policy.metadata["split"]["test"] != loaded("rating_model").metadata["split"]["test"]


def test_the_world_is_of_another_class_than_the_features():
    settings, fit = TrainConfig(**TINY), miniature_split().train
    features, world = prepare_features(fit, settings), training_world(fit, settings, seed=0)
    assert features.model.name == "svd"
    assert world.name == "item_knn"
    assert not world.known.any()
    np.testing.assert_array_equal(features.context, loaded("linucb").artifact.context)


def test_demographics_follow_the_embedding():
    context = loaded("linucb_hybrid").artifact.context
    np.testing.assert_array_equal(context[:, :5], loaded("linucb").artifact.context)
    users = miniature_split().train.users
    np.testing.assert_allclose(context[:, 5], users["age"] / 75, rtol=1e-6)
    assert context.shape[1] == 5 + 1 + users["gender"].nunique() + users["occupation"].nunique()


def test_the_regret_of_the_baselines_is_noted_beside_the_agents():
    fit, settings = miniature_split().train, TrainConfig(**TINY)
    expected = training_world(fit, settings, seed=0).expected
    noted = loaded("linucb").metadata["training"]["baseline_regret"]
    assert noted["random"] == pytest.approx((expected.max(axis=1) - expected.mean(axis=1)).mean(), rel=1e-5)
    most = np.bincount(fit.item, minlength=80)
    best = expected[:, most == most.max()].mean(axis=1)
    assert noted["most_popular"] == pytest.approx((expected.max(axis=1) - best).mean(), rel=1e-5)


@pytest.mark.usefixtures("without_saved_models")
def test_own_data_with_ids_of_text(tmp_path):
    ratings = miniature_ratings()
    pd.DataFrame(
        {
            "user": [f"alice{row}" for row in ratings.user],
            "item": [f"film-{row}" for row in ratings.item],
            "rating": ratings.rating,
        }
    ).to_csv(tmp_path / "mine.csv", index=False)
    mine = split(load_ratings(tmp_path / "mine.csv"), "random", seed=3)
    policy = train("linucb_shared", mine, tmp_path / "policy", config=QUICK)
    assert policy.metadata["source"] == {"source": str(tmp_path / "mine.csv")}
    assert repr(policy) == "Policy(linucb_shared on mine/random/train: 60 users, 78 items)"
    assert policy.predict("alice7", ["film-3", "film-1"])["item_id"].tolist() == ["film-3", "film-1"]
    best = policy.recommend(["alice7", "alice8"], k=3)
    assert best["user_id"].tolist() == ["alice7"] * 3 + ["alice8"] * 3
    assert policy.predict("newcomer", fold_in={"newcomer": {"film-1": 5}})["rating"].between(1, 5).all()


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "policy").mkdir()
    with pytest.raises(ArtifactError, match=r"policy: already exists; choose another folder"):
        train("linucb", miniature_split(), tmp_path / "policy", config=TINY)
    assert list((tmp_path / "policy").iterdir()) == []


def test_a_training_that_fails_leaves_no_policy_behind_and_can_be_finished(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left on device")

    out = tmp_path / "policy"
    with monkeypatch.context() as patch:
        patch.setattr(tensorflow_export, "write_saved_models", full_disk)
        with pytest.raises(OSError, match="no space"):
            train("random", miniature_split(), out, config=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.incomplete"]
    with pytest.raises(ArtifactError, match=r"policy\.incomplete: an unfinished training with other settings"):
        train("random", miniature_split(), out, config=TINY, seed=1)
    with pytest.raises(ArtifactError, match="unfinished training with other settings"):
        train("popular", miniature_split(), out, config=TINY)
    with pytest.raises(ArtifactError, match="unfinished training with other settings"):
        train("random", split(miniature_ratings(), "u2"), out, config=TINY)
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
    train("random", miniature_split(), out, config=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert (out / "arrays.npz").read_bytes() == (trained("random") / "arrays.npz").read_bytes()


@pytest.mark.parametrize(
    ("agent", "config", "agent_config", "message"),
    [
        ("linucbb", {}, {}, r"no agent named 'linucbb'\. Did you mean 'linucb'"),
        (
            "linucb",
            {"total_timestep": 5},
            {},
            r"no setting named 'total_timestep'\. Did you mean 'total_timesteps'",
        ),
        ("linucb", {"mode": "sideways"}, {}, r"train: mode"),
        ("linucb", {"items": 81}, {}, r"items is 81; expected 0 \(all\) or 2\.\.80"),
        ("linucb", {"rating_model": "svd", "world": "svd"}, {}, r"must be of another class"),
        ("linucb", {"world": "sdv"}, {}, r"no rating model named 'sdv'"),
        (
            "linucb",
            {"uniform_mix": 1.5},
            {},
            r"uniform_mix is 1\.5: expected",
        ),
        ("linucb", {"batch_size": 0}, {}, r"batch_size is 0: expected"),
        ("linucb", {"total_timesteps": 0}, {}, r"total_timesteps is 0: expected greater than or equal to 1"),
        ("linucb", {"mode": "offline", "epochs": 0}, {}, r"epochs is 0: expected"),
        ("linucb", {}, {"beta": 1}, r"linucb: no setting named 'beta'"),
        ("linucb", {}, {"precision": 0}, "precision is 0: expected greater than or equal to"),
        ("eps_greedy", {}, {"epsilon": 2}, "epsilon is 2: expected less than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, agent, config, agent_config, message):
    with pytest.raises(ConfigError, match=message):
        train(agent, miniature_split(), tmp_path / "policy", config=TINY | config, agent_config=agent_config)
    assert list(tmp_path.iterdir()) == []  # not even an unfinished training, which would forbid a second try


def test_a_rating_model_of_other_ratings_is_refused(tmp_path):
    model = fit_rating_model(miniature_split().test, "bias")
    with pytest.raises(ConfigError, match="fitted on other ratings"):
        train("linucb", miniature_split(), tmp_path / "policy", config=TINY, model=model)
