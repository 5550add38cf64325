"""The notebooks run from the first cell to the last, on a miniature, and show what they are about."""

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from tiny_dataset import ITEMS, write_miniature

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def play(name, settings, monkeypatch):
    """The notebook with its outputs, run with these settings."""
    for key, value in settings.items():
        monkeypatch.setenv(f"RECPOLICY_NOTEBOOK_{key}", str(value))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(FOLDER)}}).execute()
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def shown(notebook, kind):
    """What the notebook displays as this kind of data."""
    return [output["data"][kind] for output in outputs(notebook) if kind in output.get("data", {})]


def test_quickstart_trains_judges_and_draws(tmp_path, monkeypatch):
    settings = {
        "DATA": write_miniature(tmp_path / "data"), "INTERACTIONS": 640, "MODEL": "bias", "OUT": tmp_path / "run",
        "USER": 1,
    }  # fmt: skip
    notebook = play("01_quickstart", settings, monkeypatch)
    assert (tmp_path / "run" / "recpolicy.json").is_file()
    assert len(shown(notebook, "image/svg+xml")) >= 3  # the regret, the choice, the recommendations
    assert all(name in shown(notebook, "text/html")[-1] for name in ("train", "predict", "retrain", "sweep"))


def test_offline_evaluation_estimates_beside_the_truth_and_asks_the_gate(tmp_path, monkeypatch):
    settings = {
        "DATA": write_miniature(tmp_path / "data"), "MODEL": "bias", "ITEMS": 20, "OUT": tmp_path / "run",
        "ROUNDS": 4000,
    }  # fmt: skip
    notebook = play("02_offline_evaluation", settings, monkeypatch)
    said = "".join(output.get("text", "") for output in outputs(notebook))
    assert "truth " in said
    assert "verdict: " in said
    assert len(shown(notebook, "image/svg+xml")) == 3  # the estimators, the overlap, the weights
    assert (tmp_path / "run" / "evaluation.json").is_file()


LENIENT = {
    "margin": -10, "relative_gain": -10, "min_effective_sample_size": 0, "max_mean_weight_z": 100,
    "max_tail_index": 100, "group_loss": 5, "held_out_margin": -5, "calibration_bias": 5, "calibration_error": 5,
    "min_diversity": 0, "min_coverage": 0, "latency_ms": 60000,
}  # fmt: skip
"""Limits for the 60 users of the miniature, whose log allows no verdict."""


def test_pipelines_train_register_and_predict(tmp_path, monkeypatch):
    settings = {
        "DATA": write_miniature(tmp_path / "data"), "LOG_ROUNDS": 2000, "MODEL": "bias", "RANK": 8,
        "GATE": json.dumps(LENIENT), "REGISTRY": tmp_path / "registry", "ROOT": tmp_path / "runs", "USER": 7,
    }  # fmt: skip
    notebook = play("03_pipelines", settings, monkeypatch)
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((tmp_path / "runs").glob("*/run.json"))]
    assert [(run["pipeline"], run["state"]) for run in runs] == [
        ("predict", "done"),
        ("train", "done"),
        ("train", "done"),
    ]
    again = {step["name"]: step["state"] for step in runs[-1]["steps"]}
    assert again["train-policy"] == "cached"
    assert again["register-policy"] == "done"
    assert [path.name for path in (tmp_path / "registry" / "versions").iterdir()] == ["1"]  # the second run finds it
    made = {step["name"]: step["artifacts"] for step in runs[0]["steps"]}
    predictions = pd.read_parquet(made["predict-batch"]["predictions"])
    assert set(predictions["user_id"]) == {7}
    assert len(predictions) == ITEMS
    assert any("srcdoc" in page for page in shown(notebook, "text/html"))
    assert any("verdict: pass" in output.get("text", "") for output in outputs(notebook))
    assert not any(output.get("name") == "stderr" for output in outputs(notebook))


def test_pipelines_show_the_verdict_of_a_gate_that_fails(tmp_path, monkeypatch):
    """A gain of four stars over most popular is out of reach: nothing is registered, the prediction still runs."""
    settings = {
        "DATA": write_miniature(tmp_path / "data"), "LOG_ROUNDS": 2000, "MODEL": "bias", "RANK": 8,
        "GATE": json.dumps(LENIENT | {"held_out_margin": 4}), "REGISTRY": tmp_path / "registry",
        "ROOT": tmp_path / "runs", "USER": 7,
    }  # fmt: skip
    notebook = play("03_pipelines", settings, monkeypatch)
    text = "".join(output.get("text", "") for output in outputs(notebook))
    assert "verdict: fail" in text
    assert "versions in the registry: 0" in text
    assert not (tmp_path / "registry").exists()
    assert f"{ITEMS} rows" in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_every_notebook_is_run_here_and_named_in_the_folder():
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    tested = Path(__file__).read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f"({path.name})" in listed
        assert f'play("{path.stem}"' in tested
