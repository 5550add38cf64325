"""DQN: targets, the lagging network, exploration among the top K, the ring of the past, and a world that is solved."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from session_blocks import block, environment, expected_ratings, make, observations, small_specs

from recpolicy.agents import categorical
from recpolicy.agents.categorical import MASKED
from recpolicy.agents.dqn import DQNConfig, huber, make_dqn, soft_update, td_targets, top_k_logits
from recpolicy.agents.experience import Experience
from recpolicy.agents.replay import Batch, Replay
from recpolicy.core.errors import ConfigError
from recpolicy.environments.session_dynamics import like_odds

SEED = tf.constant([1, 1], tf.int32)
ROWS, ITEMS = 9, 24


def probabilities(agent, seen: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    allowed = None if mask is None else tf.constant(mask)
    return tf.nn.softmax(agent.learner.logits(tf.constant(seen), allowed)).numpy()


def some_mask(seed: int = 0) -> np.ndarray:
    mask = np.random.default_rng(seed).random((ROWS, ITEMS)) < 0.6
    mask[:, :8] = True
    return mask


def test_exploration_never_leaves_the_top_k_and_reaches_all_of_them():
    agent, seen, mask = (
        make("dqn", exploration_initial_eps=1.0, exploration_final_eps=1.0, exploration_top_k=5),
        observations(ROWS),
        some_mask(),
    )
    ranked = np.where(mask, expected_ratings(seen), -np.inf)
    top = ranked >= np.sort(ranked, axis=1)[:, -5:-4]
    np.testing.assert_array_equal(probabilities(agent, seen, mask) > 0, top)
    assert (top.sum(axis=1) == 5).all()


def test_exploration_is_the_softmax_of_the_top_values():
    agent = make(
        "dqn", exploration_initial_eps=0.4, exploration_final_eps=0.4, exploration_top_k=5, exploration_temperature=0.3
    )
    seen = observations(ROWS)
    value = agent.learner.scores(tf.constant(seen), None).numpy()
    np.testing.assert_allclose(value, expected_ratings(seen) / 4.0, rtol=1e-5)
    weight = np.where(value >= np.sort(value, axis=1)[:, -5:-4], np.exp((value - value.max()) / 0.3), 0)
    expected = 0.4 * weight / weight.sum(axis=1, keepdims=True) + 0.6 * np.eye(ITEMS)[value.argmax(axis=1)]
    np.testing.assert_allclose(probabilities(agent, seen), expected, atol=1e-5)


def regret_and_bound(agent, epsilon: float, top_k: int, steps: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Expected likes lost against the greedy ranker at each step of 64 exploring sessions [steps, 64], and the bound.

    The bound is epsilon times the largest gap of P(like) between the ranker's choice and one of its top K.
    """
    game, rows = environment(batch_size=64), np.arange(64)
    session, lost, bound = game.restart(None, None, game.noise(tf.constant(0))), [], []
    for step in range(steps):
        seen, mask = game.observe(session)
        like = tf.sigmoid(like_odds(game.tables, session.user_state)).numpy()
        ranked = np.argsort(-np.where(mask, expected_ratings(seen.numpy()), -np.inf), axis=1)
        at_best = like[rows, ranked[:, 0]]
        chances = probabilities(agent, seen.numpy(), mask.numpy())
        lost.append(at_best - (chances * like).sum(axis=1))
        bound.append(epsilon * (at_best - np.take_along_axis(like, ranked[:, :top_k], axis=1).min(axis=1)))
        point = tf.random.stateless_uniform([64], [step, 3])
        chosen, _ = categorical.draw(agent.learner.logits(seen, mask), point)
        session = game.transition(session, chosen, game.noise(tf.constant(step + 1))).session
    return np.array(lost), np.array(bound)


def test_before_training_the_regret_to_the_ranker_is_bounded_and_that_of_a_cold_start_is_not():
    """The part of the cumulative bound that holds without updates, at every step; later the network itself drifts."""
    options = {"exploration_initial_eps": 0.2, "exploration_final_eps": 0.2, "exploration_top_k": 5}
    lost, bound = regret_and_bound(make("dqn", **options), 0.2, 5)
    assert (lost <= bound + 1e-5).all()
    assert lost.sum() > 0
    lost, bound = regret_and_bound(make("dqn", tables=False, **options), 0.2, 5)
    assert lost.sum() > 2 * bound.sum()


