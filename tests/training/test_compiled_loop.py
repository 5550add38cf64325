"""The compiled online loop, with LinUCB on a world that is linear in what the policy sees."""

import numpy as np
import pytest
from synthetic_world import ITEMS, RANK, planted

from recpolicy.agents.baselines import BaselineConfig, make_random
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent
from recpolicy.agents.linucb import LinUCBConfig, make_linucb
from recpolicy.environments.item_bandit import ItemBandit, ItemBanditConfig
from recpolicy.training.compiled_loop import OnlineLoop, Rounds

ACTION_ITEMS = np.arange(6, dtype=np.int32)
LONG = 400


def world(seed: int = 0) -> ItemBandit:
    one = planted(known=0.0)
    return ItemBandit(one.world, one.user, ACTION_ITEMS, ItemBanditConfig(batch_size=8), seed)


def table() -> ItemFeatures:
    """All arms alike."""
    ones = np.ones(len(ACTION_ITEMS), np.float32)
    return ItemFeatures(np.zeros((len(ACTION_ITEMS), RANK), np.float32), 4 * ones, ones, ones, (1.0, 5.0))


def linucb(environment: ItemBandit, seed: int = 0) -> BanditAgent:
    """It starts at 4 for every arm, above most of what they pay, so that every arm is tried."""
    config = LinUCBConfig(alpha=1.0, precision=1.0)
    return make_linucb(environment.time_step_spec(), environment.action_spec(), config, table(), seed)


def state(agent: BanditAgent) -> dict[str, np.ndarray]:
    return agent.learner.export().arrays


@pytest.fixture(scope="module")
def played() -> tuple[BanditAgent, ItemBandit, Rounds]:
    """LONG rounds in one call."""
    environment = world()
    agent = linucb(environment)
    return agent, environment, OnlineLoop(environment, agent).run(LONG)


def random_loop() -> OnlineLoop:
    environment = world()
    agent = make_random(environment.time_step_spec(), environment.action_spec(), BaselineConfig(), table())
    return OnlineLoop(environment, agent, learns=False)


@pytest.fixture(scope="module")
def uniform() -> Rounds:
    return random_loop().run(LONG)


def test_two_halves_are_the_whole_to_the_last_bit(played):
    environment = world()
    agent = linucb(environment)
    loop = OnlineLoop(environment, agent)
    halves = [loop.run(LONG // 2) for _ in range(2)]
    whole_agent, whole_environment, whole = played
    for name in ("reward", "regret", "suboptimal", "loss"):
        np.testing.assert_array_equal(np.concatenate([getattr(half, name) for half in halves]), getattr(whole, name))
    np.testing.assert_array_equal(halves[0].pulls + halves[1].pulls, whole.pulls)
    for key, array in state(whole_agent).items():
        np.testing.assert_array_equal(state(agent)[key], array)
    assert environment.round.numpy() == whole_environment.round.numpy() == LONG
    assert agent.train_step_counter.numpy() == whole_agent.train_step_counter.numpy() == LONG


def test_chance_goes_on_where_the_first_half_ended(uniform):
    loop = random_loop()
    halves = [loop.run(LONG // 2) for _ in range(2)]
    np.testing.assert_array_equal(halves[0].pulls + halves[1].pulls, uniform.pulls)
    np.testing.assert_array_equal(np.concatenate([half.reward for half in halves]), uniform.reward)


def test_figures_are_what_they_say(played):
    _, environment, rounds = played
    assert rounds.pulls.sum() == LONG * environment.batch_size
    assert all(len(part) == LONG for part in rounds[:4])
    assert rounds.reward.min() >= 1
    assert rounds.reward.max() <= 5
    assert (rounds.regret >= 0).all()
    # A share of 8 interactions; no regret means nothing sub-optimal, and the other way round.
    np.testing.assert_array_equal(rounds.suboptimal * 8, np.rint(rounds.suboptimal * 8))
    np.testing.assert_array_equal(rounds.suboptimal == 0, rounds.regret == 0)


def test_greedy_choices_explore_nothing_and_uniform_ones_five_times_of_six():
    """Of 6 arms with different estimates, a uniform draw is the best one in a sixth of the interactions."""
    environment = world()
    config = LinUCBConfig(alpha=0.0, precision=1.0)
    greedy = make_linucb(environment.time_step_spec(), environment.action_spec(), config, table(), 0)
    assert OnlineLoop(environment, greedy).run(50).explored.max() == 0
    greedy.uniform_mix = 1.0
    rounds = OnlineLoop(environment, greedy).run(LONG)
    share, draws = rounds.explored.mean(), LONG * environment.batch_size
    assert abs(share - 5 / 6) < 4 * np.sqrt(5 / 36 / draws)


def test_the_width_is_that_of_the_chosen_arms_before_the_update():
    """At the start P = I / precision, so each arm's width is the length of the context with the constant 1."""
    environment = world()
    draw = environment.sample_round(environment.round.read_value())
    context = environment.observation(draw).numpy()
    rounds = OnlineLoop(environment, linucb(environment)).run(30)
    np.testing.assert_allclose(rounds.width[0], np.sqrt((context**2).sum(axis=1) + 1).mean(), rtol=1e-5)
    assert rounds.width[-1] < rounds.width[0]


def test_the_first_loss_is_that_of_the_untrained_agent(played):
    """Its prior mean is 4, so the loss of the first round is at least the square of 4 minus the mean reward."""
    environment = world()
    agent = linucb(environment)
    untouched = OnlineLoop(environment, agent, learns=False).run(1)
    rounds = played[2]
    assert rounds.reward[0] == untouched.reward[0]
    assert rounds.loss[0] >= (4 - rounds.reward[0]) ** 2
    assert untouched.loss[0] == 0


def test_an_agent_that_does_not_learn_is_left_as_it_was():
    environment = world()
    agent = linucb(environment)
    before = {key: array.copy() for key, array in state(agent).items()}
    OnlineLoop(environment, agent, learns=False).run(5)
    for key, array in state(agent).items():
        np.testing.assert_array_equal(array, before[key])
    assert agent.train_step_counter.numpy() == 0
    assert environment.round.numpy() == 5


def test_regret_of_linucb_is_sublinear_on_a_linear_world_and_beats_uniform(played, uniform):
    regret = played[2].regret
    first, second = regret[: LONG // 2].sum(), regret[LONG // 2 :].sum()
    assert second < 0.7 * first
    assert regret.sum() < 0.5 * uniform.regret.sum()
    assert played[2].reward.mean() > uniform.reward.mean() + 0.2


def test_uniform_play_pulls_every_arm_alike(uniform):
    """3,200 pulls of 6 arms: chi-square with 5 degrees of freedom is below 27 with probability 1 - 6e-5."""
    expected = uniform.pulls.sum() / 6
    assert np.square(uniform.pulls - expected).sum() / expected < 27


def test_the_worlds_of_two_seeds_give_other_rounds(played):
    environment = world(seed=1)
    other = OnlineLoop(environment, linucb(environment)).run(LONG)
    assert not np.array_equal(other.reward, played[2].reward)
    assert other.regret[LONG // 2 :].sum() < other.regret[: LONG // 2].sum()
    assert len(ACTION_ITEMS) < ITEMS
