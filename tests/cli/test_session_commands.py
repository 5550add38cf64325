"""Session policies on the command line: from `train ppo` to a slate, and how wrong words are refused."""

import json

import pytest
from command_line import recpolicy, refused
from pyarrow.parquet import read_table
from tiny_dataset import write_miniature

from recpolicy.core.metrics import read_csv
from recpolicy.inference.predictor import load_policy

CONFIG = """
[train]
batch_size = 16
log_rows = 2
rating_model = "svd"
rank = 5
max_episode_steps = 8
[agent]
layers = [8]
n_steps = 8
n_epochs = 1
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory that holds the miniature as ml-100k and a config."""
    folder = tmp_path_factory.mktemp("directory")
    write_miniature(folder / "ml-100k")
    (folder / "tiny.toml").write_text(CONFIG)
    return folder


@pytest.fixture(autouse=True)
def inside(directory, monkeypatch):
    monkeypatch.chdir(directory)


@pytest.fixture
def run(directory, capsys):
    """The policy that `recpolicy train` wrote; trained once."""
    out = directory / "run"
    if not out.exists():
        words = ("--config", "tiny.toml", "--total-timesteps", 500, "--checkpoint-every-steps", 128, "--out", "run")
        answer = recpolicy(capsys, "train", "ppo", *words)
        assert answer.code == 0, answer.err
        assert answer.out.splitlines() == [
            "trained ppo on ml-100k/u1/train (seed 0): run",
            f"state: {load_policy(out).metadata['state_dim']} numbers (5 of the user, 25 of the session)",
            "next: recpolicy evaluate run",
        ]
    return out


def rows_of(capsys, *words):
    return json.loads(recpolicy(capsys, *words, "--json").out)


def test_train_takes_its_length_from_the_words(run):
    metadata = load_policy(run).metadata
    assert metadata["config"]["train"]["total_timesteps"] == 500
    assert metadata["config"]["train"]["checkpoint_every_steps"] == 128
    assert metadata["training"]["total_timesteps"] == 512  # whole blocks of 16 sessions and 8 steps
    assert [row["step"] for row in read_csv(run / "metrics.csv")] == [128, 256, 384, 512]
    assert (run / "tensorboard").is_dir()
    assert (run / "policy" / "saved_model.pb").is_file()
    assert (run / "action" / "saved_model.pb").is_file()


def test_evaluate_prints_both_tables_and_writes_both_into_metrics(run, capsys):
    answer = recpolicy(capsys, "evaluate", "run", "--sessions", 60, "--worlds", 2)
    assert answer.code == 0, answer.err
    held_out, differences, lists, *groups, sessions, count, over_worlds = answer.out.split("\n\n")
    assert count == "60 sessions of each policy in the evaluation world."
    assert "2 versions of the evaluation world, each fitted on a random half of its users" in over_worlds
    assert "gain over worlds" in sessions
    assert "held-out ratings of u1" in held_out
    assert "rmse" in held_out.lower()
    assert sessions.startswith("Simulated sessions: reward of a session")
    for name in ("ppo", "rating_model", "random"):
        assert f"\n{name} " in held_out
        assert f"\n{name} " in sessions
    assert "\nfatigue_aware " in sessions
    assert differences.startswith("Held-out choice of ppo minus that of the policy")
    assert "diversity" in lists.lower()
    assert groups
    written = json.loads((run / "metrics.json").read_text())
    assert {"policies", "sessions"} <= set(written)
    assert set(written["sessions"]) == {"training_world", "evaluation_world", "sessions", "notes", "ensemble"}
    assert "ppo" in written["sessions"]["evaluation_world"]
    assert written["sessions"]["sessions"] == 60
    assert "--sessions" in refused(recpolicy(capsys, "evaluate", "run", "--sessions", 1))
    failed = recpolicy(capsys, "evaluate", "run", "--like-model", "nowhere:like")
    assert "like model 'nowhere:like' cannot be imported" in refused(failed)
    assert json.loads((run / "metrics.json").read_text()) == written  # all or nothing


