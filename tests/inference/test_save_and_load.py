"""What a policy was when it was saved, it is when it is loaded: in NumPy, by TensorFlow, by TF-Agents; every agent."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from trained_policies import CASES, loaded, miniature_split, reference, trained

from recpolicy.inference.predictor import Policy
from recpolicy.registry.artifact_kinds import verify

everywhere = pytest.mark.parametrize("name", CASES)


def by_user(frame, column, name):
    """A column of `predict` as [U, A], over the catalog."""
    artifact = loaded(name).artifact
    return frame[column].to_numpy().reshape(len(artifact.users), -1)[:, artifact.action_items]


def everyone(name):
    return loaded(name).predict(miniature_split().train.users["user_id"].tolist())


def test_every_agent_is_tried():
    from recpolicy.agents import AGENTS

    assert {case.agent for case in CASES.values()} == set(AGENTS)


@everywhere
def test_values_are_the_learners_estimates(name):
    estimates = np.clip(reference(name)["mean"], 1, 5)
    assert np.ptp(estimates) > 0.1
    np.testing.assert_allclose(by_user(everyone(name), "value", name), estimates, atol=2e-5)


@everywhere
def test_probabilities_are_those_of_the_exploring_policy(name):
    np.testing.assert_allclose(by_user(everyone(name), "probability", name), reference(name)["explore"], atol=1e-3)


@everywhere
def test_rating_and_std_are_the_rating_models_whatever_was_learned_in_a_simulation(name):
    artifact = loaded(name).artifact
    rank = artifact.item.shape[1]
    expected = np.clip(artifact.context[:, :rank] @ artifact.item.T + artifact.offset, 1, 5)
    table = everyone(name)
    np.testing.assert_allclose(table["rating"].to_numpy().reshape(expected.shape), expected, rtol=1e-5)
    np.testing.assert_array_equal(table["std"].to_numpy().reshape(expected.shape), artifact.rating_std)


@everywhere
def test_only_real_rewards_shrink_the_std_and_move_the_rating(name):
    """Had the rewards been real, a linear policy's posterior would be the rating model's, updated."""
    artifact, width = loaded(name).artifact, reference(name)["width"]
    real = {**artifact.metadata, "training": {**artifact.metadata["training"], "rewards": "real"}}
    table = Policy(replace(artifact, metadata=real)).predict(artifact.users["user_id"].tolist())
    std, begun = by_user(table, "std", name), artifact.rating_std[:, artifact.action_items]
    if CASES[name].agent in {"linucb", "lints", "linucb_shared", "linucb_hybrid", "linucb_user", "squarecb"}:
        np.testing.assert_array_equal(table["rating"], table["value"])
    if CASES[name].agent in {"linucb", "lints"}:
        square = (artifact.context**2).sum(axis=1, keepdims=True) + 1
        np.testing.assert_allclose(std, begun * width / np.sqrt(square / 100), rtol=1e-3)  # 100: the prior's precision
    elif CASES[name].agent in {"linucb_shared", "linucb_hybrid", "squarecb"}:
        assert (std <= begun * (1 + 1e-5)).all()
        assert (std < 0.95 * begun).mean() > 0.5
    elif CASES[name].agent == "linucb_user":
        arrays, noise = artifact.policy, artifact.noise_std
        of_user = np.square(width * noise) - arrays["error_variance"]  # the user's part, which items do not share
        prior = np.sqrt(of_user + arrays["prior_error_variance"])
        np.testing.assert_allclose(std, begun * width * noise / prior, rtol=1e-3)
        assert (std < begun).mean() > 0.5
    else:  # their estimates did not begin at the rating model
        np.testing.assert_array_equal(std, begun)
        np.testing.assert_array_equal(table["rating"], everyone(name)["rating"])


@everywhere
def test_recommendations_carry_the_propensities_of_the_policy_that_may_not_show_rated_items(name):
    artifact, unrated = loaded(name).artifact, reference(name)["unrated"]
    rated = np.isfinite(miniature_split().train.matrix())[:, artifact.action_items]
    ids = artifact.items["item_id"].to_numpy()[artifact.action_items]
    for row, user in enumerate(artifact.users["user_id"][:10]):
        listed = loaded(name).recommend(user, k=80).set_index("item_id")["probability"]
        assert set(listed.index) == set(ids[~rated[row]])
        np.testing.assert_allclose(listed[ids[~rated[row]]], unrated[row, ~rated[row]], atol=1e-3)


@everywhere
def test_scores_choose_what_the_policy_chooses_that_has_stopped_exploring(name):
    score, value = loaded(name).scores()
    action_items = loaded(name).artifact.action_items
    if CASES[name].agent == "exp3":  # its own choice is a distribution
        weight = np.exp(score[:, action_items])
        np.testing.assert_allclose(weight / weight.sum(axis=1, keepdims=True), reference(name)["exploit"], atol=1e-6)
    else:
        best = score[:, action_items] == score.max(axis=1, keepdims=True)
        np.testing.assert_allclose(best / best.sum(axis=1, keepdims=True), reference(name)["exploit"])
    np.testing.assert_array_equal(value.ravel(), everyone(name)["value"])


@everywhere
def test_numbers_mean_what_the_columns_say(name):
    table = loaded(name).predict([1, 2, 60, "newcomer"], fold_in={"newcomer": {1: 5.0, 2: 1.0, 3: 4.5}})
    assert table["rating"].between(1, 5).all()
    assert np.isfinite(table["std"]).all()
    assert (table["std"] > 0).all()
    assert table["probability"].between(0, 1).all()
    np.testing.assert_allclose(table.groupby("user_id")["probability"].sum(), 1, atol=1e-6)


@everywhere
def test_recommendations_are_the_best_unrated_items_of_the_catalog(name):
    policy, fit = loaded(name), miniature_split().train
    listed = policy.recommend([3, 4], k=5)
    assert list(listed.columns) == [
        "user_id",
        "rank",
        "item_id",
        "title",
        "rating",
        "std",
        "low",
        "high",
        "value",
        "probability",
        "most_probable",
    ]
    assert listed["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    score, _ = policy.scores()
    for row, user in ((2, 3), (3, 4)):
        rows = fit.item_rows(listed.loc[listed["user_id"] == user, "item_id"].to_numpy())
        allowed = np.setdiff1d(policy.artifact.action_items, fit.item[fit.user == row])
        assert set(rows) <= set(allowed)
        np.testing.assert_allclose(score[row, rows], np.sort(score[row, allowed])[::-1][:5], rtol=1e-5)


@everywhere
def test_a_trained_policy_is_whole(name):
    verify(trained(name))


READ_PLAINLY = """
import sys
import numpy as np
import tensorflow as tf

