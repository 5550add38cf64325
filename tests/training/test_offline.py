"""The compiled offline loop against ridge regression in closed form, and a negative control."""

import numpy as np
import pytest
import tensorflow as tf
from synthetic_choice import misleading_arms
from synthetic_world import planted
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts

from recpolicy.agents.learner import BanditAgent
from recpolicy.agents.linucb import LinUCBConfig, make_linucb
from recpolicy.agents.neural import EpsilonGreedyConfig, make_epsilon_greedy
from recpolicy.core.errors import DataError
from recpolicy.training.offline import learn_offline

ARMS, WIDTH, PRECISION = 6, 4, 2.0
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def specs() -> tuple[ts.TimeStep, tensor_spec.BoundedTensorSpec]:
    context = tensor_spec.TensorSpec((WIDTH,), tf.float32)
    return ts.time_step_spec(context), tensor_spec.BoundedTensorSpec((), tf.int32, 0, ARMS - 1)


def linucb() -> BanditAgent:
    return make_linucb(*specs(), LinUCBConfig(precision=PRECISION, alpha=0.0, bias=True))


def rows(number: int = 500, seed: int = 0) -> Rows:
    """Logged rounds of the planted world: contexts, random actions, ratings with noise."""
    one, rng = planted(known=0.0), np.random.default_rng(seed)
    user, action = rng.integers(0, len(one.user), number), rng.integers(0, ARMS, number)
    reward = one.world.expected[user, action] + rng.normal(0, 0.5, number)
    return one.user[user], action.astype(np.int32), reward.astype(np.float32)


def ridge(logged: Rows) -> np.ndarray:
    """theta [A, D + 1] of every arm in closed form."""
    context, action, reward = logged
    x = np.concatenate([context, np.ones((len(context), 1))], axis=1).astype(np.float64)
    thetas = []
    for arm in range(ARMS):
        mine = x[action == arm]
        thetas.append(np.linalg.solve(PRECISION * np.eye(WIDTH + 1) + mine.T @ mine, mine.T @ reward[action == arm]))
    return np.array(thetas)


def theta(agent: BanditAgent) -> np.ndarray:
    return agent.learner.export().arrays["theta"]


@pytest.mark.parametrize("batch", [64, 250])  # 500 rows: an incomplete last batch, and none
def test_one_epoch_of_linucb_is_ridge_regression_per_arm(batch):
    agent, logged = linucb(), rows()
    losses = learn_offline(agent, *logged, batch=batch)
    np.testing.assert_allclose(theta(agent), ridge(logged), atol=1e-3)
    assert len(losses) == agent.train_step_counter.numpy() == -(-500 // batch)


def test_the_seed_sets_the_order_and_the_order_does_not_matter_to_ridge():
    agents, losses = [linucb() for _ in range(2)], []
    for seed, agent in enumerate(agents):
        losses.append(learn_offline(agent, *rows(), batch=250, seed=seed))
    assert not np.array_equal(*losses)
    np.testing.assert_allclose(theta(agents[0]), theta(agents[1]), atol=1e-3)


def test_the_rows_of_an_incomplete_last_batch_count():
    """7 rows in batches of 5: the closed form of all 7, not of 5."""
    agent, logged = linucb(), rows(7)
    learn_offline(agent, *logged, batch=5)
    np.testing.assert_allclose(theta(agent), ridge(logged), atol=1e-4)


def test_a_batch_larger_than_the_table_is_the_table():
    agent, logged = linucb(), rows(7)
    assert len(learn_offline(agent, *logged, batch=256)) == 1
    np.testing.assert_allclose(theta(agent), ridge(logged), atol=1e-4)


def test_epochs_count_the_rows_again():
    agent, logged = linucb(), rows(60)
    losses = learn_offline(agent, *logged, epochs=2, batch=30)
    np.testing.assert_allclose(theta(agent), ridge(tuple(np.concatenate([part, part]) for part in logged)), atol=1e-3)
    assert len(losses) == 4


def test_a_network_learns_over_epochs():
    config = EpsilonGreedyConfig(layers=(8,), head="plain", learning_rate=0.02)
    losses = learn_offline(make_epsilon_greedy(*specs(), config, misleading_arms()), *rows(), epochs=20, batch=100)
    assert losses[-5:].mean() < 0.2 * losses[:5].mean()


def test_learning_from_shuffled_rewards_gives_nothing_better_than_chance():
    """The negative control. What a greedy policy is worth in truth, averaged over its 40 users and 30 shufflings.

    What the true rewards teach is nearly all there is to know; what shuffled ones teach is what random play is worth,
    within 4 standard errors of the shufflings.
    """
    one, logged = planted(known=0.0), rows(2000)
    truth = one.world.expected[:, :ARMS]

    def value(learnt: np.ndarray) -> float:
        x = np.concatenate([one.user, np.ones((len(one.user), 1))], axis=1)
        return float(np.take_along_axis(truth, (x @ learnt.T).argmax(axis=1)[:, np.newaxis], axis=1).mean())

    agent = linucb()
    learn_offline(agent, *logged, batch=500)
    assert value(theta(agent)) > truth.max(axis=1).mean() - 0.05
    rng, shuffled = np.random.default_rng(1), []
    for _ in range(30):
        rewards = rng.permutation(logged[2])
        shuffled.append(value(ridge((logged[0], logged[1], rewards))))
    control = linucb()
    learn_offline(control, logged[0], logged[1], rewards, batch=500)
    assert value(theta(control)) == pytest.approx(shuffled[-1], abs=0.02)
    assert abs(np.mean(shuffled) - truth.mean()) < 4 * np.std(shuffled, ddof=1) / np.sqrt(30)


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(DataError, match="no rows"):
        learn_offline(linucb(), *(part[:0] for part in rows()))
