"""The steps of the pipeline `retrain` on a policy and a log with features."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_feature_log import tiny_log, tiny_policy
from tiny_policies import write_tiny

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.feature_log_files import write_feature_log
from recpolicy.data.signal_files import SIGNALS, write_signals
from recpolicy.inference.feature_artifact import read_feature_policy, write_feature_policy
from recpolicy.pipelines import steps
from recpolicy.pipelines.compile import checked_parameters
from recpolicy.pipelines.inline import run_inline
from recpolicy.registry.model_registry import Registry


@pytest.fixture
def folder(tmp_path):
    """An incumbent, and a later log whose rewards come as signals."""
    policy = tiny_policy()
    metadata = {**policy.metadata, "data": "tiny"}
    write_feature_policy(replace(policy, metadata=metadata), tmp_path / "incumbent")
    log = tiny_log(2_000, seed=9)
    write_feature_log(replace(log, reward=np.full(len(log), np.nan)), tmp_path / "log")
    rows = np.flatnonzero(log.reward > 0)
    write_signals(
        tmp_path / "log" / SIGNALS, log.event_id[rows], log.time[rows] + 100, ["click"] * len(rows), [1.0] * len(rows)
    )
    return tmp_path


def test_an_incumbent_is_retrained_evaluated_gated_and_registered(folder):
    settings = {"reward": {"weights": {"click": 1.0}, "wait_seconds": 1, "min_reward": 0, "max_reward": 1}}
    rounds, incumbent = str(folder / "rounds"), str(folder / "incumbent")
    figures = steps.ingest_log_step(str(folder / "log"), rounds, ratings=None, policy=incumbent, settings=settings)
    # The window of the last event ends a moment after the log.
    assert (figures["events"], figures["training"] + figures["evaluation"], figures["waiting"]) == (2_000, 1_999, 1)
    assert all(isinstance(value, int | float) for value in figures.values())
    policy = str(folder / "policy")
    trained = steps.train_policy_step(
        policy, ratings=None, features=None, rounds=rounds, incumbent=incumbent, epochs=1, seed=0
    )
    assert trained["agent"] == tiny_policy().agent
    assert len(read_feature_policy(policy).learned_events) == len(tiny_policy().learned_events) + figures["training"]
    evaluation, page = folder / "evaluation.json", folder / "evaluation.html"
    result, curve = steps.evaluate_policy_step(
        policy, str(evaluation), str(page), ratings=None, rounds=rounds, incumbent=incumbent, seed=0
    )
    assert result["gain_lower"] <= result["gain"] <= result["gain_upper"]
    assert curve == {}
    assert "greedy reward model" in page.read_text()
    off = dict.fromkeys(("margin", "relative_gain", "latency_ms", "max_tail_index"), "off")
    record = folder / "gate.json"
    verdict = steps.gate_policy_step(str(evaluation), str(record), str(folder / "gate.html"), settings=off)
    assert verdict == "pass"
    registered = steps.register_policy_step(
        policy, str(record), str(folder / "registered"), str(folder / "registration.json"),
        registry=str(folder / "registry"), promote=False,
    )  # fmt: skip
    assert registered["version"] == registered["champion"] == 1
    assert Registry(folder / "registry").version(1).digest


def test_a_log_of_items_does_not_retrain_a_feature_policy(folder):
    with pytest.raises(ConfigError, match="give the output of ingest_log as rounds"):
        steps.train_policy_step(
            str(folder / "x"), ratings=None, features=None, rounds=None, incumbent=str(folder / "incumbent"),
            epochs=1, seed=0,
        )  # fmt: skip


def test_the_pipeline_trains_evaluates_and_registers_from_a_log(folder):
    """All steps in this process: the rewards come from signals, the schema is inferred, and there is no champion."""
    values = {
        "log": str(folder / "log"), "registry": str(folder / "registry"),
        "ingest_settings": {"reward": {"weights": {"click": 1}, "wait_seconds": 1, "min_reward": 0, "max_reward": 1}},
        "gate_settings": dict.fromkeys(("margin", "relative_gain", "latency_ms", "max_tail_index"), "off"),
    }  # fmt: skip
    run = run_inline("train_features", values, root=folder / "runs")
    assert run.state == "done", run.failure
    assert run.outcome.verdict == "pass"
    registry = Registry(folder / "registry")
    first = read_feature_policy(registry.resolve("champion"))
    assert first.agent == "squarecb"
    # Another agent meets the champion on the same rounds.
    run = run_inline("train_features", {**values, "agent": "linucb_shared"}, root=folder / "runs")
    assert run.state == "done", run.failure
    evaluation = json.loads(run.artifact("evaluate-policy", "evaluation").read_text())
    assert evaluation["off_policy"]["baseline"] == f"incumbent {first.policy_digest[:8]}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"agent": "squarecbb"}, "Did you mean 'squarecb'"),
        ({"schema": '{"context": {"hour": {"type": "numbr"}}}'}, "parameter schema"),
        ({"agent_settings": '{"gamma": 1}'}, "agent_settings: no setting named 'gamma'"),
        ({"train_settings": '{"epoch": 1}'}, "train_settings: no setting named 'epoch'"),
    ],
)
def test_parameters_are_checked_before_any_step(values, message):
    with pytest.raises(ConfigError, match=message):
        checked_parameters("train_features", {"log": "logs/mine", **values})


def test_a_champion_of_items_is_one_clear_line(folder, tmp_path):
    registry = Registry(tmp_path / "items")
    registry.register(write_tiny(tmp_path / "tiny"), gate={"verdict": "pass"})
    registry.promote(1)
    with pytest.raises(DataError, match=r"give two of one kind\. Give these data a registry of their own"):
        steps.find_champion_step(str(folder / "incumbent"), str(tmp_path / "items"))
