"""Learning settings as a text: what it holds, what is refused, and the settings that a search tries."""

import pytest
from tiny_feature_log import trained_case

from recpolicy.core.errors import ConfigError
from recpolicy.models.feature_agent_configs import FEATURE_AGENT_CONFIGS, FeatureSquareCBConfig, FeatureTrainConfig
from recpolicy.server.rank.learning_settings import (
    LearningSettings,
    parse_learning_settings,
    settings_of_policy,
    settings_to_try,
)


def test_a_text_has_the_options_of_agent_and_training():
    text = "--agent squarecb --model neural --layers 32,16 --gamma-scale=100 --epochs 3 --normalization layer"
    settings = parse_learning_settings(text)
    config = FeatureSquareCBConfig(model="neural", layers=(32, 16), gamma_scale=100.0, normalization="layer")
    assert settings == LearningSettings("squarecb", config, FeatureTrainConfig(epochs=3))
    assert parse_learning_settings(str(settings)) == settings
    assert str(parse_learning_settings("--agent lints --scale 1 --bias true")) == "--agent lints"  # the defaults


@pytest.mark.parametrize("agent", FEATURE_AGENT_CONFIGS)
def test_no_option_belongs_to_agent_and_training_at_once(agent):
    ours, train = FEATURE_AGENT_CONFIGS[agent].__dataclass_fields__, FeatureTrainConfig.__dataclass_fields__
    assert not ours.keys() & train.keys()
    assert "agent" not in ours.keys() | train.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "options of `recpolicy train`, such as '--agent squarecb"),
        ("--cb_explore_adf --epsilon 0.2 --cb_type mtr", "found '--cb_explore_adf"),
        ("squarecb --agent", "found 'squarecb'"),
        ("--agent", "--agent has no value"),
        ("--agent squarecb --model", "--model has no value"),
        ("--agent squarecb --model --epochs 3", "--model has no value"),
        ("--agent squarcb", "Did you mean 'squarecb'"),
        ("--agent squarecb --gama_scale 3", "Did you mean 'gamma_scale'"),
        ("--agent lints --gamma_scale 3", "no setting of lints named 'gamma_scale'"),
        ("--agent squarecb --gamma_scale -1", "gamma_scale is -1: expected greater than 0"),
        ("--agent squarecb --gamma_scale NaN", "gamma_scale is nan: expected a finite number"),
        ("--agent squarecb --model hash", "expected 'linear', 'neural' or 'hashed'"),
        ("--agent squarecb --layers 8,x", "layers.1 is 'x'"),
        ("--agent squarecb --epochs 1 --epochs 2", "--epochs occurs twice"),
        ("--agent 'squarecb", "No closing quotation"),
    ],
)
def test_faulty_settings_are_one_line(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_learning_settings(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_search_changes_the_model_and_not_the_exploration():
    current = parse_learning_settings("--agent squarecb --model neural --gamma_scale 77 --uniform_mix 0.1 --epochs 2")
    tried = settings_to_try(current)
    assert len(set(map(str, tried))) == len(tried) == 6
    assert {each.agent_config.model for each in tried} == {"linear", "hashed"}
    assert {(each.agent_config.gamma_scale, each.train.uniform_mix) for each in tried} == {(77.0, 0.1)}
    assert {each.agent_config.gamma_scale for each in settings_to_try(None)} == {10.0}
    other = settings_to_try(parse_learning_settings("--agent lints --uniform_mix 0.2"))
    assert {each.train.uniform_mix for each in other} == {0.2}


def test_a_policy_says_its_settings_only_where_its_artifact_has_them():
    assert settings_of_policy(trained_case("squarecb")) is None  # trained without `recpolicy train`