def test_with_epsilon_0_it_shows_the_best():
    agent, seen, mask = (
        make("dqn", exploration_initial_eps=0.0, exploration_final_eps=0.0),
        observations(ROWS),
        some_mask(),
    )
    best = np.where(mask, expected_ratings(seen), -np.inf).argmax(axis=1)
    np.testing.assert_array_equal(probabilities(agent, seen, mask), np.eye(ITEMS)[best])


@pytest.mark.parametrize(("temperature", "expected"), [(1e-12, [0, 0, 1, 0, 0]), (1e12, [1 / 3, 0, 1 / 3, 0, 1 / 3])])
def test_the_temperature_goes_from_greedy_to_uniform_on_the_top_k(temperature, expected):
    scores = tf.constant([[-5.0, -6.0, -4.0, MASKED, -5.5]])
    found = tf.nn.softmax(top_k_logits(scores, 3, temperature))
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


@pytest.mark.parametrize("k", [2, 5, 50])
def test_with_fewer_allowed_items_than_k_only_they_are_explored(k):
    found = tf.nn.softmax(top_k_logits(tf.constant([[1.0, MASKED, 1.0, MASKED, MASKED]]), k, 1.0))
    np.testing.assert_allclose(found[0], [0.5, 0, 0.5, 0, 0], atol=1e-6)


def test_the_exploring_share_shrinks_with_each_block_down_to_its_floor():
    agent = make("dqn", exploration_initial_eps=0.4, exploration_final_eps=0.15, exploration_decay=0.5)
    agent.learner.prepare(4 * 8)
    told = [float(agent.learner.update(block(4, seed), SEED)["epsilon"]) for seed in range(3)]
    assert told == pytest.approx([0.2, 0.15, 0.15])


def test_at_tau_001_half_of_the_initial_target_network_is_left_after_693_updates():
    """(1 - .001)^693 = .499900."""
    left = tf.constant([1.0], tf.float64)
    for _ in range(693):
        left = soft_update(left, tf.zeros_like(left), 0.001)
    assert float(left[0]) == pytest.approx(0.499900, abs=1e-6)


@pytest.mark.parametrize("k", [10, 50])
def test_of_60000_items_only_the_top_k_are_explored_and_chosen(k):
    scores = tf.random.stateless_normal([3, 60_000], [4, 5])
    logits = top_k_logits(scores, k, 1.0)
    rank = (-scores.numpy()).argsort(axis=1).argsort(axis=1)
    np.testing.assert_array_equal(tf.nn.softmax(logits).numpy() > 0, rank < k)
    for seed in range(20):
        chosen, _ = categorical.draw(logits, tf.random.stateless_uniform([3], [seed, 1]))
        assert (rank[np.arange(3), chosen.numpy()] < k).all()


def test_with_all_items_and_a_high_temperature_exploration_is_uniform():
    agent = make(
        "dqn",
        exploration_initial_eps=0.4,
        exploration_final_eps=0.4,
        exploration_top_k=ITEMS,
        exploration_temperature=1e9,
    )
    found = np.sort(probabilities(agent, observations(ROWS)))
    np.testing.assert_allclose(found[:, :-1], 0.4 / ITEMS, rtol=1e-4)


def test_the_constant_of_values_changes_targets_and_no_ranking():
    """Rewards 1: before training both networks agree, so targets grow by gamma times the constant where it goes on."""
    plain, offset = make("dqn", gamma=0.5, gradient_steps=1), make("dqn", gamma=0.5, value_offset=3.0, gradient_steps=1)
    seen = observations(ROWS)
    np.testing.assert_array_equal(*(probabilities(agent, seen) for agent in (plain, offset)))
    np.testing.assert_array_equal(*(agent.learner.scores(tf.constant(seen), None) for agent in (plain, offset)))
    played = block(4, terminated=np.zeros((4, 8), bool), reward=np.ones((4, 8)))
    told = []
    for agent in (plain, offset):
        agent.learner.prepare(4 * 8)
        told.append(agent.learner.update(played, SEED))
        told[-1] |= {"value": agent.learner.value(tf.constant(seen), None)}
    assert float(told[1]["target_mean"] - told[0]["target_mean"]) == pytest.approx(0.5 * 3.0, abs=1e-4)
    assert float(told[1]["value_mean"] - told[0]["value_mean"]) == pytest.approx(3.0, abs=1e-4)
    assert np.mean(told[1]["value"] - told[0]["value"]) == pytest.approx(3.0, abs=0.2)  # one step was taken


