"""Learning from logged rounds: whoever chose them, what is learnt given the context is right."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from synthetic_choice import misleading_arms
from synthetic_world import RANK, USERS, planted
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts

from recpolicy.agents import AGENTS
from recpolicy.agents.learner import BanditAgent
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log import BanditLog, ColdStartUsers
from recpolicy.training.offline import learn_from_log, learn_offline

ACTION_ITEMS = np.array([0, 2, 3, 5, 8, 11], np.int32)
ARMS, PRECISION = len(ACTION_ITEMS), 2.0
NETWORK = {"layers": (8,), "head": "plain", "learning_rate": 0.02}


def specs() -> tuple[ts.TimeStep, tensor_spec.BoundedTensorSpec]:
    context = tensor_spec.TensorSpec((RANK,), tf.float32)
    return ts.time_step_spec(context), tensor_spec.BoundedTensorSpec((), tf.int32, 0, ARMS - 1)


def make(name: str, arms=None, **settings) -> BanditAgent:
    entry = AGENTS[name]
    return entry.make(*specs(), entry.config(**settings), arms)


def linucb() -> BanditAgent:
    return make("linucb", precision=PRECISION, alpha=0.0)


def logged(number: int = 600, seed: int = 0, action_items: np.ndarray = ACTION_ITEMS) -> BanditLog:
    """Rounds of the planted world; the logger shows an item the more, the more the user will like it."""
    one, rng = planted(known=0.0), np.random.default_rng(seed)
    expected = one.world.expected[:, action_items].astype(np.float64)
    probability = np.exp(2 * expected)
    probability /= probability.sum(axis=1, keepdims=True)
    user = rng.integers(0, USERS, number).astype(np.int32)
    arm = (probability[user].cumsum(axis=1) < rng.random((number, 1))).sum(axis=1).clip(max=len(action_items) - 1)
    reward = np.clip(expected[user, arm] + rng.normal(0, 0.5, number), 1, 5)
    return BanditLog(
        event_id=np.arange(number).astype(str).astype(object),
        time=np.arange(number),
        user=user,
        item=action_items[arm],
        log_propensity=np.log(probability[user, arm]),
        reward=reward,
        action_items=action_items,
        scale=(1.0, 5.0),
        name="planted log",
        policy=np.full(number, "x", object),
        version=np.full(number, "1", object),
    )


def with_newcomers(log: BanditLog) -> tuple[BanditLog, np.ndarray]:
    """The same rounds where every third is of a newcomer, whose vector is the user's own row; and which those are."""
    new = np.arange(len(log)) % 3 == 0
    vectors = np.where(new[:, None], context()[log.user], np.nan).astype(np.float32)
    user = np.where(new, USERS + log.user, log.user).astype(np.int32)
    ids = np.array([f"new-{row}" for row in range(USERS)], object)
    return replace(log, user=user, context=vectors, cold_start_users=ColdStartUsers(USERS, ids)), new


def context() -> np.ndarray:
    return planted(known=0.0).user


def state(agent: BanditAgent) -> dict[str, np.ndarray]:
    return agent.learner.export().arrays


def assert_same_state(one: BanditAgent, other: BanditAgent, **tolerance) -> None:
    for name, array in state(one).items():
        np.testing.assert_allclose(state(other)[name], array, err_msg=name, **tolerance)


def ridge(log: BanditLog) -> np.ndarray:
    """theta [A, D + 1] of every arm in closed form, in float64."""
    x = np.concatenate([context()[log.user], np.ones((len(log), 1))], axis=1).astype(np.float64)
    thetas = []
    for item in ACTION_ITEMS:
        mine = x[log.item == item]
        gram = PRECISION * np.eye(RANK + 1) + mine.T @ mine
        thetas.append(np.linalg.solve(gram, mine.T @ log.reward[log.item == item]))
    return np.array(thetas)


def test_linucb_from_a_log_is_ridge_regression_by_hand():
    agent, log = linucb(), logged()
    figures = learn_from_log(agent, log, context(), ACTION_ITEMS)
    np.testing.assert_allclose(state(agent)["theta"], ridge(log), atol=1e-4)
    assert np.ptp(np.bincount(log.arm())) > 20  # the logger had its favourites
    assert figures["mode"] == "log"
    assert (figures["rows"], figures["epochs"]) == (600, 1)
    assert 0 < figures["last_loss"] < 2


@pytest.mark.parametrize(
    ("name", "settings", "tolerance"),
    [
        ("eps_greedy", NETWORK, 0.0),
        ("linucb", {"forgetting": 0.99}, 0.0),
        # From sums in float64, against steps in float32.
        ("linucb", {}, 1e-4),
        ("lints", {"bias": False, "precision": PRECISION}, 1e-4),
    ],
)
def test_it_is_learning_the_same_rows_offline(name, settings, tolerance):
    from_log, offline, log = make(name, **settings), make(name, **settings), logged()
    learn_from_log(from_log, log, context(), ACTION_ITEMS, epochs=2, seed=5)
    arm = np.array([ACTION_ITEMS.tolist().index(item) for item in log.item], np.int32)
    learn_offline(offline, context()[log.user], arm, log.reward.astype(np.float32), epochs=2, seed=5)
    assert_same_state(from_log, offline, rtol=0, atol=tolerance)


