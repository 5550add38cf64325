"""Strategy policies: the chain of estimates, exact propensities, learning in parts, statistics."""

from dataclasses import replace

import numpy as np
import pytest
from strategy_worlds import CONFIG, random_rounds, request

from recpolicy.core.errors import DataError
from recpolicy.strategies.config import ACTIONS, StrategyConfig, strategy_config, with_learning
from recpolicy.strategies.factored import code_columns, fit_factored
from recpolicy.strategies.policy import SOURCES, StrategyPolicy
from recpolicy.strategies.q_table import QTable
from recpolicy.strategies.rounds import StrategyRounds, learning_order
from recpolicy.strategies.state import StrategyRequest, codes_of_states, state_codes


def repeated(rounds: StrategyRounds, action: int, count: int, reward: float = 1.0) -> StrategyRounds:
    """Return the first round `count` times with one action and one reward."""
    rows = rounds.select(np.zeros(count, int))
    ids = np.array([f"r{action}-{number}" for number in range(count)], object)
    return replace(rows, event_id=ids, action=np.full(count, action), reward=np.full(count, reward))


def request_of(rounds: StrategyRounds, row: int = 0) -> StrategyRequest:
    names = [CONFIG.situation.names(part)[code] for part, code in zip(
        ("content_type", "mood", "time_of_day"), rounds.situation[row], strict=True)]  # fmt: skip
    return StrategyRequest(dict(zip(CONFIG.profile.traits, rounds.profile[row].tolist(), strict=True)), *names)


def test_before_the_first_round_the_static_strategy_is_greedy():
    policy = StrategyPolicy(CONFIG)
    probability = policy.probabilities(request())
    assert probability[13] == pytest.approx(0.7 + 0.3 / 27)
    assert probability[np.arange(27) != 13] == pytest.approx(0.3 / 27)
    answers = [policy.recommend(request(), seed) for seed in range(300)]
    assert {answer.source for answer in answers} == {"static"}
    for answer in answers:
        assert answer.propensity == pytest.approx(probability[answer.action])
        assert answer.explored == (answer.action != 13)
        assert CONFIG.action_of(answer.strategy) == answer.action
        assert answer.parameters == CONFIG.parameters[answer.action]
    assert len({answer.action for answer in answers}) > 10


def test_the_draw_depends_on_the_seed_only():
    policy = StrategyPolicy(CONFIG)
    assert policy.recommend(request(), "event 7") == policy.recommend(request(), "event 7")


def test_draws_have_the_propensities_that_they_name():
    policy = StrategyPolicy(CONFIG).updated(random_rounds(400))
    probability = policy.probabilities(request())
    drawn = np.bincount([policy.recommend(request(), seed).action for seed in range(4_000)], minlength=ACTIONS)
    error = np.sqrt(probability * (1 - probability) / 4_000)
    assert (np.abs(drawn / 4_000 - probability) < 5 * error + 1e-9).all()
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    assert probability.min() == pytest.approx(policy.epsilon / 27)


@pytest.mark.parametrize("estimator", ["table", "shrunk", "factored"])
def test_the_chain_answers_with_the_first_estimate_that_has_enough_rounds(estimator):
    rounds = random_rounds(1)
    policy = StrategyPolicy(with_learning(CONFIG, estimator=estimator, min_visits=10, factors="action"))
    here = request_of(rounds)
    elsewhere = replace(here, profile={name: 100 - value for name, value in here.profile.items()})
    nine = policy.updated(repeated(rounds, 4, 9))
    assert nine.recommend(here, 0).source == "static"
    ten = nine.updated(repeated(rounds, 4, 10).select(np.arange(9, 10)))
    value = ten.estimates(ten.states_of(rounds))
    assert SOURCES[value.source[0, 4]] == ("factored" if estimator == "factored" else "cell")
    assert SOURCES[value.source[0, 5]] == "static"
    far = ten.estimates(ten._states(elsewhere))
    assert SOURCES[far.source[0, 4]] == "trait_blind"
    assert far.value[0, 4] == pytest.approx(1.0)
    greedy = ten.greedy_probabilities(ten.states_of(rounds))[0]
    assert greedy[4] > 0  # the static strategy has the mean of all rounds, which is the same
    assert greedy[[4, 13]].sum() == 1
    if estimator == "table":
        assert value.value[0, 4] == pytest.approx(1.0)  # without the rest of the initial 0
    if estimator == "shrunk":  # n = ten rounds with constant steps
        weights = 0.1 * 0.9 ** np.arange(10)
        n, model = weights.sum() ** 2 / (weights @ weights), ten.factored
        factored = model.values(code_columns(codes_of_states(ten.states_of(rounds), CONFIG), CONFIG))[0, 4]
        assert value.value[0, 4] == pytest.approx((n * 1.0 + 10 * factored) / (n + 10))


