"""`recpolicy log`: from a simulated log to rounds, and the lines with which it refuses."""

import json
import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from command_line import recpolicy, refused
from hand_logs import FAULTS, HOUR, hand_rounds, tables, write_log
from tiny_dataset import write_miniature
from trained_policies import loaded, trained

from recpolicy.data.bandit_log_files import write_rewards
from recpolicy.data.log_parts import REWARDS

CONFIG = """
[train]
rating_model = "svd"
world = "item_knn"
rank = 5

[rating_model]
rank = 3

[log]
rounds = 300
temperature = 0.5
missing_share = 0.1
"""


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """A directory that holds the miniature as ml-100k and a config."""
    monkeypatch.chdir(tmp_path)
    write_miniature(tmp_path / "ml-100k")
    (tmp_path / "log.toml").write_text(CONFIG)
    return tmp_path


def write_known():
    """Ratings with the users and items of hand_logs.tables()."""
    frame = pd.DataFrame({"user": [1, 2, 3, 4, 1, 1], "item": [11, 12, 13, 14, 15, 16], "rating": 3})
    frame.to_csv("known.csv", index=False)


def test_simulate_then_ingest_as_it_says(capsys, directory):
    answer = recpolicy(capsys, "log", "simulate", "--config", "log.toml", "--seed", 3, "--out", "logs/week1")
    assert answer.code == 0, answer
    assert answer.out == (
        "logged 300 events of rating_model on ml-100k/u1/train (seed 3): logs/week1\n"
        "next: recpolicy log ingest logs/week1 --data ml-100k --out logs/week1-rounds\n"
    )
    note = json.loads((directory / "logs" / "week1" / "simulation.json").read_text())
    assert (note["seed"], note["config"]["temperature"], note["train"]["world"]) == (3, 0.5, "item_knn")
    came = pq.read_table("logs/week1/rewards.parquet").num_rows
    words = answer.out.splitlines()[-1].removeprefix("next: recpolicy ").split()
    answer = recpolicy(capsys, *words)
    assert answer.code == 0, answer
    lines = answer.out.splitlines()
    assert lines[0] == "300  events"
    assert lines[1] == f"{came}    with their own reward"
    assert lines[-1] == "written: logs/week1-rounds"
    report = json.loads((directory / "logs" / "week1-rounds" / "ingest.json").read_text())
    assert report["training"] + report["evaluation"] == report["joined"] == came
    assert pq.read_table("logs/week1-rounds/training.parquet").num_rows == report["training"]


def test_options_override_the_config(capsys, directory):
    words = (
        "--config",
        "log.toml",
        "--rounds",
        50,
        "--temperature",
        0.9,
        "--uniform-mix",
        0.25,
        "--logging-policy",
        "random",
    )
    answer = recpolicy(capsys, "log", "simulate", *words, "--split", "u2", "--out", "log", "--json")
    assert json.loads(answer.out) == {
        "out": "log", "logging_policy": "random", "events": 50, "data": "ml-100k/u2/train", "seed": 0
    }  # fmt: skip
    config = json.loads((directory / "log" / "simulation.json").read_text())["config"]
    assert (config["rounds"], config["temperature"], config["uniform_mix"]) == (50, 0.9, 0.25)


def test_a_trained_policy_logs_and_says_which_ids_there_are(capsys, directory):
    folder = trained("linucb_hybrid")
    words = ("--config", "log.toml", "--logging-policy", folder, "--out", "log")
    answer = recpolicy(capsys, "log", "simulate", *words)
    assert f"next: recpolicy log ingest log --policy {folder} --out log-rounds" in answer.out
    assert pq.read_table("log/events.parquet")["policy_version"].unique().to_pylist() == [
        loaded("linucb_hybrid").metadata["policy_digest"]
    ]
    words = ("--policy", folder, "--evaluation-share", 0.5, "--out", "rounds", "--json")
    report = json.loads(recpolicy(capsys, "log", "ingest", "log", *words).out)
    assert report["evaluation"] == round(report["joined"] / 2)