def test_two_halves_one_after_the_other_are_the_whole_for_linucb():
    whole, halves, log = linucb(), linucb(), logged()
    learn_from_log(whole, log, context(), ACTION_ITEMS, seed=1)
    for part in (log.take(300, 600, "second"), log.take(0, 300, "first")):
        learn_from_log(halves, part, context(), ACTION_ITEMS, seed=2)
    assert_same_state(halves, whole, atol=2e-4)


def test_a_network_learns_from_a_log_and_the_same_seed_gives_the_same_numbers():
    def learnt(epochs: int, seed: int) -> tuple[BanditAgent, float]:
        agent = make("eps_greedy", misleading_arms(), **NETWORK)
        return agent, learn_from_log(agent, logged(), context(), ACTION_ITEMS, epochs=epochs, seed=seed)["last_loss"]

    (one, loss), (again, loss_again), (other, _) = learnt(30, 0), learnt(30, 0), learnt(30, 1)
    assert loss < 0.3 * learnt(1, 0)[1]
    assert loss == loss_again
    assert_same_state(one, again, rtol=0, atol=0)
    assert any((state(one)[name] != array).any() for name, array in state(other).items())


def test_given_the_context_the_loggers_choices_do_no_harm_and_without_it_they_do():
    """Half of the users love arm 0 and see it nearly always; the others see it rarely, and hate it.

    Arm 0 is worth 3 on average, arm 1 is worth 3.5 to everybody. The mean of what was logged says 4.8 for arm 0: an
    agent that knows no context would show it to all, which is why it is refused; LinUCB is right about both groups.
    """
    rng, number = np.random.default_rng(0), 4_000
    user = np.arange(number, dtype=np.int32) % 2
    first = np.where(user == 0, 0.9, 0.05)  # [N], probability of arm 0
    arm = (rng.random(number) > first).astype(np.int32)
    reward = np.where(arm == 1, 3.5, np.where(user == 0, 5.0, 1.0))
    log = BanditLog(
        event_id=np.arange(number).astype(str).astype(object),
        time=np.arange(number),
        user=user,
        item=ACTION_ITEMS[arm],
        log_propensity=np.log(np.where(arm == 0, first, 1 - first)),
        reward=reward,
        action_items=ACTION_ITEMS,
        scale=(1.0, 5.0),
        name="skewed",
        policy=np.full(number, "x", object),
        version=np.full(number, "1", object),
    )
    groups = np.eye(2, RANK, dtype=np.float32)
    agent, blind, weighing = linucb(), make("ucb1"), make("ucb1")
    learn_from_log(agent, log, groups, ACTION_ITEMS)
    learnt = np.concatenate([groups, np.ones((2, 1))], axis=1) @ state(agent)["theta"].T
    np.testing.assert_allclose(learnt[:, :2], [[5.0, 3.5], [1.0, 3.5]], atol=0.1)
    learn_offline(blind, groups[user], arm, reward.astype(np.float32))  # what a log would do to it
    assert state(blind)["mean"][0] > 4.7 > 3.6 > state(blind)["mean"][1]
    figures = learn_from_log(weighing, log, groups, ACTION_ITEMS)
    np.testing.assert_allclose(state(weighing)["mean"][:2], [3.0, 3.5], atol=0.4)  # standard error .13, of some 500
    assert state(weighing)["score"].argmax() >= 2  # what the log never showed is worth a try
    spread = ((reward - state(weighing)["mean"][arm]) ** 2).mean()
    assert figures["last_loss"] == pytest.approx(spread, rel=1e-5)


def test_ucb1_goes_on_from_what_it_knows():
    """Two plays of arm 0 that paid 1; the log says 3, and 4 effective rounds: (2 * 1 + 4 * 3) / 6."""
    log = logged(4)
    log = replace(log, item=ACTION_ITEMS[[0] * 4], reward=np.full(4, 3.0), log_propensity=np.full(4, np.log(0.5)))
    agent = make("ucb1")
    agent.learner.arms.include(np.eye(1, ARMS)[0] * 2, np.ones(ARMS))
    learn_from_log(agent, log, context(), ACTION_ITEMS)
    np.testing.assert_allclose(state(agent)["mean"][0], 14 / 6, rtol=1e-6)
    np.testing.assert_allclose(state(agent)["width"][0], 6**-0.5, rtol=1e-6)
    assert int(agent.train_step_counter.numpy()) == 1