out, *folders = sys.argv[1:]
said = {}
for folder in folders:
    module = tf.saved_model.load(folder + "/action")
    with np.load(folder + "/arrays.npz") as stored:
        context = stored["context"]
    for kind, answer in (("explore", module.action(context, [3, 4])), ("exploit", module.greedy(context))):
        said |= {f"{folder}/{kind}/{part}": value.numpy() for part, value in answer.items()}
assert "tf_agents" not in sys.modules and "recpolicy" not in sys.modules
np.savez(out, **said)
"""


@pytest.fixture(scope="module")
def read_plainly(tmp_path_factory):
    """What the `action` exports say in a process that knows neither tf_agents nor recpolicy."""
    out = tmp_path_factory.mktemp("read") / "said.npz"
    folders = [str(trained(name)) for name in CASES]
    done = subprocess.run([sys.executable, "-c", READ_PLAINLY, out, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(out) as stored:
        return dict(stored)


@everywhere
@pytest.mark.parametrize("kind", ["explore", "exploit"])
def test_plain_tensorflow_reads_the_same_policy(read_plainly, name, kind):
    def said(part):
        return read_plainly[f"{trained(name)}/{kind}/{part}"]

    expected = reference(name)
    np.testing.assert_allclose(said("probabilities"), expected[kind], atol=1e-6)
    np.testing.assert_allclose(said("rating"), expected["mean"], atol=1e-5)
    chosen = np.take_along_axis(expected[kind], said("action")[:, np.newaxis], axis=1)[:, 0]
    assert (chosen > 0).all()
    np.testing.assert_allclose(said("probability"), chosen, atol=1e-6)


@everywhere
def test_tf_agents_reads_the_same_policy(name):
    import tensorflow as tf
    from tf_agents.trajectories import time_step

    policy = tf.saved_model.load(str(trained(name) / "policy"))
    context = tf.constant(loaded(name).artifact.context)
    step = policy.action(time_step.restart(context, batch_size=len(context)))
    expected = reference(name)
    chosen = np.take_along_axis(expected["explore"], step.action.numpy()[:, np.newaxis], axis=1)[:, 0]
    assert (chosen > 0).all()
    np.testing.assert_allclose(step.info.log_probability, np.log(chosen), atol=1e-4)
    np.testing.assert_allclose(step.info.predicted_rewards_mean, expected["mean"], atol=1e-5)
