"""What every agent of sessions keeps: specs, masks, true log-probabilities, seeds, learning, TF-Agents' own ways in."""

from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import BATCH, SETTINGS, arrays_of, block, environment, expected_ratings, make, observations, world
from synthetic_sessions import ITEMS, STEPS
from tf_agents.agents.tf_agent import TFAgent
from tf_agents.drivers.dynamic_step_driver import DynamicStepDriver
from tf_agents.policies.tf_policy import TFPolicy
from tf_agents.replay_buffers.tf_uniform_replay_buffer import TFUniformReplayBuffer
from tf_agents.trajectories import time_step as ts
from tf_agents.trajectories import trajectory

from recpolicy.agents import SESSION_AGENTS
from recpolicy.agents.sequence import SessionAgent, experience_from_trajectory
from recpolicy.core.errors import ConfigError
from recpolicy.core.tensorflow_random import fold_in, uniform
from recpolicy.environments.session import SessionConfig, SessionEnvironment
from recpolicy.training.session_loop import LoopMetrics, SessionLoop

NAMES = list(SESSION_AGENTS)
SEED = tf.constant([1, 1], tf.int32)
SESSIONS, BLOCKS, MANY = 64, 20, 20_000


class Watched(SessionEnvironment):
    """Pays a million less for an item that the session has been shown."""

    def transition(self, session, action, noise):
        step = super().transition(session, action, noise)
        again = tf.gather(session.user_state.shown, action, batch_dims=1)
        return step._replace(reward=step.reward - 1e6 * tf.cast(again, tf.float32))


@dataclass
class Trained:
    name: str
    agent: SessionAgent
    before: dict[str, np.ndarray]
    first: LoopMetrics
    later: LoopMetrics


@pytest.fixture(scope="module", params=NAMES)
def trained(request: pytest.FixtureRequest) -> Trained:
    """Two calls of a compiled loop."""
    planted, config = world(), SessionConfig(batch_size=SESSIONS, max_episode_steps=STEPS)
    watched = Watched(planted.world, planted.context, planted.embedding, np.arange(ITEMS, dtype=np.int32), config)
    agent = make(request.param)
    before, loop = arrays_of(agent), SessionLoop(watched, agent)
    return Trained(request.param, agent, before, loop.run(BLOCKS), loop.run(BLOCKS))


def observation(seed: int = 0, view: str = "interest") -> dict[str, tf.Tensor]:
    """Time step observations [B, ...] in the middle of sessions."""
    mask = np.random.default_rng([seed, 7]).integers(0, 2, (BATCH, ITEMS))
    mask[:, :3] = 1
    return {"global": tf.constant(observations(BATCH, seed, view)), "mask": tf.constant(mask, tf.int32)}


def logits(agent: SessionAgent, seed: int = 0) -> np.ndarray:
    seen = observation(seed)
    return agent.learner.logits(seen["global"], tf.cast(seen["mask"], tf.bool)).numpy()


def test_no_item_is_shown_twice_in_a_session_of_the_compiled_loop(trained):
    """One such step among the tens of thousands would make the mean reward negative."""
    for played in (trained.first, trained.later):
        assert 0 < played.reward_per_step < 1
        assert 0 < played.reward <= STEPS
        assert 1 <= played.length <= STEPS


def test_everything_is_finite_after_training(trained):
    for played in (trained.first, trained.later):
        assert set(played.figures) == set(trained.agent.learner.figures)
        assert np.isfinite(list(played.figures.values())).all()
    exported = trained.agent.learner.export()
    for name, array in exported.arrays.items():
        assert np.isfinite(array).all(), name
    assert np.isfinite(list(exported.settings.values())).all()
    assert np.isfinite(trained.agent.learner.value(observation()["global"], None)).all()


def test_learning_changes_the_policy(trained):
    after, fresh = arrays_of(trained.agent), make(trained.name)
    assert set(after) == set(trained.before)
    assert any(not np.array_equal(trained.before[name], array) for name, array in after.items())
    assert not np.allclose(logits(trained.agent), logits(fresh), atol=1e-3)
    assert int(trained.agent.train_step_counter.numpy()) == 2 * BLOCKS


@pytest.mark.parametrize("row", [0, 1])
def test_the_reported_log_probability_is_that_of_the_action(trained, row):
    """20,000 draws in one situation: shares within 4.5 standard errors, nothing masked."""
    seen = {key: tf.repeat(part[row : row + 1], MANY, axis=0) for key, part in observation().items()}
    step = trained.agent.collect_policy.action(ts.restart(seen, MANY), (), seed=tf.constant([row, 2], tf.int32))
    probability = tf.nn.softmax(logits(trained.agent)[row]).numpy()
    action = step.action.numpy()
    np.testing.assert_allclose(np.exp(step.info.log_probability), probability[action], rtol=1e-3)
    share = np.bincount(action, minlength=ITEMS) / MANY
    error = np.sqrt(probability * (1 - probability) / MANY)
    np.testing.assert_array_less(np.abs(share - probability), 4.5 * error + 1e-5)
    assert (seen["mask"].numpy()[0, action] == 1).all()
    distribution = trained.agent.collect_policy.distribution(ts.restart(observation(), BATCH)).action
    np.testing.assert_allclose(distribution.probs_parameter()[row], probability, atol=1e-5)


