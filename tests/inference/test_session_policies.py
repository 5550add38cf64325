"""What a session policy was while it learnt, it is when loaded: in NumPy, in TensorFlow, in TF-Agents; every agent."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from randomized_policies import (
    HAND_MADE,
    ITEMS,
    PAIRS,
    STEPS,
    VARIANTS,
    agent,
    distinct_contexts,
    environment,
    features,
    played,
    policy,
    settings,
)
from tf_agents.trajectories import time_step as ts
from trained_policies import miniature_split

from recpolicy.agents import SESSION_AGENTS
from recpolicy.core.errors import ConfigError, DataError, UnknownIdError
from recpolicy.data.ratings import genre_directions
from recpolicy.inference.history_state import HISTORY_ENCODERS, Past, Shape
from recpolicy.inference.predictor import Policy
from recpolicy.training.tensorflow_export import write_saved_models

everywhere = pytest.mark.parametrize("view", HAND_MADE)
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def over_action_items(frame: pd.DataFrame, column: str, view: str) -> np.ndarray:
    """A column of `predict` as [n, A]."""
    return frame[column].to_numpy().reshape(-1, 80)[:, features(view).action_items]


def probabilities(variant: str, view: str) -> np.ndarray:
    """What the learner's exploring policy does in the distinct_contexts [B, A]."""
    now = distinct_contexts(view)
    observed = {"global": tf.constant(now.observation), "mask": tf.cast(now.mask, tf.int32)}
    return tf.nn.softmax(agent(variant, view).collect_policy.logits(observed)).numpy()


def test_every_agent_and_every_view_is_tried():
    assert {name for name, _ in VARIANTS.values()} == set(SESSION_AGENTS)
    assert set(ITEMS) == set(HISTORY_ENCODERS)


@pytest.mark.parametrize("view", ITEMS)
def test_the_past_is_seen_as_the_environment_sees_it(view):
    """After every step of ten sessions; counters to the last bit, for tables are cut at them."""
    action_items, genres = features(view).embeddings.item, genre_directions(miniature_split().train.items)
    width, shape = features(view).context.shape[1], Shape(STEPS, settings(view).last_n, genres.shape[1])
    steps = played(view)
    for number in range(STEPS):
        observation = steps[number][0]
        for b, seen in enumerate(observation[:10]):
            rows = [item[b] for _, _, item, _ in steps[:number]]
            past = Past(action_items[rows], genres[rows], [like[b] for _, _, _, like in steps[:number]])
            history_state = HISTORY_ENCODERS[view](seen[:5], past, shape)
            assert history_state.dtype == np.float32
            np.testing.assert_allclose(history_state, seen[width:], atol=2e-6)
            counters = {"interest": 2, "last_item": 0}.get(view, 1)
            np.testing.assert_array_equal(history_state[len(history_state) - counters :], seen[len(seen) - counters :])


def test_half_a_session_is_a_little_more_than_half_for_both():
    """Ten times 1/20 in single precision: the edge .5 of tabular Q-learning lies below it."""
    past = Past(np.ones((10, 2), np.float32), np.zeros((10, 3), np.float32), [True] * 10)
    assert HISTORY_ENCODERS["interest"](np.zeros(2, np.float32), past, Shape(20, 1, 3))[-1] > np.float32(0.5)
    assert played("interest")[10][0][:, -1].min() > np.float32(0.5)


@pytest.mark.parametrize(("variant", "view"), PAIRS)
def test_numpy_says_what_the_learner_says(variant, view):
    now, learner, loaded_policy = distinct_contexts(view), agent(variant, view).learner, policy(variant, view)
    width = features(view).context.shape[1]
    scores = loaded_policy.session_scores(now.observation[:, :width], now.observation[:, width:])
    np.testing.assert_allclose(scores, learner.scores(now.observation, None), rtol=1e-4, atol=1e-4)
    table = loaded_policy.predict(now.user, history=now.past)
    propensity = over_action_items(table, "probability", view)
    np.testing.assert_allclose(propensity, probabilities(variant, view), atol=1e-4)
    assert (propensity[~now.mask] == 0).all()
    value = table["session_value"].to_numpy().reshape(-1, 80)
    np.testing.assert_allclose(value[:, 0], learner.value(now.observation, now.mask), rtol=1e-4, atol=1e-4)
    assert (value == value[:, :1]).all()


@every_variant
def test_the_history_counts(variant):
    """Told nothing, the policy takes every session for one that has just begun."""
    now = distinct_contexts("interest")
    told, untold = (
        policy(variant, "interest").predict(now.user, history=history)["probability"].to_numpy().reshape(-1, 80)
        for history in (now.past, None)
    )
    np.testing.assert_allclose(told[[0, 20]], untold[[0, 20]], rtol=1e-6)  # nothing was shown to these two
    allowed = now.mask
    rest = np.where(allowed, untold, 0)
    rest /= rest.sum(axis=1, keepdims=True)
    changed = np.abs(told - rest).sum(axis=1) > 1e-3  # beyond what leaving the shown items out would change
    assert changed[1:20].sum() >= 10


