"""The settings of the strategy engine: numbers of document 001, the file, and every wrong setting in one line."""

import json
from pathlib import Path

import pytest

from recpolicy.core.config import as_dict, build
from recpolicy.core.errors import ConfigError
from recpolicy.data.reward_signals import Signal, combined_reward
from recpolicy.strategies.config import (
    ACTIONS,
    LearningConfig,
    StrategyConfig,
    read_strategy_config,
    schema_difference,
    strategy_config,
    with_learning,
)

FILE = Path(__file__).parents[2] / "configs" / "strategies.toml"


def test_the_file_in_configs_shows_every_setting_with_its_default():
    assert read_strategy_config(FILE) == StrategyConfig() == read_strategy_config()
    text = FILE.read_text(encoding="utf-8")
    for name in as_dict(LearningConfig()):
        assert f"\n{name} = " in text, name


def test_state_space_and_actions_of_document_001():
    config = StrategyConfig()
    assert config.sizes == (5, 5, 5, 5, 5, 3, 6, 4)
    assert config.states == 3_125 * 72
    assert len(config.strategies) == ACTIONS
    assert config.strategies[9 * 2 + 3 * 0 + 1] == {"energy": "high", "diversity": "focused", "novelty": "mixed"}
    assert all(config.action_of(strategy) == action for action, strategy in enumerate(config.strategies))
    assert config.static_action == 13


def test_parameters_are_those_of_the_levels():
    assert StrategyConfig().parameters[0] == {
        "min_energy": 0.0, "max_energy": 0.4, "genre_count": 2, "exploration_rate": 0.1, "min_popularity": 0.6,
        "max_popularity": 1.0,
    }  # fmt: skip


def test_parameters_are_clipped_to_their_limits():
    levels = {"low": {"min_energy": -3.0}, "medium": {"min_energy": 0.5}, "high": {"min_energy": 9.0}}
    config = strategy_config({"energy": levels})
    assert [config.parameters[action]["min_energy"] for action in (0, 9, 18)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("signals", "reward"),
    [  # weights of document 001
        ([("like", 1)], 1.0),
        ([("dislike", 1)], -1.0),
        ([("complete", 1), ("share", 1)], 1.3),
        ([("skip", 1)], -0.3),
        ([("watch_fraction", 0.5)], 0.25),
        ([("mood_change", -0.5)], -0.5),
        ([("like", 1), ("complete", 1), ("share", 1), ("watch_fraction", 1), ("mood_change", 0.5)], 3.3),
        ([("dislike", 1), ("skip", 1), ("mood_change", -0.5)], -1.8),
    ],
)
def test_rewards_are_those_of_document_001(signals, reward):
    config = StrategyConfig().reward
    signals = [Signal(kind, value) for kind, value in signals]
    assert combined_reward(signals, 0, config) == pytest.approx(reward, abs=1e-12)
    assert config.reward_range == (-1.8, 3.3)


def test_the_config_survives_json_with_sorted_keys():
    config = strategy_config({"energy": {"calm": {}, "brisk": {"min_energy": 0.2}, "wild": {}}, "static": {
        "energy": "brisk", "diversity": "diverse", "novelty": "familiar"}})  # fmt: skip
    again = StrategyConfig.from_dict(json.loads(json.dumps(config.as_dict(), sort_keys=True)))
    assert again == config
    assert again.levels["energy"] == ("calm", "brisk", "wild")
    assert again.digest == config.digest != StrategyConfig().digest


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"profile": {"traits": ["a", "a"]}}, "profile.traits: 'a' occurs twice"),
        ({"profile": {"traits": ["mood"]}}, "'mood' is a name of the situation"),
        ({"profile": {"bins": 0}}, r"profile\.bins is 0"),
        ({"situation": {"mood": ["sad", "sad"]}}, "mood: 'sad' occurs twice"),
        ({"situation": {"weather": ["wet"]}}, "no setting named 'weather'"),
        ({"energy": {"low": {}, "high": {}}}, r"energy is .*at least 3"),
        ({"energy": {"low": {"genre_count": 1}, "medium": {}, "high": {}}}, "'genre_count' is also one of energy"),
        ({"limits": {"genre_count": [5, 2]}}, r"limits\.genre_count is \[5, 2\]"),
        ({"static": {"energy": "low", "diversity": "diverse"}}, "static: novelty is missing"),
        ({"static": {"energy": "loud", "diversity": "diverse", "novelty": "mixed"}}, "no level of energy named 'loud'"),
        ({"static": {"tempo": "low"}}, "no dimension named 'tempo'"),
        ({"learning": {"gamma": 1.5}}, r"learning\.gamma is 1\.5"),
        ({"learning": {"exploration_initial_eps": 0.01}}, "exploration_final_eps is 0.05: expected at most"),
        ({"learning": {"exploration": "softmax"}}, r"learning\.exploration is 'softmax'"),
        ({"reward": {"ranges": {"laugh": [0, 1]}}}, "no signal named 'laugh'"),
        ({"profile": {"bins": 20, "traits": list("abcdefghij")}, "situation": {
            "mood": [f"m{number}" for number in range(100)], "content_type": [f"c{number}" for number in range(100)]}},
         "states; expected at most"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line(tables, message):
    with pytest.raises(ConfigError, match=message) as error:
        strategy_config(tables)
    assert "\n" not in str(error.value)


def test_an_unknown_table_is_refused_with_a_hint(tmp_path):
    path = tmp_path / "strategies.toml"
    path.write_text("[lerning]\ngamma = 0.5\n")
    with pytest.raises(ConfigError, match=r"no table named 'lerning'. Did you mean 'learning'"):
        read_strategy_config(path)
    with pytest.raises(ConfigError, match="no such config file"):
        read_strategy_config(tmp_path / "none.toml")


def test_a_reward_table_keeps_the_defaults_that_it_lacks():
    assert strategy_config({"reward": {"wait_seconds": 60}}).reward.weights["share"] == 0.8
    assert dict(strategy_config({"reward": {"weights": {"like": 1.0}}}).reward.weights) == {"like": 1.0}


@pytest.mark.parametrize(
    ("tables", "difference"),
    [
        ({"profile": {"bins": 3}}, "bins is 3; expected 5"),
        (
            {"situation": {"allow_other": True}},
            "content_type is music, video, game, other; expected music, video, game",
        ),
        ({"learning": {"gamma": 0.1}}, ""),
    ],
)
def test_schemas_are_compared_by_the_names_of_states_and_actions(tables, difference):
    assert schema_difference(StrategyConfig(), strategy_config(tables)) == difference


def test_with_learning_checks_and_keeps_the_rest():
    assert with_learning(StrategyConfig(), gamma=0.5) == strategy_config({"learning": {"gamma": 0.5}})
    with pytest.raises(ConfigError, match="learning: no setting named 'alpha'"):
        with_learning(StrategyConfig(), alpha=0.5)
    with pytest.raises(ConfigError, match="ridge"):
        build(LearningConfig, {"ridge": 0}, "learning")
