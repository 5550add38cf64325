"""Every training stops when its numbers are not finite or absurd, and keeps its last good checkpoint."""

import numpy as np
import pytest
import tensorflow as tf
from synthetic_session_logs import eagerly

from recpolicy.agents import AGENTS, BASELINES, SESSION_AGENTS
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.core.errors import DivergedError
from recpolicy.core.metrics import read_csv
from recpolicy.environments.item_bandit import ItemBandit, ItemBanditConfig
from recpolicy.environments.session import SessionConfig, SessionEnvironment
from recpolicy.models.world import World
from recpolicy.testing import planted_sessions
from recpolicy.testing.synthetic_sessions import ITEMS, STEPS
from recpolicy.training.divergence import check_squared_error, implausible_variable
from recpolicy.training.offline import learn_offline
from recpolicy.training.session_trainer import SessionRunConfig, train_in_sessions
from recpolicy.training.trainer import OnlineConfig, train_online

USERS, ARMS, RANK, BATCH = 6, 4, 3, 4
SMALL = {"layers": (4,)}
BANDITS = {
    "eps_greedy": SMALL,
    "boltzmann": SMALL,
    "neural_linucb": SMALL | {"encoding_dim": 2, "encoder_batches": 3},
}
"""Small networks; neural_linucb changes to its linear phase within the run."""
SESSIONS = {
    "ppo": SMALL | {"n_steps": 2, "n_epochs": 1, "minibatch_size": 8},
    "a2c": SMALL | {"n_steps": 2},
    "dqn": SMALL | {"batch_size": 4, "gradient_steps": 1, "buffer_size": 64, "train_freq": 2},
    "q_learning": {"train_freq": 2},
    "reinforce": SMALL,
    "topk_reinforce": SMALL | {"n_epochs": 1},
    "offpolicy_actor_critic": SMALL,
    "behavior_cloning": SMALL,
}


class SpoiltBandit(ItemBandit):
    """A bandit whose rewards are multiplied by `factor` from round 4 on."""

    factor = 1.0

    def reward(self, draw, action, round_number):
        paid = super().reward(draw, action, round_number)
        return tf.where(round_number >= 4, self.factor, 1.0) * paid


def bandit(name, factor=1.0):
    """A spoilt environment and a small agent that knows its items."""
    rng = np.random.default_rng(0)
    user, item = (rng.normal(size=(rows, RANK)).astype(np.float32) for rows in (USERS, ARMS))
    offset = np.full(ARMS, 3, np.float32)
    expected = np.clip(user @ item.T + offset, 1, 5)
    world = World(expected, np.zeros(expected.shape, bool), (1.0, 5.0), "planted")
    environment = SpoiltBandit(world, user, np.arange(ARMS, dtype=np.int32), ItemBanditConfig(batch_size=BATCH))
    environment.factor = factor
    tables, entry = ItemFeatures(item, offset, np.ones(ARMS, np.float32), offset, (1.0, 5.0)), AGENTS[name]
    specs = environment.time_step_spec(), environment.action_spec()
    return environment, entry.make(*specs, entry.config(**BANDITS.get(name, {})), tables, 1)


def run(environment, agent, folder):
    """One round a row, and a checkpoint after every row: without XLA, an action from NaN is an error of its own."""
    config = OnlineConfig(total_timesteps=6 * BATCH, log_rows=6, checkpoint_every_steps=1)
    with eagerly():
        train_online(environment, agent, config, folder, show_progress=False)


