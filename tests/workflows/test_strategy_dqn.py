"""Deep Q-learning of strategies: rewards alone without a next round, the next round's value inside a session."""

from dataclasses import replace

import numpy as np
import pytest

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.core.hashes import text_hashes
from recpolicy.data.feature_columns import object_array
from recpolicy.strategies.config import StrategyConfig, strategy_config
from recpolicy.strategies.log_rounds import context_request, strategy_actions
from recpolicy.strategies.network_policy import read_any_strategy_policy
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


def test_rewards_100_times_as_large_give_values_100_times_as_large(log, tmp_path):
    """Each pass standardizes its targets, so step sizes mean the same for rewards of any scale."""
    scores, config = [], strategy_config({"learning": {"gamma": 0.5}})
    for scale in (1.0, 100.0):
        pairs, settings, folder = in_pairs(log, [0.0, 1.0]), {"passes": 2}, tmp_path / f"{scale:g}"
        pairs = replace(pairs, reward=scale * pairs.reward, reward_range=None)
        trained = train_strategy_dqn(pairs, folder, config, settings=settings, train={"epochs": 3})
        scores.append(trained.policy.scores_of(pairs))
    np.testing.assert_allclose(scores[1], 100.0 * scores[0], rtol=1e-3)


def test_rounds_without_sessions_take_one_pass(log, tmp_path):
    single = replace(log, context={name: column for name, column in log.context.items() if name != "session"})
    trained = train_strategy_dqn(single, tmp_path / "dqn", train={"epochs": 1})
    assert (trained.passes, trained.with_next, trained.rounds) == (1, 0, len(single))
    assert set(trained.policy.encoder.names("context")) == set(single.context)


def test_the_network_to_continue_from_is_the_first_target(log, tmp_path):
    """The targets are r + gamma max Q of the earlier network: 0 + .5 Q for first rounds, 1 for second ones."""
    config = strategy_config({"learning": {"gamma": 0.5}})
    pairs = in_pairs(log, [3.0, 3.0])
    first = train_strategy_dqn(pairs, tmp_path / "first", config, settings={"passes": 1}, train=EPOCHS)
    later = in_pairs(log, [0.0, 1.0])
    later = replace(later, event_id=object_array([f"later {number}" for number in range(len(later))]))
    one_pass = {"passes": 1}
    train_strategy_dqn(later, tmp_path / "second", settings=one_pass, train=EPOCHS, incumbent=tmp_path / "first")
    second = read_any_strategy_policy(tmp_path / "second")
    best = np.maximum.reduceat(first.policy.scores_of(later), later.start[:-1])
    assert second.config.learning.gamma == 0.5
    assert second.policy.scores_of(later).mean() == pytest.approx((0.5 * best.mean() + 1.0) / 2, abs=0.15)
    events = np.union1d(text_hashes(later.event_id), text_hashes(pairs.event_id))
    assert second.policy.learned_events.tolist() == events.tolist()
    assert second.metadata["parents"] == [{"policy_digest": first.policy.policy_digest, "log": pairs.digest}]
    with pytest.raises(ConfigError, match="another schema: bins is 3; expected 5"):
        train_strategy_dqn(
            later, tmp_path / "x", strategy_config({"profile": {"bins": 3}}), incumbent=tmp_path / "first"
        )


def test_the_window_selects_rounds(log, tmp_path):
    days = (log.time.max() - log.time) / 86_400_000
    trained = train_strategy_dqn(log, tmp_path / "dqn", train={"epochs": 1}, settings={"passes": 1}, days_back=2.0)
    assert trained.rounds == int((days < 2.0).sum())
    assert trained.rounds + trained.left_out == len(log)
    with pytest.raises(DataError, match="no user has 5000 interactions or more in the last 2 days"):
        train_strategy_dqn(log, tmp_path / "x", days_back=2.0, min_interactions=5000)
    with pytest.raises(ConfigError, match="days_back is 0"):
        train_strategy_dqn(log, tmp_path / "x", days_back=0.0)


def test_its_answer_has_the_networks_probabilities_and_values(log, tmp_path):
    trained = train_strategy_dqn(log, tmp_path / "dqn", train={"epochs": 1}, settings={"passes": 1})
    loaded = read_any_strategy_policy(tmp_path / "dqn")
    context = {name: column[0] for name, column in log.context.items() if name != "session"}
    request = context_request(context, loaded.config)
    probability, value = trained.policy.probabilities(context, strategy_actions(loaded.config))
    answers = [loaded.recommend(request, f"e{number}") for number in range(60)]
    for answer in answers:
        assert answer.propensity == pytest.approx(probability[answer.action], abs=1e-12)
        assert answer.expected_reward == pytest.approx(value[answer.action], abs=1e-6)
        assert answer.source == "network"
        assert answer.explored == (answer.action != value.argmax())
        assert answer.parameters == loaded.config.parameters[answer.action]
    assert any(not answer.explored for answer in answers)
    with pytest.raises(DataError, match="openness is 130"):
        loaded.recommend(replace(request, profile={**request.profile, "openness": 130}))


def test_another_feature_policy_is_no_strategy_policy(tmp_path):
    from tiny_feature_log import trained_case

    from recpolicy.inference.feature_artifact import write_feature_policy

    write_feature_policy(trained_case("squarecb"), tmp_path / "policy")
    with pytest.raises(ArtifactError, match="a feature policy without the settings of strategies"):
        read_any_strategy_policy(tmp_path / "policy")
