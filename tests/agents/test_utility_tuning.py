"""Utility tuning: fixed points worked out by hand, gradients against differences, and what each loss must not do."""

import numpy as np
import pytest

from recpolicy.agents.utility_tuning import (
    METHODS,
    UtilityTuningConfig,
    best_static_action,
    gaussian_actions,
    mean_weights_action,
    train_tuning,
    uniform_actions,
)
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.tuning_log import TuningFeatures, TuningLog
from recpolicy.models.ranking_formula import ActionGrid
from recpolicy.models.tuning_network import TuningNetwork, TuningNetworkConfig
from recpolicy.models.tuning_policy import TunedPolicy

LINE = ActionGrid.full(["w"], [0.0], [1.0], 3)
SQUARE = ActionGrid.full(["v", "w"], [0.0, 0.0], [1.0, 2.0], 5)
SMALL = TuningNetworkConfig(embedding=3, layers=(16,))


def make_log(features, action, reward, grid, propensity=None, fallback=None, objectives=None):
    count = len(action)
    reward = np.asarray(reward, np.float64)
    objectives = reward[:, np.newaxis] if objectives is None else objectives
    return TuningLog(
        features, np.asarray(action), np.full(count, 1 / grid.size) if propensity is None else propensity, reward,
        objectives, tuple(f"part{k}" for k in range(objectives.shape[1])),
        np.zeros(count, bool) if fallback is None else fallback, grid.size,
    )  # fmt: skip


def no_features(count):
    return TuningFeatures(np.zeros((count, 0), np.int32), np.zeros((count, 0), np.float32), ())


def three_arms(reward):
    """One request for each of the three actions: the batch is the exact expectation under uniform logging."""
    return make_log(no_features(3), [0, 1, 2], reward, LINE)


def trained(log, method, grid=LINE, steps=2_000, rate=0.02, **settings):
    config = UtilityTuningConfig(method=method, steps=steps, learning_rate=rate, network=SMALL, **settings)
    return train_tuning(log, grid, config)


@pytest.mark.parametrize(("added", "expected"), [(0.0, [0.125, 0.3125, 0.5625]), (10.0, [0.3228, 0.3323, 0.3449])])
def test_reinforce_converges_to_the_share_of_the_reward_and_not_to_the_best_action(added, expected):
    # Uniform logging without a ratio: pi(a) = r(a) / sum r, for .2, .5, .9 and for 10.2, 10.5, 10.9.
    policy = trained(three_arms(np.array([0.2, 0.5, 0.9]) + added), "reinforce")
    assert policy.probabilities(no_features(1))[0] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("method", ["reinforce_centered", "actor_critic_weighted"])
def test_centered_and_weighted_forms_converge_to_the_best_action(method):
    policy = trained(three_arms([0.2, 0.5, 0.9]), method)
    assert policy.probabilities(no_features(1))[0, 2] > 0.95


def test_the_weighted_form_prefers_the_best_action_more_than_the_share_of_the_reward():
    policy = trained(three_arms([0.2, 0.5, 0.9]), "reinforce_weighted")
    assert policy.probabilities(no_features(1))[0, 2] > 0.9


def test_the_gaussian_s_mean_is_the_reward_weighted_mean_of_the_logged_weights():
    # Weights 0, .5, 1 with rewards .2, .5, .9: mean (.25 + .9) / 1.6 = .71875, variance 1.025 / 1.6 - mean^2 = .124023.
    policy = trained(three_arms([0.2, 0.5, 0.9]), "gaussian_reinforce")
    assert policy.means(no_features(1))[0, 0] == pytest.approx(0.71875, abs=2e-3)
    assert np.exp(2 * policy.log_std[0]) == pytest.approx(0.124023, abs=2e-3)
    assert policy.actions(no_features(1)).tolist() == [1]  # never the best one, 2


@pytest.mark.parametrize("reward", [[0.2, 0.5, 0.9], [0.2, 0.9, 0.5]])
def test_the_gaussian_with_an_advantage_runs_to_the_side_to_which_rewards_rise(reward):
    # The drift of the mean is Cov(r, u) / sigma^2 wherever the mean is: .35 / 3 for the first rewards, and .15 / 3 for
    # the second, whose best weight is .5. Nothing stops it but the end of the box.
    policy = trained(three_arms(reward), "gaussian_actor_critic", steps=1_000)
    assert policy.means(no_features(1))[0, 0] > 0.95
    assert policy.actions(no_features(1)).tolist() == [2]


