"""`recpolicy train` and `recpolicy demo`: from a config file to a policy, and the lines with which they refuse."""

import json

import pytest
from command_line import recpolicy, refused
from tiny_dataset import miniature_ratings, write_miniature
from trained_policies import TINY

from recpolicy.training.divergence import diverged

CONFIG = "[train]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in TINY.items())


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """A directory that holds the miniature as ml-100k and a config."""
    monkeypatch.chdir(tmp_path)
    write_miniature(tmp_path / "ml-100k")
    (tmp_path / "tiny.toml").write_text(CONFIG + "[rating_model]\nrank = 3\n")
    return tmp_path


def test_train_then_evaluate_with_nothing_but_the_folder(capsys, directory):
    words = ("train", "popular", "--split", "u2", "--config", "tiny.toml", "--seed", 3, "--out", "runs/popular")
    assert recpolicy(capsys, *words).out == (
        "trained popular on ml-100k/u2/train (seed 3): runs/popular\nrewards: 57.6% positive\n"
        "state: 5 numbers\n"
        "next: recpolicy evaluate runs/popular\n"
    )
    manifest = json.loads((directory / "runs" / "popular" / "recpolicy.json").read_text())
    assert manifest["metadata"]["seed"] == 3
    assert manifest["metadata"]["config"]["train"]["total_timesteps"] == 640
    assert manifest["metadata"]["config"]["rating_model"]["rank"] == 3
    figures = json.loads(recpolicy(capsys, "evaluate", "runs/popular", "--json").out)
    assert figures["split"] == "u2"
    assert "runs/popular: already exists" in refused(recpolicy(capsys, *words))


def test_lines_of_progress_go_to_stdout_and_with_json_to_stderr(capsys):
    words = ("train", "popular", "--config", "tiny.toml", "--log-every-steps", 320)
    lines = recpolicy(capsys, *words, "--out", "a").out.splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == [f"training: {n} of 640 interactions" for n in (320, 640)]
    answer = recpolicy(capsys, *words, "--out", "b", "--json")
    assert json.loads(answer.out)["config"]["train"]["log_every_steps"] == 320
    assert "training: 320 of 640 interactions" in answer.err


def test_the_last_checkpoint_of_a_diverged_training_is_evaluated(capsys, directory, monkeypatch):
    def diverge(learner, step, saved, folder):
        if step == 640:
            raise diverged("planted", step, saved, folder)

    monkeypatch.setattr("recpolicy.training.trainer.check_variables", diverge)
    words = ("train", "linucb", "--config", "tiny.toml", "--checkpoint-every-steps", 320, "--out", "runs/linucb")
    assert "the checkpoint of step 320 in runs/linucb.incomplete is kept" in refused(recpolicy(capsys, *words))
    answer = recpolicy(capsys, "evaluate", "runs/linucb", "--checkpoint", "last")
    assert answer.out.startswith("runs/linucb at step 320, ")
    figures = json.loads(recpolicy(capsys, "evaluate", "runs/linucb", "--checkpoint", 320, "--json").out)
    assert "linucb" in figures["policies"]
    assert not list((directory / "runs" / "linucb.incomplete").glob("metrics.json"))
    said = refused(recpolicy(capsys, "evaluate", "runs/linucb", "--checkpoint", 7))
    assert "runs/linucb.incomplete: no checkpoint of step 7; there are 320" in said


def test_several_seeds_are_several_folders(capsys, directory):
    (directory / "sessions.toml").write_text(
        '[train]\nrating_model = "svd"\nrank = 3\ntotal_timesteps = 32\nbatch_size = 8\nmax_episode_steps = 4\n'
    )
    words = ("train", "q_learning", "--config", "sessions.toml", "--seed", 1, "--seeds", 2, "--out", "runs/q")
    said = recpolicy(capsys, *words).out
    assert said.startswith("trained q_learning on ml-100k/u1/train (seeds 1 to 2):\n  runs/q/seed-1\n  runs/q/seed-2\n")
    assert said.endswith("next: recpolicy compare runs/q/seed-*\n")
    assert "runs/q: already has the policies of all seeds" in refused(recpolicy(capsys, *words))
    assert "learns in single rounds" in refused(recpolicy(capsys, "train", "linucb", "--seeds", 2, "--out", "b"))
    assert recpolicy(capsys, "train", "ppo", "--seeds", 2, "--init-from", "a", "--out", "b").code == 2
    assert not (directory / "b").exists()


SCHEMA = '[context.gender]\ntype = "category"\n[action.genres]\ntype = "tags"\n'


