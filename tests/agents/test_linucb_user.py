"""The bandit per user: exact posteriors of the items' errors, widths of the user's posterior, and its three heads."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from posterior_folds import fold_ratings, rating_moments
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts

from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent
from recpolicy.agents.linucb_user import UserLinUCBConfig, make_linucb_user
from recpolicy.agents.observation import Observation
from recpolicy.core.errors import ConfigError
from recpolicy.models.embeddings import Embeddings
from recpolicy.models.user_posterior import (
    RatedItems,
    UserPosterior,
    pack,
    packed_size,
    prior_posterior,
)

ARMS, RANK, NOISE = 7, 3, 0.8


def embeddings(seed: int = 0) -> Embeddings:
    rng = np.random.default_rng(seed)
    return Embeddings(
        rng.normal(0, 0.7, (30, RANK)).astype(np.float32), rng.normal(0, 0.6, (ARMS, RANK)).astype(np.float32),
        rng.uniform(2.5, 3.5, ARMS).astype(np.float32), (1.0, 5.0), NOISE, 1.0,
        rng.uniform(0.2, 0.5, ARMS).astype(np.float32),
    )  # fmt: skip


def features(known: Embeddings) -> ItemFeatures:
    ones = np.ones(ARMS, np.float32)
    return ItemFeatures(
        known.item, known.offset, ones, ones, known.scale, noise_std=known.noise_std, item_std=known.item_std
    )


def make(known: Embeddings | None = None, width: int = packed_size(RANK), **settings: object) -> BanditAgent:
    spec = ts.time_step_spec(tensor_spec.TensorSpec((width,), tf.float32, "context"))
    actions = tensor_spec.BoundedTensorSpec((), tf.int32, 0, ARMS - 1)
    return make_linucb_user(spec, actions, UserLinUCBConfig(**settings), features(known or embeddings()))


def seen(*posteriors: UserPosterior) -> Observation:
    rows = np.stack([pack(posterior) for posterior in posteriors]).astype(np.float32)
    return Observation(tf.constant(rows), None, None)


def test_estimates_are_the_moments_of_the_posterior():
    """Before any reward: the expected ratings, and the variances of the user's vector and of the items' errors."""
    known = embeddings()
    items, prior = RatedItems.from_embeddings(known), prior_posterior(known)
    later = fold_ratings(prior, items, np.array([0, 3, 3]), np.array([5.0, 1.0, 2.0]))
    estimate = make(known).learner.estimate(seen(prior, later))
    for row, posterior in enumerate((prior, later)):
        mean, variance = rating_moments(posterior, items)
        np.testing.assert_allclose(estimate.mean[row], mean, rtol=1e-5)
        np.testing.assert_allclose(estimate.width[row] * NOISE, np.sqrt(variance), rtol=1e-4)
    assert (estimate.width[1].numpy() < estimate.width[0].numpy()).all()


def test_errors_of_items_by_hand():
    """Two ratings of arm 2 by users without uncertainty: as two observations of its error with the rating's noise."""
    known = embeddings()
    agent, mean = make(known, RANK), known.user[:2].astype(np.float64)
    observation = Observation(tf.constant(known.user[:2]), None, None)
    loss = agent.learner.update(observation, tf.constant([2, 2]), tf.constant([4.0, 5.0]))
    residual = np.array([4.0, 5.0]) - known.offset[2] - mean @ known.item[2]
    precision = 1 / known.item_std[2] ** 2 + 2 / NOISE**2
    arrays = agent.learner.export().arrays
    assert float(loss) == pytest.approx(np.mean(residual**2), rel=1e-5)
    assert arrays["error_mean"][2] == pytest.approx(residual.sum() / NOISE**2 / precision, rel=1e-4)
    assert arrays["error_variance"][2] == pytest.approx(1 / precision, rel=1e-5)
    np.testing.assert_array_equal(np.delete(arrays["error_mean"], 2), 0)
    np.testing.assert_allclose(np.delete(arrays["error_variance"], 2), np.delete(known.item_std, 2) ** 2, rtol=1e-5)


