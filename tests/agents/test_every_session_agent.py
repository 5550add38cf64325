"""Every session agent passes the public contract; heads, observation encoders, trajectories and settings."""

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import BATCH, SETTINGS, arrays_of, block, environment, expected_ratings, make, observations
from tf_agents.trajectories import time_step as ts
from tf_agents.trajectories import trajectory

from recpolicy.agents import SESSION_AGENTS
from recpolicy.agents.sequence import SessionAgent, experience_from_trajectory
from recpolicy.core.errors import ConfigError
from recpolicy.core.tensorflow_random import uniform
from recpolicy.environments.observation_encoders import OBSERVATION_ENCODERS
from recpolicy.models.sequence_layout import SEQUENCE_VIEWS
from recpolicy.testing import SessionAgentContract
from recpolicy.testing.session_agents import drive
from recpolicy.testing.synthetic_sessions import ITEMS, STEPS
from recpolicy.training.session_loop import SessionLoop

NAMES = list(SESSION_AGENTS)
SEED = tf.constant([1, 1], tf.int32)


class TestEverySessionAgent(SessionAgentContract):
    """The public contract, with the items' tables where an agent takes them."""

    @pytest.fixture(scope="class", params=NAMES)
    @classmethod
    def make_agent(cls, request: pytest.FixtureRequest):
        return lambda seed: make(request.param, seed)

    def make(self, seed: int = 0) -> SessionAgent:
        return make("ppo", seed)

    def test_sessions_have_the_lengths_and_rewards_of_the_world(self, trained):
        for result in trained.results:
            assert 0 < result.reward_per_step < 1
            assert 0 < result.reward <= STEPS
            assert 1 <= result.length <= STEPS


@pytest.mark.parametrize("name", NAMES)
def test_before_training_it_ranks_as_the_rating_model(name):
    """Rank correlation 1, with everything allowed."""
    seen = observations(50)
    scores = make(name).learner.scores(tf.constant(seen), None).numpy()
    np.testing.assert_array_equal(scores.argsort(axis=1), expected_ratings(seen).argsort(axis=1))


def test_the_seed_fixes_compiled_sessions_however_many_blocks_a_call_has():
    def play(calls: tuple[int, ...]) -> dict[str, np.ndarray]:
        agent = make("a2c", 5)
        loop = SessionLoop(environment(5), agent)
        for blocks in calls:
            loop.run(blocks)
        return arrays_of(agent)

    unbroken = play((6,))
    for key, array in play((3, 3)).items():
        np.testing.assert_array_equal(unbroken[key], array)


@pytest.mark.parametrize("name", NAMES)
def test_the_plain_head_learns_too(name):
    settings = {} if name == "q_learning" else {"head": "plain"}
    agent = make(name, tables=name != "q_learning", **settings)
    before = arrays_of(agent)
    agent.learner.prepare(STEPS * BATCH)
    agent.learner.update(block(STEPS), SEED)
    after = arrays_of(agent)
    assert "table" not in after
    assert any(not np.array_equal(before[key], array) for key, array in after.items())


@pytest.mark.parametrize(
    ("name", "view"),
    [(name, view) for name in NAMES for view in OBSERVATION_ENCODERS
     if name != "q_learning" or view not in SEQUENCE_VIEWS],
)  # fmt: skip
def test_it_plays_with_every_view(name, view):
    agent, one = make(name, view=view), environment(view=view)
    features, mask = one.observe(one.restart(None, None, one.noise(tf.constant(0))))
    action, log_probability = agent.learner.sample_action(features, mask, uniform([BATCH], SEED))
    assert ((action.numpy() >= 0) & (action.numpy() < ITEMS)).all()
    assert (log_probability.numpy() <= 1e-6).all()
    assert agent.learner.value(features, mask).shape == (BATCH,)


@pytest.fixture(scope="module")
def played() -> trajectory.Trajectory:
    return drive(environment(), make("a2c"), 3 * STEPS)


def test_a_trajectory_becomes_the_steps_of_its_sessions(played):
    """Every step that is none (from a last to a first observation) is taken for the one beside it."""
    found = tf.nest.map_structure(lambda part: part.numpy(), experience_from_trajectory(played))
    steps = played.step_type.shape[1] - 1
    boundary = played.step_type.numpy() == ts.StepType.LAST
    assert 5 < boundary.sum() < 0.5 * boundary.size
    counted = 0
    for b in range(BATCH):
        for t in range(steps):
            at = t if not boundary[b, t] else (t - 1 if t else 1)
            now = tf.nest.map_structure(lambda part, b=b, at=at: part.numpy()[b, at], played)
            over = now.next_step_type == ts.StepType.LAST
            assert found.reward[t, b] == now.reward
            assert found.action[t, b] == now.action
            assert found.terminated[t, b] == (over and now.discount == 0)
            assert found.truncated[t, b] == (over and now.discount == 1)
            assert found.log_probability[t, b] == now.policy_info.log_probability
            np.testing.assert_array_equal(found.observation[t, b], now.observation["global"])
            np.testing.assert_array_equal(found.mask[t, b], now.observation["mask"] == 1)
            np.testing.assert_array_equal(found.next_observation[t, b], played.observation["global"].numpy()[b, at + 1])
            np.testing.assert_array_equal(found.next_mask[t, b], played.observation["mask"].numpy()[b, at + 1] == 1)
            counted += over
    assert counted > 10
    assert found.truncated.any()
    assert found.terminated.any()


def test_what_a_driver_hands_on_is_what_was_played(played):
    """Within a session the next observation is one item on; the item shown is masked then, and was not before."""
    found = tf.nest.map_structure(lambda part: part.numpy(), experience_from_trajectory(played))
    done, after = found.observation[..., -1], found.next_observation[..., -1]
    np.testing.assert_allclose(after - done, 1 / STEPS, atol=1e-5)
    shown = found.action[..., np.newaxis]
    assert np.take_along_axis(found.mask, shown, axis=-1).all()
    assert not np.take_along_axis(found.next_mask, shown, axis=-1).any()
    policy = make("a2c").learner
    seen, mask = (found.observation.reshape(-1, found.observation.shape[-1]), found.mask.reshape(-1, ITEMS))
    told = tf.nn.log_softmax(policy.scores(tf.constant(seen), tf.constant(mask))).numpy()
    expected = np.take_along_axis(told, found.action.reshape(-1, 1), axis=1)[:, 0]
    np.testing.assert_allclose(found.log_probability.ravel(), expected, atol=1e-4)


def test_example_weights_are_refused_rather_than_ignored(played):
    with pytest.raises(ValueError, match="weights"):
        make("a2c").train(played, weights=tf.ones(BATCH))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("setting", ["gamma", "learning_rate", "temperature"])
def test_an_impossible_setting_is_named(name, setting):
    if name == "q_learning" and setting == "learning_rate":
        setting = "alpha"
    with pytest.raises(ConfigError, match=setting):
        make(name, **{setting: -1.0})


def test_every_agent_has_settings_for_the_small_world():
    assert set(SETTINGS) == set(NAMES)
