"""An inline run calls the components in the order of the compiled graph; here they only record their calls."""

import json
from pathlib import Path

import pytest
import yaml
from command_line import recpolicy, refused

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.pipelines import inline
from recpolicy.pipelines.compile import pipeline_yaml

RESULTS = {"plan_sweep": [{"agent": "linucb", "seed": 0, "agent_settings": {}, "sessions": False},
                          {"agent": "lints", "seed": 1, "agent_settings": {"alpha": 0.5}, "sessions": False}],
           "find_incumbent": "runs/policy", "find_champion": "2 abc", "find_log": "runs/log",
           "gate_policy": "pass"}  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """The calls of components as (name, arguments); no component does its work."""
    recorded = []
    construct = inline._InlineGraph.__init__

    def fake(name):
        def component(**arguments):
            recorded.append((name, arguments))
            result = RESULTS.get(name)
            if isinstance(result, Exception):
                raise result
            return result

        return component

    def init(self, name, folder):
        construct(self, name, folder)
        self._functions = {key: fake(key) for key in self._functions}

    monkeypatch.setattr(inline._InlineGraph, "__init__", init)
    monkeypatch.setattr("recpolicy.pipelines.local.check_inputs", lambda *_: None)
    return recorded


def names(calls):
    return [name for name, _ in calls]


def test_steps_run_after_their_dependencies_and_the_summary_last(calls, tmp_path):
    run = inline.run_inline("train", {"registry": str(tmp_path / "registry")}, root=tmp_path)
    assert names(calls) == [
        "fetch_data", "fit_embeddings", "simulate_log", "ingest_log", "train_policy", "find_champion", "report",
        "evaluate_policy", "gate_policy", "register_policy", "summarize_run",
    ]  # fmt: skip
    assert {step.name: step.state for step in run.steps}["validate-simulator"] == "skipped"
    arguments = dict(calls)
    assert arguments["train_policy"]["policy"] is arguments["evaluate_policy"]["policy"]  # the same artifact
    assert arguments["train_policy"]["total_timesteps"] == 200_000
    assert isinstance(arguments["train_policy"]["total_timesteps"], int)
    assert arguments["gate_policy"]["evaluation"] is arguments["evaluate_policy"]["evaluation"]
    assert arguments["summarize_run"]["status"].state == "SUCCEEDED"
    assert json.loads((run.folder / "run.json").read_text())["state"] == "done"


@pytest.mark.parametrize("verdict", ["fail", "no_verdict"])
def test_policy_is_registered_only_after_pass(calls, tmp_path, monkeypatch, verdict):
    monkeypatch.setitem(RESULTS, "gate_policy", verdict)
    run = inline.run_inline("train", {"simulator": "true"}, root=tmp_path)
    assert "register_policy" not in names(calls)
    assert "validate_simulator" in names(calls)
    assert {step.name: step.state for step in run.steps}["register-policy"] == "skipped"


def test_loop_runs_once_for_each_item_and_its_outputs_are_collected(calls, tmp_path):
    run = inline.run_inline("sweep", {"grid": {"alpha": [0.5]}}, root=tmp_path)
    trained = [arguments for name, arguments in calls if name == "train_policy"]
    assert [(item["agent"], item["seed"], item["agent_settings"]) for item in trained] == [
        ("linucb", 0, {}), ("lints", 1, {"alpha": 0.5}),
    ]  # fmt: skip
    compared = dict(calls)["compare_policies"]
    assert compared["policies"] == [item["policy"] for item in trained]
    assert [Path(item.path).parent.name for item in compared["policies"]] == ["train-policy", "train-policy-2"]
    evaluations = [arguments for name, arguments in calls if name == "evaluate_policy"]
    assert [item["users"] for item in evaluations] == ["selection", "selection", "gate"]
    assert [item.get("champion", "") for item in evaluations[1:]] == [
        "",
        "2 abc",
    ]  # only the best one meets the champion
    assert evaluations[-1]["policy"] is compared["best"]
    assert dict(calls)["gate_policy"]["evaluation"] is evaluations[-1]["evaluation"]
    assert {"evaluate-policy", "evaluate-policy-2", "evaluate-best"} <= {step.name for step in run.steps}
    assert names(calls)[-1] == "summarize_run"
    assert run.state == "done"