@everywhere
@pytest.mark.parametrize("variant", [name for name in VARIANTS if "plain" not in name])
def test_before_training_it_ranks_as_the_rating_model_does(variant, view):
    untrained, users = policy(variant, view, shaken=False), miniature_split().train.users["user_id"].tolist()
    rating = features(view).embeddings
    expected = (rating.offset + rating.user @ rating.item.T)[:, features(view).action_items]
    score = untrained.scores()[0][:, features(view).action_items]
    np.testing.assert_array_equal(np.argsort(-score), np.argsort(-expected))
    listed = untrained.recommend(users, k=80, exclude_rated=False)["item_id"].to_numpy().reshape(60, -1)
    column = np.searchsorted(features(view).action_items, listed - 1)  # some items tie: lots are drawn among those
    np.testing.assert_allclose(np.take_along_axis(expected, column, axis=1), -np.sort(-expected), atol=1e-5)


@every_variant
def test_ratings_are_the_rating_models_whatever_was_shown(variant):
    now, view = distinct_contexts("last_n"), "last_n"
    told = policy(variant, view).predict(now.user, history=now.past)
    untold = policy(variant, view).predict(now.user)
    rating = features(view).embeddings
    rows = miniature_split().train.users["user_id"].isin(now.user).to_numpy()
    expected = np.clip(rating.offset + rating.user[rows] @ rating.item.T, 1, 5)
    np.testing.assert_allclose(told["rating"].to_numpy().reshape(-1, 80), expected, rtol=1e-5)
    for column in ("rating", "std"):
        np.testing.assert_array_equal(told[column], untold[column])
    for table in (told, untold):
        np.testing.assert_allclose(table.groupby("user_id")["probability"].sum(), 1, atol=1e-6)
    assert list(told.columns) == [
        "user_id",
        "item_id",
        "title",
        "rating",
        "std",
        "low",
        "high",
        "probability",
        "session_value",
    ]


@everywhere
@every_variant
def test_recommendations_are_in_the_order_of_scores_and_never_a_shown_or_rated_item(variant, view):
    now, fit, loaded_policy = distinct_contexts(view), miniature_split().train, policy(variant, view)
    action_items, width = features(view).action_items, features(view).context.shape[1]
    scores = loaded_policy.session_scores(now.observation[:, :width], now.observation[:, width:])
    for b in (1, 7, 19):
        user = now.user[b]
        history = {user: now.past[user]}
        row = fit.users["user_id"].tolist().index(user)
        allowed = now.mask[b] & ~np.isin(action_items, fit.item[fit.user == row])
        listed = loaded_policy.recommend(user, k=80, history=history)
        wanted = action_items[allowed][np.argsort(-scores[b, allowed], kind="stable")]
        np.testing.assert_array_equal(fit.item_rows(listed["item_id"].to_numpy()), wanted)
        assert not set(listed["item_id"]) & {item for item, _ in history[user]}
        assert listed["probability"].sum() == pytest.approx(1)
        also_rated = loaded_policy.recommend(user, k=80, exclude_rated=False, history=history)
        assert len(also_rated) == now.mask[b].sum()
        value = agent(variant, view).learner.value(now.observation[b : b + 1], allowed[np.newaxis]).numpy()
        np.testing.assert_allclose(listed["session_value"], value[0], rtol=1e-4, atol=1e-4)


def test_slates_are_drawn_from_the_propensities_without_repeating():
    """800 slates of 2: first items by p, second by what is left of it; each share within 4.5 standard errors."""
    one, user = policy("ppo", "last_n"), distinct_contexts("last_n").user[3]
    history = {user: distinct_contexts("last_n").past[user]}
    listed = one.recommend(user, k=80, history=history).set_index("item_id")["probability"]
    slates = np.stack(
        [one.recommend(user, k=2, seed=seed, history=history, sample=True)["item_id"].to_numpy() for seed in range(800)]
    )
    assert (slates[:, 0] != slates[:, 1]).all()
    assert set(slates.ravel()) <= set(listed.index)
    p = listed.to_numpy()
    second = p * ((p / (1 - p)).sum() - p / (1 - p))  # sum over i != j of p_i p_j / (1 - p_i)
    assert second.sum() == pytest.approx(1)
    for place, share in ((0, p), (1, second)):
        count = np.array([(slates[:, place] == item).mean() for item in listed.index])
        assert (np.abs(count - share) < 4.5 * np.sqrt(share * (1 - share) / 800) + 1e-9).all()


