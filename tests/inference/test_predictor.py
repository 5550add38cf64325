"""What `predict` and `recommend` promise their callers."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from trained_policies import loaded, miniature_split, trained

from recpolicy.core.errors import ConfigError, DataError, RecpolicyError, UnknownIdError
from recpolicy.inference.predictor import Policy

COLUMNS = ["user_id", "item_id", "title", "rating", "std", "low", "high", "value", "probability"]
NEWCOMER = {"newcomer": {1: 5.0, 2: 1.0, 3: 4.5}}


@pytest.fixture
def linucb():
    return loaded("linucb")


def test_predict_answers_for_all_items_in_catalog_order(linucb):
    table = linucb.predict(7)
    assert list(table.columns) == COLUMNS
    assert (table["user_id"] == 7).all()
    items = miniature_split().train.items
    assert table["item_id"].tolist() == items["item_id"].tolist()
    assert table["title"].tolist() == items["title"].tolist()


def test_predict_answers_for_the_items_asked_in_their_order(linucb):
    every = linucb.predict(7).set_index("item_id")
    some = linucb.predict(7, [40, 3, 40])
    assert some["item_id"].tolist() == [40, 3, 40]
    np.testing.assert_array_equal(some["rating"], every["rating"][[40, 3, 40]])


def test_several_users_are_answered_one_after_the_other_as_alone(linucb):
    users = [9, 60, 1, *range(2, 9), *range(10, 45)]  # more than are computed at once
    together = linucb.predict(users, [5, 6])
    assert together["user_id"].tolist() == np.repeat(users, 2).tolist()
    alone = pd.concat([linucb.predict(user, [5, 6]) for user in users], ignore_index=True)
    pd.testing.assert_frame_equal(together, alone, rtol=1e-5)


@pytest.mark.parametrize("users", [np.int64(7), np.array([7]), (7,), pd.Series([7])])
def test_ids_may_come_from_numpy_and_pandas(linucb, users):
    pd.testing.assert_frame_equal(linucb.predict(users), linucb.predict(7))


@pytest.mark.parametrize("items", [np.array([3, 4]), pd.Series([3, 4]), (3, 4)])
def test_item_ids_may_come_from_numpy_and_pandas(linucb, items):
    pd.testing.assert_frame_equal(linucb.predict(7, items), linucb.predict(7, [3, 4]))


def test_ratings_are_not_rounded(linucb):
    assert len(np.unique(linucb.predict(7)["rating"])) > 60


def test_simulated_rewards_leave_the_std_and_real_ones_shrink_it(linucb):
    pulls = np.array(linucb.metadata["training"]["pulls"])
    assert linucb.metadata["training"]["rewards"] == "simulated"
    np.testing.assert_array_equal(linucb.predict(7)["std"], linucb.artifact.rating_std[6])
    training = {**linucb.metadata["training"], "rewards": "real"}
    real = Policy(replace(linucb.artifact, metadata={**linucb.metadata, "training": training}))
    sure = real.predict(7)["std"].to_numpy() / linucb.artifact.rating_std[6]
    np.testing.assert_allclose(sure[pulls == 0], 1, atol=1e-5)
    assert (sure[pulls > 0] < 1).all()


def test_outside_the_catalog_it_is_the_rating_models_answer():
    policy = loaded("linucb_hybrid")
    outside = np.setdiff1d(np.arange(80), policy.artifact.action_items)
    assert len(policy.artifact.action_items) == 30
    table = policy.predict(7).iloc[outside]
    assert (table["probability"] == 0).all()
    np.testing.assert_array_equal(table["std"], policy.artifact.rating_std[6, outside])
    context = policy.artifact.context[6, :5]
    expected = context @ policy.artifact.item[outside].T + policy.artifact.offset[outside]
    np.testing.assert_allclose(table["rating"], np.clip(expected, 1, 5), rtol=1e-5)


def test_the_catalog_is_the_most_rated_items():
    action_items = loaded("linucb_hybrid").artifact.action_items
    count = np.bincount(miniature_split().train.item, minlength=80)
    assert count[action_items].min() >= np.delete(count, action_items).max()


@pytest.mark.parametrize("name", ["linucb_hybrid", "boltzmann"])
def test_an_exploration_floor_reaches_every_item_of_the_catalog(name):
    policy = loaded(name)
    probability = policy.predict(7)["probability"].to_numpy()[policy.artifact.action_items]
    assert probability.min() >= 0.2 / 30
    # While training, too: 640 interactions give each of 30 items 4.3 by the uniform_mix alone.
    assert np.count_nonzero(policy.metadata["training"]["pulls"]) >= 26


def test_unknown_users_and_items_are_named(linucb):
    with pytest.raises(UnknownIdError, match=r"no user with id 61, nobody in this policy; describe a new user"):
        linucb.predict([1, 61, "nobody"])
    with pytest.raises(UnknownIdError, match=r"no item with id 0, 81 in"):
        linucb.predict(1, [0, 1, 81])
    with pytest.raises(UnknownIdError, match=r"100, 101, 102, 103, 104 and 15 more"):
        linucb.predict(list(range(100, 120)))
    with pytest.raises(UnknownIdError, match=r"no item with id 999"):
        linucb.predict("newcomer", fold_in={"newcomer": {999: 4.0}})


def test_nobody_and_nothing_are_refused(linucb):
    with pytest.raises(DataError, match="at least one user"):
        linucb.predict([])
    with pytest.raises(ConfigError, match="k is 0"):
        linucb.recommend(1, k=0)


@pytest.mark.parametrize("rating", [0.0, 6.0, float("nan")])
def test_ratings_of_a_newcomer_must_be_on_the_scale(linucb, rating):
    with pytest.raises(RecpolicyError, match=r"rating"):
        linucb.predict("newcomer", fold_in={"newcomer": {1: rating}})


def test_no_items_asked_gives_no_rows(linucb):
    assert linucb.predict(1, []).empty


def test_a_newcomer_is_told_apart_by_a_few_ratings(linucb):
    """The training ratings of a known user, given as a newcomer's, lead close to what the policy thinks of that
    user."""
    fit = miniature_split().train
    ids = fit.items["item_id"].to_numpy()
    gap = []
    for row in range(20):
        mine = fit.user == row
        rated = dict(zip(ids[fit.item[mine]].tolist(), fit.rating[mine].tolist(), strict=True))
        folded = linucb.predict("newcomer", fold_in={"newcomer": rated})["rating"].to_numpy()
        known = linucb.predict(row + 1)["rating"].to_numpy()
        stranger = linucb.predict((row + 10) % 60 + 1)["rating"].to_numpy()
        gap.append([np.abs(folded - known).mean(), np.abs(folded - stranger).mean()])
    near, far = np.mean(gap, axis=0)
    assert near < 0.6 * far


def test_ratings_given_for_a_known_user_replace_what_was_known(linucb):
    changed = linucb.predict(7, fold_in={7: {1: 1.0}})["rating"]
    assert not np.allclose(changed, linucb.predict(7)["rating"])


def test_newcomers_and_known_users_may_be_asked_together(linucb):
    both = linucb.predict(["newcomer", 7], [1, 2], fold_in=NEWCOMER)
    assert both["user_id"].tolist() == ["newcomer", "newcomer", 7, 7]


def test_a_newcomer_to_a_policy_that_knows_demographics_counts_as_the_average():
    table = loaded("boltzmann").predict("newcomer", fold_in=NEWCOMER)
    assert np.isfinite(table["rating"]).all()


def test_rated_items_may_be_asked_for(linucb):
    everything = linucb.recommend(3, k=1000, exclude_rated=False)
    assert len(everything) == 80
    predicted = linucb.predict(3).set_index("item_id")
    pd.testing.assert_frame_equal(
        everything.set_index("item_id")[["rating", "std", "value", "probability"]],
        predicted.loc[everything["item_id"], ["rating", "std", "value", "probability"]],
    )


def test_more_than_there_is_gives_what_there_is(linucb):
    rated = (miniature_split().train.user == 2).sum()
    assert len(linucb.recommend(3, k=1000)) == 80 - rated


def test_what_a_newcomer_has_rated_is_left_out(linucb):
    listed = linucb.recommend("newcomer", k=80, fold_in=NEWCOMER)
    assert len(listed) == 77
    assert not {1, 2, 3} & set(listed["item_id"])


def test_nothing_left_to_recommend_is_said():
    policy = loaded("random")
    with pytest.raises(DataError, match=r"rated every item"):
        policy.recommend("fan", fold_in={"fan": dict.fromkeys(range(1, 81), 5.0)})


def test_ties_are_drawn_by_the_seed():
    policy = loaded("random")
    first = policy.recommend([1, 2], seed=1)
    pd.testing.assert_frame_equal(first, policy.recommend([1, 2], seed=1))
    other = policy.recommend([1, 2], seed=2)
    assert first["item_id"].tolist() != other["item_id"].tolist()
    assert first["item_id"].tolist()[:10] != first["item_id"].tolist()[10:]  # and anew for each user
    pd.testing.assert_frame_equal(
        first[first["user_id"] == 2].reset_index(drop=True), policy.recommend(2, seed=1)
    )  # whoever else is asked about


def test_scores_outside_the_catalog_never_win():
    policy = loaded("boltzmann")
    score, value = policy.scores()
    assert score.shape == value.shape == (60, 80)
    outside = np.setdiff1d(np.arange(80), policy.artifact.action_items)
    assert (score[:, outside].max(axis=1) <= score[:, policy.artifact.action_items].min(axis=1)).all()


PREDICT = """
import sys
from recpolicy import load_policy

policy = load_policy(sys.argv[1])
policy.predict([1, "newcomer"], fold_in={"newcomer": {1: 4.0}})
policy.recommend(1)
heavy = {"tensorflow", "tf_agents", "tf_keras", "myfm", "sklearn", "scipy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("name", ["linucb", "lints"])
def test_prediction_imports_nothing_of_the_training(name):
    done = subprocess.run([sys.executable, "-c", PREDICT, trained(name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
