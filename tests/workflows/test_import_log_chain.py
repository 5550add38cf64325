"""From the log of another system to a policy, an estimate and a gate, with nothing but the log; against the truth."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from click_logs import read_complete_rounds, shop, write_open_bandit, write_vowpal_wabbit

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.loaders import load_ratings
from recpolicy.data.log_ingest import RATINGS
from recpolicy.data.splits import split
from recpolicy.evaluation.gate import GateConfig
from recpolicy.inference.predictor import load_policy
from recpolicy.pipelines import steps
from recpolicy.training import tensorflow_export
from recpolicy.workflows.gating import gate_candidate
from recpolicy.workflows.held_out_evaluation import evaluate
from recpolicy.workflows.imported_logs import import_log
from recpolicy.workflows.interaction_logs import ingest_log, read_rounds
from recpolicy.workflows.policy_estimation import estimate
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.session_logs import read_log
from recpolicy.workflows.training_data import training_data

WORLD = shop(users=100)
QUICK = {"mode": "log", "rank": 5}
SWEEPS = {"sweeps": 60}


@pytest.fixture(scope="module", autouse=True)
def without_saved_models():
    """The two SavedModels left out, which nothing here looks at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
        yield


def learn(folder, out, agent="linucb"):
    """What `recpolicy train AGENT --log FOLDER` does."""
    parts = training_data(log=folder)
    log = read_log(folder, IdVocabulary.from_ratings(parts.train))
    return train(agent, parts, out, config=QUICK, model_config=SWEEPS, log=log, show_progress=False)


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    """A folder with an imported log of 30,000 rounds, its rounds and two policies learnt from them."""
    folder = tmp_path_factory.mktemp("clicks")
    import_log(write_open_bandit(folder / "clicks.csv", read_complete_rounds(WORLD, 30_000)), folder / "log", "obd")
    ingest_log(folder / "log", folder / "rounds")
    learn(folder / "rounds", folder / "linucb")
    learn(folder / "rounds", folder / "ucb1", "ucb1")
    return folder


@pytest.fixture
def copied(clicks, tmp_path):
    """The log and its rounds, to be spoilt."""
    for name in ("log", "rounds"):
        shutil.copytree(clicks / name, tmp_path / name)
    return tmp_path


def test_the_fit_part_is_what_the_training_rounds_say_and_the_test_part_what_the_others_say(clicks):
    parts = training_data(log=clicks / "rounds")
    source = parts.train.source
    assert source == {"source": str(clicks / "rounds" / RATINGS)}
    assert split(load_ratings(**source), parts.name).digest == parts.digest  # as `recpolicy evaluate` makes it again
    for part, file in ((parts.train, "training.parquet"), (parts.test, "evaluation.parquet")):
        rounds = read_rounds(clicks / "rounds" / file, IdVocabulary.from_ratings(parts.train))
        frame = pd.DataFrame({"user": rounds.user, "item": rounds.item, "reward": rounds.reward})
        mean = frame.groupby(["user", "item"])["reward"].mean()
        found = mean.reindex(pd.MultiIndex.from_arrays([part.user, part.item])).to_numpy()
        np.testing.assert_allclose(part.rating, found, atol=1e-6)
    assert parts.train.scale == (0.0, 1.0)


def test_what_the_estimate_says_is_true(clicks):
    """6,000 rounds for evaluation; intervals of 95 %."""
    policy = load_policy(clicks / "linucb")
    truth = WORLD.value(policy)
    assert truth > WORLD.logged_value + 0.1  # it has learnt tastes, not only what is shown
    assert truth > WORLD.value(load_policy(clicks / "ucb1")) + 0.05
    found = estimate(policy, clicks / "rounds", load_policy(clicks / "ucb1"))
    assert found.logged_value == pytest.approx(WORLD.logged_value, abs=0.04)
    for name in ("snips", "dr"):
        assert found.estimates[name].verdict == "estimated"
        interval = found.estimates[name].intervals["bootstrap"]
        assert interval.lo <= truth <= interval.hi
        assert interval.lo > found.logged_value


def test_held_out_ratings_and_the_gate_agree_that_it_is_better(clicks):
    policy, other = load_policy(clicks / "linucb"), load_policy(clicks / "ucb1")
    parts = training_data(log=clicks / "rounds")
    chosen = {
        name: one.held_out_choice.value for name, one in evaluate({"mine": policy}, parts).evaluation.policies.items()
    }
    assert chosen["mine"] > max(chosen["most_popular"], chosen["highest_mean"]) > chosen["random"]
    limits = GateConfig(held_out_margin=-0.05, latency_ms=None)  # few pairs of few rounds are held out here
    result = gate_candidate(policy, parts, clicks / "rounds", other, limits)
    assert result.verdict == "pass", result.reasons
    assert gate_candidate(other, parts, clicks / "rounds", policy, limits).verdict == "fail"


