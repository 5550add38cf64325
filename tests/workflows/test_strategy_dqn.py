"""Deep Q-learning of strategies: rewards alone without a next round, the next round's value inside a session."""

from dataclasses import replace

import numpy as np
import pytest

from recpolicy.data.feature_columns import object_array
from recpolicy.strategies.config import StrategyConfig, strategy_config
from recpolicy.workflows.strategy_dqn import train_strategy_dqn
from recpolicy.workflows.strategy_simulation import simulate_strategies
from recpolicy.workflows.strategy_training import read_strategy_log

EPOCHS = {"epochs": 15}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dqn")
    simulate_strategies(folder / "log", users=40, days=5)
    return read_strategy_log(folder / "log", StrategyConfig())


def in_pairs(log, rewards):
    """Return an even number of rounds in sessions of two, with a reward for each place."""
    rows = np.arange(len(log) // 2 * 2)
    log = replace(log.select(rows, "pairs"), user=object_array(["u"] * len(rows)), time=rows * 1000)
    session = object_array([str(number // 2) for number in rows])
    return replace(log, context={**log.context, "session": session}, reward=np.tile(rewards, len(rows) // 2))


def test_a_session_adds_the_value_of_its_next_round(log, tmp_path):
    pairs = in_pairs(log, [0.0, 1.0])
    # the state does not say the place, so Q = .5 + .5 gamma Q for any state: 2 / 3 with gamma .5, after some passes
    config = strategy_config({"learning": {"gamma": 0.5}})
    trained = train_strategy_dqn(pairs, tmp_path / "dqn", config, settings={"passes": 4}, train=EPOCHS)
    assert trained.with_next == len(pairs) // 2
    assert trained.policy.scores_of(pairs).mean() == pytest.approx(2 / 3, abs=0.1)
    alone = train_strategy_dqn(pairs, tmp_path / "alone", strategy_config({"learning": {"gamma": 0.0}}), train=EPOCHS)
    assert alone.passes == 1
    assert alone.policy.scores_of(pairs).mean() == pytest.approx(0.5, abs=0.08)


def test_rounds_without_sessions_take_one_pass(log, tmp_path):
    single = replace(log, context={name: column for name, column in log.context.items() if name != "session"})
    trained = train_strategy_dqn(single, tmp_path / "dqn", train={"epochs": 1})
    assert (trained.passes, trained.with_next, trained.rounds) == (1, 0, len(single))
    assert set(trained.policy.encoder.names("context")) == set(single.context)