def test_an_action_without_an_estimate_is_never_greedy():
    rounds = random_rounds(1)
    policy = StrategyPolicy(CONFIG).updated(repeated(rounds, 4, 12, reward=-1.0))
    policy = policy.updated(repeated(rounds, 5, 3, reward=1.0))  # three rounds are no estimate
    assert np.flatnonzero(policy.greedy_probabilities(policy.states_of(rounds))[0]).tolist() == [13]
    assert policy.estimates(policy.states_of(rounds)).eligible[0].nonzero()[0].tolist() == [4, 13]


def test_epsilon_decays_with_the_sessions_to_its_floor():
    policy = StrategyPolicy(CONFIG)
    assert policy.epsilon == 0.3
    assert policy.updated(random_rounds(99)).epsilon == 0.3
    assert policy.updated(random_rounds(200)).epsilon == pytest.approx(0.3 * 0.995**2)
    assert policy.updated(random_rounds(1_000, session_length=5)).epsilon == pytest.approx(0.3 * 0.995**2)
    quick = StrategyPolicy(with_learning(CONFIG, exploration_block=1))
    assert quick.updated(random_rounds(1_000)).epsilon == 0.05


def test_ucb1_tries_every_action_of_a_state_once():
    rounds = random_rounds(1)
    policy = StrategyPolicy(with_learning(CONFIG, exploration="ucb1", exploration_final_eps=0.0))
    tried = []
    for number in range(27):
        action = policy.recommend(request_of(rounds), number).action
        policy = policy.updated(replace(repeated(rounds, action, 1), event_id=np.array([f"u{number}"], object)))
        tried.append(action)
    assert sorted(tried) == list(range(27))
    kept = replace(policy, config=with_learning(policy.config, exploration_final_eps=0.05)).updated(
        replace(repeated(rounds, 3, 1, reward=0.0), event_id=np.array(["u28"], object))
    )
    assert kept.probabilities(request_of(rounds)).min() == pytest.approx(0.05 / 27)


@pytest.mark.parametrize("session_length", [0, 3])
def test_learning_in_parts_equals_learning_at_once(session_length):
    rounds = random_rounds(600, session_length=session_length)
    at_once = StrategyPolicy(CONFIG).updated(rounds)
    shuffled = rounds.select(np.random.default_rng(0).permutation(300))
    parts = StrategyPolicy(CONFIG).updated(shuffled).updated(rounds.select(np.arange(300, 600)))
    assert parts.policy_digest == at_once.policy_digest
    assert (parts.learned_events == at_once.learned_events).all()
    assert parts.sessions == (200 if session_length else 600)


def test_sessions_are_learned_in_the_order_of_their_ends():
    rounds = replace(
        random_rounds(6), session=np.array(["a", "b", None, "a", "b", None], object),
        time=np.array([0, 1, 2, 3, 0, 9]),
    )  # fmt: skip
    order = learning_order(rounds)
    assert order.rows.tolist() == [4, 1, 2, 0, 3, 5]
    assert order.has_next.tolist() == [True, False, False, True, False, False]
    assert order.sessions == 4


