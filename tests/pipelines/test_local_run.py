"""Pipelines run for real through Kubeflow's local runner, on the miniature; one root for all runs of this page."""

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
from recpolicy.inference.artifact import verify
from recpolicy.inference.predictor import load_policy
from recpolicy.pipelines.local import (
    PipelineRun,
    Step,
    _cache_folder,
    _paths_read,
    code_digest,
    failure_of,
    run_pipeline,
)
from recpolicy.registry.aliases import State, write_state

PATIENCE = 240  # seconds, on a busy machine


class Place:
    """A root for runs, and the parameters that all of them share."""

    def __init__(self, folder: Path):
        self.root, self.registry = folder / "runs", folder / "registry"
        self.train = {
            "data": str(write_miniature(folder / "data")), "rating_model": "bias", "rank": 3, "log_rounds": 2_000,
            "log_settings": {"temperature": 0.5, "floor": 0.2}, "registry": str(self.registry),
            "gate_settings": {
                "margin": -5.0, "relative_gain": -1.0, "held_out_margin": -5.0, "group_loss": 5.0,
                "weight_error": 100.0, "least_effective_rounds": 0.0, "least_diversity": 0.0,
                "calibration_bias": 5.0, "calibration_error": 5.0, "latency_ms": 60_000.0,
            },
        }  # fmt: skip

    def run(self, name: str, **parameters: object) -> PipelineRun:
        return run_pipeline(name, parameters, root=self.root)

    def alias(self) -> dict[str, int]:
        return json.loads((self.registry / "aliases.json").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(scope="module")
def killed(place):
    """A run that was killed, with the process that started it, while it was at work on its third step."""
    script = (
        "import json, pathlib, sys; from recpolicy.pipelines.local import run_pipeline;"
        "run_pipeline('train', json.loads(sys.argv[1]), root=pathlib.Path(sys.argv[2]))"
    )
    started = subprocess.Popen([sys.executable, "-c", script, json.dumps(place.train), str(place.root)])
    folder, worker = _wait_for_step(place.root, "simulate-log", started)
    started.send_signal(signal.SIGKILL)
    started.wait()
    return folder, worker


@pytest.fixture(scope="module")
def trained(place, killed):
    return place.run("train", **place.train)


def _wait_for_step(root: Path, step: str, started: "subprocess.Popen[bytes]") -> tuple[Path, int]:
    """The run's folder and its worker's process, once the step has begun."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert started.poll() is None, "the run ended before it could be killed"
        for events in root.glob("train-*/events.jsonl"):
            if f'"running", "step": "{step}"' in events.read_text():
                return events.parent, _worker_of(started.pid)
        time.sleep(0.05)
    raise AssertionError(f"{step} has not begun after {PATIENCE} s")


def _worker_of(parent: int) -> int:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(words[1]) == parent:
            return int(path.parent.name)
    raise AssertionError("the run has no worker")


def test_killed_run_takes_its_processes_along_and_leaves_no_half_written_artifact(place, killed):
    folder, worker = killed
    end = time.monotonic() + PATIENCE
    while _group_lives(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _group_lives(worker)
    assert not (folder / "run.json").exists()
    outputs = [path for step in (place.root / "artifacts").glob("*/*") for path in step.iterdir()]
    assert outputs
    assert not [path for path in outputs if path.name in ("log", "policy")]  # the step was not done


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return not all(  # what nobody has waited for yet is dead all the same
        path.read_text().rpartition(")")[2].split()[0] == "Z" for path in [Path(f"/proc/{group}/stat")] if path.exists()
    )


def test_next_run_succeeds_and_takes_the_finished_steps_of_the_killed_one(trained):
    assert trained.state == "done", failure_of(trained)
    states = {step.name: step.state for step in trained.steps}
    assert states.pop("simulator") == "skipped"
    assert states.pop("fetch-data") == "cached"
    assert states.pop("fit-embeddings") == "cached"
    assert set(states.values()) == {"done"}
    order = "simulate-log ingest-log train-policy evaluate-policy gate-policy register-policy report summarise-run"
    assert set(states) == set(order.split())


def test_run_registers_a_whole_policy_and_keeps_its_record(place, trained):
    policy = trained.artifact("train-policy", "policy")
    verify(policy)
    assert place.alias()["champion"] == 1
    assert load_policy(place.registry / "versions" / "1" / "policy").metadata == load_policy(policy).metadata
    kept = json.loads((trained.folder / "run.json").read_text())
    assert kept["state"] == "done"
    assert kept["parameters"] == place.train
    assert [page.name for page in trained.pages] == ["evaluate-policy.html", "gate-policy.html", "report.html"]
    assert trained.artifact("summarise-run", "summary").read_text().startswith("# Run: SUCCEEDED")


def test_every_step_has_a_log_of_its_own(trained):
    logs = {Path(step.log).name for step in trained.steps if step.state == "done"}
    assert {"train-policy.log", "gate-policy.log"} <= logs
    text = (trained.folder / "logs" / "train-policy.log").read_text()
    assert "train-policy" in text
    assert "gate-policy" not in text


def test_rerun_with_nothing_changed_computes_nothing_but_the_registration(place, trained):
    again = place.run("train", **place.train)
    states = {step.name: step.state for step in again.steps}
    assert again.state == "done"
    assert {name for name, state in states.items() if state == "done"} <= {"register-policy", "summarise-run"}
    assert again.artifact("train-policy", "policy") == trained.artifact("train-policy", "policy")
    assert place.alias()["champion"] == 1  # the same content is the same version


def test_other_seed_is_not_answered_from_the_cache(place, trained):
    other = place.run("predict", policy=str(trained.artifact("train-policy", "policy")), user_ids="1", item_ids="2,3")
    first = other.artifact("predict-batch", "predictions")
    assert other.state == "done", failure_of(other)
    assert pd.read_parquet(first)["item_id"].tolist() == [2, 3]
    changed = place.run("predict", policy=str(trained.artifact("train-policy", "policy")), user_ids="2", item_ids="2,3")
    assert pd.read_parquet(changed.artifact("predict-batch", "predictions"))["user_id"].tolist() == [2, 2]


def test_gate_that_fails_leaves_the_incumbent_which_is_the_champion_of_the_registry(place, trained):
    log = trained.artifact("simulate-log", "log")
    before = {path: file_digest(path) for path in sorted(place.registry.rglob("*")) if path.is_file()}
    run = place.run("retrain", log=str(log), registry=str(place.registry), gate_settings={"margin": 4.0})
    assert run.state == "done", failure_of(run)
    assert run.artifact("incumbent", "artifact") == place.registry / "versions" / "1" / "policy"
    assert run.artifact("log", "artifact") == log  # nothing is copied where paths are imported
    parent = load_policy(run.artifact("train-policy", "policy")).metadata["parents"][0]
    assert parent["content"] == load_policy(place.registry / "versions" / "1" / "policy").metadata["content"]
    states = {step.name: step.state for step in run.steps}
    assert states["train-policy"] == "done"
    assert states["passed"] == "skipped"
    assert "register-policy" not in states
    assert json.loads(run.artifact("gate-policy", "record").read_text())["verdict"] != "pass"
    assert {path: file_digest(path) for path in sorted(place.registry.rglob("*")) if path.is_file()} == before


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda folder: None, "no incumbent in the registry: .*not a registry"),
        (lambda folder: write_state(folder, State()), "no incumbent in the registry: .*no version is champion yet"),
    ],
)
def test_registry_without_a_champion_is_refused_before_anything_starts(tmp_path, made, said):
    (tmp_path / "registry").mkdir()
    made(tmp_path / "registry")
    parameters = {"log": "runs/log", "registry": str(tmp_path / "registry")}
    with pytest.raises((ArtifactError, ConfigError), match=said):
        run_pipeline("retrain", parameters, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_another_champion_is_another_cache(place, trained, tmp_path):
    values = {"log": "s3://bucket/log", "registry": str(tmp_path / "registry")}
    shutil.copytree(place.registry, tmp_path / "registry")
    before = _paths_read("retrain", values)
    shutil.copytree(tmp_path / "registry/versions/1", tmp_path / "registry/versions/2")
    write_state(tmp_path / "registry", State(champion=2))
    after = _paths_read("retrain", values)
    assert (before["incumbent"].parent.name, after["incumbent"].parent.name) == ("1", "2")
    assert _cache_folder(tmp_path, before) != _cache_folder(tmp_path, after)
    assert "incumbent" not in _paths_read("predict", {"policy": "runs/policy"})


def test_failed_step_is_named_with_its_reason_and_its_log(place):
    run = place.run("predict", policy=str(place.root / "nothing"))
    assert run.state == "failed"
    assert run.failed is not None
    assert run.failed.name == "predict-batch"
    said = failure_of(run)
    assert "step predict-batch failed: ArtifactError: " in said
    assert "no such folder" in said
    assert said.endswith("predict-batch.log")
    assert {step.name: step.state for step in run.steps}["summarise-run"] == "done"
    assert run.artifact("summarise-run", "summary").read_text().startswith("# Run: FAILED")


def test_changed_code_is_another_cache(monkeypatch, tmp_path):
    package = tmp_path / "recpolicy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("recpolicy.__file__", str(package / "__init__.py"))
    before = code_digest.__wrapped__()
    (package / "agents.py").write_text("alpha = 1")
    assert code_digest.__wrapped__() != before


def test_output_that_a_run_has_not_is_named_with_those_it_has():
    step = Step("train-policy", artifacts={"policy": "p"})
    run = PipelineRun("train", Path(), {}, "done", 0.0, (step,))
    with pytest.raises(KeyError, match="the run has train-policy/policy"):
        run.artifact("train-policy", "polcy")
