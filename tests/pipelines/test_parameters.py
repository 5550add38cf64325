"""Parameters are converted and checked before a step starts."""

import re

import pandas as pd
import pytest
from trained_policies import loaded

from recpolicy.agents import AGENTS, BASELINES
from recpolicy.core.errors import ConfigError
from recpolicy.pipelines import local
from recpolicy.pipelines.compile import checked_parameters, pipeline_descriptions, pipeline_parameters
from recpolicy.pipelines.parameters import (
    RANGES,
    check_values,
    convert_value,
    learns_from_logs,
    read_parameters,
    training_settings,
)
from recpolicy.pipelines.steps.values import parse_ids
from recpolicy.workflows.retraining import untrained_agent


def test_text_is_converted_to_the_type_of_the_parameter():
    words = ["agent=linucb", "seed=3", 'agent_settings={"alpha": 0.5}', "simulator=True"]
    values = checked_parameters("train", read_parameters(words))
    assert values == {"agent": "linucb", "seed": 3, "agent_settings": {"alpha": 0.5}, "simulator": True}


def test_digits_stay_text_for_a_text_parameter():
    assert checked_parameters("predict", {"policy": "runs/x", "user_ids": "196"})["user_ids"] == "196"


@pytest.mark.parametrize("name", ["train", "train_features", "predict", "retrain", "sweep"])
def test_defaults_pass_the_checks(name):
    parameters = pipeline_parameters(name)
    values = {
        item.name: "somewhere" if item.required else convert_value(item.name, item.default, item.type)
        for item in parameters
    }
    check_values(values | ({"registry": "somewhere"} if name == "retrain" else {}), {})


@pytest.mark.parametrize(
    ("pipeline", "values", "message"),
    [
        ("train", {"agents": "x"}, "no parameter of train named 'agents'. Did you mean 'agent'"),
        ("train", {"agent": "linucbb"}, "Did you mean 'linucb'"),
        ("train", {"seed": "1.5"}, "parameter seed: found 1.5; expected a whole number"),
        ("train", {"seed": "true"}, "expected a whole number"),
        ("train", {"seed": "-1"}, "parameter seed is -1; expected at least 0"),
        ("train", {"simulator": "1"}, "expected true or false"),
        ("train", {"split": "u6"}, "no split named 'u6'"),
        ("train", {"rating_model": "bfm"}, "no rating model named 'bfm'"),
        ("train", {"logging_policy": "ranodm"}, "Did you mean 'random'"),
        ("train", {"log_rounds": "0"}, "log_rounds is 0; expected at least 1"),
        ("train", {"log_settings": '{"uniform_mix": 2}'}, "uniform_mix is 2"),
        ("train", {"gate_settings": '{"margine": 0.1}'}, "Did you mean 'margin'"),
        ("train", {"ingest_settings": '{"evaluation_share": 1}'}, "evaluation_share is 1"),
        ("train", {"agent_settings": '{"alpah": 1}'}, "Did you mean 'alpha'"),
        ("train", {"agent_settings": "alpha=1"}, "expected JSON such as"),
        ("train", {"train_settings": '{"batch_size": 0}'}, "batch_size"),
        ("train", {"agent": "ppo", "learn_from": "log"}, "ppo cannot learn from a log"),
        ("train", {"agent": "exp3", "learn_from": "log"}, "exp3 cannot learn from a log"),
        ("train", {"rating_model": "svd"}, "world and rating_model are both 'svd'"),
        ("train", {"world": "svvd"}, "Did you mean 'svd'"),
        ("train", {"learn_from": "logs"}, "Did you mean 'log'"),
        ("predict", {}, "predict needs the parameter policy"),
        ("predict", {"policy": " "}, "parameter policy is empty"),
        ("predict", {"policy": "x", "batch": "0"}, "batch is 0"),
        ("retrain", {"incumbent": "x"}, "retrain needs the parameter log"),
        ("retrain", {"incumbent": "x", "log": "y", "epochs": "0"}, "epochs is 0"),
        ("retrain", {"log": " ", "incumbent": "x"}, "parameter log is empty"),
        ("retrain", {"log": "y", "registry": ""}, "incumbent and registry are both empty"),
        ("retrain", {"log": "y", "registry": " ", "incumbent": " "}, "incumbent and registry are both empty"),
        ("sweep", {"agents": "[]"}, "parameter agents is empty"),
        ("sweep", {"agents": '["exp3"]'}, "exp3 learns neither from a log nor in sessions"),
        ("sweep", {"agents": '["behavior_cloning"]'}, "behavior_cloning learns only from logs of sessions"),
        ("sweep", {"seeds": "[0.5]"}, "list of whole numbers"),
        ("sweep", {"seeds": "[0, 1e300]"}, "list of whole numbers"),
        ("sweep", {"grid": '{"alpha": 1}'}, "expected a list of values"),
        ("sweep", {"agents": '["linucb"]', "grid": '{"alpha": [1, -3]}'}, "parameter grid: linucb: alpha is -3"),
        ("train", {"agent_settings": '{"alpha": -3}'}, "alpha is -3"),
        ("train", {"total_timesteps": "1" + 12 * "0"}, "expected at most 1000000000"),
    ],
)
def test_invalid_parameter_is_rejected_before_any_step(pipeline, values, message, tmp_path):
    with pytest.raises(ConfigError) as error:
        local.run_pipeline(pipeline, values, root=tmp_path / "runs")
    assert message in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("pipeline", list(pipeline_descriptions()))
