"""Pages simulated by the words of the command line, and the lines with which a wrong word is refused."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import recpolicy, refused
from hand_logs import write_known
from hand_slates import FAULTS, write_hand
from synthetic_session_logs import eagerly
from tiny_dataset import write_miniature

from recpolicy.training import tensorflow_export

CONFIG = """
[train]
rating_model = "svd"
world = "item_knn"
rank = 5
[log]
slots = 3
layout = "list"
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory that holds the miniature as ml-100k and two configs."""
    folder = tmp_path_factory.mktemp("directory")
    write_miniature(folder / "ml-100k")
    (folder / "log.toml").write_text(CONFIG)
    (folder / "train.toml").write_text(CONFIG.partition("[log]")[0])
    (folder / "slates.toml").write_text('[train]\nrating_model = "svd"\nrank = 5\nmax_episode_steps = 4\n')
    return folder


@pytest.fixture(autouse=True)
def inside(directory, monkeypatch):
    monkeypatch.chdir(directory)


@pytest.fixture
def log(capsys, directory):
    """The folder that `recpolicy log simulate --slates` wrote; simulated once."""
    out = directory / "pages"
    if not out.exists():
        words = ("--slates", 300, "--config", "log.toml", "--logging-policy", "random", "--seed", 2, "--out", "pages")
        answer = recpolicy(capsys, "log", "simulate", *words)
        assert answer.code == 0, answer.err
        likes = np.mean(pq.read_table(out / "slates.parquet")["reward"].to_numpy())
        assert answer.out == (
            "logged 300 slates of 3 items of random on ml-100k/u1/train (seed 2): pages\n"
            f"likes per slate: {likes:.3f} on average\n"
            "next: recpolicy ope estimate POLICY --log pages\n"
        )
    return out


def test_top_k_reinforce_learns_from_the_pages_as_they_are(capsys, log, monkeypatch):
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
    words = ("topk_reinforce", "--config", "slates.toml", "--log", "pages", "--out", "shows-pages", "--json")
    with eagerly():
        told = json.loads(recpolicy(capsys, "train", *words).out)
    assert told["training"] | {"mode": "slates", "rows": 300, "slots": 3} == told["training"]
    assert len(json.loads(recpolicy(capsys, "recommend", "shows-pages", "-u", 1, "--json").out)) == 3
    words = ("train", "dqn", "--config", "slates.toml", "--log", "pages", "--out", "no")
    assert "a log of slates; ingest it first" in refused(recpolicy(capsys, *words))


def test_a_policy_learns_from_the_slots_of_pages_and_is_judged_by_other_pages(capsys, directory, log):
    told = json.loads(recpolicy(capsys, "log", "ingest", "pages", "--data", "ml-100k", "--out", "slots", "--json").out)
    assert (told["events"], told["training"] + told["evaluation"]) == (900, 900)
    assert recpolicy(capsys, "train", "linucb", "--config", "train.toml", "--log", "slots", "--out", "learnt").code == 0
    line = refused(recpolicy(capsys, "ope", "estimate", "learnt", "--log", "pages"))
    assert "pages/slates.parquet: the policy, or one of its ancestors, has learned from" in line
    assert "of these 300 slates" in line
    words = (
        "--slates",
        200,
        "--config",
        "log.toml",
        "--logging-policy",
        "random",
        "--seed",
        3,
        "--out",
        "others",
        "--json",
    )
    assert json.loads(recpolicy(capsys, "log", "simulate", *words).out)["slates"] == 200
    found = json.loads(recpolicy(capsys, "ope", "estimate", "learnt", "--log", "others", "--json").out)
    assert {"ips", "rips", "cascade_dr"} <= set(found["estimators"])
    text = recpolicy(capsys, "ope", "estimate", "learnt", "--log", "others/slates.parquet", "--baseline", "learnt").out
    assert text.startswith("linucb (greedy) on others/slates.parquet (mean logged ")
    assert "Difference to learnt" in text


def test_pages_are_ingested_before_they_are_learnt_from(capsys, directory, log):
    line = refused(recpolicy(capsys, "train", "linucb", "--config", "train.toml", "--log", "pages", "--out", "never"))
    assert "pages: a log of slates; ingest it first: recpolicy log ingest pages" in line
    line = refused(recpolicy(capsys, "log", "ingest", "pages/slates.parquet", "--out", "never"))
    assert "pages/slates.parquet: this is a file; expected the folder of a log" in line
    assert not (directory / "never").exists()


def test_words_that_do_not_go_together_are_one_line(capsys, directory):
    words = ("log", "simulate", "--slates", 5, "--out", "never")
    assert "give only one of them" in refused(recpolicy(capsys, *words, "--sessions", 5))
    (directory / "bad.toml").write_text("[log]\nmissing_share = 0.1\n")
    assert "no setting named 'missing_share'" in refused(recpolicy(capsys, *words, "--config", "bad.toml"))
    assert "no logging policy named 'popular'" in refused(recpolicy(capsys, *words, "--logging-policy", "popular"))
    assert not (directory / "never").exists()


@pytest.mark.parametrize("fault", ["cut short", "propensity NaN", "slate too long", "slots earn otherwise"])
def test_a_damaged_log_is_one_line_and_nothing_is_written(capsys, directory, fault):
    folder = write_hand(directory / fault.replace(" ", "-"))
    spoil, message = FAULTS[fault]
    spoil(folder)
    write_known(directory / "known.csv")
    answer = recpolicy(capsys, "log", "ingest", folder.name, "--data", "known.csv", "--out", "never")
    assert re.search(message, refused(answer))
    assert not (directory / "never").exists()


def test_pages_that_do_not_say_what_their_slots_earned_make_no_rounds(capsys, directory):
    write_hand(directory / "whole", shelved=False, slot_reward=None)
    write_known(directory / "known.csv")
    line = refused(recpolicy(capsys, "log", "ingest", "whole", "--data", "known.csv", "--out", "never"))
    assert "whole/slates.parquet: no slot_reward; rounds need the reward of each slot" in line
