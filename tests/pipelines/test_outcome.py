"""The last lines of a run: the winner, the verdict, the registration, the next command."""

import json

import pytest

from recpolicy.pipelines.outcome import RunOutcome


def write(folder, name, body):
    path = folder / f"{name}.json"
    path.write_text(json.dumps(body))
    return str(path)


def test_a_run_without_a_gate_has_no_outcome():
    assert RunOutcome.from_artifacts({"predict-batch": {"table": "t"}}).lines() == []


def test_failed_gate_names_its_criteria_and_that_nothing_was_registered(tmp_path):
    record = write(tmp_path, "gate", {"verdict": "fail", "reasons": ["coverage: 0.1; expected >= 0.2", "b"]})
    outcome = RunOutcome.from_artifacts({"gate-policy": {"record": record}, "register-policy": {}})
    assert outcome.verdict == "fail"
    assert outcome.lines() == [
        "gate: FAIL; nothing was registered", "  coverage: 0.1; expected >= 0.2", "  b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("registration", "lines"),
    [
        ({"version": 0, "champion": None, "not_promoted": "", "registry": ""},
         ["registered: nowhere, for the parameter registry is empty"]),
        ({"version": 4, "champion": 4, "not_promoted": "", "registry": "r"},
         ["registered: version 4 of r, its champion", "next: recpolicy serve r"]),
        ({"version": 4, "champion": 2, "not_promoted": "version 2 is the champion", "registry": "r"},
         ["registered: version 4 of r; the champion stays version 2",
          "next: recpolicy admin rollout start 4, or without a server: recpolicy registry promote r 4"]),
        ({"version": 4, "champion": 2, "not_promoted": "version 3 is the challenger, as during a rollout",
          "registry": "r"},
         ["registered: version 4 of r; the champion stays version 2 (version 3 is the challenger, as during a rollout)",
          "next: recpolicy admin rollout start 4, or without a server: recpolicy registry promote r 4"]),
    ],
)  # fmt: skip
def test_registration_says_who_is_champion_and_what_comes_next(tmp_path, registration, lines):
    artifacts = {
        "gate-policy": {"record": write(tmp_path, "gate", {"verdict": "pass", "reasons": []})},
        "register-policy": {"registration": write(tmp_path, "registration", registration)},
    }
    assert RunOutcome.from_artifacts(artifacts).lines() == ["gate: PASS", *lines]


def test_winner_of_a_sweep_has_its_settings_and_its_step(tmp_path):
    choice = {
        "agent": "lints", "settings": "precision 20.0", "seed": "1", "value": "3.91 [3.88, 3.95]", "trials": 4,
        "trial": 3, "policy": "b", "evidence": "on logged rounds",
    }  # fmt: skip
    artifacts = {
        "train-policy": {"policy": "a"}, "train-policy-2": {"policy": "b"},
        "compare-policies": {"choice": write(tmp_path, "choice", choice)},
    }  # fmt: skip
    assert RunOutcome.from_artifacts(artifacts).lines() == [
        "winner: lints, precision 20.0, seed 1: value 3.91 [3.88, 3.95], best of 4 trials on logged rounds of half the"
        " users; its step: train-policy-2"
    ]
