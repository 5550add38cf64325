"""Pipelines run with Kubeflow's local runner, and inline, on the tiny dataset; all runs share one root."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from tiny_dataset import write_miniature

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.files import file_digest
from recpolicy.inference.predictor import load_policy
from recpolicy.pipelines.inline import run_inline
from recpolicy.pipelines.inputs import input_paths, inputs_digest
from recpolicy.pipelines.local import code_digest, run_pipeline
from recpolicy.pipelines.runs import PipelineRun, Step
from recpolicy.registry.aliases import State, write_state
from recpolicy.registry.artifact_kinds import verify

PATIENCE = 240  # seconds, on a busy machine


class Root:
    """A root for runs, and the parameters that they share."""

    def __init__(self, folder: Path):
        self.path, self.registry = folder / "runs", folder / "registry"
        self.train = {
            "data": str(write_miniature(folder / "data")), "rating_model": "bias", "rank": 3, "log_rounds": 2_000,
            "log_settings": {"temperature": 0.5, "uniform_mix": 0.2}, "registry": str(self.registry),
            "gate_settings": {
                "margin": -1e3, "relative_gain": -1e3, "held_out_margin": -5.0, "group_loss": 5.0,
                "max_mean_weight_z": 100.0, "max_tail_index": 100.0, "min_effective_sample_size": 0.0,
                "min_diversity": 0.0,
                "calibration_bias": 5.0, "calibration_error": 5.0, "latency_ms": 60_000.0,
            },
        }  # fmt: skip

    def run(self, name: str, **parameters: object) -> PipelineRun:
        return run_pipeline(name, parameters, root=self.path)

    def alias(self) -> dict[str, int]:
        return json.loads((self.registry / "aliases.json").read_text())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return Root(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(scope="module")
def killed(root):
    """A run that was killed, together with the process that started it, during its third step."""
    script = (
        "import json, pathlib, sys; from recpolicy.pipelines.local import run_pipeline;"
        "run_pipeline('train', json.loads(sys.argv[1]), root=pathlib.Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, json.dumps(root.train), str(root.path)]
    errors = root.path.parent / "errors-of-killed.txt"
    with errors.open("wb") as stderr:
        started = subprocess.Popen(command, stderr=stderr)
    folder, runner = _wait_for_step(root.path, "simulate-log", started, errors)
    started.send_signal(signal.SIGKILL)
    started.wait()
    return folder, runner


@pytest.fixture(scope="module")
def trained(root, killed):
    return root.run("train", **root.train)


def _wait_for_step(root: Path, step: str, started: "subprocess.Popen[bytes]", errors: Path) -> tuple[Path, int]:
    """Return the run's folder and the process id of its runner, once the step has begun."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert started.poll() is None, f"the run ended before it could be killed: {errors.read_text()}"
        for events in root.glob("train-*/events.jsonl"):
            if f'"running", "step": "{step}"' in events.read_text():
                return events.parent, _runner_of(started.pid)
        time.sleep(0.05)
    raise AssertionError(f"{step} has not begun after {PATIENCE} s")


def _runner_of(parent: int) -> int:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(words[1]) == parent:
            return int(path.parent.name)
    raise AssertionError("the run has no runner")


def test_killed_run_ends_its_processes_and_leaves_no_partial_artifact(root, killed):
    folder, runner = killed
    end = time.monotonic() + PATIENCE
    while _group_lives(runner) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _group_lives(runner)
    assert not (folder / "run.json").exists()
    outputs = [path for step in (root.path / "artifacts").glob("*/*") for path in step.iterdir()]
    assert outputs
    assert not [path for path in outputs if path.name in ("log", "policy")]  # the step was not done


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return not all(  # a zombie is dead
        path.read_text().rpartition(")")[2].split()[0] == "Z" for path in [Path(f"/proc/{group}/stat")] if path.exists()
    )


def test_next_run_succeeds_and_reuses_the_finished_steps_of_the_killed_one(trained):
    assert trained.state == "done", trained.failure
    states = {step.name: step.state for step in trained.steps}
    assert states.pop("validate-simulator") == "skipped"
    assert states.pop("fetch-data") == "cached"
    assert states.pop("fit-embeddings") == "cached"
    assert set(states.values()) == {"done"}
    order = "find-champion simulate-log ingest-log train-policy evaluate-policy gate-policy register-policy report"
    assert set(states) == {*order.split(), "summarize-run"}


def test_run_registers_a_complete_policy_and_its_record(root, trained):
    policy = trained.artifact("train-policy", "policy")
    verify(policy)
    assert root.alias()["champion"] == 1
    assert trained.outcome.lines() == [
        "gate: PASS", f"registered: version 1 of {root.registry}, its champion",
        f"next: recpolicy serve {root.registry}",
    ]  # fmt: skip
    assert load_policy(root.registry / "versions" / "1" / "policy").metadata == load_policy(policy).metadata
    record = json.loads((trained.folder / "run.json").read_text())
    assert record["state"] == "done"
    assert (record["outcome"]["verdict"], record["outcome"]["registration"]["version"]) == ("pass", 1)
    assert record["parameters"] == root.train
    assert [page.name for page in trained.pages] == ["evaluate-policy.html", "gate-policy.html", "report.html"]
    assert trained.artifact("summarize-run", "summary").read_text().startswith("# Run: SUCCEEDED")


def test_every_step_has_its_own_log(trained):
    logs = {Path(step.log).name for step in trained.steps if step.state == "done"}
    assert {"train-policy.log", "gate-policy.log"} <= logs
    text = (trained.folder / "logs" / "train-policy.log").read_text()
    assert "train-policy" in text
    assert "gate-policy" not in text