@pytest.fixture(scope="module")
def two_kinds():
    """Requests of two kinds, told by a category; the first wants weight 0, the second weight 1, and v is idle."""
    rng = np.random.default_rng(1)
    count = 20_000
    kind = rng.integers(2, size=(count, 1)).astype(np.int32)
    features = TuningFeatures(kind, rng.normal(size=(count, 2)).astype(np.float32), (2,))
    action, propensity = uniform_actions(SQUARE, count, rng)
    w = SQUARE.unit(action)[:, 1]
    good = np.where(kind[:, 0] == 1, w, 1 - w)
    likes = (rng.random(count) < 0.2 + 0.6 * good).astype(float)
    stays = (rng.random(count) < 0.5).astype(float)
    return make_log(features, action, likes, SQUARE, propensity, objectives=np.stack([likes, stays], axis=1))


def best_share(policy, log):
    """The share of requests that get the right end of the weight w."""
    w = policy.grid.unit(policy.actions(log.features))[:, 1]
    return float((np.abs(w - log.features.categorical[:, 0]) < 0.3).mean())


@pytest.mark.parametrize("method", ["reinforce", "reinforce_weighted", "actor_critic_weighted", "value_regression"])
def test_a_planted_preference_is_found_by_request(two_kinds, method):
    settings = {"objective_weights": (1.0, 0.0)} if method == "value_regression" else {}
    policy = trained(two_kinds, method, SQUARE, steps=400, rate=0.01, batch_size=256, **settings)
    assert best_share(policy, two_kinds) > 0.95


def test_permuted_features_take_the_personalization_away(two_kinds):
    permuted = two_kinds.with_permuted_features(np.random.default_rng(2))
    policy = trained(permuted, "reinforce", SQUARE, steps=400, rate=0.01, batch_size=256)
    w = SQUARE.unit(policy.actions(two_kinds.features))[:, 1]
    second = two_kinds.features.categorical[:, 0] == 1
    assert abs(w[second].mean() - w[~second].mean()) < 0.25  # 1 with the features of the requests


def test_mean_weights_are_the_middle_where_two_kinds_want_opposite_ends(two_kinds):
    policy = trained(two_kinds, "value_regression", SQUARE, steps=400, objective_weights=(1.0, 0.0))
    assert SQUARE.digits(mean_weights_action(SQUARE, policy.actions(two_kinds.features)))[1] == 2


def test_values_are_in_the_units_of_the_objectives(two_kinds):
    policy = trained(two_kinds, "value_regression", SQUARE, steps=600, rate=0.005)
    values = policy.values(two_kinds.features.take(slice(0, 500))).mean(axis=0)  # [A, K]
    assert values[:, 1] == pytest.approx(np.full(25, 0.5), abs=0.06)
    assert values[:, 0].mean() == pytest.approx(0.5, abs=0.05)


def test_more_weight_on_an_objective_never_lowers_its_predicted_value(two_kinds):
    policy = trained(two_kinds, "value_regression", SQUARE, steps=100)
    features = two_kinds.features.take(slice(0, 50))
    values, served = policy.values(features), []
    for alpha in np.linspace(0, 1, 25):
        action = policy.with_objectives((float(alpha), float(1 - alpha))).actions(features)
        served.append(values[np.arange(50), action, 0])
    assert (np.diff(served, axis=0) >= -1e-5).all()


def test_mixed_values_are_the_weighted_sum(two_kinds):
    policy = trained(two_kinds, "value_regression", SQUARE, steps=20).with_objectives((0.3, 0.7))
    features = two_kinds.features.take(slice(0, 9))
    assert policy.mixed_values(features) == pytest.approx(policy.values(features) @ np.array([0.3, 0.7]), abs=1e-5)


def test_a_request_has_the_same_answer_alone_and_in_a_batch(two_kinds):
    policy = trained(two_kinds, "reinforce", SQUARE, steps=50)
    together = policy.probabilities(two_kinds.features.take(slice(0, 8)))
    alone = np.concatenate([policy.probabilities(two_kinds.features.take(slice(i, i + 1))) for i in range(8)])
    assert alone == pytest.approx(together, abs=1e-6)


