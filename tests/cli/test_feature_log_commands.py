"""`recpolicy log import --keep-features` and `log ingest` of feature logs from the command line."""

import json

from command_line import recpolicy, refused
from hand_feature_logs import hand_feature_log
from test_open_bandit import write
from test_vowpal_wabbit import line
from test_vowpal_wabbit import write as write_json

from recpolicy.data.feature_log_files import read_feature_log, write_feature_log
from recpolicy.data.signal_files import SIGNALS, write_signals


def test_an_import_names_the_features(tmp_path, capsys):
    path, out = write(tmp_path / "log.csv"), tmp_path / "log"
    answer = recpolicy(capsys, "log", "import", path, "--format", "obd", "--keep-features", "--out", out)
    assert answer.code == 0
    assert answer.out.splitlines() == [
        f"imported 4 rounds with 3 actions: {out}",
        "context: position, user-item_affinity_0, user_feature_0, user_feature_1",
        "actions: no features (3 distinct ones)",
        "each round counts as another person: the file names no users (--user NAME)",
        "4 rewards: mean 0.5, standard deviation 0.5, 50 % positive",
        "dropped: nothing",
        f"next: recpolicy log ingest {out} --out {out}-rounds",
    ]
    assert {entry.name for entry in out.iterdir()} == {"rounds.parquet", "actions.parquet", "import.json"}
    assert "already exists" in refused(
        recpolicy(capsys, "log", "import", path, "--format", "obd", "--keep-features", "--out", out)
    )


def test_lines_of_vowpal_wabbit_keep_weights(tmp_path, capsys):
    path = write_json(tmp_path / "log.json", line(2, pdrop=0.5), line(1, cost=-0.5), line(3, _skipLearn=True))
    words = ("log", "import", path, "--format", "vw", "--keep-features", "--out", tmp_path / "log")
    answer = recpolicy(capsys, *words, "--user", "User.id", "--json")
    report = json.loads(answer.out)
    assert (report["rounds"], report["users"], report["actions"], report["skipped"]) == (2, 1, 3, 1)
    assert report["weighted"] is True
    assert read_feature_log(tmp_path / "log").weight.tolist() == [2, 1]


def test_a_missing_table_is_one_line_and_leaves_nothing(tmp_path, capsys):
    out = tmp_path / "log"
    words = (
        "log",
        "import",
        write(tmp_path / "log.csv"),
        "--format",
        "obd",
        "--keep-features",
        "--out",
        out,
        "--items",
    )
    for name in ("items.csv", "items.parquet"):
        message = refused(recpolicy(capsys, *words, tmp_path / name))
        assert f"{name}: no such file; expected a table: CSV, JSON lines or Parquet" in message
        assert not out.exists()


def test_options_of_other_formats_are_refused(tmp_path, capsys):
    words = ("log", "import", tmp_path / "x", "--out", tmp_path / "log", "--format")
    assert "--context: options of the formats obd and table" in refused(
        recpolicy(capsys, *words, "vw", "--keep-features", "--context", "a")
    )
    assert "--keep-features" in recpolicy(capsys, *words, "table").err
    assert "--keep-features" in recpolicy(capsys, *words, "obd", "--context", "a").err
    assert "no format of logs with features named 'csv'" in refused(recpolicy(capsys, *words, "csv", "--keep-features"))
    assert "its own actions" in recpolicy(capsys, *words, "obd", "--keep-features", "--data", "ml-100k").err


def test_an_ingest_combines_signals_and_warns_of_sparse_rewards(tmp_path, capsys):
    write_feature_log(hand_feature_log(), tmp_path / "log")
    write_signals(tmp_path / "log" / SIGNALS, ["e2", "x"], [2500, 99000], ["like", "like"], [1.0, 1.0])
    (tmp_path / "reward.toml").write_text(
        "[ingest]\nevaluation_share = 0.5\n[reward]\nweights = { like = 0.5 }\nwait_seconds = 60\n"
        "min_reward = -1\nmax_reward = 1\n"
    )
    out = tmp_path / "rounds"
    answer = recpolicy(capsys, "log", "ingest", tmp_path / "log", "--config", tmp_path / "reward.toml", "--out", out)
    assert answer.code == 0
    lines = [text.strip() for text in answer.out.splitlines()]
    assert lines[:2] == ["4  events", "4    with a reward, or signals that settle it"]
    assert "1  signals not used: of events not in the log" in lines
    assert "4 rewards: mean 0.25, standard deviation 0.5590, 50 % positive".replace("0.5590", "0.559") in lines
    assert [len(read_feature_log(out / part)) for part in ("training", "evaluation")] == [2, 2]
    assert read_feature_log(out / "evaluation").reward.tolist() == [0.5, 0.0]
    assert (
        "--policy" in recpolicy(capsys, "log", "ingest", tmp_path / "log", "--policy", "x", "--out", tmp_path / "y").err
    )


def test_constant_rewards_are_a_warning(tmp_path, capsys):
    write_json(tmp_path / "log.json", *(line(1 + number % 3, user=str(number)) for number in range(20)))
    words = ("log", "import", tmp_path / "log.json", "--format", "vw", "--out", tmp_path / "log")
    assert recpolicy(capsys, *words, "--user", "User.id").code == 0
    words = ("log", "ingest", tmp_path / "log", "--out", tmp_path / "rounds", "--evaluation-share", 0)
    answer = recpolicy(capsys, *words)
    assert "20 rewards: mean 1, standard deviation 0, 100 % positive" in answer.out
    assert "warning: all 20 rewards are 1: there is nothing to learn from them" in answer.out