def bias_of_the_maximum(gamma: float, double: bool, items: int = 50, noise: float = 1.0) -> float:
    """Error of the values at the fixed point in a world of constant rewards 0, with noise in each network's values.

    y = gamma (V + e), V = mean y: V = gamma E[e] / (1 - gamma), E[e] the mean error of the item that follows.
    """
    errors = tf.random.stateless_normal([2, 4_000, items], [7, 8], stddev=noise)
    blank = tf.zeros([4_000])
    played = Batch(
        observation=blank[:, tf.newaxis], action=tf.zeros([4_000], tf.int32), reward=blank,
        terminated=blank > 0, next_observation=blank[:, tf.newaxis], next_mask=tf.ones([4_000, items], tf.bool),
    )  # fmt: skip
    return float(tf.reduce_mean(td_targets(played, errors[0], errors[1], gamma, double))) / (1 - gamma)


def test_the_bias_of_the_maximum_grows_with_gamma_and_double_networks_have_less():
    """E max of 50 independent errors is 2.2491 sigma; through the bootstrap gamma / (1 - gamma) times as much."""
    single = [bias_of_the_maximum(gamma, double=False) for gamma in (0.5, 0.75, 0.9)]
    both = [bias_of_the_maximum(gamma, double=True) for gamma in (0.5, 0.75, 0.9)]
    np.testing.assert_allclose(single, [2.2491, 3 * 2.2491, 9 * 2.2491], rtol=0.02)
    assert single == sorted(single)
    assert (np.abs(both) < 0.05 * np.array(single)).all()


@pytest.mark.parametrize("tau", [0.001, 0.1, 1.0])
def test_after_n_soft_updates_1_minus_1_minus_tau_to_the_n_has_arrived(tau):
    old, new = tf.constant([0.0], tf.float64), tf.constant([2.0], tf.float64)
    for _ in range(30):
        old = soft_update(old, new, tau)
    assert float(old[0]) == pytest.approx(2.0 * (1 - (1 - tau) ** 30), rel=1e-9)


def test_the_target_network_starts_as_the_online_one_and_lags_behind_it():
    agent = make("dqn", tau=0.25, gradient_steps=1, tables=False)
    learner = agent.learner
    learner.prepare(4 * 8)
    before = [weight.numpy() for weight in learner._online.network.weights]
    for lagging, online in zip(learner._target.network.weights, before, strict=True):
        np.testing.assert_array_equal(lagging, online)
    learner.update(block(4), SEED)
    for lagging, old, online in zip(
        learner._target.network.weights, before, learner._online.network.weights, strict=True
    ):
        np.testing.assert_allclose(lagging, 0.75 * old + 0.25 * online.numpy(), atol=1e-6)
        assert not np.array_equal(online, old) or not online.shape[-1]


def batch(**given) -> Batch:
    """Two steps that earned 1, after which all of three items are allowed."""
    plain = {
        "observation": tf.zeros([2, 1]), "action": tf.constant([0, 1]), "reward": tf.constant([1.0, 1.0]),
        "terminated": tf.constant([False, False]), "next_observation": tf.zeros([2, 1]),
        "next_mask": tf.ones([2, 3], tf.bool),
    }  # fmt: skip
    return Batch(**(plain | given))


ONLINE, TARGET = tf.constant([[3.0, 1.0, 2.0]] * 2), tf.constant([[10.0, 30.0, 20.0]] * 2)