@pytest.mark.parametrize("name", ["train", "retrain", "sweep"])
@pytest.mark.parametrize("promote", [False, True])
def test_a_champion_is_replaced_only_if_asked(calls, tmp_path, name, promote):
    values = {"log": "runs/log", "incumbent": "runs/policy"} if name == "retrain" else {}
    inline.run_inline(name, values | ({"promote": "true"} if promote else {}), root=tmp_path)
    assert dict(calls)["register_policy"]["promote"] is promote


def test_imported_artifacts_are_the_paths_that_earlier_steps_returned(calls, tmp_path):
    run = inline.run_inline("retrain", {"log": "runs/log", "incumbent": "runs/policy"}, root=tmp_path)
    assert dict(calls)["train_policy"]["incumbent"].path == "runs/policy"
    assert dict(calls)["ingest_log"]["log"].path == "runs/log"
    assert run.artifact("log", "artifact") == Path("runs/log")


def test_failed_step_raises_its_own_exception_and_the_summary_still_runs(calls, tmp_path, monkeypatch):
    monkeypatch.setitem(RESULTS, "predict_batch", DataError("no such user"))
    with pytest.raises(DataError, match="no such user"):
        inline.run_inline("predict", {"policy": "runs/policy"}, root=tmp_path)
    assert names(calls) == ["predict_batch", "summarize_run"]
    status = dict(calls)["summarize_run"]["status"]
    assert (status.state, status.error_message) == ("FAILED", "no such user")
    (record,) = tmp_path.glob("predict-*/run.json")
    steps = {step["name"]: step["state"] for step in json.loads(record.read_text())["steps"]}
    assert steps == {"importer": "done", "predict-batch": "failed", "summarize-run": "done"}


def test_address_cannot_be_imported_inline(calls, tmp_path):
    with pytest.raises(ConfigError, match=r"--inline cannot import gs://bucket/policy; copy it to this machine"):
        inline.run_inline("predict", {"policy": "gs://bucket/policy"}, root=tmp_path)


def _change(spec, kind):
    """Add a construct to the train pipeline that only Kubeflow can run."""
    handler = spec["components"]["comp-exit-handler-1"]
    if kind == "condition":
        condition = next(task for task in handler["dag"]["tasks"].values() if "triggerPolicy" in task)
        condition["triggerPolicy"]["condition"] = "inputs.parameter_values['a'] > 1"
    elif kind == "branches":
        selector = {"producerSubtask": "train-policy", "outputArtifactKey": "policy"}
        handler["dag"]["outputs"] = {"artifacts": {"chosen": {"artifactSelectors": [selector, selector]}}}
    else:
        group = handler["dag"]["tasks"]["condition-2"]
        group["parameterIterator"] = {"items": {"raw": "[1]"}, "itemInput": "item"}
        del group["triggerPolicy"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("condition", r"cannot run the condition .* > 1; run the pipeline without --inline"),
        ("branches", r"cannot run chosen of one of several branches \(OneOf\)"),
        ("loop", "cannot run a loop over constants"),
    ],
)
def test_construct_that_only_kubeflow_can_run_is_one_clear_error(calls, tmp_path, monkeypatch, kind, message):
    spec = next(yaml.safe_load_all(pipeline_yaml("train")))
    _change(spec, kind)
    monkeypatch.setattr(inline, "read_spec", lambda _: spec)
    with pytest.raises(ConfigError, match=message):
        inline.run_inline("train", {}, root=tmp_path)


def test_command_prints_the_run_or_one_line(calls, tmp_path, capsys, monkeypatch):
    words = ("pipeline", "run", "predict", "--inline", "--root", tmp_path, "-p")
    result = recpolicy(capsys, *words, "policy=runs/policy")
    assert result.code == 0
    assert "predict-batch/predictions: " in result.out
    assert "gs://b/policy" in refused(recpolicy(capsys, *words, "policy=gs://b/policy"))
