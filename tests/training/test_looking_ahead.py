"""Whether looking ahead pays is a property of the world: it does where users tire, and does not where they do not.

Negative control: where nothing shown changes what comes after, greedy in the true odds of a like cannot be beaten, and
an agent that starts at those odds must stay as good as it. Positive control: where repeated genres end sessions, it
must be beaten. The policies know the true tastes, so that nothing but looking ahead can make a difference.
"""

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.agents import agent_entry
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.environments.session import SessionConfig, SessionEnvironment
from recpolicy.evaluation.sessions import SessionRunner, best, by_table
from recpolicy.testing import planted_sessions
from recpolicy.training.session_loop import SessionLoop

SESSIONS, STEPS = 6_000, 120_000
TIRING, LASTING = (9.0, 0.0), (0.0, 0.0)


def returns(agent_name: str, fatigue: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of the same 6,000 sessions: by greedy in the true odds, and by the trained agent."""
    planted = planted_sessions(
        3, items=30, genres=3, fatigue=fatigue, slope=0.0, known=0.0, like_history=(0.0, 0.0), stay=0.93
    )
    world, items = planted.world, np.arange(30, dtype=np.int32)
    # What the policy knows of users and items is the truth: like = offset + interest . direction, in log-odds.
    context = np.zeros((60, 4), np.float32)
    context[world.users] = world.interest
    offset = (world.like - world.interest @ world.direction.T).mean(axis=0)
    arms = ItemFeatures(world.direction, offset, np.ones(30, np.float32), offset, (1.0, 5.0), world.genres)

    def environment(sessions: int, seed: int) -> SessionEnvironment:
        config = SessionConfig(batch_size=sessions, max_episode_steps=8)
        return SessionEnvironment(world, context, world.direction, items, config, seed)

    training = environment(64, 0)
    entry = agent_entry(agent_name)
    config = entry.config(gamma=0.95, layers=(32,), temperature=0.3, learning_rate=0.003, ent_coef=0.003)
    agent = entry.make(training.time_step_spec(), training.action_spec(), config, arms, 0)
    loop = SessionLoop(training, agent)
    loop.run(-(-STEPS // loop.block_size))
    scores = tf.function(agent.learner.scores, jit_compile=True, autograph=False)

    def trained(_, observation, mask, rng):
        return best(scores(observation, mask).numpy(), mask, rng)

    runner = SessionRunner(environment(SESSIONS, 9))
    return runner.run(by_table(world.like)).reward, runner.run(trained).reward


@pytest.mark.parametrize("agent_name", ["ppo", "a2c"])
def test_it_ties_with_greedy_where_nothing_shown_matters_later(agent_name):
    greedy, trained = returns(agent_name, LASTING)
    gain = trained - greedy  # paired: the same users and the same luck
    assert abs(gain.mean()) <= 0.03 * greedy.mean()


@pytest.mark.parametrize("agent_name", ["ppo", "a2c"])
def test_it_beats_greedy_where_repeated_genres_end_sessions(agent_name):
    greedy, trained = returns(agent_name, TIRING)
    gain = trained - greedy
    assert gain.mean() > 3 * gain.std() / np.sqrt(SESSIONS)
    assert gain.mean() > 0.03 * greedy.mean()