def test_gradients_agree_with_differences():
    rng = np.random.default_rng(0)
    features = TuningFeatures(
        rng.integers(3, size=(6, 2)).astype(np.int32), rng.normal(size=(6, 2)).astype(np.float32), (3, 3)
    )
    network = TuningNetwork.initial((3, 3), 2, 4, TuningNetworkConfig(embedding=2, layers=(5, 4)), rng)
    network.params = {name: part.astype(np.float64) for name, part in network.params.items()}  # exact differences
    network.params["weight_out"] *= 50
    target = rng.normal(size=(6, 4))

    def loss():
        return 0.5 * float(((network.forward(features, training=True) - target) ** 2).sum())

    loss()
    gradient = network.backward(network.forward(features, training=True) - target)
    for name, values in network.params.items():
        place = np.unravel_index(np.abs(gradient[name]).argmax(), values.shape)
        before = values[place]
        values[place] = before + 1e-5
        above = loss()
        values[place] = before - 1e-5
        below = loss()
        values[place] = before
        assert gradient[name][place] == pytest.approx((above - below) / 2e-5, rel=1e-3, abs=1e-4), name


def test_a_policy_survives_its_arrays(two_kinds):
    for method in ("reinforce", "value_regression", "gaussian_reinforce"):
        policy = trained(two_kinds, method, SQUARE, steps=20)
        again = TunedPolicy.from_parts(policy.as_dict(), policy.arrays())
        features = two_kinds.features.take(slice(0, 100))
        assert np.array_equal(again.actions(features), policy.actions(features))


def test_the_same_seed_gives_the_same_policy(two_kinds):
    first, second = (trained(two_kinds, "actor_critic", SQUARE, steps=20) for _ in range(2))
    assert np.array_equal(first.network.params["weight_out"], second.network.params["weight_out"])


def test_a_batch_of_one_request_is_a_step():
    log = make_log(no_features(1), [2], [1.0], LINE)
    assert trained(log, "reinforce", steps=50).actions(no_features(1)).tolist() == [2]


def test_the_best_static_action_pools_its_neighbors():
    # 25 actions, 4 rounds each: the single best mean is an outlier at (0, 0); the plateau is around (3, 3).
    digits = SQUARE.digits(np.arange(25))
    mean = 1.0 - 0.2 * np.abs(digits - 3).sum(axis=1)
    mean[0] = 1.1
    action = np.repeat(np.arange(25), 4)
    assert best_static_action(make_log(no_features(100), action, mean[action], SQUARE), SQUARE) == 18


def test_gaussian_exploration_has_exact_propensities():
    rng = np.random.default_rng(0)
    action, propensity = gaussian_actions(SQUARE, 50_000, np.array([0.5, 0.25]), 0.3, rng)
    exact = {int(a): p for a, p in zip(action, propensity, strict=True)}
    assert sum(exact.values()) == pytest.approx(1)
    share = np.bincount(action, minlength=25) / 50_000
    for a, p in exact.items():
        assert share[a] == pytest.approx(p, abs=5 * np.sqrt(p / 50_000))


def test_values_learn_from_fallbacks_and_policy_gradients_do_not():
    # Point 2 pays .9 where it serves, which is rare: its fallbacks pay 0. Its value is .3, and point 1 is the best.
    reward, action = [0.2, 0.5, 0.9, 0.0, 0.0], [0, 1, 2, 2, 2]
    log = make_log(no_features(5), action, reward, LINE, fallback=np.array([False, False, False, True, True]))
    assert trained(log, "value_regression").actions(no_features(1)).tolist() == [1]
    assert trained(log, "reinforce").actions(no_features(1)).tolist() == [2]


def test_bad_logs_are_errors_of_one_line():
    rng = np.random.default_rng(0)
    action, propensity = gaussian_actions(LINE, 100, np.array([0.5]), 0.3, rng)
    log = make_log(no_features(100), action, np.ones(100), LINE, propensity)
    with pytest.raises(
        DataError, match=r"^method 'reinforce' needs a log of uniform weights: request \d+ has propensity"
    ):
        trained(log, "reinforce")
    with pytest.raises(DataError, match="the best static action needs a log of uniform weights"):
        best_static_action(log, LINE)
    trained(log, "reinforce_weighted", steps=2)
    with pytest.raises(ConfigError, match="the log has 3 actions; expected the 25 of the grid"):
        trained(log, "reinforce_weighted", SQUARE)
    with pytest.raises(ConfigError, match="every logged request is a fallback"):
        trained(make_log(no_features(3), [0, 1, 2], np.ones(3), LINE, fallback=np.ones(3, bool)), "reinforce")
    with pytest.raises(ConfigError, match=r"objective_weights \[1.0, 2.0\]; expected one for each"):
        trained(three_arms([1, 2, 3]), "value_regression", objective_weights=(1.0, 2.0))
    assert len(METHODS) == 8