def test_every_numeric_parameter_has_a_range(pipeline):
    numeric = [item.name for item in pipeline_parameters(pipeline) if item.type.startswith("NUMBER")]
    assert set(numeric) <= set(RANGES)
    for name in numeric:
        for beyond in (RANGES[name][0] - 1, RANGES[name][1] + 1):
            with pytest.raises(ConfigError, match=f"parameter {name} is {beyond}; expected at"):
                check_values({name: beyond}, {})


def test_limit_of_the_gate_is_switched_off_by_a_word_or_by_null():
    values = {"gate_settings": '{"margin": "off", "latency_ms": null}'}
    assert checked_parameters("train", values)["gate_settings"] == {"margin": "off", "latency_ms": None}


@pytest.mark.parametrize("words", [["agent"], ["=x"], ["seed=1", "seed=2"]])
def test_malformed_parameter_words_are_rejected(words):
    with pytest.raises(ConfigError, match="param"):
        read_parameters(words)


@pytest.mark.parametrize("agent", sorted(set(AGENTS) - set(BASELINES)))
def test_learns_from_logs_agrees_with_the_learner(agent):
    assert learns_from_logs(agent) == untrained_agent(loaded(agent).artifact).learner.learns_from_logs


def test_agents_that_cannot_learn_from_logs_are_trained_online():
    assert training_settings("exp3", "auto", "svd", 5, 1)["mode"] == "online"
    assert training_settings("ucb1", "auto", "svd", 5, 1)["mode"] == "log"
    assert training_settings("linucb", "auto", "svd", 5, 1)["mode"] == "log"
    assert training_settings("ppo", "auto", "svd", 5, 1) == {"total_timesteps": 5}


def test_there_are_five_pipelines():
    assert list(pipeline_descriptions()) == ["train", "train_features", "predict", "retrain", "sweep"]


@pytest.mark.parametrize("word", ["--5", "²", "7a", "1.5"])
def test_ids_that_are_no_integers_are_one_line(word):
    known = pd.Series([7, 12])
    assert parse_ids("7, -12", known) == [7, -12]
    with pytest.raises(ConfigError, match=f"id '{re.escape(word)}': expected integers, separated by commas"):
        parse_ids(f"7,{word}", known)
