"""A session policy goes through the pipeline `retrain` with a log of sessions."""

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_session_logs import eagerly
from trained_policies import miniature_split

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import EVALUATION, TRAINING
from recpolicy.data.session_log_files import SESSIONS, read_sessions, write_sessions
from recpolicy.inference.predictor import load_policy
from recpolicy.pipelines import steps
from recpolicy.training import tensorflow_export
from recpolicy.workflows.candidate_evaluation import evaluate_candidate_folder
from recpolicy.workflows.policy_estimation import read_evaluation_log
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.session_logs import ingest_session_log, read_log, simulate_session_log

TRAIN = {"rating_model": "svd", "rank": 5, "max_episode_steps": 8, "batch_size": 32, "epochs": 1}
TABLES = IdVocabulary.from_ratings(miniature_split().train)


@pytest.fixture(scope="module", autouse=True)
def without_compiling():
    with eagerly():
        yield


@pytest.fixture(autouse=True)
def without_saved_models(monkeypatch):
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    out = tmp_path_factory.mktemp("logs") / "sessions"
    simulate_session_log(miniature_split(), out, config={"sessions": 80, "days": 2}, train=TRAIN)
    return out


def test_the_latest_sessions_are_for_evaluation_only(log, tmp_path):
    report = ingest_session_log(log, tmp_path / "out", TABLES, {"evaluation_share": 0.25})
    assert (report.sessions, report.training, report.evaluation) == (80, 60, 20)
    train_part = read_log(tmp_path / "out", TABLES)
    evaluation = read_sessions(tmp_path / "out" / EVALUATION, TABLES)
    assert report.steps == len(train_part) + len(evaluation)
    ends = [part.time[part.start[1:] - 1] for part in (train_part, evaluation)]
    assert ends[0].max() < ends[1].min()
    whole = read_log(log, TABLES)
    assert sorted([*train_part.event_id, *evaluation.event_id]) == sorted(whole.event_id)


@pytest.mark.parametrize("settings", [{"wait_hours": 2.0}, {"unit": "round"}])
def test_settings_without_a_meaning_are_refused_and_nothing_is_written(log, tmp_path, settings):
    with pytest.raises(ConfigError, match="only evaluation_share counts"):
        ingest_session_log(log, tmp_path / "out", TABLES, settings)
    assert not (tmp_path / "out").exists()


def test_without_a_later_session_there_is_no_evaluation(log, tmp_path):
    whole = read_log(log, TABLES)
    one = whole.select_sessions(np.arange(len(whole.length)) == 0)
    (tmp_path / "one").mkdir()
    write_sessions(tmp_path / "one" / SESSIONS, one, TABLES)
    with pytest.raises(DataError, match="none is left for evaluation"):
        ingest_session_log(tmp_path / "one", tmp_path / "out", TABLES)
    assert not (tmp_path / "out").exists()


def test_a_session_policy_is_retrained_and_evaluated_on_logged_sessions(log, tmp_path):
    first = simulate_session_log(miniature_split(), tmp_path / "first", config={"sessions": 20}, train=TRAIN, seed=1)
    incumbent, rounds, policy = (str(tmp_path / name) for name in ("incumbent", "rounds", "policy"))
    train("topk_reinforce", miniature_split(), incumbent, config=TRAIN, agent_config={"layers": (8,)}, log=first)
    counts = steps.ingest_log_step(str(log), rounds, ratings=None, policy=incumbent, settings={})
    assert (counts["training"], counts["evaluation"]) == (64, 16)
    figures = steps.train_policy_step(
        policy, ratings=None, features=None, rounds=rounds, incumbent=incumbent, epochs=1, seed=0
    )
    assert (figures["agent"], figures["sessions"]) == ("topk_reinforce", 64)
    evaluation = str(tmp_path / "evaluation.json")
    steps.evaluate_policy_step(
        policy, evaluation, str(tmp_path / "page.html"), ratings=None, rounds=rounds, incumbent=incumbent, seed=0
    )
    body = json.loads(Path(evaluation).read_text())
    assert "off_policy" in body
    assert "sessions" not in body
    assert steps.gate_policy_step(evaluation, str(tmp_path / "gate.json"), str(tmp_path / "gate.html"), settings={})
    # The sessions that trained it cannot evaluate it, whatever file they are in.
    with pytest.raises(DataError, match="learned"):
        evaluate_candidate_folder(Path(policy), None, Path(rounds) / TRAINING, Path(incumbent))
    assert len(read_evaluation_log(load_policy(policy), Path(rounds)).length) == 16
