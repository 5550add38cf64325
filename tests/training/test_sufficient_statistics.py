"""Sums of a log: they add up over parts, and hold all that an agent would have learnt round by round."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from synthetic_logs import ACTION_ITEMS, FEATURES, contexts, linear_log

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.models.recursive_regression import fold_batch
from recpolicy.training import sufficient_statistics
from recpolicy.training.sufficient_statistics import SufficientStatistics, merge, posterior
from recpolicy.workflows.interaction_logs import ingest_log, read_rounds, simulate_log

SUMS = ("gram", "moment", "count", "squares")
ARMS = len(ACTION_ITEMS)


def prior(seed: int = 0, precision: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """theta [A, D] and covariance [A, D, D], the same for all arms but the first, which has learnt before."""
    rng = np.random.default_rng([seed, 3])
    covariance = np.tile(np.eye(FEATURES) / precision, (ARMS, 1, 1))
    root = rng.normal(size=(FEATURES, FEATURES))
    covariance[0] = 0.1 * root @ root.T + 0.01 * np.eye(FEATURES)
    return rng.normal(0, 0.3, (ARMS, FEATURES)), covariance


def round_by_round(log: BanditLog, theta: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, ...]:
    """The agents' own Sherman-Morrison steps, in float64: their float32 would differ in the fifth digit."""
    arm = np.searchsorted(ACTION_ITEMS, log.item)
    arrays = (theta, covariance, arm, contexts()[log.user].astype(np.float64), log.reward)
    return tuple(one.numpy() for one in fold_batch(*(tf.constant(one) for one in arrays)))


def assert_same(one: SufficientStatistics, other: SufficientStatistics, rtol: float = 1e-12) -> None:
    for name in SUMS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, atol=1e-9, err_msg=name)


def test_sums_are_those_of_the_rounds_one_by_one():
    log, x = linear_log(60), contexts().astype(np.float64)
    found = SufficientStatistics.from_log(log, contexts(), ACTION_ITEMS)
    for arm, item in enumerate(ACTION_ITEMS):
        mine = np.flatnonzero(log.item == item)
        expected = sum((np.outer(x[log.user[n]], x[log.user[n]]) for n in mine), np.zeros((FEATURES, FEATURES)))
        np.testing.assert_allclose(found.gram[arm], expected, atol=1e-12)
        np.testing.assert_allclose(found.moment[arm], x[log.user[mine]].T @ log.reward[mine], atol=1e-12)
    np.testing.assert_array_equal(found.count, np.bincount(log.arm(), minlength=ARMS))
    assert found.squares == pytest.approx((log.reward**2).sum())


