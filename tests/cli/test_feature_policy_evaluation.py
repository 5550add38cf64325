"""`recpolicy ope estimate` and `recpolicy gate` find out that a policy ranks actions with features."""

import json
from dataclasses import replace

import pytest
from command_line import recpolicy, refused
from tiny_feature_log import tiny_log, tiny_policy

from recpolicy.data.feature_log_files import write_feature_log
from recpolicy.inference.feature_artifact import write_feature_policy
from recpolicy.workflows.gating import read_gate


@pytest.fixture
def folder(tmp_path):
    policy = tiny_policy()
    write_feature_policy(replace(policy, metadata={**policy.metadata, "data": "tiny"}), tmp_path / "policy")
    write_feature_log(tiny_log(1_500, seed=7), tmp_path / "rounds" / "evaluation")
    write_feature_log(tiny_log(20, seed=8), tmp_path / "rounds" / "training")
    return tmp_path


def test_estimates_of_a_feature_policy(folder, capsys):
    words = ("ope", "estimate", folder / "policy", "--log", folder / "rounds")
    answer = recpolicy(capsys, *words)
    assert answer.code == 0, answer.err
    assert "(exploring) on" in answer.out
    for text in ("snips", "Difference to the baselines", "first action", "greedy reward model", "note: reward model"):
        assert text in answer.out
    body = json.loads(recpolicy(capsys, *words, "--baseline", folder / "policy", "--json").out)
    assert body["differences"]["dr"]["value"] == pytest.approx(0, abs=1e-12)
    assert body["known_range"] is True
    assert "--gamma" in recpolicy(capsys, *words, "--gamma", 0.9).err


def test_a_gate_of_a_feature_policy(folder, capsys):
    words = ("gate", folder / "policy", "--log", folder / "rounds", "--group", "device", "--out", folder / "gate")
    answer = recpolicy(capsys, *words)
    assert answer.code in (0, 1), answer.err
    assert "gain over the logging policy, lower bound" in answer.out
    assert "gain of the worst group on the log over the logging policy" in answer.out
    record = read_gate(folder / "gate" / "gate.json")
    assert record["verdict"] in ("pass", "fail")
    assert record["policy"]["agent"] == tiny_policy().agent
    assert (folder / "gate" / "gate.html").is_file()
    assert "--data" in recpolicy(capsys, "gate", folder / "policy", "--log", folder / "rounds", "--data", "x").err
    assert "no context feature 'mood'" in refused(
        recpolicy(capsys, "gate", folder / "policy", "--log", folder / "rounds", "--group", "mood")
    )
    assert "give --log" in refused(recpolicy(capsys, "gate", folder / "policy"))


def test_a_log_of_its_own_training_is_refused(folder, capsys):
    write_feature_log(tiny_log(), folder / "learned")
    message = refused(recpolicy(capsys, "ope", "estimate", folder / "policy", "--log", folder / "learned"))
    assert "has learned from" in message
