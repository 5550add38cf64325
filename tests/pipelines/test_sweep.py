"""The trials of a sweep, and which is the best."""

import json

import pytest

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.pipelines.steps import plan_sweep
from recpolicy.pipelines.sweep import choose_best, trials


def test_every_combination_is_one_trial():
    found = trials(["linucb"], [0, 1], {"alpha": [0.5, 1.0], "precision": [10.0]})
    assert len(found) == 4
    assert {(one["seed"], one["agent_settings"]["alpha"]) for one in found} == {(0, 0.5), (0, 1.0), (1, 0.5), (1, 1.0)}
    assert all(one["agent_settings"]["precision"] == 10.0 for one in found)


def test_an_agent_takes_the_settings_that_it_has():
    found = trials(["linucb", "eps_greedy"], [0], {"alpha": [0.5, 1.0]})
    assert [one["agent_settings"] for one in found] == [{"alpha": 0.5}, {"alpha": 1.0}, {}]


def test_a_setting_that_no_agent_has_is_refused():
    with pytest.raises(ConfigError, match="none of linucb has a setting 'alhpa'"):
        trials(["linucb"], [0], {"alhpa": [1]})


def test_seeds_that_travelled_as_floats_are_whole_again():
    assert [one["seed"] for one in plan_sweep(["linucb"], [0.0, 2.0], {})] == [0, 2]


def evaluation(folder, name, value, held_out=4.0):
    path = folder / f"{name}.json"
    interval = {"value": value, "lo": value - 0.1, "hi": value + 0.1}
    body = {
        "format": "recpolicy evaluation", "version": 1, "held_out": {"choice": {"value": held_out}},
        "policy": {"agent": name, "settings": {"alpha": 1.0}, "seed": 0},
        "off_policy": {"value": interval, "effective_rounds": 100.0},
    }  # fmt: skip
    path.write_text(json.dumps(body))
    policy = folder / f"policy-{name}"
    policy.mkdir()
    (policy / "name").write_text(name)
    return path, policy


def test_best_is_the_one_of_the_highest_off_policy_value_whatever_the_held_out_ratings_say(tmp_path):
    made = [
        evaluation(tmp_path, "a", 3.0, held_out=5.0),
        evaluation(tmp_path, "b", 3.5),
        evaluation(tmp_path, "c", 3.2),
    ]
    evaluations, policies = zip(*made, strict=True)
    found = choose_best(evaluations, policies, tmp_path / "best", tmp_path / "evaluation", tmp_path / "page.html")
    assert found["trials"] == 3
    assert found["agent"] == "b"
    assert (tmp_path / "best" / "name").read_text() == "b"
    left = json.loads((tmp_path / "evaluation").read_text())
    assert left["policy"]["agent"] == "b"
    assert "off_policy" not in left  # the gate must not decide by what the choice was made by
    assert left["held_out"]
    page = (tmp_path / "page.html").read_text()
    assert page.index("<td>b</td>") < page.index("<td>c</td>") < page.index("<td>a</td>")


def test_a_trial_without_an_off_policy_value_cannot_be_compared(tmp_path):
    path, policy = evaluation(tmp_path, "a", 3.0)
    body = json.loads(path.read_text())
    del body["off_policy"]
    path.write_text(json.dumps(body))
    with pytest.raises(DataError, match="every trial needs an off-policy value"):
        choose_best([path], [policy], tmp_path / "best", tmp_path / "evaluation", tmp_path / "page.html")
    assert not (tmp_path / "best").exists()
