"""From simulated sessions to a policy that learnt from them, and the lines with which a wrong log is refused."""

import json
import re

import pyarrow.parquet as pq
import pytest
from command_line import recpolicy, refused
from hand_logs import write_known
from hand_sessions import FAULTS, hand_sessions, write_hand
from tiny_dataset import write_miniature

from recpolicy.data.session_log_files import SESSIONS

CONFIG = """
[train]
batch_size = 16
rating_model = "svd"
rank = 5
max_episode_steps = 8
[agent]
layers = [8]
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory that holds the miniature as ml-100k and two configs."""
    folder = tmp_path_factory.mktemp("directory")
    write_miniature(folder / "ml-100k")
    (folder / "tiny.toml").write_text(CONFIG)
    (folder / "log.toml").write_text(CONFIG.partition("[agent]")[0])
    return folder


@pytest.fixture(autouse=True)
def inside(directory, monkeypatch):
    monkeypatch.chdir(directory)


@pytest.fixture
def log(capsys, directory):
    """The folder that `recpolicy log simulate --sessions` wrote; simulated once."""
    out = directory / "log"
    if not out.exists():
        words = ("--sessions", 60, "--config", "log.toml", "--seed", 2, "--out", "log")
        answer = recpolicy(capsys, "log", "simulate", *words)
        assert answer.code == 0, answer.err
        steps = pq.read_metadata(out / SESSIONS).num_rows
        assert answer.out == (
            f"logged 60 sessions ({steps} steps) of random on ml-100k/u1/train (seed 2): log\n"
            "next: recpolicy train topk_reinforce --split u1 --log log --seed 2 --out log-policy\n"
        )
    return out


def test_a_policy_learns_from_logged_sessions_and_logs_some_itself(capsys, directory, log):
    words = ("--config", "tiny.toml", "--log", "log", "--seed", 2, "--out", "learnt", "--json")
    metadata = json.loads(recpolicy(capsys, "train", "dqn", *words).out)
    steps = pq.read_metadata(log / SESSIONS).num_rows
    assert (metadata["training"]["mode"], metadata["training"]["rows"]) == ("log", steps)
    assert re.fullmatch("[0-9a-f]{64}", metadata["log"])
    rows = json.loads(
        recpolicy(capsys, "recommend", "learnt", "--user", 3, "--history", "7=like", "-k", 4, "--json").out
    )
    assert len({row["item_id"] for row in rows} - {7}) == 4
    words = (
        "--sessions",
        5,
        "--logging-policy",
        "./learnt",
        "--uniform-mix",
        0.1,
        "--seed",
        7,
        "--out",
        "more",
        "--json",
    )
    told = json.loads(recpolicy(capsys, "log", "simulate", *words).out)
    assert (told["logging_policy"], told["sessions"], told["seed"]) == ("dqn", 5, 7)
    assert set(pq.read_table("more/sessions.parquet")["policy"].to_pylist()) == {"dqn"}
    assert json.loads((directory / "more" / "simulation.json").read_text())["config"]["uniform_mix"] == 0.1


def test_a_log_of_the_wrong_kind_is_one_line(capsys, directory, log):
    words = ("--rounds", 40, "--logging-policy", "random", "--config", "log-rounds.toml", "--out", "rounds-log")
    (directory / "log-rounds.toml").write_text('[train]\nrating_model = "svd"\nworld = "item_knn"\nrank = 5\n')
    assert recpolicy(capsys, "log", "simulate", *words).code == 0
    assert recpolicy(capsys, "log", "ingest", "rounds-log", "--data", "ml-100k", "--out", "rounds").code == 0
    line = refused(recpolicy(capsys, "train", "dqn", "--log", "rounds", "--out", "never"))
    assert "dqn learns in simulated sessions, not from logged rounds such as rounds/training.parquet" in line
    line = refused(recpolicy(capsys, "train", "linucb", "--log", "log", "--out", "never"))
    assert "linucb learns from single rounds (recpolicy log ingest), not from sessions such as log/sessions" in line
    line = refused(recpolicy(capsys, "train", "ppo", "--log", "log", "--out", "never"))
    assert "ppo learns in simulated sessions, not from logged ones" in line
    assert not (directory / "never").exists()


def test_a_log_without_propensities_is_for_dqn_only(capsys, directory, log):
    table = pq.read_table(log / SESSIONS)
    (directory / "blind").mkdir()
    pq.write_table(table.drop_columns(["log_propensity"]), "blind/sessions.parquet")
    words = ("--config", "tiny.toml", "--log", "blind", "--out")
    line = refused(recpolicy(capsys, "train", "topk_reinforce", *words, "never"))
    assert "blind/sessions.parquet: no propensities, which topk_reinforce needs as weights" in line
    assert not (directory / "never").exists()
    assert not (directory / "never.incomplete").exists()


@pytest.mark.parametrize("fault", ["cut short", "propensity NaN", "step missing", "reward too high"])
def test_a_damaged_log_is_one_line_and_nothing_is_written(capsys, directory, fault):
    folder = write_hand(directory / fault.replace(" ", "-"))
    spoil, message = FAULTS[fault]
    spoil(folder)
    before = sorted(path.name for path in directory.iterdir())
    write_known(directory / "known.csv")
    words = ("--data", "known.csv", "--split", "random", "--log", folder.name, "--out", "never")
    assert re.search(message, refused(recpolicy(capsys, "train", "dqn", *words)))
    assert sorted(path.name for path in directory.iterdir() if path.name != "known.csv") == [
        name for name in before if name != "known.csv"
    ]


def test_words_that_do_not_go_together_are_one_line(capsys, directory):
    words = ("log", "simulate", "--sessions", 5, "--out", "never")
    assert "give only one of them" in refused(recpolicy(capsys, *words, "--rounds", 5))
    assert "no logging policy of sessions named 'rating_model'" in refused(
        recpolicy(capsys, *words, "--logging-policy", "rating_model")
    )
    assert "no setting named 'missing_share'" in refused(recpolicy(capsys, *words, "--config", bad(directory)))
    assert not (directory / "never").exists()


def bad(directory) -> str:
    (directory / "bad.toml").write_text("[log]\nmissing_share = 0.1\n")
    return "bad.toml"


def test_the_log_of_hands_is_sound():
    """Else the faults above would be found for another reason."""
    assert len(hand_sessions()) == 12
