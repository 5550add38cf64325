"""The adapters keep Gymnasium's contract and play what SessionEnvironment plays."""

import importlib
import sys

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from recpolicy.core.errors import ConfigError, MissingExtraError
from recpolicy.environments.gymnasium_adapter import GymnasiumSession, GymnasiumSessions
from recpolicy.environments.session import SessionConfig, SessionEnvironment
from recpolicy.testing import planted_sessions
from recpolicy.testing.synthetic_sessions import ITEMS

BATCH = 16


def make(batch_size: int, *, world: dict | None = None, **config) -> SessionEnvironment:
    planted = planted_sessions(**(world or {}))
    settings = SessionConfig(**{"batch_size": batch_size, "max_episode_steps": 6, **config})
    items = np.arange(ITEMS, dtype=np.int32)
    return SessionEnvironment(planted.world, planted.context, planted.embedding, items, settings)


@pytest.fixture(scope="module")
def one() -> GymnasiumSession:
    return GymnasiumSession(make(1))


@pytest.fixture(scope="module")
def many() -> GymnasiumSessions:
    return GymnasiumSessions(make(BATCH))


def trace(env, seed: int | None, steps: int = 12) -> list[tuple]:
    """Features, reward and ends of some steps; sessions of a single environment restart by reset()."""
    features, info = env.reset(seed=seed)
    rows = [features.tolist()]
    for number in range(steps):
        mask = info["action_mask"]
        allowed = mask.argmax(axis=-1) if number % 3 else mask.shape[-1] - 1 - mask[..., ::-1].argmax(axis=-1)
        features, reward, terminated, truncated, info = env.step(allowed)
        rows.append((features.tolist(), np.asarray(reward).tolist(), np.asarray(terminated).tolist()))
        if env.spec is None and isinstance(env, GymnasiumSession) and (terminated or truncated):
            features, info = env.reset()
            rows.append(features.tolist())
    return rows


@pytest.mark.parametrize("view", ["interest", "last_item", "last_n", "gru"])
def test_gymnasium_has_nothing_to_say_against_it(view):
    """Its warnings are errors here; a session draws nothing to render."""
    check_env(GymnasiumSession(make(1, view=view)), skip_render_check=True)


@pytest.mark.parametrize("name", ["one", "many"])
def test_the_seed_of_reset_fixes_all_that_follows(name, request):
    env = request.getfixturevalue(name)
    first = trace(env, 5)
    assert trace(env, 5) == first
    assert trace(env, 6) != first
    assert trace(env, None) != first


def test_the_seed_fixes_what_a_new_environment_plays_too(many):
    assert trace(GymnasiumSessions(make(BATCH)), 5) == trace(many, 5)


@pytest.mark.parametrize("name", ["one", "many"])
def test_observations_stay_within_the_space(name, request):
    env = request.getfixturevalue(name)
    features, info = env.reset(seed=0)
    for _ in range(40):
        assert features in env.observation_space
        features, _, terminated, truncated, info = env.step(info["action_mask"].argmax(axis=-1))
        if name == "one" and (terminated or truncated):
            features, info = env.reset()


def test_masks_are_given_as_sb3_and_gymnasium_take_them(one):
    _, info = one.reset(seed=0)
    assert (info["action_mask"] == 1).all()
    *_, terminated, truncated, info = one.step(3)
    assert np.flatnonzero(info["action_mask"] == 0).tolist() == [3]
    assert one.action_space.sample(mask=info["action_mask"]) != 3
    assert terminated or truncated or np.flatnonzero(~one.action_masks()).tolist() == [3]


def certain(batch_size: int, stay: float, **config) -> SessionEnvironment:
    """Every item is liked; users stay with probability `stay`."""
    environment = make(batch_size, world={"stay": stay, "fatigue": (0.0, 0.0), "known": 0.0}, **config)
    environment.tables.like = tf.fill(environment.tables.like.shape, 30.0)
    return environment


STAYS, LEAVES = 1 - 1e-7, 1e-9


def test_a_repeated_item_earns_nothing_and_is_still_a_step():
    env = GymnasiumSession(certain(1, STAYS, max_episode_steps=3))
    env.reset(seed=0)
    told = [env.step(item)[1:4] for item in (4, 4, 5)]
    assert told == [(1.0, False, False), (0.0, False, False), (1.0, False, True)]