def test_who_learns_from_its_own_choices_only_is_refused_and_no_other_is():
    arms = misleading_arms()
    refused = {name for name in AGENTS if not make(name, arms).learner.learns_from_logs}
    assert refused == {"exp3"}
    with pytest.raises(ConfigError, match=r"^exp3 cannot learn from a log: .* use an agent with context \(linucb\)$"):
        learn_from_log(make("exp3"), logged(), context(), ACTION_ITEMS)


def test_a_baseline_learns_nothing_but_its_error_is_measured():
    agent, arms = make("rating_model", misleading_arms()), misleading_arms()
    log = logged(200)
    figures = learn_from_log(agent, log, context(), ACTION_ITEMS)
    guess = arms.offset[log.arm()] + (context()[log.user] * arms.embedding[log.arm()]).sum(axis=1)
    assert figures["last_loss"] == pytest.approx(((log.reward - guess) ** 2).mean(), rel=1e-4)
    assert state(agent) == {}


def test_a_log_of_other_items_is_refused_before_anything_is_learnt():
    log = logged(100, action_items=np.array([0, 2, 3, 5, 8, 9], np.int32))
    strange = int((log.item == 9).sum())
    agent = linucb()
    with pytest.raises(DataError, match=f"planted log: {strange} of 100 rounds show items that are not among the 6"):
        learn_from_log(agent, log, context(), ACTION_ITEMS)
    assert int(agent.train_step_counter.numpy()) == 0


def test_a_log_with_fewer_items_is_learnt_from():
    agent, log = linucb(), logged(100, action_items=ACTION_ITEMS[[1, 4]])
    learn_from_log(agent, log, context(), ACTION_ITEMS)
    np.testing.assert_allclose(state(agent)["theta"], ridge(log), atol=1e-4)
    assert not state(agent)["theta"][[0, 2, 3, 5]].any()


def test_an_empty_log_is_refused():
    with pytest.raises(DataError, match="planted log: no rounds to learn from"):
        learn_from_log(linucb(), logged().take(0, 0, "planted log"), context(), ACTION_ITEMS)


VECTORS = [
    ("linucb", {}), ("lints", {"bias": False}), ("linucb", {"forgetting": 0.99}), ("eps_greedy", NETWORK), ("ucb1", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), VECTORS)
def test_what_is_learnt_by_vectors_is_what_is_learnt_by_reference(name, settings):
    (one, other), log = (make(name, **settings) for _ in range(2)), logged()
    figures = learn_from_log(one, log, context(), ACTION_ITEMS)
    again = learn_from_log(other, with_newcomers(log)[0], context(), ACTION_ITEMS)
    assert_same_state(one, other, rtol=1e-5, atol=1e-7)
    assert again["last_loss"] == pytest.approx(figures["last_loss"], rel=1e-5)


@pytest.mark.parametrize(("name", "settings"), VECTORS[:3])
def test_another_vector_teaches_something_else(name, settings):
    (one, other), (log, _) = (make(name, **settings) for _ in range(2)), with_newcomers(logged())
    learn_from_log(one, log, context(), ACTION_ITEMS)
    learn_from_log(other, replace(log, context=-log.context), context(), ACTION_ITEMS)
    with pytest.raises(AssertionError):
        assert_same_state(one, other, rtol=0, atol=1e-2)


def test_linucb_from_vectors_is_ridge_regression_on_them_by_hand():
    """A user whom the table knows, and whose features were other ones at the time, included."""
    log, new = with_newcomers(logged())
    rng = np.random.default_rng(6)
    log = replace(log, context=(log.context * rng.uniform(0.5, 2, log.context.shape)).astype(np.float32))
    log = replace(log, user=np.where(new & (np.arange(len(log)) % 2 == 0), log.user % USERS, log.user).astype(np.int32))
    x = np.where(new[:, None], log.context, context()[log.user % USERS]).astype(np.float64)
    x = np.concatenate([x, np.ones((len(log), 1))], axis=1)
    agent = linucb()
    learn_from_log(agent, log, context(), ACTION_ITEMS)
    for arm, item in enumerate(ACTION_ITEMS):
        mine = log.item == item
        gram = PRECISION * np.eye(RANK + 1) + x[mine].T @ x[mine]
        theta = np.linalg.solve(gram, x[mine].T @ log.reward[mine])
        np.testing.assert_allclose(state(agent)["theta"][arm], theta, atol=1e-4)


@pytest.mark.parametrize("name", ["linucb", "ucb1"])
def test_vectors_of_another_length_are_refused_before_anything_is_learnt(name):
    log, agent = with_newcomers(logged())[0], make(name)
    narrow = replace(log, context=np.ascontiguousarray(log.context[:, :2]))
    with pytest.raises(DataError, match=f"planted log: contexts of 2 numbers, but the policy's have {RANK}; use a"):
        learn_from_log(agent, narrow, context(), ACTION_ITEMS)
    assert int(agent.train_step_counter.numpy()) == 0