def test_own_ratings_are_read_as_the_config_says(capsys, directory):
    known = tables(text=True)
    pairs = [(user, item) for user in known.users["user_id"] for item in known.items["item_id"]]
    frame = pd.DataFrame(pairs, columns=["who", "what"]).assign(stars=3)
    frame.to_csv("mine.csv", index=False)
    (directory / "mine.toml").write_text('[data]\ncolumns = { user = "who", item = "what", rating = "stars" }\n')
    write_log(directory / "log", hand_rounds(), text=True)
    words = ("--data", "mine.csv", "--config", "mine.toml", "--out", "rounds", "--json")
    assert json.loads(recpolicy(capsys, "log", "ingest", "log", *words).out)["joined"] == 12


def test_every_event_and_reward_is_accounted_for(capsys, directory):
    """12 hourly events; two wait a day, one came late, one twice, one of a stranger."""
    rounds = hand_rounds()
    write_log(directory / "log", rounds)
    ids = np.array([*rounds.event_id[:8], "e0", "e8", "stranger"], object)
    time = np.array([*(rounds.time[:8] + 60_000), *(rounds.time[[0, 8]] + [HOUR, 3 * HOUR]), rounds.time[11]])
    write_rewards(directory / "log" / REWARDS, ids, time, np.full(11, 3.0))
    write_known()
    words = (
        "--data",
        "known.csv",
        "--wait-hours",
        2,
        "--default-reward",
        1,
        "--evaluation-share",
        0,
        "--out",
        "rounds",
    )
    assert recpolicy(capsys, "log", "ingest", "log", *words).out == (
        "12  events\n"
        " 8    with their own reward\n"
        " 2    with the default reward\n"
        " 2    waiting: their reward may still arrive\n"
        " 0    dropped: without a reward\n"
        "10  rounds for training\n"
        " 0  rounds for evaluation, all later\n"
        " 1  rewards not used: outside the wait window\n"
        " 1  rewards not used: of events with an earlier reward\n"
        " 1  rewards not used: of events not in the log\n"
        "10 rewards: mean 2.6, standard deviation 0.8, 0 % positive\n"
        "\nwritten: rounds\n"
    )


@pytest.mark.parametrize("fault", ["cut short", "propensity NaN", "propensity float32", "no events"])
def test_a_damaged_log_is_one_line_and_nothing_is_written(capsys, directory, fault):
    spoil, message = FAULTS[fault]
    spoil(write_log(directory / "log", hand_rounds()))
    write_known()
    before = sorted(path.name for path in directory.iterdir())
    line = refused(recpolicy(capsys, "log", "ingest", "log", "--data", "known.csv", "--out", "rounds"))
    assert re.search(message, line)
    assert sorted(path.name for path in directory.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("simulate", "--logging-policy", "linucbb"), "no logging policy named 'linucbb'"),
        (("simulate", "--logging-policy", "runs/none"), "runs/none: no such folder; expected a policy"),
        (("simulate", "--uniform-mix", "2"), "uniform_mix is 2"),
        (("simulate", "--data", "nowhere"), "nowhere: no such file"),
        (("simulate", "--config", "bad.toml"), "Did you mean 'train'?"),
        (("ingest", "nowhere"), "nowhere/events.parquet: no such file"),
        (("ingest", "nowhere", "--wait-hours", "-1"), "wait_hours is -1.0"),
        (("ingest", "nowhere", "--evaluation-share", "1"), "evaluation_share is 1.0"),
        (("ingest", "nowhere", "--policy", "runs/none"), "runs/none: no such folder"),
        (("ingest", "nowhere", "--policy", "a", "--data", "b"), "give only one of them: both define users and items"),
    ],
)
def test_what_makes_no_sense_is_one_line(capsys, directory, words, message):
    (directory / "bad.toml").write_text("[trane]\n")
    assert message in refused(recpolicy(capsys, "log", *words, "--out", "out"))
    assert not (directory / "out").exists()


def test_a_folder_that_exists_is_left_alone(capsys, directory):
    line = refused(recpolicy(capsys, "log", "ingest", "ml-100k", "--out", "ml-100k"))
    assert "ml-100k: already exists; choose another folder" in line


@pytest.mark.parametrize("command", ["simulate", "ingest"])
def test_help_shows_an_example(capsys, command):
    answer = recpolicy(capsys, "log", command, "--help")
    assert answer.code == 0
    assert f"recpolicy log {command} " in " ".join(answer.out.split())
