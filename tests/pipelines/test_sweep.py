"""The trials of a sweep, and the choice of the best one."""

import json

import pytest

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.pipelines.steps import plan_sweep_step
from recpolicy.pipelines.sweep import choose_best, plan_trials


def test_every_combination_is_a_trial():
    trials = plan_trials(["linucb"], [0, 1], {"alpha": [0.5, 1.0], "precision": [10.0]})
    assert len(trials) == 4
    assert {(trial["seed"], trial["agent_settings"]["alpha"]) for trial in trials} == {
        (0, 0.5),
        (0, 1.0),
        (1, 0.5),
        (1, 1.0),
    }
    assert all(trial["agent_settings"]["precision"] == 10.0 for trial in trials)


def test_agent_gets_only_the_settings_that_it_has():
    trials = plan_trials(["linucb", "eps_greedy"], [0], {"alpha": [0.5, 1.0]})
    assert [trial["agent_settings"] for trial in trials] == [{"alpha": 0.5}, {"alpha": 1.0}, {}]


def test_setting_that_no_agent_has_is_rejected():
    with pytest.raises(ConfigError, match="none of linucb has a setting 'alhpa'"):
        plan_trials(["linucb"], [0], {"alhpa": [1]})


def test_seeds_passed_as_floats_become_integers():
    assert [trial["seed"] for trial in plan_sweep_step(["linucb"], [0.0, 2.0], {})] == [0, 2]


def evaluation(folder, name, value, held_out=4.0):
    path = folder / f"{name}.json"
    interval = {"value": value, "lo": value - 0.1, "hi": value + 0.1}
    body = {
        "format": "recpolicy evaluation", "version": 1, "held_out": {"choice": {"value": held_out}},
        "policy": {"agent": name, "settings": {"alpha": 1.0}, "seed": 0},
        "off_policy": {"value": interval, "effective_sample_size": 100.0},
    }  # fmt: skip
    path.write_text(json.dumps(body))
    policy = folder / f"policy-{name}"
    policy.mkdir()
    (policy / "name").write_text(name)
    return path, policy


def test_best_has_the_highest_off_policy_value_whatever_its_held_out_ratings(tmp_path):
    files = [
        evaluation(tmp_path, "a", 3.0, held_out=5.0),
        evaluation(tmp_path, "b", 3.5),
        evaluation(tmp_path, "c", 3.2),
    ]
    evaluations, policies = zip(*files, strict=True)
    figures = choose_best(evaluations, policies, tmp_path / "best", tmp_path / "choice", tmp_path / "page.html")
    assert figures["trials"] == 3
    assert figures["agent"] == "b"
    assert (tmp_path / "best" / "name").read_text() == "b"
    winner = json.loads((tmp_path / "choice").read_text())
    assert winner == {
        "agent": "b", "settings": "alpha 1.0", "seed": "0", "value": "3.5000 [3.4000, 3.6000]", "trials": 3, "trial": 2,
        "policy": str(policies[1]), "evidence": "on logged rounds",
    }  # fmt: skip
    page = (tmp_path / "page.html").read_text()
    assert page.index("<td>b</td>") < page.index("<td>c</td>") < page.index("<td>a</td>")


def test_trial_without_an_off_policy_value_is_rejected(tmp_path):
    path, policy = evaluation(tmp_path, "a", 3.0)
    body = json.loads(path.read_text())
    del body["off_policy"]
    path.write_text(json.dumps(body))
    with pytest.raises(DataError, match="the trials have no value in common"):
        choose_best([path], [policy], tmp_path / "best", tmp_path / "evaluation", tmp_path / "page.html")
    assert not (tmp_path / "best").exists()
