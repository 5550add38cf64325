"""A trained `linucb_user`: new users by their posterior, exact propensities by the logged context, and its learning."""

from dataclasses import replace

import numpy as np
import pytest
from posterior_folds import fold_ratings, rating_moments
from tiny_dataset import miniature
from trained_policies import TINY, loaded, miniature_split, trained

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log import BanditLog, ColdStartUsers, features_digest
from recpolicy.inference.action_distributions import thompson_probabilities
from recpolicy.inference.predictor import Policy
from recpolicy.models.embeddings import Embeddings, item_std
from recpolicy.models.user_posterior import (
    RatedItems,
    UserPosterior,
    pack,
    prior_posterior,
    trained_posterior,
    unpack,
)
from recpolicy.training import tensorflow_export
from recpolicy.workflows.policy_estimation import estimate
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.retraining import retrain

NAME, MIX = "linucb_user", 0.2


@pytest.fixture
def policy() -> Policy:
    return loaded(NAME)


def embeddings(policy: Policy) -> Embeddings:
    artifact, rank = policy.artifact, policy.artifact.item.shape[1]
    return Embeddings(
        artifact.context[:, :rank], artifact.item, artifact.offset, artifact.scale, artifact.noise_std, np.nan,
        item_std(artifact.rating_std),
    )  # fmt: skip


def expected(policy: Policy, posterior: UserPosterior) -> tuple[np.ndarray, np.ndarray]:
    """Return value [A] and probability [A] of a user, by hand."""
    artifact, arrays = policy.artifact, policy.artifact.policy
    items = RatedItems.from_embeddings(embeddings(policy))
    mean, variance = rating_moments(posterior, items)
    arms = artifact.action_items
    value = mean[arms] + arrays["error_mean"]
    std = np.sqrt(variance[arms] - items.error[arms] + arrays["error_variance"])
    drawn = thompson_probabilities(value[np.newaxis], std[np.newaxis], None)[0]
    return np.clip(value, 1, 5), (1 - MIX) * drawn + MIX / len(arms)


def test_contexts_are_the_trained_posteriors(policy):
    fit = miniature_split().train
    wanted = trained_posterior(embeddings(policy), fit.user, fit.item)
    np.testing.assert_allclose(policy.artifact.context, pack(wanted), atol=1e-5)


def test_a_new_user_is_served_by_the_prior_and_then_by_the_posterior_of_the_ratings(policy):
    prior = prior_posterior(embeddings(policy))
    items = RatedItems.from_embeddings(embeddings(policy))
    rated = {1: 5.0, 7: 1.0, 12: 4.0}
    rows = policy.scorer.item_rows(list(rated))
    posteriors = {"nobody": prior, "somebody": fold_ratings(prior, items, rows, list(rated.values()))}
    table = policy.predict(list(posteriors), fold_in={"nobody": {}, "somebody": rated})
    ids = policy.artifact.items["item_id"].to_numpy()[policy.artifact.action_items]
    for user, posterior in posteriors.items():
        value, probability = expected(policy, posterior)
        mine = table[table["user_id"] == user].set_index("item_id").loc[ids]
        np.testing.assert_allclose(mine["value"], value, atol=1e-4)
        np.testing.assert_allclose(mine["probability"], probability, atol=1e-3)


def test_the_logged_context_gives_the_propensity_again(policy):
    """To the last bit, for a user of whom the log has nothing but the vector; a bare embedding is a typical user."""
    items = RatedItems.from_embeddings(embeddings(policy))
    posterior = fold_ratings(prior_posterior(embeddings(policy)), items, np.array([3, 4]), np.array([5.0, 2.0]))
    vector = pack(posterior).astype(np.float32)
    shown = policy.scorer.predict_one("somebody", context=vector)
    again = policy.scorer.predict_one("another name", context=vector)
    np.testing.assert_array_equal(again.probability, shown.probability)
    _, probability = expected(policy, unpack(vector, items.x.shape[1]))
    np.testing.assert_allclose(shown.probability[policy.artifact.action_items], probability, atol=1e-3)
    other = policy.scorer.predict_one("somebody", context=vector[: items.x.shape[1]])
    assert np.abs(other.probability - shown.probability).max() > 1e-3
    with pytest.raises(DataError, match="expected 1 rows of 5 or 20 numbers"):
        policy.scorer.predict_one("somebody", context=vector[:-1])