def test_it_predicts_clicks_and_recommends_to_users_and_newcomers(clicks):
    policy = load_policy(clicks / "linucb")
    ids = policy.artifact.users["user_id"].tolist()
    rating = policy.predict(ids)["rating"].to_numpy().reshape(len(ids), -1)
    assert rating.min() >= 0
    assert rating.max() <= 1
    row = np.array([int(one[1:]) for one in ids])
    assert np.corrcoef(rating.ravel(), WORLD.click[row].ravel())[0, 1] > 0.7
    assert len(policy.recommend([ids[0]], k=3, exclude_rated=False)) == 3
    assert len(policy.recommend(["new"], k=3, fold_in={"new": {1: 1.0, 2: 0.0}})) == 3


def test_users_and_items_without_a_round_to_learn_from_are_known_all_the_same(tmp_path):
    rounds = read_complete_rounds(WORLD, 1_000)
    rounds.user[-150:] += 100
    rounds.item[-150:] = 30
    import_log(write_open_bandit(tmp_path / "clicks.csv", rounds), tmp_path / "log", "obd")
    ingest_log(tmp_path / "log", tmp_path / "rounds")
    policy = learn(tmp_path / "rounds", tmp_path / "run")
    assert 31 in policy.artifact.items["item_id"].tolist()
    assert np.isfinite(policy.predict(["u101"])["rating"]).all()
    assert np.isfinite(estimate(policy, tmp_path / "rounds").estimates["dm"].value)


def test_vowpal_wabbits_log_goes_the_same_way(tmp_path):
    path = write_vowpal_wabbit(tmp_path / "choices.json", read_complete_rounds(WORLD, 2_000), items=20)
    import_log(path, tmp_path / "log", "vw", columns={"user": "User.id", "item": "Item.id"})
    ingest_log(tmp_path / "log", tmp_path / "rounds")
    policy = learn(tmp_path / "rounds", tmp_path / "run", "lints")
    assert WORLD.value(policy) > WORLD.logged_value
    assert estimate(policy, tmp_path / "rounds").logged_value == pytest.approx(0.35, abs=0.05)


def test_a_log_that_names_nobody_has_intervals_over_its_rounds(tmp_path):
    rewards = np.random.default_rng(5).random(1_000) < 0.4
    lines = [
        json.dumps({
            "_label_cost": -float(rewarded), "_label_probability": 0.5, "_label_Action": 1 + row % 2,
            "EventId": f"k{row}", "a": [1, 2], "p": [0.5, 0.5], "c": {"_multi": [{"_tag": "a"}, {"_tag": "b"}]},
        })
        for row, rewarded in enumerate(rewards)
    ]  # fmt: skip
    (tmp_path / "log.json").write_text("\n".join(lines))
    assert import_log(tmp_path / "log.json", tmp_path / "log", "vw").users == 1
    ingest_log(tmp_path / "log", tmp_path / "rounds")
    policy = learn(tmp_path / "rounds", tmp_path / "policy", "ucb1")
    result = estimate(policy, tmp_path / "rounds")
    interval = result.estimates["snips"].intervals["t"]
    logged = pd.read_parquet(tmp_path / "rounds" / "evaluation.parquet")["reward"].to_numpy()
    error = logged.std() / np.sqrt(len(logged) / 2)  # the policy chooses the action of every second round
    assert interval.value == pytest.approx(logged.mean(), abs=4 * error)
    assert (interval.hi - interval.lo) / 2 == pytest.approx(1.98 * error, rel=0.25)
    gate = gate_candidate(policy, None, tmp_path / "rounds", None, GateConfig(latency_ms=None))
    assert "gain over the logging policy, lower bound" in {criterion.name for criterion in gate.criteria}

    import_log(tmp_path / "log.json", tmp_path / "person", "vw", unit="user")
    ingest_log(tmp_path / "person", tmp_path / "of-person")
    with pytest.raises(DataError, match=r"1 users for 2 folds.*--unit round"):
        estimate(learn(tmp_path / "of-person", tmp_path / "second", "ucb1"), tmp_path / "of-person")