def test_double_values_the_online_choice_and_plain_its_own():
    """Online prefers item 0, which the target network says is worth 10; its own best is worth 30."""
    np.testing.assert_allclose(td_targets(batch(), ONLINE, TARGET, 0.5, double=True), [6, 6])
    np.testing.assert_allclose(td_targets(batch(), ONLINE, TARGET, 0.5, double=False), [16, 16])


def test_termination_blocks_the_bootstrap():
    played = batch(terminated=tf.constant([True, False]))
    np.testing.assert_allclose(td_targets(played, ONLINE, TARGET, 0.5, double=True), [1, 6])


def test_items_already_shown_are_no_choice():
    played = batch(next_mask=tf.constant([[False, True, True], [False, True, False]]))
    np.testing.assert_allclose(td_targets(played, ONLINE, TARGET, 0.5, double=True), [11, 16])
    np.testing.assert_allclose(td_targets(played, ONLINE, TARGET, 0.5, double=False), [16, 16])


@pytest.mark.parametrize("double", [False, True])
def test_nothing_follows_where_every_item_was_shown(double):
    """The session is not over, but no item is left: the target is the reward, not the mean value of all items."""
    played = batch(next_mask=tf.constant([[False, False, False], [True, True, True]]))
    targets = td_targets(played, ONLINE, TARGET, 0.5, double=double).numpy()
    assert targets[0] == 1
    assert targets[1] > 1


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), double=st.booleans())
def test_targets_do_not_depend_on_the_values_of_masked_items(seed, double):
    rng = np.random.default_rng(seed)
    mask = rng.random((2, 3)) < 0.6
    mask[:, 1] = True
    played = batch(next_mask=tf.constant(mask))
    online, target, nonsense = rng.normal(size=(3, 2, 3)).astype(np.float32)
    changed = [tf.constant(np.where(mask, table, 1e3 * nonsense)) for table in (online, target)]
    expected = td_targets(played, tf.constant(online), tf.constant(target), 0.9, double)
    np.testing.assert_array_equal(td_targets(played, *changed, 0.9, double), expected)


def test_nothing_flows_back_through_the_target():
    online, target = tf.Variable(ONLINE), tf.Variable(TARGET)
    with tf.GradientTape() as tape:
        found = tf.reduce_sum(td_targets(batch(), online, target, 0.5, double=True))
    assert tape.gradient(found, [online, target]) == [None, None]


def test_huber_is_a_parabola_within_1_and_a_line_beyond():
    error = tf.Variable([0.0, 0.5, -0.5, 1.0, 3.0, -3.0])
    with tf.GradientTape() as tape:
        loss = huber(error)
        total = tf.reduce_sum(loss)
    np.testing.assert_allclose(loss, [0, 0.125, 0.125, 0.5, 2.5, 2.5])
    np.testing.assert_allclose(tape.gradient(total, error), [0, 0.5, -0.5, 1, 1, -1])


def test_the_dueling_form_ranks_as_the_rating_model_before_training():
    agent, seen = make("dqn", dueling=True), observations(ROWS)
    value = agent.learner.scores(tf.constant(seen), None).numpy()
    np.testing.assert_array_equal(value.argsort(axis=1), expected_ratings(seen).argsort(axis=1))
    np.testing.assert_allclose(value.mean(axis=1), 0, atol=1e-6)  # V starts at 0


def test_the_dueling_form_adds_the_states_value_to_centred_scores():
    agent, seen = make("dqn", dueling=True, tables=False), observations(ROWS)
    output = agent.learner._online.network(seen).numpy()
    expected = output[:, -1:] + output[:, :-1] - output[:, :-1].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(agent.learner.scores(tf.constant(seen), None), expected, atol=1e-5)


NEXT = np.array([[1, 2], [2, 0], [0, 2]])
"""A toy of three states and two actions: the state that each action leads to; action 0 in state 2 ends it."""
REWARD = np.array([[0.0, 1.0], [0.0, -1.0], [3.0, 0.5]])
GAMMA = 0.8


def solved() -> np.ndarray:
    """Q* [3, 2] by value iteration."""
    value = np.zeros((3, 2))
    for _ in range(200):
        value = REWARD + GAMMA * value.max(axis=1)[NEXT] * ~((np.arange(3)[:, np.newaxis] == 2) & (np.arange(2) == 0))
    return value


