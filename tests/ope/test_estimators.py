import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_rounds import ACTION, DIRECT, MU, PI, REWARD, WEIGHT, Q, simplexes, vectors

from recpolicy.core.errors import DataError
from recpolicy.core.statistics import effective_sample_size
from recpolicy.ope.terms import (
    beta_ips_terms,
    control_coefficient,
    direct_terms,
    dr_terms,
    ips_terms,
    sndr_terms,
    snips_terms,
)
from recpolicy.ope.tuning import clipped, harmonic, shrunk, switched

A = 4
PREDICTED = Q[ACTION]


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (ips_terms(WEIGHT, REWARD), 0.866667),  # (2 + 0 + 1/3 + 0 + 2) / 5
        (ips_terms(clipped(WEIGHT, 1.5), REWARD), 0.666667),  # (1.5 + 1/3 + 1.5) / 5
        (ips_terms(harmonic(WEIGHT, 0.5), REWARD), 0.633333),  # w -> 4/3, 1/2: (4/3 + 1/2 + 4/3) / 5
        (snips_terms(WEIGHT, REWARD), 0.65),  # (13/3) / (20/3)
        (direct_terms(np.tile(PI, (5, 1)), np.tile(Q, (5, 1))), 0.54),
        (dr_terms(DIRECT, WEIGHT, REWARD, PREDICTED), 0.646667),
        (sndr_terms(DIRECT, WEIGHT, REWARD, PREDICTED), 0.62),
        (dr_terms(DIRECT, switched(WEIGHT, 1), REWARD, PREDICTED), 0.566667),
        (dr_terms(DIRECT, shrunk(WEIGHT, 1), REWARD, PREDICTED), 0.58),
        (beta_ips_terms(WEIGHT, REWARD), 0.633333),  # 13/15 - .7 * 1/3
    ],
)
def test_estimates_of_five_rounds_are_those_worked_out_by_hand(terms, expected):
    assert terms.mean() == pytest.approx(expected, abs=1e-6)


def test_effective_size_of_five_rounds():
    assert effective_sample_size(WEIGHT) == pytest.approx(3.636364, abs=1e-6)  # (20/3)^2 / (3 * 4 + 2 / 9)


def test_control_coefficient_is_covariance_over_variance():
    outcome = WEIGHT * REWARD
    moments = np.array([WEIGHT.mean(), outcome.mean(), (WEIGHT**2).mean(), (WEIGHT * outcome).mean()])
    assert control_coefficient(moments) == pytest.approx(np.cov(outcome, WEIGHT, ddof=0)[0, 1] / WEIGHT.var())


# By enumeration: every action once, weighted by how often it is logged. One context suffices: all is linear in it.
def expectation(behaviour, terms):
    return behaviour @ terms


@given(mu=simplexes(A), pi=simplexes(A), reward=vectors(A))
def test_ips_is_unbiased(mu, pi, reward):
    assert expectation(mu, ips_terms(pi / mu, reward)) == pytest.approx(pi @ reward, abs=1e-9)


@given(mu=simplexes(A), pi=simplexes(A), reward=vectors(A), q=vectors(A))
def test_dr_is_unbiased_with_any_q_if_propensities_are_true(mu, pi, reward, q):
    terms = dr_terms(np.full(A, pi @ q), pi / mu, reward, q)
    assert expectation(mu, terms) == pytest.approx(pi @ reward, abs=1e-9)


@given(mu=simplexes(A), wrong=simplexes(A), pi=simplexes(A), reward=vectors(A))
def test_dr_is_unbiased_with_wrong_propensities_if_q_is_exact(mu, wrong, pi, reward):
    terms = dr_terms(np.full(A, pi @ reward), pi / wrong, reward, reward)
    assert expectation(mu, terms) == pytest.approx(pi @ reward, abs=1e-9)


