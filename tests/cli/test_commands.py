"""The command line as a person meets it: answers, examples, and one clear line when something is wrong.

The policy is made by hand from a bias model, so that no test here needs TensorFlow.
"""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from tiny_dataset import write_miniature
from typer.testing import CliRunner

from recpolicy.cli.main import app, main
from recpolicy.core.files import atomic_directory
from recpolicy.data.loaders import load_ratings
from recpolicy.data.splits import split
from recpolicy.inference.artifact import Artifact, write_arrays, write_manifest
from recpolicy.models.embeddings import embed
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.workflows.held_out_evaluation import BASELINES, METRICS_FILE

COMMANDS = ("train", "demo", "evaluate", "compare", "predict", "recommend", "report")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_miniature(tmp_path_factory.mktemp("ratings"))


@pytest.fixture(scope="module")
def policy(data, tmp_path_factory):
    parts = split(load_ratings(data), "u1")
    model = fit_rating_model(parts.train, "bias")
    embeddings = embed(model, 4)
    artifact = Artifact(
        agent="rating_model", estimator="rating_model", head="greedy", settings={}, uniform_mix=0.0, policy={},
        context=embeddings.user, item=embeddings.item, offset=embeddings.offset, rating_std=model.std,
        action_items=np.arange(parts.train.shape[1], dtype=np.int32), rated_user=parts.train.user,
        rated_item=parts.train.item, users=parts.train.users, items=parts.train.items, scale=parts.train.scale,
        noise_std=model.noise_std,
        metadata={
            "source": {"source": str(data)}, "data": parts.train.name,
            "split": {"name": "u1", "seed": 0, "train": parts.train.digest, "test": parts.test.digest},
            "config": {"agent": {}, "rating_model": model.config}, "rating_model": {"name": "bias", "seed": model.seed},
            "seed": 0, "versions": {}, "training": {"mode": "offline", "rows": len(parts.train)},
        },
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("policies") / "policy"
    with atomic_directory(folder) as temporary:
        write_arrays(artifact, temporary)
        write_manifest(artifact, temporary)
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command as the shell does; returns (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["recpolicy", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command):
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert f"Example:  recpolicy {command}" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "linucbb", "--data", "{data}", "--out", "{tmp}/x"), "Did you mean 'linucb'?"),
        (("train", "linucb", "--data", "{data}", "--split", "u9", "--out", "{tmp}/x"), "u9"),
        (("train", "linucb", "--data", "{tmp}/none.csv", "--out", "{tmp}/x"), "none.csv: no such file"),
        (("train", "linucb", "--data", "{data}", "--out", "{policy}"), "already exists"),
        (("train", "linucb", "--data", "{data}", "--out", "{tmp}/x", "--config", "{tmp}/none.toml"), "no such config"),
        (("predict", "{tmp}", "--user", "1"), "not a policy artifact"),
        (("predict", "{tmp}/none", "--user", "1"), "no such folder"),
        (("predict", "{policy}", "--user", "4711"), "no user with id 4711"),
        (("predict", "{policy}", "--user", "1", "--item", "x"), "no item with id x"),
        (("predict", "{policy}", "--user", "1", "--out", "{tmp}/x.xlsx"), ".csv or .parquet"),
        (("recommend", "{policy}", "--user", "new", "--rating", "1"), "expected ITEM=RATING"),
        (("recommend", "{policy}", "--user", "new", "--rating", "1=9"), "rating 9 is not in 1..5"),
        (("evaluate", "{policy}", "--data", "{tmp}/none"), "no such file or folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, words, said, data, policy, tmp_path):
    before = sorted(tmp_path.iterdir())
    code, out, err = run(*(word.format(data=data, policy=policy, tmp=tmp_path) for word in words))
    assert code == 2
    assert said in err
    assert err.startswith("recpolicy: ")
    assert err.count("\n") == 1
    assert out == ""
    assert sorted(tmp_path.iterdir()) == before  # nothing half-written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[trian]\n", "Did you mean 'train'?"),
        ("[train]\ntotal_timestep = 5\n", "Did you mean 'total_timesteps'?"),
        ("[train]\nbatch_size = 'many'\n", "batch_size"),
        ("[agent]\nalfa = 1\n", "Did you mean 'alpha'?"),
        ("[data]\ncolums = {}\n", "Did you mean 'columns'?"),
        ("[train\n", "not valid TOML"),
    ],
)
def test_a_bad_config_names_the_file_or_the_key(run, text, said, data, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    code, _, err = run("train", "linucb", "--data", data, "--config", path, "--out", tmp_path / "x")
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


def test_predict_prints_json_that_a_program_can_read(run, policy):
    code, out, _ = run("predict", policy, "--user", "1", "--user", "2", "--item", "3", "--item", "4", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [(row["user_id"], row["item_id"]) for row in rows] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert all(1 <= row["rating"] <= 5 and row["std"] > 0 for row in rows)


@pytest.mark.parametrize(("name", "read"), [("x.csv", pd.read_csv), ("x.parquet", pd.read_parquet)])
def test_predict_writes_tables(run, policy, tmp_path, name, read):
    code, out, _ = run("predict", policy, "--user", "1", "--out", tmp_path / name)
    written = read(tmp_path / name)
    assert code == 0
    assert str(tmp_path / name) in out
    assert list(written) == ["user_id", "item_id", "title", "rating", "std", "low", "high", "value", "probability"]
    assert len(written) == 80


def test_recommend_takes_a_newcomer(run, policy):
    code, out, _ = run("recommend", policy, "--user", "new", "--rating", "1=5", "--rating", "2=1", "-k", "3", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert not {1, 2} & {row["item_id"] for row in rows}


def test_evaluate_prints_and_writes_the_same_figures(run, policy):
    code, out, _ = run("evaluate", policy, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((policy / METRICS_FILE).read_text(encoding="utf-8"))
    assert {"rating_model", "random", "most_popular", "highest_mean"} <= set(json.loads(out)["policies"])


def test_evaluate_shows_a_table_to_people(run, policy):
    code, out, _ = run("evaluate", policy)
    assert code == 0
    for word in ("RMSE", "nDCG@10", "held-out choice", "evaluation regret", "most_popular", "oracle"):
        assert word in out


def test_evaluate_refuses_ratings_of_another_fit_part(run, policy, tmp_path):
    other = write_miniature(tmp_path / "other", seed=5)
    code, _, err = run("evaluate", policy, "--data", other)
    assert code == 2
    assert "it may have seen" in err


def test_compare_puts_policies_side_by_side(run, policy):
    code, out, _ = run("compare", policy, policy.parent / "policy", "--json")
    assert code == 0
    body = json.loads(out)
    assert str(policy) in body["policies"]
    assert body["against"] == str(policy)
    assert set(BASELINES) < body["policies"].keys()
    assert body["differences"].keys() == body["policies"].keys() - {str(policy)}


def test_compare_takes_paired_differences_from_a_baseline(run, policy):
    _, out, _ = run("compare", policy, policy.parent / "policy", "--against", "most_popular")
    assert "Held-out choice of most_popular minus that of the policy, paired by user" in out
    table = out.split("paired by user\n")[1].split("\n\n")[0].splitlines()
    assert "most_popular is better" in table[0]
    assert "most_popular" not in [row.split()[0] for row in table[1:]]
    code, _, err = run("compare", policy, "--against", "most_populer")
    assert code == 2
    assert "Did you mean 'most_popular'?" in err


def test_report_is_one_page_that_loads_nothing(run, policy, tmp_path):
    code, out, err = run("report", policy, "--out", tmp_path / "page.html", "--user", "2")
    assert code == 0, err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "page.html" in out
    assert "Suggestions for user 2" in page
    assert "<svg" in page
    for outside in ('src="http', 'href="http', "url(http", "@import"):
        assert outside not in page


def test_ctrl_c_is_one_line(run, policy, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("recpolicy.inference.predictor.load_policy", interrupt)
    code, _, err = run("predict", policy, "--user", "1")
    assert (code, err.count("\n")) == (130, 1)