def test_a_policy_is_trained_on_by_the_next_log(clicks, tmp_path):
    """The steps of `recpolicy pipeline run retrain`."""
    path = write_open_bandit(tmp_path / "next.csv", read_complete_rounds(WORLD, 3_000, seed=1, start="2026-03-05"))
    next_log = str(tmp_path / "log")
    import_log(path, next_log, "obd", IdVocabulary.from_policy(load_policy(clicks / "linucb")))
    rounds, incumbent, new = str(tmp_path / "rounds"), str(clicks / "linucb"), str(tmp_path / "new")
    steps.ingest_log_step(next_log, rounds, ratings=None, policy=incumbent, settings={})
    steps.train_policy_step(new, ratings=None, features=None, rounds=rounds, incumbent=incumbent, epochs=1, seed=0)
    figures, _ = steps.evaluate_policy_step(
        new, str(tmp_path / "evaluation.json"), str(tmp_path / "page.html"), ratings=None, rounds=rounds,
        incumbent=incumbent, seed=0,
    )  # fmt: skip
    assert figures["gain_lower"] <= figures["gain"] <= figures["gain_upper"]
    assert steps.gate_policy_step(
        str(tmp_path / "evaluation.json"), str(tmp_path / "gate.json"), str(tmp_path / "gate.html"), settings={}
    ) in ("pass", "fail", "no_verdict")  # fmt: skip
    assert not (tmp_path / "rounds" / RATINGS).exists()  # the ids are the policy's


def test_data_that_is_given_goes_first_and_a_split_saved_with_it_is_kept(clicks):
    given = str(clicks / "rounds" / RATINGS)
    own = training_data(log=clicks / "rounds")
    assert training_data(given).digest == own.digest
    other = training_data(given, "random", seed=3)
    assert (other.name, other.seed, other.test.source) == ("random", 3, {"source": given})
    with pytest.raises(DataError, match="nowhere: no such file"):
        training_data("nowhere", log=clicks / "rounds")


def test_a_split_by_which_evaluation_rounds_would_be_fitted_is_refused(clicks):
    own = training_data(log=clicks / "rounds")
    assert training_data(split=own.name, log=clicks / "rounds").digest == own.digest
    with pytest.raises(
        ConfigError, match=rf"split 'random' would train on rounds for evaluation; .* the split {own.name}"
    ):
        training_data(split="random", log=clicks / "rounds")


def test_a_log_of_which_nothing_is_held_out_says_what_to_do(copied):
    ingest_log(copied / "log", copied / "all", config={"evaluation_share": 0})
    with pytest.raises(DataError, match=r"this log has no rounds for evaluation; .*--evaluation-share 0\.2.*--split"):
        training_data(log=copied / "all")
    assert training_data(split="temporal", log=copied / "all").name == "temporal"


def test_a_log_that_is_not_there_is_named_before_any_ratings_are_looked_for(copied):
    with pytest.raises(DataError, match=r"none: no such folder; expected a log that `recpolicy log ingest` wrote"):
        training_data("nowhere.csv", log=copied / "none")


def test_a_raw_log_is_to_be_ingested_first(copied):
    with pytest.raises(DataError, match="log: a raw log; ingest it first: recpolicy log ingest"):
        training_data(log=copied / "log")


@pytest.mark.parametrize("file", ["recpolicy.json", "ratings.parquet", "users.parquet"])
@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_damaged_ratings_are_refused(copied, file, damage):
    path = copied / "rounds" / RATINGS / file
    path.write_bytes(path.read_bytes()[:100])
    if damage == "missing":
        path.unlink()
    with pytest.raises(ArtifactError, match=file) as raised:
        training_data(log=copied / "rounds")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("file", ["users.parquet", "items.parquet", "import.json"])
def test_a_damaged_import_is_refused_and_leaves_nothing(copied, file):
    (copied / "log" / file).write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=file) as raised:
        ingest_log(copied / "log", copied / "again")
    assert "\n" not in str(raised.value)
    assert sorted(one.name for one in copied.iterdir()) == ["log", "rounds"]


def test_a_table_of_other_columns_is_refused(copied):
    pd.DataFrame({"who": ["u1"]}).to_parquet(copied / "log" / "users.parquet")
    with pytest.raises(ArtifactError, match="no column user_id; import the log again"):
        ingest_log(copied / "log", copied / "again")


def test_nothing_is_written_where_the_table_of_ratings_cannot_be(copied, monkeypatch):
    def full(*_args, **_options):
        raise OSError("no space left")

    monkeypatch.setattr("recpolicy.workflows.interaction_logs.save_ratings", full)
    with pytest.raises(OSError, match="no space left"):
        ingest_log(copied / "log", copied / "again")
    assert sorted(one.name for one in copied.iterdir()) == ["log", "rounds"]
