import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_mdp import ACTION_COUNTS, MOVE, PI, REWARD, exact_q, sampled, split_into_sessions, value_of

from recpolicy.core.errors import ConfigError, DataError, DivergedError
from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.engine import estimate_trajectories
from recpolicy.ope.fqe import FQEConfig, Transitions, by_position, fit_linear, fit_table, linear_model, table_model

GAMMA = 0.9


def solved(gamma, policy=PI):
    """Q of the endless process from (I - gamma P_pi) Q = r, [S, A]."""
    move = np.einsum("sat,tb->satb", MOVE[..., :2], policy).reshape(4, 4)
    return np.linalg.solve(np.eye(4) - gamma * move, REWARD.ravel()).reshape(2, 2)


def transitions(counts=ACTION_COUNTS) -> Transitions:
    """Each pair 4 * count times, its next states exactly as often as MOVE says."""
    rows = [
        (s, a, to)
        for s in range(2)
        for a in range(2)
        for to in range(3)
        for _ in range(round(4 * MOVE[s, a, to]) * counts[s][a])
    ]
    state, action, to = np.array(rows).T
    return Transitions(state, action, REWARD[state, action], np.where(to == 2, 0, to), to == 2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 1.0])
def test_q_by_table_solves_the_linear_system_whoever_logged(gamma):
    for counts in (ACTION_COUNTS, [[1, 1], [1, 1]], [[9, 1], [1, 5]]):
        assert fit_table(transitions(counts), PI, gamma).q == pytest.approx(solved(gamma), abs=1e-6)


@given(st.floats(0, 1), st.floats(0, 1))
def test_q_follows_the_policy_that_is_asked_about(first, second):
    policy = np.array([[first, 1 - first], [second, 1 - second]])
    found = fit_table(transitions(), policy, GAMMA)
    assert found.q == pytest.approx(solved(GAMMA, policy), abs=1e-6)
    assert found.value == pytest.approx((policy * solved(GAMMA, policy)).sum(axis=1), abs=1e-6)


def test_without_done_masks_the_end_would_be_paid_for():
    honest = transitions()
    blind = Transitions(honest.state, honest.action, honest.reward, honest.next_state, np.zeros_like(honest.done))
    assert (fit_table(blind, PI, GAMMA).q > solved(GAMMA) + 1).all()


def test_what_follows_an_end_is_not_read():
    honest = transitions()
    other = Transitions(
        honest.state, honest.action, honest.reward, np.where(honest.done, 1, honest.next_state), honest.done
    )
    np.testing.assert_array_equal(fit_table(honest, PI, GAMMA).q, fit_table(other, PI, GAMMA).q)


def test_a_state_that_is_never_left_has_no_value_without_discount():
    loop = Transitions(np.array([0]), np.array([0]), np.ones(1), np.array([0]), np.array([False]))
    assert fit_table(loop, np.ones((1, 1)), 0.5).q == pytest.approx(np.array([[2.0]]))
    with pytest.raises(DivergedError, match=r"does not converge in 10000 sweeps; use a gamma below 1"):
        fit_table(loop, np.ones((1, 1)), 1.0)


def test_choices_never_logged_are_counted_as_unknown():
    seen = transitions([[3, 2], [0, 1]])
    found = fit_table(seen, PI, GAMMA)
    assert found.unlogged_prob == pytest.approx([0, PI[1, 0]])
    assert found.q[1, 0] == 0
    assert found.count.tolist() == [[12, 8], [0, 4]]


def test_ridge_draws_q_to_zero():
    plain, drawn = (fit_table(transitions(), PI, 0.0, FQEConfig(ridge=ridge)).q for ridge in (0.0, 4.0))
    counts = 4 * np.array(ACTION_COUNTS)
    assert drawn == pytest.approx(plain * counts / (counts + 4))


PAIRS = np.eye(4).reshape(2, 2, 4)  # one feature a pair
EXPECTED = np.einsum("sa,saf->sf", PI, PAIRS)


def one_hot(log):
    """Features of the pairs logged, and of what follows on average over the policy's choices."""
    return PAIRS[log.state, log.action], EXPECTED[log.next_state]


def test_linear_q_with_one_feature_a_pair_is_the_table():
    log = transitions()
    features, following = one_hot(log)
    theta = fit_linear(features, following, log.reward, log.done, GAMMA)
    assert theta == pytest.approx(solved(GAMMA).ravel(), abs=1e-6)


def test_linear_q_stands_still_under_its_own_regression():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(4, 3))  # three features cannot hold four values
    log = transitions()
    features, following = (found @ mix for found in one_hot(log))
    theta = fit_linear(features, following, log.reward, log.done, 0.5)
    wanted = log.reward + 0.5 * np.where(log.done, 0, following @ theta)
    again = np.linalg.lstsq(features, wanted, rcond=None)[0]
    assert again == pytest.approx(theta, abs=1e-6)
    assert np.abs(features @ theta - solved(0.5).ravel()[log.state * 2 + log.action]).max() > 0.01


def test_linear_q_reads_nothing_after_an_end():
    log = transitions()
    features, following = one_hot(log)
    other = np.where(log.done[:, None], np.nan, following)
    first, second = (fit_linear(features, each, log.reward, log.done, GAMMA) for each in (following, other))
    np.testing.assert_array_equal(first, second)


def test_sweeps_that_move_apart_are_given_up():
    # Tsitsiklis & Van Roy 1997: one feature, 1 and then 2 for ever; theta grows by 6/5 gamma with each sweep
    features, following = np.array([[1.0], [2.0]]), np.array([[2.0], [2.0]])
    done = np.zeros(2, bool)
    assert fit_linear(features, following, np.ones(2), done, 0.8) == pytest.approx([15.0], abs=1e-5)  # .6 / (1 - .96)
    with pytest.raises(DivergedError, match="does not converge"):
        fit_linear(features, following, np.ones(2), done, 0.9)


