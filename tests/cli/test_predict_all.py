"""`recpolicy predict --all`: a file of all estimates, and the words it does not go with."""

from dataclasses import replace

import pandas as pd
import pyarrow.csv
import pytest
from command_line import recpolicy, refused
from tiny_policies import tiny_artifact, write_tiny

from recpolicy.inference.artifact import write_arrays, write_manifest
from recpolicy.inference.predictor import load_policy


@pytest.fixture
def folder(tmp_path):
    return write_tiny(tmp_path / "policy")


def test_all_estimates_are_written_as_parquet_and_csv(capsys, folder, tmp_path):
    out, csv = tmp_path / "x.parquet", tmp_path / "x.csv"
    answer = recpolicy(capsys, "predict", folder, "--all", "--out", out, "--csv", csv, "-m", 101, "-m", 105)
    assert answer.code == 0
    assert answer.out == f"14 rows: {out}, {csv}\n"
    expected = load_policy(folder).predict(list(range(1, 8)), [101, 105])
    pd.testing.assert_frame_equal(pd.read_parquet(out), expected)
    assert pyarrow.csv.read_csv(csv).num_rows == 14


@pytest.mark.parametrize("command", [("recommend", "-k", 3, "--include-rated"), ("predict", "-m", 101, "-m", 102)])
def test_csv_files_hold_no_formula_and_parquet_files_the_text_as_it_is(capsys, tmp_path, command):
    artifact, formula = tiny_artifact(), '=HYPERLINK("http://x")'
    titles = pd.Series([formula] * len(artifact.items), dtype="str")
    folder = tmp_path / "policy"
    folder.mkdir()
    artifact = replace(artifact, items=artifact.items.assign(title=titles))
    write_arrays(artifact, folder)
    write_manifest(artifact, folder)
    for name, expected in (("x.csv", f"'{formula}"), ("x.parquet", formula)):
        out = tmp_path / name
        assert recpolicy(capsys, command[0], folder, "--user", 1, *command[1:], "--out", out).code == 0
        table = pd.read_csv(out) if out.suffix == ".csv" else pd.read_parquet(out)
        assert set(table["title"]) == {expected}
        assert table["rating"].dtype.kind == "f"


@pytest.mark.parametrize(
    "words",
    [
        ("--all",),
        ("--all", "--out", "x.parquet", "--user", "1"),
        ("--all", "--out", "x.parquet", "--rating", "101=5"),
        ("--all", "--out", "x.parquet", "--history", "101=like"),
        ("--all", "--out", "x.parquet", "--json"),
        ("--all", "--out", "x.csv"),
        ("--user", "1", "--csv", "x.csv"),
        (),
    ],
)
def test_words_that_do_not_go_together_are_one_line_and_write_nothing(capsys, folder, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    refused(recpolicy(capsys, "predict", folder, *words))
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
