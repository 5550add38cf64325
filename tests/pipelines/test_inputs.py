"""Inputs of a run: what does not exist is one line before any step; and what the steps themselves try again."""

import json
import re

import pytest
import yaml
from command_line import recpolicy, refused
from tiny_policies import write_tiny

from recpolicy.core.errors import DataError, FetchError
from recpolicy.data import movielens_download
from recpolicy.data.ratings_store import load_saved_ratings
from recpolicy.pipelines.compile import pipeline_yaml
from recpolicy.pipelines.inputs import input_paths
from recpolicy.pipelines.kfp_runner import without_retries
from recpolicy.pipelines.steps.data import fetch_data_step, fetch_patiently
from recpolicy.registry.model_registry import Registry


@pytest.fixture
def registry(tmp_path):
    """A registry with a champion and a challenger."""
    registry = Registry(tmp_path / "registry")
    for seed in range(2):
        registry.register(write_tiny(tmp_path / str(seed), seed), gate={"verdict": "pass"})
    registry.promote(1)
    registry.set_challenger(2, 0.1)
    return registry


@pytest.mark.parametrize("inline", [(), ("--inline",)])
@pytest.mark.parametrize(
    ("pipeline", "values", "message"),
    [
        ("train", ["data=nix.csv"], "nix.csv: no such file or folder."),
        ("train", ["data=ml-1k"], "Did you mean 'ml-100k'?"),
        ("sweep", ["data=nix"], "nix: no such file or folder."),
        ("predict", ["policy=nix"], "nix: no such folder"),
        ("retrain", ["log=nix", "incumbent=s3://b/p"], "log nix: no such folder"),
        ("retrain", ["log=s3://b/log", "incumbent=nix"], "nix: no such folder"),
    ],
)
def test_missing_input_is_one_line_before_any_step(capsys, tmp_path, inline, pipeline, values, message):
    words = [word for value in values for word in ("--param", value)]
    answer = recpolicy(capsys, "pipeline", "run", pipeline, "--root", tmp_path / "runs", *words, *inline)
    assert message in refused(answer)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no columns 'user' for the user.*name them with data_settings="),
        ({"columns": {"user": "uid"}}, "no column 'item' for the item.*name it with data_settings="),
        ({"columns": {"usr": "uid"}}, "no rating column named 'usr'"),
        ({"colums": {}}, "colums"),
        (
            {"columns": {"user": "uid", "item": "film"}, "items": "nix.csv"},
            "nix.csv: no such file; expected a table of items",
        ),
    ],
)
def test_columns_are_checked_before_any_step(capsys, tmp_path, settings, message):
    (tmp_path / "own.csv").write_text("uid,film,rating\n1,10,4\n")
    words = ["--param", f"data={tmp_path / 'own.csv'}", "--param", f"data_settings={json.dumps(settings)}"]
    answer = recpolicy(capsys, "pipeline", "run", "train", "--root", tmp_path / "runs", *words)
    assert re.search(message, refused(answer))
    assert not (tmp_path / "runs").exists()


def test_settings_of_the_data_reach_the_table(tmp_path):
    (tmp_path / "own.csv").write_text("uid;film;stars\n" + "".join(f"{n};{n % 5};{1 + n % 10}\n" for n in range(40)))
    settings = {
        "columns": {"user": "uid", "item": "film", "rating": "stars"}, "scale": [1.0, 10.0], "separator": ";"
    }  # fmt: skip
    figures = fetch_data_step(
        str(tmp_path / "out"), data=str(tmp_path / "own.csv"), settings=settings, split="random", seed=0
    )
    assert (figures["ratings"], figures["users"], figures["items"]) == (40, 40, 5)
    assert load_saved_ratings(tmp_path / "out").scale == (1.0, 10.0)
    paths = input_paths("train", {"data": str(tmp_path / "own.csv"), "data_settings": {"items": "books.csv"}})
    assert {key: str(path) for key, path in paths.items()} == {
        "data": str(tmp_path / "own.csv"), "data_settings.items": "books.csv"
    }  # fmt: skip


@pytest.mark.parametrize("pipeline", ["train", "sweep", "retrain"])
def test_promotion_during_a_rollout_is_refused_before_any_step(capsys, tmp_path, registry, pipeline):
    words = ["--param", "promote=true", "--param", f"registry={registry.folder}"]
    words += ["--param", "log=s3://b/log"] if pipeline == "retrain" else []
    answer = recpolicy(capsys, "pipeline", "run", pipeline, "--root", tmp_path / "runs", *words)
    assert "promote is true, but version 2 of" in refused(answer)
    assert not (tmp_path / "runs").exists()


def test_download_is_tried_again_but_faulty_data_are_not(monkeypatch, capsys):
    errors, pauses = [FetchError("no network"), FetchError("no network"), None], []
    monkeypatch.setattr("time.sleep", pauses.append)

    def fetch():
        error = errors.pop(0)
        if error is not None:
            raise error

    monkeypatch.setattr(movielens_download, "fetch", fetch)
    fetch_patiently()
    assert (errors, pauses) == ([], [5, 30])
    assert "trying again in 5 s" in capsys.readouterr().out
    errors[:] = [FetchError("no network")] * 4
    with pytest.raises(FetchError):
        fetch_patiently()
    assert len(errors) == 1
    errors[:] = [DataError("faulty"), None]
    with pytest.raises(DataError):
        fetch_patiently()
    assert len(errors) == 1


def test_no_step_is_retried_on_this_machine():
    text = pipeline_yaml("train")
    assert "retryPolicy" in text
    changed = without_retries(text)
    assert "retryPolicy" not in changed
    tasks = yaml.safe_load(changed)["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert tasks["train-policy"]["cachingOptions"] == {"enableCache": True}