def test_a_rating_of_a_user_who_is_hardly_known_says_less_about_the_item():
    known = embeddings()
    items, prior = RatedItems.from_embeddings(known), prior_posterior(known)
    rng = np.random.default_rng(0)
    sure = fold_ratings(prior, items, rng.integers(ARMS, size=200), rng.uniform(1, 5, 200))
    moved = []
    for posterior in (prior, dataclasses.replace(sure, mean=prior.mean)):
        agent = make(known)
        agent.learner.update(seen(posterior), tf.constant([4]), tf.constant([5.0]))
        moved.append(abs(agent.learner.export().arrays["error_mean"][4]))
    assert moved[0] < 0.9 * moved[1]


def test_the_order_and_the_size_of_batches_do_not_matter():
    known, rng = embeddings(), np.random.default_rng(1)
    items, prior = RatedItems.from_embeddings(known), prior_posterior(known)
    users = [fold_ratings(prior, items, np.array([arm]), np.array([3.0])) for arm in range(6)]
    action, reward = tf.constant(rng.integers(ARMS, size=6), tf.int32), tf.constant(rng.uniform(1, 5, 6), tf.float32)
    whole, single = make(known), make(known)
    whole.learner.update(seen(*users), action, reward)
    for row in reversed(range(6)):
        single.learner.update(seen(users[row]), action[row : row + 1], reward[row : row + 1])
    for name, array in whole.learner.export().arrays.items():
        np.testing.assert_allclose(single.learner.export().arrays[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_heads():
    """Greedy takes the best mean; a bound or a draw prefers an arm of which less is known."""
    known = dataclasses.replace(
        embeddings(), item=np.zeros((ARMS, RANK), np.float32),
        offset=np.linspace(3.0, 2.9, ARMS).astype(np.float32),
        item_std=np.array([0.1] * (ARMS - 1) + [1.0], np.float32),
    )  # fmt: skip
    observation = seen(prior_posterior(known))
    greedy, bound, draw = (
        make(known, exploration=name).learner.behavior_probabilities(observation).numpy()[0]
        for name in ("greedy", "upper_confidence", "thompson")
    )
    np.testing.assert_array_equal(greedy, np.eye(ARMS)[0])
    np.testing.assert_array_equal(bound, np.eye(ARMS)[-1])
    assert draw[-1] > 0.3
    assert (draw > 0).all()
    timid = make(known, exploration="upper_confidence", alpha=0.0).learner.behavior_probabilities(observation)
    np.testing.assert_array_equal(timid.numpy()[0], greedy)


def test_widths_of_the_head_are_posterior_standard_deviations():
    """alpha counts them: the bound of the first arm, 3 + alpha * .4, passes 3.3 of the second at alpha = .75."""
    known = dataclasses.replace(
        embeddings(), item=np.zeros((ARMS, RANK), np.float32),
        offset=np.array([3.0, 3.3] + [1.0] * (ARMS - 2), np.float32),
        item_std=np.array([0.4] + [1e-3] * (ARMS - 1), np.float32),
    )  # fmt: skip
    observation = seen(prior_posterior(known))
    for alpha, best in ((0.7, 1), (0.8, 0)):
        agent = make(known, exploration="upper_confidence", alpha=alpha)
        assert agent.learner.behavior_probabilities(observation).numpy()[0].argmax() == best


@pytest.mark.parametrize("width", [RANK - 1, RANK + 1, packed_size(RANK) + 1])
def test_contexts_of_another_length_are_refused(width):
    with pytest.raises(ConfigError, match=rf"contexts of {width} numbers for embeddings of 3; expected .*9 numbers"):
        make(width=width)


def test_embeddings_are_needed():
    spec = ts.time_step_spec(tensor_spec.TensorSpec((RANK,), tf.float32))
    with pytest.raises(ConfigError, match="linucb_user needs the arms' embeddings"):
        make_linucb_user(spec, tensor_spec.BoundedTensorSpec((), tf.int32, 0, 3), UserLinUCBConfig())