def test_predict_and_recommend_know_the_session_so_far(run, capsys):
    shown = ("--history", "7=like", "--history", "9=skip")
    history = {3: [(7, True), (9, False)]}
    policy = load_policy(run)
    rows = rows_of(capsys, "predict", "run", "-u", 3, *shown)
    expected = policy.predict(3, history=history)
    for column in ("rating", "probability", "session_value"):
        assert [row[column] for row in rows] == pytest.approx(expected[column].tolist())
    assert rows[6]["probability"] == rows[8]["probability"] == 0
    assert rows != rows_of(capsys, "predict", "run", "-u", 3)
    listed = rows_of(capsys, "recommend", "run", "-u", 3, "-k", 80, "--include-rated", *shown)
    wanted = policy.recommend(3, 80, exclude_rated=False, history=history)["item_id"].tolist()
    assert [row["item_id"] for row in listed] == wanted
    assert len(wanted) == 78


def test_a_logged_session_is_replayed_and_the_history_has_an_influence(run, directory, capsys):
    words = ("--sessions", 5, "--out", "log", "--logging-policy", "random", "--config", "tiny-log.toml")
    (directory / "tiny-log.toml").write_text("[train]\nmax_episode_steps = 8\n")
    assert recpolicy(capsys, "log", "simulate", *words).code == 0
    session = read_table(directory / "log" / "sessions.parquet", columns=["session_id"])["session_id"][0].as_py()
    answer = recpolicy(capsys, "session", "replay", "run", "--log", "log", "--session", session)
    assert answer.code == 0, answer.err
    assert f"Session {session} of user" in answer.out
    assert "Likes expected by the response model" in answer.out
    rows = json.loads(recpolicy(capsys, "session", "replay", "run", "--log", "log", "--session", session, "--json").out)
    assert all(0 < step["p_like"] < 1 and step["propensity"] > 0 for step in rows["steps"])
    assert "no session 'x' among 5" in refused(
        recpolicy(capsys, "session", "replay", "run", "--log", "log", "--session", "x")
    )
    words = ("--items-shown", 3, "--users", 10, "--plot", "influence.svg")
    answer = recpolicy(capsys, "session", "influence", "run", *words)
    assert answer.code == 0, answer.err
    assert "Probability of a genre after 3 of its items, 10 users" in answer.out
    assert (directory / "influence.svg").read_bytes().startswith(b"<?xml")
    assert ".svg or .png" in refused(recpolicy(capsys, "session", "influence", "run", "--plot", "x.gif"))


def test_a_sampled_slate_is_fixed_by_the_seed(run, capsys):
    def slate(*words):
        return [row["item_id"] for row in rows_of(capsys, "recommend", "run", "-u", 3, "-k", 20, *words)]

    assert slate("--sample", "--seed", 4) == slate("--sample", "--seed", 4)
    assert slate("--sample", "--seed", 4) != slate("--sample", "--seed", 5)
    assert slate("--sample") != slate()
    assert len(set(slate("--sample"))) == 20


@pytest.mark.parametrize("pair", ["7", "7=", "=like", "7=5", "7=Like"])
def test_what_is_no_response_is_one_line(run, capsys, pair):
    line = refused(recpolicy(capsys, "predict", run, "-u", 3, "--history", pair))
    assert f"--history {pair!r}: expected ITEM=like or ITEM=skip, such as 50=like" in line


def test_a_session_of_several_users_and_an_unknown_item_are_one_line(run, capsys):
    assert "exactly one --user" in refused(recpolicy(capsys, "predict", run, "-u", 1, "-u", 2, "--history", "7=like"))
    line = refused(recpolicy(capsys, "recommend", run, "-u", 3, "--history", "999=like"))
    assert "no item with id 999" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ppoo",), "no agent named 'ppoo'. Did you mean 'ppo'?"),
        (("ppo", "--total-timesteps", 0), "--total-timesteps"),
        (("ppo", "--checkpoint-every-steps", 0), "--checkpoint-every-steps"),
        (("ppo", "--mode", "offline"), "no setting named 'mode'"),
    ],
)
def test_words_that_do_not_go_together_are_one_line(capsys, directory, words, message):
    assert message in refused(recpolicy(capsys, "train", *words, "--out", "never"))
    assert not (directory / "never").exists()
    assert not (directory / "never.incomplete").exists()