def toy_block() -> Experience:
    """Every pair once, [6, 1]; the observation is the state's unit vector."""
    state, action = (part.ravel() for part in np.indices((3, 2)))
    eye = np.eye(3, dtype=np.float32)
    ended = (state == 2) & (action == 0)
    everything = tf.ones([6, 1, 2], tf.bool)
    return Experience(
        observation=tf.constant(eye[state][:, np.newaxis]), mask=everything,
        action=tf.constant(action[:, np.newaxis], tf.int32), log_probability=tf.zeros([6, 1]),
        reward=tf.constant(REWARD[state, action][:, np.newaxis], tf.float32),
        terminated=tf.constant(ended[:, np.newaxis]), truncated=tf.zeros([6, 1], tf.bool),
        next_observation=tf.constant(eye[NEXT[state, action]][:, np.newaxis]), next_mask=everything,
    )  # fmt: skip


@pytest.mark.parametrize("double", [True, False])
def test_it_finds_the_values_of_value_iteration(double):
    config = DQNConfig(
        layers=(), head="plain", gamma=GAMMA, double=double, tau=0.2, learning_rate=0.02, max_grad_norm=0.0,
        gradient_steps=1000, batch_size=24, buffer_size=6,
    )  # fmt: skip
    agent = make_dqn(*small_specs(3, 2), config)
    agent.learner.prepare(6)
    tf.function(agent.learner.update, autograph=False)(toy_block(), SEED)
    found = agent.learner.scores(tf.eye(3), None).numpy()
    np.testing.assert_allclose(found, solved(), atol=0.05)
    np.testing.assert_array_equal(found.argmax(axis=1), solved().argmax(axis=1))


def test_a_cut_session_bootstraps_and_an_ended_one_does_not():
    """The same step, told as truncated or as terminated: only the first looks at what comes next."""
    nobody, everybody = np.zeros((4, 8), bool), np.ones((4, 8), bool)
    cut, ended = [], []
    for found, terminated in ((cut, nobody), (ended, everybody)):
        for scale in (1.0, 3.0):
            agent = make("dqn", tables=False, gradient_steps=1)
            agent.learner.prepare(4 * 8)
            played = block(4, terminated=terminated, truncated=~terminated)
            played = played._replace(next_observation=scale * played.next_observation)
            found.append(float(agent.learner.update(played, SEED)["target_mean"]))
    assert cut[0] != pytest.approx(cut[1], rel=1e-3)
    assert ended[0] == ended[1]


def marked(number: int) -> Experience:
    """A block whose rewards are its number."""
    return block(2, number, batch=3, reward=np.full((2, 3), number))


def test_the_ring_keeps_the_last_blocks():
    ring = Replay(3, 6, 16, ITEMS)
    for number in range(1, 6):
        ring.write(marked(number))
        rewards = set(ring.draw(200, tf.constant([number, 2])).reward.numpy().tolist())
        assert rewards == set(range(max(1, number - 2), number + 1))


def test_drawn_steps_are_whole():
    """All parts of a drawn step belong together."""
    ring, played = Replay(2, 6, 16, ITEMS), marked(1)
    ring.write(played)
    drawn = ring.draw(50, SEED)
    rows = tf.reshape(played.observation, [6, 16]).numpy()
    place = [int(np.flatnonzero((rows == one).all(axis=1))[0]) for one in drawn.observation.numpy()]
    assert len(set(place)) == 6
    for name in Batch._fields:
        whole = getattr(played, name).numpy()
        np.testing.assert_array_equal(getattr(drawn, name), whole.reshape(6, *whole.shape[2:])[place], err_msg=name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 1.5},
        {"tau": 0.0},
        {"exploration_initial_eps": 1.5},
        {"exploration_initial_eps": 0.01},
        {"exploration_decay": 0.0},
        {"exploration_temperature": 0.0},
        {"exploration_top_k": 0},
        {"batch_size": 0},
        {"temperature": 0.0},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="DQNConfig"):
        DQNConfig(**wrong)
