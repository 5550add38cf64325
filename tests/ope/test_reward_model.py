import numpy as np
import pytest
from synthetic_rounds import WORLD, five_rounds

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.ope import reward_model
from recpolicy.ope.feedback import BanditFeedback
from recpolicy.ope.reward_model import RewardModelConfig, fit_reward_model, mrdr_weights

EVERYTHING = slice(None)
LOOSE = RewardModelConfig(ridge=1e-6, shrinkage=1e-6)


def linear_rounds(rounds=600, noise=0.0, actions=3) -> BanditFeedback:
    rng = np.random.default_rng(0)
    context = rng.normal(2, 3, (rounds, 4)).astype(np.float32)
    action = rng.integers(actions, size=rounds)
    slope = rng.normal(size=(actions, 4))
    reward = (
        (context * slope[action]).sum(axis=1) + action + rng.normal(0, noise, rounds)
        if noise
        else ((context * slope[action]).sum(axis=1) + action)
    )
    return BanditFeedback(action, reward, np.full(rounds, 1 / actions), np.arange(rounds) // 2, actions, context)


def test_rewards_linear_in_the_context_are_recovered_per_action():
    rounds = linear_rounds()
    table = fit_reward_model(rounds, LOOSE, 0).rows(EVERYTHING)
    np.testing.assert_allclose(table[np.arange(600), rounds.action], rounds.reward, atol=1e-3)


def test_the_fit_is_the_ridge_regression_of_its_docstring(monkeypatch):
    monkeypatch.setattr(reward_model, "_FEATURE_CELLS", 25 * 64)  # many chunks
    rounds, config = linear_rounds(noise=1), RewardModelConfig(ridge=3, shrinkage=2)
    fitted = fit_reward_model(rounds, config, 0)
    outside = fitted.fold != 0
    mean = rounds.reward[outside].mean()
    rows = outside & (rounds.action == 1)
    phi, reward = fitted.features[rows].astype(float), rounds.reward[rows] - mean
    expected = np.linalg.solve(phi.T @ phi + np.diag([2, 3, 3, 3, 3]), phi.T @ reward)
    assert fitted.mean[0] == pytest.approx(mean)
    np.testing.assert_allclose(fitted.weight[0, 1], expected, rtol=1e-5)


def test_no_reward_has_a_part_in_its_own_prediction_or_that_of_its_user():
    rounds = linear_rounds(noise=1)
    changed = rounds.reward.copy()
    changed[7] += 100  # of user 3, who has rounds 6 and 7
    other = BanditFeedback(rounds.action, changed, rounds.behavior_prob, rounds.user, 3, rounds.context)
    moved = np.any(
        fit_reward_model(rounds, LOOSE, 0).rows(EVERYTHING) != fit_reward_model(other, LOOSE, 0).rows(EVERYTHING),
        axis=1,
    )
    fold = fit_reward_model(rounds, LOOSE, 0).fold
    assert fold[6] == fold[7]
    np.testing.assert_array_equal(moved, fold != fold[7])


def test_no_weight_of_a_round_has_a_part_in_its_own_prediction_or_that_of_its_user():
    """Weights are scaled over the rounds of each fit; over all rounds, a round's own weight would count."""
    rounds, weight = linear_rounds(noise=1), np.random.default_rng(1).random(600)
    changed = weight.copy()
    changed[7] += 100
    config = RewardModelConfig(ridge=30, shrinkage=30)
    before, after = (fit_reward_model(rounds, config, 0, s).rows(EVERYTHING) for s in (weight, changed))
    fold = fit_reward_model(rounds, config, 0).fold
    np.testing.assert_array_equal(np.any(before != after, axis=1), fold != fold[7])


def test_without_context_and_pull_an_action_is_predicted_its_mean():
    rounds = five_rounds(action=np.array([0, 0, 0, 0, 1]), reward=np.array([1.0, 2, 3, 4, 9]))
    fitted = fit_reward_model(rounds, LOOSE, 0)
    for fold in range(2):
        rows = (fitted.fold != fold) & (rounds.action == 0)
        assert fitted.rows(EVERYTHING)[fitted.fold == fold, 0] == pytest.approx(rounds.reward[rows].mean(), abs=1e-4)


def test_an_action_never_logged_is_predicted_the_mean_of_all():
    rounds = five_rounds(actions=3, logging_probs=None)
    fitted = fit_reward_model(rounds, RewardModelConfig(), 0)
    np.testing.assert_allclose(fitted.rows(EVERYTHING)[:, 2], fitted.mean[fitted.fold], rtol=1e-6)


def test_rows_of_a_slice_are_those_of_the_whole():
    fitted = fit_reward_model(linear_rounds(noise=1), RewardModelConfig(folds=3), 0)
    assert set(fitted.fold) == {0, 1, 2}
    np.testing.assert_allclose(fitted.rows(slice(100, 130)), fitted.rows(EVERYTHING)[100:130], rtol=1e-5)


def test_a_constant_context_column_and_larger_scale_change_nothing():
    rounds = linear_rounds(noise=1)
    wider = np.concatenate([rounds.context * 1000, np.ones((600, 1), np.float32)], axis=1)
    other = BanditFeedback(rounds.action, rounds.reward, rounds.behavior_prob, rounds.user, 3, wider)
    one, two = (fit_reward_model(log, RewardModelConfig(), 0).rows(EVERYTHING) for log in (rounds, other))
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_mrdr_weights_of_a_deterministic_target_are_those_of_the_paper():
    prob = np.array([0.5, 0.25])
    assert mrdr_weights(1 / prob, prob) == pytest.approx((1 - prob) / prob**2)


def test_rounds_without_weight_do_not_count_in_the_fit():
    rounds = linear_rounds(noise=1)
    weight = (np.arange(600) % 3 > 0).astype(float)
    other = BanditFeedback(
        rounds.action, np.where(weight, rounds.reward, 99), rounds.behavior_prob, rounds.user, 3, rounds.context
    )
    one, two = (fit_reward_model(log, LOOSE, 0, weight).rows(EVERYTHING) for log in (rounds, other))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_better_model_of_the_rewards_has_a_smaller_error():
    rounds = WORLD.log(4_000, 0)
    plain = BanditFeedback(rounds.action, rounds.reward, rounds.behavior_prob, rounds.user, 5)
    error = [
        np.abs(fit_reward_model(log, RewardModelConfig(), 0).rows(EVERYTHING) - WORLD.q_in(rounds)).mean()
        for log in (rounds, plain)
    ]
    assert error[0] < 0.05 < error[1]


def test_settings_and_users_that_allow_no_cross_fit_are_refused():
    with pytest.raises(ConfigError, match="folds is 1: expected greater than or equal to 2"):
        RewardModelConfig(folds=1)
    with pytest.raises(ConfigError, match="ridge is 0: expected greater than 0"):
        RewardModelConfig(ridge=0)
    with pytest.raises(DataError, match="1 users for 2 folds"):
        fit_reward_model(five_rounds(user=np.zeros(5, int)), RewardModelConfig(), 0)
