"""The notebooks run from the first cell to the last, on a miniature."""

from pathlib import Path

import nbformat
import pytest
from miniature import write_miniature
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_on_a_miniature(path, tmp_path, monkeypatch):
    settings = {
        "DATA": str(write_miniature(tmp_path / "data")), "INTERACTIONS": "640", "MODEL": "bias",
        "OUT": str(tmp_path / "run"), "USER": "1",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"RECPOLICY_NOTEBOOK_{name}", value)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert (tmp_path / "run" / "recpolicy.json").is_file()
    drawn = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/svg+xml" in output.get("data", {})
    ]
    assert len(drawn) >= 3  # the regret, the choice, the recommendations


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