def test_the_factored_model_is_ridge_regression_on_the_rounds():
    for factors in ("action", "level"):
        config = with_learning(CONFIG, step="average", factors=factors, ridge=2.0)
        rounds = random_rounds(300)
        policy = StrategyPolicy(config).updated(rounds)
        design = np.zeros((300, 1 + sum(config.sizes)))
        columns = code_columns(state_codes(rounds.profile, rounds.situation, config), config)
        design[:, 0] = 1
        np.put_along_axis(design, columns, 1.0, axis=1)
        if factors == "action":
            parts = np.eye(ACTIONS)[rounds.action]
        else:
            levels = np.stack([rounds.action // 9, rounds.action // 3 % 3, rounds.action % 3], axis=1)
            parts = np.concatenate([np.eye(3)[levels[:, place]] for place in range(3)], axis=1)
        trends = 4 * np.linspace(-1, 1, 5)[columns[:, :5] - 1 - 5 * np.arange(5)]  # [300, 5], one for each trait
        design = np.concatenate([design, trends], axis=1)
        large = (design[:, :, np.newaxis] * parts[:, np.newaxis]).reshape(300, -1)
        centered = rounds.reward - rounds.reward.mean()
        weights = np.linalg.solve(large.T @ large + 2.0 * np.eye(large.shape[1]), large.T @ centered)
        expected = rounds.reward.mean() + large @ weights
        values = policy.factored.values(columns)[np.arange(300), rounds.action]
        assert values == pytest.approx(expected, abs=1e-9)


def test_the_factored_model_finds_a_planted_effect_and_the_trait_blind_mean_does_not():
    policy = StrategyPolicy(CONFIG).updated(random_rounds(3_000))
    for openness, energy in ((95, "high"), (5, "low")):
        answer = policy.recommend(request(openness=openness), 0)
        best = int(policy.greedy_probabilities(policy._states(request(openness=openness)))[0].argmax())
        assert CONFIG.strategies[best]["energy"] == energy
        assert answer.source in ("factored", "cell")
    assert np.ptp(policy.factored.action_mean) < 0.5


def test_an_empty_table_has_a_model_of_zeros():
    model = fit_factored(QTable.empty(), CONFIG)
    assert model.mean == 0
    assert not model.weight.any()
    assert not model.count.any()


def test_statistics():
    rounds = random_rounds(50)
    policy = StrategyPolicy(CONFIG).updated(repeated(rounds, 4, 12, reward=-2.0)).updated(
        repeated(rounds, 5, 1, reward=1.0)
    )  # fmt: skip
    stats = policy.stats()
    low = -2.0 * (1 - 0.9**12)
    assert stats["rounds"] == stats["sessions"] == 13
    assert (stats["total_states"], stats["total_state_actions"]) == (1, 2)
    assert stats["avg_q_value"] == pytest.approx((low + 0.1) / 2)
    assert stats["max_q_value"] == pytest.approx(-low)
    assert stats["coverage"] == 2 / (225_000 * 27)
    assert stats["cells_with_min_visits"] == 1
    assert stats["share_of_visited_with_min_visits"] == 0.5
    assert StrategyPolicy(CONFIG).stats()["avg_q_value"] == 0.0


def wrong(rounds, **columns):
    return replace(rounds, **columns)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"profile": np.full((2, 5), 101.0)}, r"round 0: openness is 101; expected 0\.\.100"),
        ({"profile": np.full((2, 5), np.nan)}, "openness is nan"),
        ({"profile": np.zeros((2, 4))}, "expected 5 traits"),
        ({"situation": np.array([[0, 0, 0], [0, 6, 0]])}, "round 1: mood is no known code"),
        ({"action": np.array([0, 27])}, r"round 1: the action is none of 0\.\.26"),
        ({"reward": np.array([np.nan, 0])}, "round 0: the reward is not finite"),
        ({"log_propensity": np.array([0.0, 0.1])}, "round 1: the log-propensity"),
        ({"time": np.zeros(3, np.int64)}, "different lengths"),
    ],
)
def test_a_wrong_round_is_one_line(columns, message):
    with pytest.raises(DataError, match=message):
        StrategyPolicy(CONFIG).updated(replace(random_rounds(2), **columns))


def test_equal_policies_have_equal_digests_and_others_do_not():
    policy = StrategyPolicy(CONFIG).updated(random_rounds(5))
    assert policy.policy_digest == StrategyPolicy(StrategyConfig()).updated(random_rounds(5)).policy_digest
    assert policy.policy_digest != StrategyPolicy(CONFIG).updated(random_rounds(6)).policy_digest
    other = StrategyPolicy(strategy_config({"learning": {"gamma": 0.5}})).updated(random_rounds(5))
    assert policy.policy_digest != other.policy_digest


def test_cross_validation_prefers_a_large_penalty_for_noise_and_a_small_one_for_effects():
    noise, effects = random_rounds(2_000), random_rounds(2_000)
    noise = replace(noise, reward=np.random.default_rng(1).normal(size=2_000))
    zigzag = np.array([1.0, -1.0, 1.0, -1.0, 1.0])[(effects.profile[:, 1] / 20).astype(int)]
    effects = replace(effects, reward=zigzag * (effects.action % 3 - 1))
    chosen = [StrategyPolicy(CONFIG).updated(rounds).factored.ridge for rounds in (noise, effects)]
    assert chosen[0] >= 300
    assert chosen[1] <= 3
    assert StrategyPolicy(with_learning(CONFIG, ridge=7.0)).updated(noise).factored.ridge == 7.0


def test_generalized_cross_validation_approximates_leaving_out_each_cell():
    config = with_learning(CONFIG, step="average", factors="action")
    rounds = random_rounds(400)
    errors = []
    for ridge in (1.0, 30.0, 1000.0):
        fixed = with_learning(config, ridge=ridge)
        rest = []
        for out in range(0, 400, 10):
            policy = StrategyPolicy(fixed).updated(rounds.select(np.arange(400) != out))
            left = rounds.select(np.array([out]))
            columns = code_columns(codes_of_states(policy.states_of(left), config), config)
            rest.append((policy.factored.values(columns)[0, left.action[0]] - left.reward[0]) ** 2)
        errors.append(np.mean(rest))
    assert StrategyPolicy(config).updated(rounds).factored.ridge in (10.0, 30.0, 100.0)
    assert np.argmin(errors) == 1