def test_the_posterior_is_where_the_agents_own_steps_end_up():
    log, start = linear_log(), prior()
    theta, covariance = posterior(SufficientStatistics.from_log(log, contexts(), ACTION_ITEMS), *start)
    own_theta, own_covariance = round_by_round(log, *start)
    np.testing.assert_allclose(theta, own_theta, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(covariance, own_covariance, rtol=1e-5, atol=1e-11)
    np.testing.assert_array_equal(theta[-1], start[0][-1])  # nobody was shown the last item
    np.testing.assert_array_equal(covariance[-1], start[1][-1])


@given(cut=st.integers(0, 400), seed=st.integers(0, 5))
def test_two_parts_of_a_log_merged_are_the_whole(cut, seed):
    log, x = linear_log(400, seed), contexts()
    parts = (SufficientStatistics.from_log(log.take(*ends, "part"), x, ACTION_ITEMS) for ends in ((0, cut), (cut, 400)))
    whole, halves = SufficientStatistics.from_log(log, x, ACTION_ITEMS), merge(*parts)
    assert_same(whole, halves)
    for one, other in zip(posterior(whole, *prior()), posterior(halves, *prior()), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-10)


def test_learning_two_logs_one_after_the_other_is_learning_them_merged():
    first, second = (SufficientStatistics.from_log(linear_log(300, seed), contexts(), ACTION_ITEMS) for seed in (1, 2))
    stepwise = posterior(second, *posterior(first, *prior()))
    for one, other in zip(stepwise, posterior(merge(second, first), *prior()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-10)


def test_a_vector_stands_in_for_the_context_of_its_user():
    log = linear_log(60)
    given = np.arange(60) % 2 == 0
    vectors = np.random.default_rng(8).normal(size=(60, FEATURES)).astype(np.float32)
    vectors[~given] = np.nan
    found = SufficientStatistics.from_log(replace(log, context=vectors), contexts(), ACTION_ITEMS)
    x = np.where(given[:, None], vectors, contexts()[log.user]).astype(np.float64)
    for arm in range(ARMS):
        mine = log.arm() == arm
        np.testing.assert_allclose(found.gram[arm], x[mine].T @ x[mine], atol=1e-12)
        np.testing.assert_allclose(found.moment[arm], x[mine].T @ log.reward[mine], atol=1e-12)
    with pytest.raises(DataError, match="linear log 0: contexts of 4 numbers, but the policy's have 3"):
        SufficientStatistics.from_log(replace(log, context=vectors), contexts()[:, :3], ACTION_ITEMS)


def test_an_arm_with_more_rounds_than_are_held_at_once(monkeypatch):
    whole = SufficientStatistics.from_log(linear_log(), contexts(), ACTION_ITEMS)
    monkeypatch.setattr(sufficient_statistics, "_ROWS", 7)
    assert_same(SufficientStatistics.from_log(linear_log(), contexts(), ACTION_ITEMS), whole)


def test_twice_the_sums_are_two_passes():
    one = SufficientStatistics.from_log(linear_log(200), contexts(), ACTION_ITEMS)
    assert_same(one * 2, merge(one, one))


def test_the_squared_error_is_that_of_the_rounds():
    log, theta = linear_log(300), prior()[0]
    guess = (contexts()[log.user] * theta[log.arm()]).sum(axis=1)
    found = SufficientStatistics.from_log(log, contexts(), ACTION_ITEMS).squared_error(theta)
    assert found == pytest.approx(((log.reward - guess) ** 2).mean())


def test_without_rounds_nothing_is_learnt():
    nothing = SufficientStatistics.from_log(linear_log().take(0, 0, "empty"), contexts(), ACTION_ITEMS)
    assert nothing.squared_error(prior()[0]) == 0
    for one, other in zip(posterior(nothing, *prior()), prior(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_arms_or_features_are_refused():
    one = SufficientStatistics.from_log(linear_log(50), contexts(), ACTION_ITEMS)
    wider = SufficientStatistics.from_log(linear_log(50), np.ones((50, 5)), ACTION_ITEMS)
    with pytest.raises(DataError, match=r"statistics of \(7, 4\) and \(7, 5\) arms and features cannot be merged"):
        merge(one, wider)
    strange = int((linear_log(50).item == ACTION_ITEMS[1]).sum())
    with pytest.raises(DataError, match=f"linear log 0: {strange} of 50 rounds show items that are not among the 6"):
        SufficientStatistics.from_log(linear_log(50), contexts(), np.delete(ACTION_ITEMS, 1))


@pytest.mark.band
def test_two_halves_of_a_simulated_movielens_log_merged_are_the_whole(u1, tmp_path):
    """50,000 rounds of random choices among 1,682 items and contexts of 21 numbers."""
    settings = {"rating_model": "svd", "world": "bias", "rank": 20}
    simulate_log(u1.train, tmp_path / "log", logging_policy="random", config={"rounds": 50_000}, train=settings)
    ingest_log(tmp_path / "log", tmp_path / "rounds", IdVocabulary.from_ratings(u1.train), {"evaluation_share": 0.0})
    log = read_rounds(tmp_path / "rounds" / "training.parquet", IdVocabulary.from_ratings(u1.train))
    x = np.random.default_rng(0).normal(size=(len(u1.train.users), 21)).astype(np.float32)
    whole = SufficientStatistics.from_log(log, x, log.action_items)
    cut = len(log) // 2
    parts = (
        SufficientStatistics.from_log(log.take(*ends, "half"), x, log.action_items)
        for ends in ((0, cut), (cut, len(log)))
    )
    start = np.zeros((1682, 21)), np.tile(np.eye(21) / 100, (1682, 1, 1))
    for one, other in zip(posterior(merge(*parts), *start), posterior(whole, *start), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-12)
    assert whole.count.sum() == len(log) > 48_000