def test_features_that_repeat_each_other_need_ridge():
    log = transitions()
    features, following = (np.hstack([found, found]) for found in one_hot(log))
    with pytest.raises(DataError, match=r"the 8 features of 40 transitions are collinear"):
        fit_linear(features, following, log.reward, log.done, GAMMA)
    theta = fit_linear(features, following, log.reward, log.done, GAMMA, FQEConfig(ridge=1e-6))
    assert theta[:4] + theta[4:] == pytest.approx(solved(GAMMA).ravel(), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": np.array([0])}, r"action \(1,\); expected \(2,\)"),
        ({"reward": np.array([0, np.inf])}, "not finite"),
        ({"state": np.array([0, 2])}, r"state 0\.\.2; target_probs has 0\.\.1"),
        ({"action": np.array([-1, 1])}, r"action -1\.\.1; target_probs has 0\.\.1"),
        ({name: np.array([]) for name in ("state", "action", "reward", "next_state", "done")}, "transitions: none"),
    ],
)
def test_transitions_that_are_none_are_refused(changes, message):
    fields = {"state": np.array([0, 1]), "action": np.array([0, 1]), "reward": np.ones(2)}
    fields |= {"next_state": np.array([1, 0]), "done": np.zeros(2, bool)}
    with pytest.raises(DataError, match=message):
        fit_table(Transitions(**fields | changes), PI, GAMMA)


@pytest.mark.parametrize("settings", [{"ridge": -1.0}, {"sweeps": 0}, {"tolerance": 0.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        FQEConfig(**settings)


# Models of sessions. The tiny process ends after three steps, so the step is part of the state: 6 states, 2 actions.
FEW = MultiStepConfig(resamples=50)
STEPPED = np.tile(PI, (3, 1))


def stepped(state):
    return np.where(state >= 0, np.arange(3) * 2 + state, -1)


def test_a_table_over_steps_learns_the_value_of_sessions_that_end():
    state, action, length = sampled(20_000, 0)
    log = split_into_sessions(state, action, length)
    model = table_model(log, stepped(state), action, STEPPED, FEW)
    inside, step = log.is_step, np.broadcast_to(np.arange(3), state.shape)
    truth = exact_q(GAMMA)
    assert model.logged_q[inside] == pytest.approx(truth[step, state, action][inside], abs=0.07)
    found = estimate_trajectories(log, config=FEW, model=model)
    for result in found.values():
        assert result.value == pytest.approx(value_of(PI, GAMMA), abs=0.06)
    width = {name: found[name].intervals["t"].hi - found[name].value for name in found}
    assert width["fqe"] < width["per_decision_dr"] < width["per_decision_is"] < width["trajectory_is"]


def test_no_session_teaches_its_own_prediction():
    state, action, length = sampled(60, 0)
    log = split_into_sessions(state, action, length, user=np.arange(60) % 20)
    before = table_model(log, stepped(state), action, STEPPED, FEW)
    reward = log.reward.copy()
    reward[log.user == 3] += 100
    changed = type(log)(reward, log.behavior_prob, log.target_prob, length, log.user, GAMMA)
    after = table_model(changed, stepped(state), action, STEPPED, FEW)
    mine = log.user == 3
    np.testing.assert_array_equal(before.expected_q[mine], after.expected_q[mine])
    assert (before.expected_q != after.expected_q).any()


def test_the_last_step_of_a_session_that_was_cut_off_teaches_nothing():
    state, action, length = sampled(2_000, 0)
    short = np.minimum(length, 2)
    cut = length > 2
    state, action = (np.where(np.arange(3) < short[:, None], each, -1) for each in (state, action))
    honest = split_into_sessions(state, action, short, ended=~cut)
    blind = split_into_sessions(state, action, short)
    steps = (stepped(state), action, STEPPED, FEW)
    ended_at_two = table_model(blind, *steps).logged_q[:, 1][short == 2]
    known = table_model(honest, *steps)
    assert honest.has_known_next.sum() == blind.has_known_next.sum() - cut.sum()
    assert (honest.has_known_next & honest.is_last)[cut].sum() == 0
    assert known.logged_q[:, 1][short == 2] != pytest.approx(ended_at_two)


def test_a_linear_model_with_one_feature_a_pair_is_the_table():
    state, action, length = sampled(500, 0)
    log = split_into_sessions(state, action, length)
    table = table_model(log, state, action, PI, FEW)
    linear = linear_model(log, PAIRS[state, action], EXPECTED[state], FEW)
    assert linear.logged_q == pytest.approx(table.logged_q, abs=1e-6)
    assert linear.expected_q == pytest.approx(table.expected_q, abs=1e-6)


def test_features_by_position_are_apart():
    features = np.arange(12.0).reshape(2, 3, 2)
    placed = by_position(features)
    assert placed.shape == (2, 3, 6)
    assert placed[1].tolist() == [[6, 7, 0, 0, 0, 0], [0, 0, 8, 9, 0, 0], [0, 0, 0, 0, 10, 11]]


def test_models_of_the_wrong_shape_or_too_few_users_are_refused():
    state, action, length = sampled(5, 0)
    log = split_into_sessions(state, action, length)
    with pytest.raises(DataError, match=r"state \(5, 2\); expected \(5, 3\)"):
        table_model(log, state[:, :2], action, PI, FEW)
    alone = split_into_sessions(state, action, length, user=np.zeros(5, int))
    with pytest.raises(DataError, match="1 users for 2 folds"):
        table_model(alone, state, action, PI, FEW)
