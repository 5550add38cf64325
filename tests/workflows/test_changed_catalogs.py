"""Policies with added and retired items: they retrain, and their arms learn by exact Bayesian steps."""

import numpy as np
import pandas as pd
import pytest
from trained_policies import trained

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.inference.artifact import read_artifact
from recpolicy.inference.reward_estimators import unpack_symmetric
from recpolicy.registry.add_items import change_items
from recpolicy.registry.model_registry import Registry
from recpolicy.server.online.posterior import initial_posterior, learn, make_regressors
from recpolicy.workflows.retraining import retrain

NEW = 9001


def new_item() -> pd.DataFrame:
    """One new item."""
    year = pd.array([1999], dtype="Int64")
    return pd.DataFrame({"item_id": [NEW], "title": ["New"], "year": year, "genres": ["Drama|Comedy"]})


def changed(folder, name, retire=()):
    """A registry with a trained policy, and the version with a new item."""
    registry = Registry(folder / "registry")
    registry.register(trained(name))
    before = read_artifact(trained(name))
    retired = [before.tables.item_ids[before.action_items[arm]] for arm in retire]
    return registry, change_items(registry, 1, new_item(), retired).number


def shown(artifact, rows, rounds=12, name="log"):
    """A log in which user 0, 1, ... rated items in turn; every item was as probable."""
    from recpolicy.data.bandit_log import BanditLog

    item = np.resize(np.array(rows, np.int32), rounds)
    catalog = np.union1d(artifact.action_items, item).astype(np.int32)
    texts = np.full(rounds, "shop", object)
    return BanditLog(
        event_id=np.array([f"{name}{n}" for n in range(rounds)], object), time=np.arange(rounds, dtype=np.int64),
        user=np.arange(rounds, dtype=np.int32) % 5, item=item, log_propensity=np.full(rounds, -np.log(len(catalog))),
        reward=np.resize([5.0, 4.0, 2.0], rounds), action_items=catalog, scale=artifact.scale, name=name,
        policy=texts, version=texts,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_saved_models(monkeypatch):
    """Retraining leaves out the SavedModels, which take most of its time."""
    monkeypatch.setattr("recpolicy.training.tensorflow_export.write_saved_models", lambda *_: None)


def test_retraining_moves_a_new_arm_by_exact_steps_from_its_prior(tmp_path):
    registry, number = changed(tmp_path, "linucb")
    before = read_artifact(registry.resolve(number))
    arm = len(before.action_items) - 1
    log = shown(before, [len(before.item) - 1])
    after = retrain(registry.resolve(number), log, tmp_path / "new").artifact
    posterior = learn(
        initial_posterior(before), np.full(len(log), arm),
        np.stack([make_regressors(before, before.context[user]) for user in log.user]), log.reward, 1.0, 1.0,
    )  # fmt: skip
    np.testing.assert_allclose(after.policy["theta"][arm], posterior.arm(arm).theta, rtol=2e-3, atol=2e-4)
    size = len(posterior.arm(arm).theta)
    covariance = unpack_symmetric(after.policy["covariance"][arm:], size)[0]
    np.testing.assert_allclose(covariance, posterior.arm(arm).covariance, rtol=2e-3, atol=1e-5)
    np.testing.assert_array_equal(after.policy["theta"][:arm], before.policy["theta"][:arm])
    for record in ("added_arm", "added_prior", "trained_items"):
        np.testing.assert_array_equal(after.policy[record], before.policy[record])
    assert after.metadata["parents"][-1]["catalog_change"] == {"added": 1, "retired": 0, "restored": 0}
    assert "catalog_change" not in after.metadata


@pytest.mark.parametrize("name", ["linucb_user", "linucb_hybrid", "eps_greedy", "linucb_shared attributes"])
def test_agents_that_take_new_items_show_and_learn_them(tmp_path, name):
    registry, number = changed(tmp_path, name, retire=(3,))
    before = read_artifact(registry.resolve(number))
    after = retrain(registry.resolve(number), shown(before, before.action_items[[-1, 0]]), tmp_path / "new")
    assert len(after.artifact.action_items) == len(read_artifact(trained(name)).action_items)  # one more, one less
    prediction = after.predict(1, [NEW])
    assert np.isfinite(prediction.select_dtypes("number").to_numpy()).all()
    assert not np.array_equal(after.scores()[1], after_scores(registry, number))


def after_scores(registry, number):
    """The values of a version."""
    from recpolicy.inference.predictor import load_policy

    return load_policy(registry.resolve(number)).scores()[1]


@pytest.mark.parametrize("name", ["ucb1", "exp3", "boltzmann", "neural_linucb", "popular"])
def test_agents_that_cannot_take_new_items_say_so_and_can_retire(tmp_path, name):
    registry = Registry(tmp_path / "registry")
    registry.register(trained(name))
    with pytest.raises(ConfigError, match=f"{name} cannot take new items without training"):
        change_items(registry, 1, new_item())
    before = read_artifact(trained(name))
    retired = [before.tables.item_ids[before.action_items[arm]] for arm in (2, 5)]
    number = change_items(registry, 1, retire=retired).number
    after = read_artifact(registry.resolve(number))
    assert len(after.action_items) == len(before.action_items) - 2


@pytest.mark.parametrize(
    "name",
    ["ucb1", "exp3", "boltzmann", "neural_linucb", "popular", "linucb", "linucb_user", "linucb_hybrid", "eps_greedy"],
)
def test_every_policy_is_as_before_after_an_item_has_come_back(tmp_path, name):
    registry = Registry(tmp_path / "registry")
    registry.register(trained(name))
    before = read_artifact(trained(name))
    item = before.tables.item_ids[before.action_items[2]]
    change_items(registry, 1, retire=[item])
    after = read_artifact(registry.resolve(change_items(registry, 2, restore=[item]).number))
    np.testing.assert_array_equal(after.action_items, before.action_items)
    for array, values in before.policy.items():
        np.testing.assert_array_equal(after.policy[array], values, err_msg=array)


def test_a_training_that_cannot_go_on_says_so(tmp_path):
    registry, name = Registry(tmp_path / "registry"), "ucb1"
    registry.register(trained(name))
    before = read_artifact(trained(name))
    number = change_items(registry, 1, retire=[before.tables.item_ids[2]]).number
    with pytest.raises(ArtifactError, match=f"{name} cannot continue its training after its catalog was changed"):
        retrain(registry.resolve(number), shown(before, [0]), tmp_path / "new")


def test_rounds_of_retired_items_teach_nothing(tmp_path):
    registry, number = changed(tmp_path, "linucb", retire=(3,))
    before = read_artifact(registry.resolve(number))
    both = retrain(registry.resolve(number), shown(before, [3, 0]), tmp_path / "both").artifact
    alone = shown(before, [3, 0])
    alone = alone.select(np.flatnonzero(alone.item == 0), alone.name)
    without = retrain(registry.resolve(number), alone, tmp_path / "without").artifact
    np.testing.assert_array_equal(both.policy["theta"], without.policy["theta"])
    np.testing.assert_array_equal(both.learned_events, without.learned_events)
