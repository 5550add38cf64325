"""`recpolicy tune` and `log simulate --weights`: from a log to a layer, and one line for wrong input."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from tiny_policies import write_tiny
from typer.testing import CliRunner

from recpolicy.cli.main import app
from recpolicy.core.errors import RecpolicyError
from recpolicy.inference.predictor import load_policy
from recpolicy.models.session_world import SessionWorld
from recpolicy.workflows.weight_logs import simulate_weight_log

HEADS = "like,popularity"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny policy and a log of uniform weights in a world of its users."""
    folder = tmp_path_factory.mktemp("tune")
    policy = load_policy(write_tiny(folder / "policy"))
    users, items = len(policy.scorer.user_ids), len(policy.scorer.item_ids)
    world = SessionWorld(
        name="planted", users=np.arange(users, dtype=np.int32),
        like=np.random.default_rng(0).normal(size=(users, items)).astype(np.float32), slope=1.0,
        interest=np.zeros((users, 1), np.float32), direction=np.zeros((items, 1), np.float32),
        like_history=np.zeros(2, np.float32), stay=np.zeros((users, 3), np.float32),
        stay_history=np.zeros(2, np.float32), fatigue=(0.0, 0.0), levels=np.zeros((3, 2), np.float32),
        genres=np.zeros((items, 1), np.float32),
    )  # fmt: skip
    simulate_weight_log(
        policy, world, HEADS.split(","), folder / "log", config={"slates": 3_000, "slate_size": 2, "points": 3}
    )
    return folder


def run(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_tune_writes_a_layer_and_prints_its_gates_as_json(folders, tmp_path):
    done = run(
        "tune", folders / "policy", "--log", folders / "log", "--heads", HEADS, "--steps", 20, "--no-worlds", "--json",
        "--out", tmp_path / "layer",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert body["gates"]["verdict"] in ("pass", "fail", "cannot tell")
    assert set(body["static_weights"]) == set(HEADS.split(","))
    assert {path.name for path in (tmp_path / "layer" / "layer").iterdir()} == {
        "tuning.json", "arrays.npz", "pareto.svg",
    }  # fmt: skip
    shown = run("recommend", tmp_path / "layer", "--user", 1, "-k", 3, "--json")
    assert shown.exit_code == 0, shown.output
    rated = [run("predict", tmp_path / name, "--user", 1, "--json") for name in ("layer",)]
    assert [row["rating"] for row in json.loads(rated[0].stdout)] == [
        row["rating"] for row in json.loads(run("predict", folders / "policy", "--user", 1, "--json").stdout)
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reward", "likes=1"], "no objective named 'likes'"),
        (["--method", "reinforced"], "method is 'reinforced'"),
        (["--heads", "like"], "a log of the heads like, popularity, not like"),
        (["--static", "like=2", "--static", "popularity=0"], "weight 'like' is 2, outside of its grid 0 to 1"),
        (["--static", "like=1"], "no weight of 'popularity'; expected one for each of like, popularity"),
    ],
)
def test_wrong_input_of_tune_is_one_line(folders, tmp_path, words, message):
    done = run("tune", folders / "policy", "--log", folders / "log", "--out", tmp_path / "layer", "--no-worlds", *words)
    assert isinstance(done.exception, RecpolicyError)
    assert message in str(done.exception)
    assert not (tmp_path / "layer").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "gaussian", "--heads", "like"], "expected uniform"),
        (["--weights", "uniform"], "needed with --weights"),
        (["--weights", "uniform", "--heads", "like"], "weights rank a trained policy"),
    ],
)
def test_wrong_input_of_a_log_of_weights_is_refused(tmp_path, words, message):
    pd.DataFrame(
        [(u, i, 1 + (u * i) % 5, 1_000 * u + i) for u in range(20) for i in range(8)],
        columns=["user_id", "item_id", "rating", "timestamp"],
    ).to_csv(tmp_path / "ratings.csv", index=False)
    done = run(
        "log", "simulate", "--data", tmp_path / "ratings.csv", "--split", "random", "--out", tmp_path / "log", *words
    )
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.parametrize("words", [("tune", "nowhere", "--log", "x", "--out", "y"), ("study", "drl-put", "--out", ".")])
def test_a_wrong_folder_is_one_line_without_banners_of_libraries(words, tmp_path):
    (tmp_path / "other").touch()  # so that the folder cannot be that of a study
    command = [sys.executable, "-c", "from recpolicy.cli.main import main; main()", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_tuning_and_its_study_import_no_tensorflow():
    code = (
        "import sys, recpolicy.agents.utility_tuning, recpolicy.workflows.layer_tuning,"
        " recpolicy.workflows.ads_study_report; sys.exit(str({'tensorflow', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"