def test_the_greedy_policy_shows_a_item_of_the_highest_score(trained):
    seen = observation()
    step = trained.agent.policy.action(ts.restart(seen, BATCH))
    scores = trained.agent.learner.scores(seen["global"], tf.cast(seen["mask"], tf.bool)).numpy()
    np.testing.assert_array_equal(scores[np.arange(BATCH), step.action.numpy()], scores.max(axis=1))
    np.testing.assert_allclose(step.info.log_probability, 0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_policies_obey_their_specs(name):
    agent, seen = make(name), ts.restart(observation(), BATCH)
    assert isinstance(agent, TFAgent)
    for policy in (agent.policy, agent.collect_policy):
        assert isinstance(policy, TFPolicy)
        assert policy.action_spec == agent.action_spec
        step = policy.action(seen)
        tf.nest.assert_same_structure(step, policy.policy_step_spec)
        for part, spec in zip(tf.nest.flatten(step), tf.nest.flatten(policy.policy_step_spec), strict=True):
            assert (part.dtype, part.shape) == (spec.dtype, (BATCH, *spec.shape))


@pytest.mark.parametrize("name", NAMES)
def test_before_training_it_ranks_as_the_rating_model(name):
    """Rank correlation 1, with everything allowed."""
    seen = observations(50)
    scores = make(name).learner.scores(tf.constant(seen), None).numpy()
    np.testing.assert_array_equal(scores.argsort(axis=1), expected_ratings(seen).argsort(axis=1))


def eager_actions(name: str, seed: int, blocks: int = 3) -> list[list[int]]:
    """The actions of a few blocks of play and learning by the pure functions."""
    agent, played = make(name, seed, tables=False), []
    learner = agent.learner
    for number in range(blocks):
        experience = block(4, number)
        seen = tf.reshape(experience.observation, [4 * BATCH, -1])
        mask = tf.reshape(experience.mask, [4 * BATCH, -1])
        points = uniform([4 * BATCH], fold_in(agent.action_seed, number))
        action, log_probability = learner.sample_action(seen, mask, points)
        learner.prepare(4 * BATCH)
        learner.update(
            experience._replace(
                action=tf.reshape(action, [4, BATCH]), log_probability=tf.reshape(log_probability, [4, BATCH])
            ),
            fold_in(agent.learn_seed, number),
        )
        played.append(action.numpy().tolist())
    return played


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_fixes_what_it_does(name):
    reference = eager_actions(name, seed=3)
    assert eager_actions(name, seed=3) == reference
    assert eager_actions(name, seed=4) != reference


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
def test_what_would_follow_counts_after_a_cut_and_not_after_an_end(name):
    """Two blocks that differ in the next observations alone, once told as truncated and once as terminated."""
    nobody, everybody = np.zeros((STEPS, BATCH), bool), np.ones((STEPS, BATCH), bool)
    for terminated in (nobody, everybody):
        learnt = []
        for scale in (1.0, -2.0):
            agent = make(name, tables=False)
            agent.learner.prepare(STEPS * BATCH)
            for number in range(3):  # the first blocks give values that are not 0
                played = block(STEPS, number, terminated=terminated, truncated=~terminated)
                agent.learner.update(played._replace(next_observation=scale * played.next_observation), SEED)
            learnt.append(arrays_of(agent))
        same = all(np.allclose(learnt[0][key], array, atol=1e-6) for key, array in learnt[1].items())
        assert same == terminated.all()


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


@pytest.mark.parametrize("view", ["interest", "last_item", "last_n"])
@pytest.mark.parametrize("name", NAMES)
def test_it_plays_with_every_view(name, view):
    agent, one = make(name, view=view), environment(view=view)
    features, mask = one.observe(one.restart(None, None, one.noise(tf.constant(0))))
    action, log_probability = agent.learner.sample_action(features, mask, uniform([BATCH], SEED))
    assert ((action.numpy() >= 0) & (action.numpy() < ITEMS)).all()
    assert (log_probability.numpy() <= 1e-6).all()
    assert agent.learner.value(features, mask).shape == (BATCH,)


def driven(agent: SessionAgent, rounds: int, seed: int = 0) -> trajectory.Trajectory:
    """What a TF-Agents driver sees in `rounds` steps of every session, [B, rounds + 1 or more, ...]."""
    game = environment(seed)
    buffer = TFUniformReplayBuffer(agent.collect_data_spec, batch_size=BATCH, max_length=rounds + 1)
    driver = DynamicStepDriver(game, agent.collect_policy, observers=[buffer.add_batch], num_steps=rounds * BATCH)
    driver.run()
    return buffer.gather_all()


@pytest.fixture(scope="module")
def played() -> trajectory.Trajectory:
    return driven(make("a2c"), 3 * STEPS)


@pytest.mark.parametrize("name", NAMES)
def test_tf_agents_train_learns_from_a_drivers_trajectory(name, played):
    """As the learner itself does from the same experience."""
    public, own = make(name, tables=False), make(name, tables=False)
    before = arrays_of(public)
    loss = public.train(played)
    experience = experience_from_trajectory(played)
    own.learner.prepare(int(np.prod(experience.action.shape)))
    figures = own.learner.update(experience, fold_in(own.learn_seed, 0))
    assert float(loss.loss) == pytest.approx(float(figures["loss"]), rel=1e-4)
    assert set(loss.extra) == set(public.learner.figures)
    assert int(public.train_step_counter.numpy()) == 1
    after = arrays_of(own)
    for key, array in arrays_of(public).items():
        np.testing.assert_allclose(array, after[key], atol=1e-5)
    assert any(not np.array_equal(before[key], array) for key, array in after.items())


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