@pytest.mark.parametrize("variant", ["a2c", "dqn", "q_learning"])
def test_the_seed_fixes_the_slate_and_it_may_hold_all_that_can_be_drawn(variant):
    one, now = policy(variant, "last_item"), distinct_contexts("last_item")
    first = one.recommend(now.user[:3], k=30, seed=4, history=now.past, sample=True)
    pd.testing.assert_frame_equal(first, one.recommend(now.user[:3], k=30, seed=4, history=now.past, sample=True))
    other = one.recommend(now.user[:3], k=30, seed=5, history=now.past, sample=True)
    assert first["item_id"].tolist() != other["item_id"].tolist()
    assert (first["probability"] > 0).all()
    assert not first.duplicated(["user_id", "item_id"]).any()


def test_newcomers_have_sessions_too():
    one, rated = policy("ppo", "interest"), {"newcomer": {1: 5.0, 2: 1.0}}
    history = {"newcomer": [(3, True), (4, False)]}
    listed = one.recommend("newcomer", k=80, fold_in=rated, history=history)
    assert set(listed["item_id"]) == set(range(5, 81))
    told, untold = (
        one.predict("newcomer", fold_in=rated, history=past)["session_value"][0] for past in (history, None)
    )
    assert told != untold


def test_what_cannot_be_is_refused():
    one, user = policy("ppo", "last_n"), distinct_contexts("last_n").user[0]
    with pytest.raises(UnknownIdError, match=r"no item with id 999 in"):
        one.predict(user, history={user: [(1, True), (999, False)]})
    with pytest.raises(UnknownIdError, match=r"no item with id 999 in"):
        one.recommend(user, history={user: [(999, False)]})
    everything = [(int(row) + 1, False) for row in features("last_n").action_items]
    with pytest.raises(DataError, match="contains every item of the catalog"):
        one.predict(user, history={user: everything})
    with pytest.raises(DataError, match="nothing to recommend"):
        one.recommend(user, history={user: everything})


def test_policies_of_single_rounds_have_no_session():
    artifact = policy("ppo", "last_n").artifact
    one = Policy(replace(artifact, agent="linucb", estimator="rating_model", head="greedy", policy={}))
    assert not one.sequential
    assert "session_value" not in one.predict(1)
    for ask in (one.predict, one.recommend):
        with pytest.raises(ConfigError, match="linucb does not use the session; leave out `history`"):
            ask(1, history={1: [(2, True)]})


@pytest.fixture(scope="module", params=["a2c", "topk_reinforce plain", "dqn dueling", "q_learning"])
def exported(request, tmp_path_factory) -> tuple[str, Path]:
    """A variant and its two SavedModels; PPO and REINFORCE are saved by the code of A2C (agents/actor_critic.py)."""
    folder = tmp_path_factory.mktemp("saved")
    made = agent(request.param, "last_n")
    write_saved_models(made, environment("last_n").observation_spec()["global"].shape[0], folder)
    return request.param, folder


def test_plain_tensorflow_reads_the_same_policy(exported):
    variant, folder = exported
    now, learner, module = (
        distinct_contexts("last_n"),
        agent(variant, "last_n").learner,
        tf.saved_model.load(folder / "action"),
    )
    said = {name: part.numpy() for name, part in module.action(now.observation, now.mask, [3, 4]).items()}
    wanted = probabilities(variant, "last_n")
    np.testing.assert_allclose(said["probabilities"], wanted, atol=1e-6)
    chosen = np.take_along_axis(wanted, said["action"][:, np.newaxis], axis=1)[:, 0]
    assert (chosen > 0).all()
    np.testing.assert_allclose(said["probability"], chosen, atol=1e-6)
    np.testing.assert_allclose(said["value"], learner.value(now.observation, now.mask), rtol=1e-5, atol=1e-5)
    greedy = module.greedy(now.observation, now.mask)
    scores = learner.scores(now.observation, now.mask).numpy()
    np.testing.assert_array_equal(greedy["action"], scores.argmax(axis=1))
    np.testing.assert_allclose(greedy["score"], scores, rtol=1e-5)


def test_tf_agents_reads_the_same_policy(exported):
    variant, folder = exported
    now, restored = distinct_contexts("last_n"), tf.saved_model.load(str(folder / "policy"))
    observed = {"global": tf.constant(now.observation), "mask": tf.cast(now.mask, tf.int32)}
    step = restored.action(ts.restart(observed, batch_size=len(now.user)))
    chosen = np.take_along_axis(probabilities(variant, "last_n"), step.action.numpy()[:, np.newaxis], axis=1)[:, 0]
    assert (chosen > 0).all()
    np.testing.assert_allclose(step.info.log_probability, np.log(chosen), atol=1e-4)