def test_unchanged_rerun_computes_only_the_registration(root, trained):
    again = root.run("train", **root.train)
    states = {step.name: step.state for step in again.steps}
    assert again.state == "done"
    done = {name for name, state in states.items() if state == "done"}
    assert done <= {"find-champion", "register-policy", "summarize-run"}
    assert again.artifact("train-policy", "policy") == trained.artifact("train-policy", "policy")
    assert root.alias()["champion"] == 1  # the same content is the same version


def test_other_parameters_are_not_answered_from_the_cache(root, trained):
    other = root.run("predict", policy=str(trained.artifact("train-policy", "policy")), user_ids="1", item_ids="2,3")
    first = other.artifact("predict-batch", "predictions")
    assert other.state == "done", other.failure
    assert pd.read_parquet(first)["item_id"].tolist() == [2, 3]
    changed = root.run("predict", policy=str(trained.artifact("train-policy", "policy")), user_ids="2", item_ids="2,3")
    assert pd.read_parquet(changed.artifact("predict-batch", "predictions"))["user_id"].tolist() == [2, 2]


def test_failed_gate_leaves_the_champion_of_the_registry(root, trained):
    log = trained.artifact("simulate-log", "log")
    before = {path: file_digest(path) for path in sorted(root.registry.rglob("*")) if path.is_file()}
    run = root.run("retrain", log=str(log), registry=str(root.registry), gate_settings={"margin": 4.0})
    assert run.state == "done", run.failure
    assert run.artifact("incumbent", "artifact") == root.registry / "versions" / "1" / "policy"
    assert run.artifact("log", "artifact") == log  # paths are imported without a copy
    parent = load_policy(run.artifact("train-policy", "policy")).metadata["parents"][0]
    assert parent["policy_digest"] == load_policy(root.registry / "versions" / "1" / "policy").metadata["policy_digest"]
    states = {step.name: step.state for step in run.steps}
    assert states["train-policy"] == "done"
    assert states["register-policy"] == "skipped"
    assert run.outcome.verdict != "pass"
    assert run.outcome.lines()[0].endswith("nothing was registered")
    assert "gain over incumbent" in run.outcome.lines()[1]
    assert json.loads(run.artifact("gate-policy", "record").read_text())["verdict"] != "pass"
    assert {path: file_digest(path) for path in sorted(root.registry.rglob("*")) if path.is_file()} == before


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda folder: None, "no incumbent in the registry: .*not a registry"),
        (
            lambda folder: write_state(folder, State()),
            "no incumbent in the registry: .*no version has the alias champion",
        ),
    ],
)
def test_registry_without_a_champion_is_rejected_before_any_step(tmp_path, create, message):
    (tmp_path / "registry").mkdir()
    create(tmp_path / "registry")
    parameters = {"log": "runs/log", "registry": str(tmp_path / "registry")}
    with pytest.raises((ArtifactError, ConfigError), match=message):
        run_pipeline("retrain", parameters, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_another_champion_has_another_cache(root, trained, tmp_path):
    values = {"log": "s3://bucket/log", "registry": str(tmp_path / "registry")}
    shutil.copytree(root.registry, tmp_path / "registry")
    values |= {"incumbent": ""}
    before = input_paths("retrain", values)
    shutil.copytree(tmp_path / "registry/versions/1", tmp_path / "registry/versions/2")
    write_state(tmp_path / "registry", State(champion=2))
    after = input_paths("retrain", values)
    assert (before["incumbent"].parent.name, after["incumbent"].parent.name) == ("1", "2")
    assert inputs_digest(before) != inputs_digest(after)
    assert "incumbent" not in input_paths("predict", {"policy": "runs/policy"})


def test_failed_step_is_named_with_its_reason_and_its_log(root, trained):
    damaged = shutil.copytree(trained.artifact("train-policy", "policy"), root.path / "damaged")
    (damaged / "arrays.npz").unlink()
    run = root.run("predict", policy=str(damaged))
    assert run.state == "failed"
    assert run.failed is not None
    assert run.failed.name == "predict-batch"
    assert "step predict-batch failed: ArtifactError: " in run.failure
    assert "arrays.npz" in run.failure
    assert run.failure.endswith("predict-batch.log")
    assert {step.name: step.state for step in run.steps}["summarize-run"] == "done"
    assert run.artifact("summarize-run", "summary").read_text().startswith("# Run: FAILED")


def test_changed_code_has_another_cache(monkeypatch, tmp_path):
    package = tmp_path / "recpolicy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("recpolicy.__file__", str(package / "__init__.py"))
    before = code_digest.__wrapped__()
    (package / "agents.py").write_text("alpha = 1")
    assert code_digest.__wrapped__() != before


def test_unknown_output_is_an_error_with_the_known_ones():
    step = Step("train-policy", artifacts={"policy": "p"})
    run = PipelineRun("train", Path(), {}, "done", 0.0, (step,))
    with pytest.raises(KeyError, match="the run has train-policy/policy"):
        run.artifact("train-policy", "polcy")


def test_inline_run_gives_the_same_policy_and_states_as_the_local_runner(root, trained, tmp_path):
    inline = run_inline("train", root.train | {"registry": str(tmp_path / "registry")}, root=tmp_path / "runs")
    assert inline.state == "done"
    states = {step.name: step.state for step in inline.steps}
    assert states == {step.name: "skipped" if step.state == "skipped" else "done" for step in trained.steps}
    policies = [load_policy(run.artifact("train-policy", "policy")) for run in (inline, trained)]
    assert policies[0].metadata["policy_digest"] == policies[1].metadata["policy_digest"]
    assert (tmp_path / "registry" / "aliases.json").is_file()
    assert [page.name for page in inline.pages] == [page.name for page in trained.pages]
    assert inline.artifact("summarize-run", "summary").read_text().startswith("# Run: SUCCEEDED")