@pytest.mark.parametrize("factor", [np.nan, 1e30])
@pytest.mark.parametrize("name", AGENTS)
def test_a_world_that_pays_absurd_rewards_stops_every_bandit(tmp_path, name, factor):
    said = rf"diverged before step {5 * BATCH}: .*; the checkpoint of step {4 * BATCH} in .* is kept\. A smaller"
    with pytest.raises(DivergedError, match=said):
        run(*bandit(name, factor), tmp_path)
    rows = read_csv(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == [BATCH * row for row in (1, 2, 3, 4)]
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    environment, agent = bandit(name)
    run(environment, agent, tmp_path)  # continues from the last good checkpoint
    assert not implausible_variable(agent.learner)
    assert int(environment.round.numpy()) == 6


@pytest.mark.parametrize("name", ["eps_greedy", "boltzmann", "neural_linucb"])
def test_steps_far_too_large_stop_a_network(tmp_path, name):
    environment, agent = bandit(name)
    agent.learner._optimizer.learning_rate.assign(1e30)
    with pytest.raises(DivergedError, match=r"diverged before step \d+: .* A smaller learning_rate"):
        run(environment, agent, tmp_path)


@pytest.mark.parametrize("name", sorted(set(AGENTS) - set(BASELINES)))
def test_ruined_variables_are_never_kept_although_the_row_is_finite(tmp_path, monkeypatch, name):
    environment, agent = bandit(name)
    ruined = next(variable for variable in agent.learner.variables if variable.dtype.is_floating)
    update = agent.learner.update

    def update_then_ruin(observation, action, reward):
        loss = update(observation, action, reward)
        ruined.assign(tf.fill(ruined.shape, tf.cast(1e20, ruined.dtype)))
        return tf.zeros_like(loss)

    monkeypatch.setattr(agent.learner, "update", update_then_ruin)
    with pytest.raises(DivergedError, match=r"holds (absurd numbers|numbers that are not finite).* no checkpoint"):
        run(environment, agent, tmp_path)
    assert not list((tmp_path / "checkpoints").glob("*.index"))


@pytest.mark.parametrize("reward", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("name", sorted(set(AGENTS) - {*BASELINES, "exp3"}))
def test_learning_from_a_table_of_absurd_rewards_stops(name, reward):
    _, agent = bandit(name)
    rng = np.random.default_rng(1)
    context, action = rng.normal(size=(12, RANK)).astype(np.float32), rng.integers(0, ARMS, 12).astype(np.int32)
    rewards = np.full(12, 3.0, np.float32)
    with eagerly():
        learn_offline(agent, context, action, rewards, batch=4)
        rewards[5] = reward
        with pytest.raises(DivergedError, match=r"training from 12 rows diverged: .*; no policy is written"):
            learn_offline(agent, context, action, rewards, batch=4)


@pytest.mark.parametrize("factor", [np.nan, 1e30])
@pytest.mark.parametrize("name", SESSION_AGENTS)
def test_a_world_that_pays_absurd_rewards_stops_every_session_agent(tmp_path, name, factor):
    planted, entry = planted_sessions(), SESSION_AGENTS[name]
    settings = SessionConfig(batch_size=4, max_episode_steps=STEPS)
    items = np.arange(ITEMS, dtype=np.int32)
    environment = SessionEnvironment(planted.world, planted.context, planted.embedding, items, settings, seed=2)
    transition = environment.transition

    def spoilt(session, action, noise):
        step = transition(session, action, noise)
        return step._replace(reward=step.reward * factor)

    environment.transition = spoilt
    level = np.full(ITEMS, 3, np.float32)
    arms = ItemFeatures(planted.embedding, level, level, level, (1.0, 5.0), planted.world.genres)
    agent = entry.make(environment.time_step_spec(), environment.action_spec(), entry.config(**SESSIONS[name]), arms, 1)
    with eagerly(), pytest.raises(DivergedError, match=r"diverged before step \d+: .* no checkpoint was made yet"):
        train_in_sessions(environment, agent, SessionRunConfig(total_timesteps=64, log_rows=64), tmp_path, False)


@pytest.mark.parametrize(
    ("error", "reward", "fault"),
    [
        (16.0, 3.0, ""),
        (9e6, 3.0, ""),
        (9.1e6, 3.0, "absurd for rewards of about 3"),
        (1.1e6, 0.0, "absurd"),
        (np.nan, 3.0, "nan"),
        (np.inf, 3.0, "inf"),
        (1.0, np.nan, "nan"),
    ],
)
def test_an_error_is_absurd_if_it_is_a_thousand_times_the_reward(error, reward, fault):
    found = check_squared_error(error, reward)
    assert fault in found
    assert bool(found) == bool(fault)
