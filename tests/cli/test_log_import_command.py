"""`recpolicy log import`: logs of other systems from the command line."""

import json

from command_line import recpolicy, refused
from test_open_bandit import write
from test_vowpal_wabbit import line
from test_vowpal_wabbit import write as write_json


def test_it_says_what_came_in_and_what_is_lost(tmp_path, capsys):
    answer = recpolicy(
        capsys, "log", "import", write(tmp_path / "log.csv"), "--format", "obd", "--out", tmp_path / "log"
    )
    assert answer.code == 0
    assert answer.out.splitlines() == [
        f"imported 4 rounds of 3 users and 3 items: {tmp_path / 'log'}",
        "each round counts as another person: the file names no users (--unit user, or --user NAME)",
        "dropped: position, user-item_affinity_0",
        "users and items are those of the log",
        f"next: recpolicy log ingest {tmp_path / 'log'} --out {tmp_path / 'log'}-rounds",
    ]
    assert {one.name for one in (tmp_path / "log").iterdir()} == {
        "events.parquet", "import.json", "items.parquet", "users.parquet"
    }  # fmt: skip


def test_vowpal_wabbits_ids_and_scale_are_said_by_options(tmp_path, capsys):
    path = write_json(tmp_path / "log.json", line(2, cost=2.0), line(1, cost=-2.0), line(3, _skipLearn=True))
    words = ("log", "import", path, "--format", "vw", "--out", tmp_path / "log", "--user", "User.id")
    assert "log.json:1: reward -2 is not in 0..1" in refused(recpolicy(capsys, *words))
    answer = recpolicy(capsys, *words, "--item", "Item.n.id", "--scale", "-2", "2", "--json")
    report = json.loads(answer.out)
    assert (report["rounds"], report["users"], report["items"], report["skipped"]) == (2, 1, 3, 1)


def test_ids_of_ratings_are_looked_up_in_them(tmp_path, capsys):
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\n4,12,5\n4,9,1\n", encoding="utf-8")
    lines = ("2026-01-01,12,1,0.5,4", "2026-01-01,12,0,0.5,5")
    path = write(tmp_path / "log.csv", lines, "timestamp,item_id,click,propensity_score,user_id")
    words = ("log", "import", path, "--format", "obd", "--out", tmp_path / "log", "--data", tmp_path / "ratings.csv")
    assert "log.csv:3: user '5' is not known to the policy or ratings" in refused(recpolicy(capsys, *words))
    assert not (tmp_path / "log").exists()
    assert "--policy, --data" in recpolicy(capsys, *words, "--policy", "x").err
