"""Policies of items with attributes of users and items: what they learn, what they save, what is refused."""

import numpy as np
import pytest
from tiny_dataset import miniature
from trained_policies import ATTRIBUTES, TINY, loaded, miniature_split

from recpolicy.core.errors import ConfigError
from recpolicy.data.features.encoder import FeatureEncoder
from recpolicy.training import tensorflow_export
from recpolicy.workflows.artifacts import ATTRIBUTES as KEY
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.training_data import READ_ITEM_ATTRIBUTES

OFFLINE = TINY | {"mode": "offline"}
TASTE = {"context": {"gender": {"type": "category"}}, "action": {"genres": {"type": "tags"}}}


@pytest.fixture(autouse=True)
def _without_saved_models(monkeypatch):
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)


def test_the_artifact_has_the_encoder_and_the_columns():
    policy = loaded("linucb_shared attributes")
    encoder = FeatureEncoder.from_dict(policy.metadata[KEY])
    context, attributes = policy.artifact.context, policy.artifact.policy["item_attributes"]
    rank, users = policy.artifact.item.shape[1], len(encoder.context_names)
    assert context.shape[1] == rank + users
    assert attributes.shape == (80, len(encoder.action_names))
    assert len(policy.artifact.policy["theta"]) == rank + 2 + attributes.shape[1] * (1 + users)
    assert policy.metadata["config"]["train"]["features"] == ATTRIBUTES


@pytest.mark.parametrize("name", ["linucb_shared", "eps_greedy"])
def test_rating_estimates_do_not_change(name):
    users = miniature_split().train.users["user_id"].tolist()[:5]
    with_attributes, without = (loaded(each).predict(users) for each in (f"{name} attributes", name))
    for column in ("rating", "std", "low", "high"):
        np.testing.assert_array_equal(with_attributes[column], without[column])
    assert not np.array_equal(with_attributes["value"], without["value"])


def test_a_new_user_has_the_mean_attributes():
    policy = loaded("linucb_shared attributes")
    rank = policy.artifact.item.shape[1]
    assert np.isfinite(policy.predict("nobody", fold_in={"nobody": {1: 5.0}})["value"]).all()
    np.testing.assert_allclose(
        policy.scorer.contexts(["nobody"], {"nobody": {1: 5.0}}, at_once=1).__iter__().__next__().context[0, rank:],
        policy.artifact.context[:, rank:].mean(axis=0), rtol=1e-5,
    )  # fmt: skip


def test_products_learn_a_taste_that_the_embeddings_do_not_have(tmp_path):
    """The miniature's ratings depend on gender and genre. Embeddings of length 1 hardly show it."""
    expected, rank = miniature().expected, {"rank": 1, "epochs": 3}
    errors = []
    for name, features in (("plain", None), ("attributes", TASTE)):
        config = OFFLINE | rank | {"features": features}
        policy = train(
            "linucb_shared", miniature_split(), tmp_path / name, config=config, agent_config={"precision": 5}
        )
        errors.append(float(np.square(policy.scores()[1] - expected).mean()))
    assert errors[1] < 0.95 * errors[0]


def test_attributes_of_users_suit_every_agent(tmp_path):
    config = OFFLINE | {"features": {"context": ATTRIBUTES["context"]}}
    policy = train("linucb", miniature_split(), tmp_path / "policy", config=config)
    assert policy.artifact.context.shape[1] == policy.artifact.item.shape[1] + 3
    assert "item_attributes" not in policy.artifact.policy


@pytest.mark.parametrize("agent", ["linucb", "neural_linucb", "ucb1"])
def test_attributes_of_items_need_a_model_of_all_items(agent, tmp_path):
    with pytest.raises(ConfigError, match=f"{agent} does not read attributes of items.*linucb_shared, .* read both"):
        train(agent, miniature_split(), tmp_path / "policy", config=OFFLINE | {"features": ATTRIBUTES})
    assert not list(tmp_path.iterdir())


def test_the_plain_head_reads_no_attributes_of_items(tmp_path):
    config, plain = OFFLINE | {"features": ATTRIBUTES}, {"head": "plain"}
    with pytest.raises(ConfigError, match="the head plain has one output an item and reads no attributes of items"):
        train("eps_greedy", miniature_split(), tmp_path / "policy", config=config, agent_config=plain)


@pytest.mark.parametrize("agent", READ_ITEM_ATTRIBUTES)
def test_every_agent_that_reads_them_starts_as_the_rating_model(agent, tmp_path):
    """New weights start at 0, so an attribute changes nothing before the first reward."""
    from recpolicy.agents import agent_entry
    from recpolicy.agents.item_features import compute_item_features
    from recpolicy.agents.observation import read_observation
    from recpolicy.environments.item_bandit import ItemBandit, ItemBanditConfig
    from recpolicy.workflows.policy_training import TrainConfig, training_world
    from recpolicy.workflows.training_data import prepare_features

    del tmp_path
    settings = TrainConfig(**TINY, features=ATTRIBUTES)
    train_ratings = miniature_split().train
    features = prepare_features(train_ratings, settings)
    world = ItemBandit(
        training_world(train_ratings, settings, 0), features.context, features.action_items, ItemBanditConfig(), 0
    )
    arms = compute_item_features(features.action_items, features.embeddings, train_ratings, features.attributes)
    entry = agent_entry(agent)
    made = entry.make(world.time_step_spec(), world.action_spec(), entry.config(), arms, 0)
    mean = made.learner.estimate(read_observation(features.context)).mean.numpy()
    embeddings = features.embeddings
    np.testing.assert_allclose(mean, embeddings.offset + embeddings.user @ embeddings.item.T, atol=1e-4)