@given(mu=simplexes(A), pi=simplexes(A), reward=vectors(A), b=st.floats(-3, 3))
def test_a_control_variate_with_a_fixed_coefficient_leaves_ips_unbiased(mu, pi, reward, b):
    weight = pi / mu
    assert expectation(mu, ips_terms(weight, reward) - b * (weight - 1)) == pytest.approx(pi @ reward, abs=1e-9)


def test_dr_with_wrong_q_and_wrong_propensities_is_biased():
    # mu .4 .6 taken for .5 .5; pi .8 .2, r = (1, 0), q = 0: E = .4 * 1.6 = .64, truth .8
    terms = dr_terms(np.zeros(2), PI / np.array([0.5, 0.5]), np.array([1.0, 0]), np.zeros(2))
    assert expectation(MU, terms) == pytest.approx(0.64)


def test_the_mean_logged_reward_is_biased_for_another_policy():
    reward = np.array([1.0, 0])
    assert expectation(MU, ips_terms(np.ones(2), reward)) == pytest.approx(0.4)  # of mu; pi earns .8


@given(mu=simplexes(A), pi=simplexes(A), reward=vectors(A, 0, 1))
def test_an_exact_q_leaves_dr_no_variance_within_a_context(mu, pi, reward):
    terms = dr_terms(np.full(A, pi @ reward), pi / mu, reward, reward)
    assert terms == pytest.approx(np.full(A, pi @ reward))


WEIGHTS = vectors(8, 0.015625, 50)
REWARDS = vectors(8)


@given(weight=WEIGHTS, reward=REWARDS)
def test_dr_without_a_reward_model_is_ips(weight, reward):
    nothing = np.zeros(8)
    assert dr_terms(nothing, weight, reward, nothing) == pytest.approx(ips_terms(weight, reward))
    assert sndr_terms(nothing, weight, reward, nothing) == pytest.approx(snips_terms(weight, reward))


@given(weight=WEIGHTS, reward=REWARDS, shift=st.floats(-5, 5))
def test_snips_stays_within_the_rewards_and_moves_with_them(weight, reward, shift):
    value = snips_terms(weight, reward).mean()
    assert reward.min() - 1e-9 <= value <= reward.max() + 1e-9
    assert snips_terms(weight, reward + shift).mean() == pytest.approx(value + shift, abs=1e-6)


def test_ips_does_not_move_with_the_rewards():
    moved = ips_terms(WEIGHT, REWARD + 1).mean() - ips_terms(WEIGHT, REWARD).mean()
    assert moved == pytest.approx(WEIGHT.mean())  # 4/3, not 1


@given(reward=REWARDS)
def test_the_logging_policy_itself_earns_the_mean_reward(reward):
    ones = np.ones(8)
    for terms in (ips_terms(ones, reward), snips_terms(ones, reward), beta_ips_terms(ones, reward)):
        assert terms == pytest.approx(reward)
    assert effective_sample_size(ones) == 8


@given(weight=WEIGHTS, reward=REWARDS)
def test_the_control_variate_never_adds_spread(weight, reward):
    plain, controlled = ips_terms(weight, reward), beta_ips_terms(weight, reward)
    assert controlled.var() <= plain.var() * (1 + 1e-9) + 1e-9


def test_linearised_terms_have_the_spread_of_the_ratio():
    # 2,000 logs of 400 rounds: spread of SNIPS = mean spread of its terms / 20, within 4 standard errors of 1.6 %
    rng = np.random.default_rng(0)
    action = (rng.random((2_000, 400)) < MU[1]).astype(int)
    reward = (rng.random(action.shape) < np.array([0.3, 0.8])[action]).astype(float)
    terms = np.array([snips_terms(weight, one) for weight, one in zip((PI / MU)[action], reward, strict=True)])
    assert terms.mean(axis=1).std() == pytest.approx(terms.std(axis=1).mean() / 20, rel=0.07)


def test_ratios_of_nothing_are_refused():
    with pytest.raises(DataError, match="never takes a logged action"):
        snips_terms(np.zeros(3), np.ones(3))
