"""The chain from an imported log to the gate, by the words that each command prints as the next one."""

import json

import pytest
from click_logs import read_complete_rounds, shop, write_open_bandit
from command_line import recpolicy, refused
from hand_logs import hand_rounds, write_log

from recpolicy.data.loaders import load_ratings
from recpolicy.training import tensorflow_export

TINY = '[train]\nrating_model = "svd"\nworld = "item_knn"\nrank = 5\n\n[rating_model]\nrank = 3\nreg_0 = 0.5\n'


@pytest.fixture(scope="module", autouse=True)
def without_saved_models():
    """The two SavedModels left out, which nothing here looks at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
        yield


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """A directory with a log of another system, a config and no MovieLens."""
    monkeypatch.chdir(tmp_path)
    write_open_bandit(tmp_path / "clicks.csv", read_complete_rounds(shop(), 1_500))
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


def done(capsys, *words):
    """The lines of a command that succeeds."""
    answer = recpolicy(capsys, *words)
    assert answer.code == 0, answer
    return answer.out.splitlines()


def following(lines):
    """The words after `next: recpolicy`."""
    assert lines[-1].startswith("next: recpolicy ")
    return lines[-1].removeprefix("next: recpolicy ").split()


def ingested(capsys, *words):
    """Import and ingest the log as it says; returns the lines of the ingest."""
    return done(
        capsys, *following(done(capsys, "log", "import", "clicks.csv", "--format", "obd", "--out", "log")), *words
    )


def test_from_a_file_of_clicks_to_a_verdict_with_nothing_but_the_file(capsys, directory):
    lines = ingested(capsys)
    assert lines[-2] == "written: log-rounds, and the log as a table of ratings: log-rounds/ratings"
    lines = done(capsys, *following(lines), "--config", "tiny.toml")
    assert lines[0].startswith("trained linucb on log/tail-")
    assert following(lines) == ["evaluate", "log-rounds-policy"]
    done(capsys, *following(lines))
    metadata = json.loads((directory / "log-rounds-policy" / "recpolicy.json").read_text())["metadata"]
    assert metadata["source"] == {"source": "log-rounds/ratings"}
    assert metadata["training"]["rows"] == 1200
    done(capsys, "train", "ucb1", "--log", "log-rounds", "--config", "tiny.toml", "--out", "other")
    found = json.loads("\n".join(done(capsys, "ope", "estimate", "log-rounds-policy", "--log", "log-rounds", "--json")))
    assert "dr" in str(found)
    answer = recpolicy(capsys, "gate", "log-rounds-policy", "--baseline", "other", "--log", "log-rounds")
    assert answer.code in (0, 1), answer
    assert "held-out gain over most popular, lower bound" in answer.out
    rows = json.loads("\n".join(done(capsys, "predict", "log-rounds-policy", "--user", "u3", "--json")))
    assert all(0 <= row["rating"] <= 1 for row in rows)
    words = ("recommend", "log-rounds-policy", "--user", "u3", "--include-rated", "-k", 2, "--json")
    assert len(json.loads("\n".join(done(capsys, *words)))) == 2


def test_the_log_learnt_from_is_no_log_to_be_judged_by(capsys, directory):
    done(capsys, *following(ingested(capsys)), "--config", "tiny.toml")
    words = ("ope", "estimate", "log-rounds-policy", "--log", "log-rounds/training.parquet")
    assert "the policy, or one of its ancestors, has learned from" in refused(recpolicy(capsys, *words))


def test_a_log_with_nothing_held_out_says_what_to_do(capsys, directory):
    ingested(capsys, "--evaluation-share", 0)
    words = ("train", "linucb", "--log", "log-rounds", "--config", "tiny.toml", "--out", "run")
    line = refused(recpolicy(capsys, *words))
    assert "log-rounds/ratings: this log has no rounds for evaluation; ingest it again" in line
    assert not (directory / "run").exists()
    assert done(capsys, *words, "--split", "random")[0].startswith("trained linucb on log/random/train")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--split", "u1"), "log-rounds: split 'u1' would train on rounds for evaluation; leave --split out"),
        (("--data", "other.csv"), "training.parquet: rewards on the scale [0.0, 1.0]; expected [1.0, 5.0]"),
        (("--data", "other.csv", "--config", "unit.toml"), "training.parquet: row 1: user_id 'u"),
        (("--data", "nowhere"), "nowhere: no such file or folder"),
    ],
)
def test_what_does_not_fit_the_log_is_one_line(capsys, directory, words, message):
    ingested(capsys)
    (directory / "other.csv").write_text("user,item,rating\n" + "".join(f"{row},{row},1\n" for row in range(1, 21)))
    (directory / "unit.toml").write_text("[data]\nscale = [0, 1]\n")
    line = refused(recpolicy(capsys, "train", "linucb", "--log", "log-rounds", *words, "--out", "run"))
    assert message in line
    assert not (directory / "run").exists()


def test_options_of_ratings_do_not_go_with_a_log_that_needs_none(capsys, directory):
    done(capsys, "log", "import", "clicks.csv", "--format", "obd", "--out", "log")
    (directory / "own.toml").write_text("[data]\nscale = [0, 1]\n")
    line = refused(recpolicy(capsys, "log", "ingest", "log", "--config", "own.toml", "--out", "rounds"))
    assert "the table [data] is about ratings; name them with --data" in line
    assert not (directory / "rounds").exists()


def test_a_log_of_ones_own_is_ingested_with_its_own_ids(capsys, directory):
    write_log(directory / "own", hand_rounds())
    done(capsys, "log", "ingest", "own", "--out", "rounds")
    ratings = load_ratings(directory / "rounds" / "ratings")
    assert ratings.users["user_id"].tolist() == sorted({*range(1, 5)} & {*ratings.users["user_id"]})
    assert {*ratings.items["item_id"]} == {11, 12, 13, 15, 16}  # the catalog
    assert ratings.scale == (1.0, 5.0)