def log_of_new_users(policy: Policy, rounds: int = 400) -> BanditLog:
    """Rounds of new users whose posteriors move between the rounds; the policy draws, the miniature's world pays."""
    world, rng, artifact = miniature(), np.random.default_rng(0), policy.artifact
    items, users = RatedItems.from_embeddings(embeddings(policy)), 10
    posteriors = [prior_posterior(embeddings(policy))] * users
    user, arm, prob, reward, vectors = [], [], [], [], []
    for number in range(rounds):
        place = number % users
        vector = pack(posteriors[place]).astype(np.float32)
        probability = policy.scorer.predict_one("new", context=vector).probability[artifact.action_items]
        arm.append(rng.choice(len(probability), p=probability))
        item = artifact.action_items[arm[-1]]
        paid = float(np.clip(world.expected[place, item] + rng.normal(0, 0.5), 1, 5))
        posteriors[place] = fold_ratings(posteriors[place], items, np.array([item]), np.array([paid]))
        user.append(len(artifact.users) + place)
        prob.append(probability[arm[-1]])
        reward.append(paid)
        vectors.append(vector)
    return BanditLog(
        event_id=np.array([f"n{row}" for row in range(rounds)], object), time=np.arange(rounds),
        user=np.array(user, np.int32), item=artifact.action_items[arm], log_propensity=np.log(prob),
        reward=np.array(reward), action_items=artifact.action_items, scale=(1.0, 5.0), name="new users",
        policy=np.full(rounds, NAME, object), version=np.full(rounds, "1", object), context=np.stack(vectors),
        cold_start_users=ColdStartUsers(len(artifact.users), np.arange(1_000, 1_000 + users).astype(object)),
        features=features_digest(artifact.context),
    )  # fmt: skip


def test_estimates_on_its_own_log_use_the_logged_posteriors(policy):
    """IPS by hand: the greedy choice at the logged vector, over the logged propensity."""
    log = log_of_new_users(policy)
    score = policy.scores(log.context)[0][:, policy.artifact.action_items]
    weight = (score.argmax(axis=1) == log.arm()) / log.propensity
    results = estimate(policy, log).estimates.results
    assert results["ips"].value == pytest.approx((weight * log.reward).mean(), rel=1e-6)
    assert weight.mean() == pytest.approx(1, abs=4 * weight.std() / np.sqrt(len(log)))
    scrambled = replace(log, context=log.context[::-1].copy())
    assert estimate(policy, scrambled).estimates.results["ips"].value != pytest.approx(results["ips"].value, abs=1e-3)


def test_retraining_learns_the_errors_of_the_items_from_the_logged_posteriors(policy, tmp_path, monkeypatch):
    """By hand in float64: what the incumbent knows, and each round as an observation of its item's error."""
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
    log, artifact = log_of_new_users(policy), policy.artifact
    new = retrain(trained(NAME), log, tmp_path / "policy").artifact
    seen = unpack(log.context, artifact.item.shape[1])
    x = artifact.item[log.item].astype(np.float64)
    residual = log.reward - artifact.offset[log.item] - (x * seen.mean).sum(axis=1)
    variance = artifact.noise_std**2 + np.einsum("nd,nde,ne->n", x, seen.covariance, x)
    old, arms = artifact.policy, len(artifact.action_items)
    precision = 1 / old["error_variance"] + np.bincount(log.arm(), 1 / variance, arms)
    moment = old["error_mean"] / old["error_variance"] + np.bincount(log.arm(), residual / variance, arms)
    np.testing.assert_allclose(new.policy["error_variance"], 1 / precision, rtol=1e-4)
    np.testing.assert_allclose(new.policy["error_mean"], moment / precision, atol=1e-4)
    np.testing.assert_array_equal(new.context, artifact.context)
    assert np.abs(new.policy["error_mean"] - old["error_mean"]).max() > 0.01


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"demographics": True}, "linucb_user sees the posterior of the user's vector only; leave out demographics"),
        ({"features": {"context": {"age": {"type": "number"}}}}, "leave out demographics and features"),
        ({"rank": 50}, r"a posterior of rank 50 has 1,325 numbers, of at most 1,024; choose a rank of at most 43"),
    ],
)
def test_contexts_that_cannot_be_are_refused_before_anything_is_written(config, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(NAME, miniature_split(), tmp_path / "policy", config=TINY | config)
    assert list(tmp_path.iterdir()) == []