def test_attributes_come_from_a_schema_file_or_from_the_config(capsys, directory):
    (directory / "schema.toml").write_text(SCHEMA)
    (directory / "both.toml").write_text(CONFIG + SCHEMA.replace("[", "[features."))
    words = ("train", "linucb_shared", "--mode", "offline", "--json")
    first = json.loads(
        recpolicy(capsys, *words, "--config", "tiny.toml", "--features", "schema.toml", "--out", "a").out
    )
    assert first["config"]["train"]["features"]["context"]["gender"] == {"type": "category"}
    assert set(first["attributes"]) == {"schema", "context", "action"}
    assert recpolicy(capsys, "evaluate", "a").code == 0
    second = json.loads(recpolicy(capsys, *words, "--config", "both.toml", "--out", "b").out)
    assert second["attributes"] == first["attributes"]
    for arguments, message in [
        (("linucb_shared", "--config", "both.toml", "--features", "schema.toml"), "too; give one schema"),
        (("linucb", "--config", "both.toml"), "linucb does not read attributes of items"),
        (("ppo", "--features", "schema.toml"), "ppo does not read attributes of items"),
        (("linucb_shared", "--features", "none.toml"), "none.toml: no such config file"),
    ]:
        assert message in refused(recpolicy(capsys, "train", *arguments, "--out", "c"))
    assert not (directory / "c").exists()


def test_an_initial_policy_that_is_missing_is_one_line_and_leaves_nothing_behind(capsys, directory):
    words = ("--split", "u2", "--config", "tiny.toml", "--init-from", "nowhere", "--out", "runs/ppo")
    assert "nowhere: no such folder; expected a policy" in refused(recpolicy(capsys, "train", "ppo", *words))
    assert not (directory / "runs" / "ppo").exists()


def test_own_data_is_read_again_as_the_config_says(capsys, directory):
    ratings = miniature_ratings()
    rows = zip(ratings.user.tolist(), ratings.item.tolist(), ratings.rating.tolist(), strict=True)
    text = "".join(f"alice{user},film-{item},{2 * rating:g}\n" for user, item, rating in rows)
    (directory / "mine.csv").write_text("who,what,stars\n" + text)
    data = '[data]\nscale = [2, 10]\ncolumns = { user = "who", item = "what", rating = "stars" }\n'
    (directory / "mine.toml").write_text(CONFIG + data)
    words = ("--data", "mine.csv", "--config", "mine.toml", "--mode", "offline", "--split", "random", "--out", "run")
    metadata = json.loads(recpolicy(capsys, "train", "highest_mean", *words, "--json").out)
    assert metadata["training"]["mode"] == "offline"
    rows = json.loads(recpolicy(capsys, "predict", "run", "--user", "alice7", "--json").out)
    assert max(row["rating"] for row in rows) > 5
    assert "policies" in json.loads(recpolicy(capsys, "evaluate", "run", "--json").out)


def test_agent_learns_from_the_earlier_rounds_of_a_log(capsys, directory):
    recpolicy(capsys, "log", "simulate", "--config", "tiny.toml", "--rounds", 400, "--uniform-mix", 0.5, "--out", "log")
    recpolicy(capsys, "log", "ingest", "log", "--data", "ml-100k", "--evaluation-share", 0.25, "--out", "rounds")
    words = ("--config", "tiny.toml", "--log", "rounds", "--out", "run", "--json")
    metadata = json.loads(recpolicy(capsys, "train", "linucb", *words).out)
    assert metadata["training"]["mode"] == "log"
    assert metadata["training"]["rows"] == 300
    assert metadata["log"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train = 3\n", "bad.toml: train: expected a table"),
        ("[train]\ntotal_timesteps = 0\n", "total_timesteps is 0"),
        ("[agent]\nprecision = -1\n", "precision is -1: expected greater than or equal to"),
        ("[rating_model]\nrang = 1\n", "no setting named 'rang'. Did you mean 'rank'?"),
    ],
)
def test_a_setting_out_of_range_leaves_nothing_behind(capsys, directory, text, message):
    (directory / "bad.toml").write_text(text)
    words = ("--config", "bad.toml", "--out", "run")
    assert message in refused(recpolicy(capsys, "train", "linucb", *words))
    assert not (directory / "run").exists()
    assert not (directory / "run.incomplete").exists()


def test_missing_data_says_how_to_get_it(capsys, directory):
    (directory / "ml-100k").rename(directory / "elsewhere")
    line = refused(recpolicy(capsys, "train", "linucb", "--out", "run"))
    assert "ml-100k is not here; run: recpolicy data fetch" in line


def test_demo_hands_on_what_it_was_told(capsys, directory, monkeypatch):
    from recpolicy.workflows import demo

    told = {}

    def run_demo(data, out, say, **options):
        told.update(data=data, out=out, **options)
        say("Ratings", "many")

    monkeypatch.setattr(demo, "run_demo", run_demo)
    words = ("--data", "elsewhere", "--user", "alice", "--total-timesteps", 64, "--items", 20, "--seed", 5, "-o", "run")
    assert recpolicy(capsys, "demo", *words).out == "Ratings: many\n"
    assert (told["data"], str(told["out"]), told["user"], told["seed"]) == ("elsewhere", "run", "alice", 5)
    assert (told["config"].total_timesteps, told["config"].items) == (64, 20)


def test_demo_refuses_data_that_is_not_there(capsys):
    assert "nowhere: no such file" in refused(recpolicy(capsys, "demo", "--data", "nowhere", "-o", "run"))