def test_a_repeated_item_is_told_in_info():
    env = GymnasiumSessions(certain(2, STAYS))
    env.reset(seed=0)
    env.step(np.array([4, 5]))
    *_, rewards, _, _, infos = env.step(np.array([4, 4]))
    assert infos["repeated"].tolist() == [True, False]
    assert rewards.tolist() == [0, 1]


@pytest.mark.parametrize(("stay", "ends"), [(STAYS, (False, True)), (LEAVES, (True, False))])
def test_leaving_terminates_and_the_limit_truncates(stay, ends):
    env = GymnasiumSession(certain(1, stay, max_episode_steps=1))
    env.reset(seed=0)
    assert env.step(0)[2:4] == ends
    many = GymnasiumSessions(certain(2, stay, max_episode_steps=1))
    many.reset(seed=0)
    assert [part.tolist() for part in many.step(np.array([0, 0]))[2:4]] == [[end, end] for end in ends]


def test_the_last_observation_is_that_of_the_session_that_ended():
    """One item shown of at most one: steps / S is 1, the mask lacks the item, the user is the same."""
    env = GymnasiumSession(certain(1, STAYS, max_episode_steps=1))
    first, _ = env.reset(seed=0)
    last, *_, info = env.step(7)
    assert last[-1] == 1
    np.testing.assert_array_equal(last[:5], first[:5])
    assert np.flatnonzero(info["action_mask"] == 0).tolist() == [7]


def test_sessions_that_end_restart_in_the_same_step():
    """The last features are in final_obs, the returned ones are those of fresh sessions."""
    env = GymnasiumSessions(certain(BATCH, 0.5))
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    before, _ = env.reset(seed=1)
    features, _, terminated, truncated, infos = env.step(np.zeros(BATCH, int))
    over = terminated | truncated
    assert 0 < over.sum() < BATCH
    np.testing.assert_array_equal(infos["_final_obs"], over)
    for row in range(BATCH):
        assert features[row, -1] == pytest.approx(0 if over[row] else 1 / 6)
        assert env.action_masks()[row].sum() == ITEMS - (not over[row])
        if over[row]:
            np.testing.assert_array_equal(infos["final_obs"][row][:5], before[row, :5])
            assert infos["final_obs"][row][-1] == pytest.approx(1 / 6)
        else:
            assert infos["final_obs"][row] is None


def test_no_final_observations_where_nothing_ends():
    env = GymnasiumSessions(certain(2, STAYS))
    env.reset(seed=0)
    assert "final_obs" not in env.step(np.array([0, 1]))[-1]


def test_spaces_of_many_are_those_of_one_stacked(one, many):
    assert many.single_observation_space == one.observation_space
    assert many.observation_space.shape == (BATCH, *one.observation_space.shape)
    assert many.single_action_space == one.action_space == gymnasium.spaces.Discrete(ITEMS)
    features, _ = many.reset(seed=0)
    assert (features.shape, features.dtype) == (many.observation_space.shape, np.float32)


def test_it_pays_what_the_environment_pays(many):
    """The adapter's rewards are those of the pure functions with the same seed and actions."""
    environment = make(BATCH)
    many.reset(seed=3)
    seed = tf.constant(gymnasium.utils.seeding.np_random(3)[0].integers(0, 2**31, 2), tf.int32)
    session = environment.restart(None, None, environment.noise(tf.constant(0), seed=seed))
    for number in range(1, 6):
        action = np.full(BATCH, number)
        noise = environment.noise(tf.constant(number), seed=seed)
        step = environment.transition(session, tf.constant(action, tf.int32), noise)
        _, rewards, terminated, truncated, _ = many.step(action)
        np.testing.assert_array_equal(rewards, step.reward)
        np.testing.assert_array_equal(terminated, step.terminated)
        np.testing.assert_array_equal(truncated, step.truncated)
        session = environment.restart(step.session, step.terminated | step.truncated, noise)


def test_a_step_needs_a_reset_before_it():
    env = GymnasiumSession(certain(1, LEAVES))
    with pytest.raises(ResetNeeded, match="before reset"):
        env.step(0)
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(ResetNeeded, match="has ended"):
        env.step(1)


def test_one_session_needs_a_batch_of_one():
    with pytest.raises(ConfigError, match="batch_size 2: use batch_size 1 or GymnasiumSessions"):
        GymnasiumSession(make(2))


def test_without_gymnasium_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "recpolicy.environments.gymnasium_adapter")
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'recpolicy\[gymnasium\]'"):
        importlib.import_module("recpolicy.environments.gymnasium_adapter")
