"""The report of a policy on a machine without TensorFlow: it has everything that no TensorFlow computes."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny_policies import tiny_artifact
from tiny_session_policies import tiny_session_artifact

from recpolicy.core import optional_deps
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import split
from recpolicy.inference.predictor import Policy
from recpolicy.workflows.held_out_evaluation import evaluate
from recpolicy.workflows.policy_report import write_policy_report

ROW = {"reward": {"value": 5.125, "lo": 4.5, "hi": 5.75}, "length": 6.0, "like_share": 0.25}
GAIN = {"gain_on_rating_model": {"value": 0.625, "lo": 0.125, "hi": 1.125}}
WORLD = {"topk_reinforce": ROW | GAIN, "rating_model": ROW | {"gain_on_rating_model": None}}


@pytest.fixture(autouse=True)
def light(monkeypatch, tmp_path):
    """An installation with the extra `report` and without `train`, and an empty cache."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(optional_deps, "_is_there", lambda module: module != "tf_agents")
    monkeypatch.setenv("RECPOLICY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def parts():
    """Ratings of all 7 users for all 11 items of the tiny policies, in two parts."""
    user, item = (index.ravel().astype(np.int32) for index in np.indices((7, 11)))
    tables = tiny_artifact()
    ratings = Ratings(
        user=user, item=item, rating=(1 + (user * 3 + item) % 5).astype(np.float32), timestamp=None,
        users=pd.DataFrame({"user_id": tables.users["user_id"]}), items=tables.items, name="tiny", scale=(1.0, 5.0),
    )  # fmt: skip
    return split(ratings, "random", seed=0)


def policy_of(artifact, parts, model="bayesian_fm"):
    metadata = {
        **artifact.metadata, "agent": artifact.agent, "versions": {"recpolicy": "0.1.0"},
        "config": {"agent": {}, "rating_model": {}, "train": {}},
        "rating_model": {"name": model, "seed": 0}, "training": {"mode": "log", "rows": 77},
        "split": {"name": parts.name, "train": parts.train.digest, "test": parts.test.digest},
    }  # fmt: skip
    return Policy(replace(artifact, metadata=metadata))


def report(policy, parts, folder):
    page = folder / "page.html"
    result = write_policy_report(policy, parts, folder, page)
    return result, page.read_text(encoding="utf-8")


def test_a_rating_model_that_nobody_can_fit_here_is_left_out_and_named(parts, tmp_path):
    result, page = report(policy_of(tiny_artifact(), parts), parts, tmp_path)
    assert page.count("<svg") >= 4  # choice, differences, calibration, suggestions
    [note] = re.findall(r"<p>(The baseline rating_model.*?)</p>", page)
    assert note.startswith("The baseline rating_model and the embedding diversity are left out: the rating model")
    assert "&#39;bayesian_fm&#39; needs the extra &#39;train&#39;" in note
    assert "rating_model" not in result.evaluation.policies
    assert {"linucb", "most_popular", "svd"} <= result.evaluation.policies.keys()
    assert "It is not compared with the greedy rating model." in page
    assert json.loads((tmp_path / "metrics.json").read_text())["notes"] == list(result.notes)


def test_a_rating_model_that_needs_no_extra_is_compared(parts, tmp_path):
    result, page = report(policy_of(tiny_artifact(), parts, "item_mean"), parts, tmp_path)
    assert not result.notes
    assert "rating_model" in result.evaluation.policies
    assert "left out" not in page
    assert "notes" not in json.loads((tmp_path / "metrics.json").read_text())


def test_sessions_that_nothing_can_simulate_here_are_named_and_the_rest_is_drawn(parts, tmp_path):
    _, page = report(policy_of(tiny_session_artifact(), parts, "item_mean"), parts, tmp_path)
    [note] = re.findall(r"<p>(Simulated sessions.*?)</p>", page)
    assert note.startswith("Simulated sessions are left out: a simulation of sessions needs the extra &#39;train&#39;")
    assert "evaluation-world reward" not in page
    assert page.count("<svg") >= 4


def test_sessions_of_an_earlier_evaluation_are_drawn_and_kept(parts, tmp_path):
    policy = policy_of(tiny_session_artifact(), parts, "item_mean")
    stored = evaluate({"topk_reinforce": policy}, parts, out=tmp_path).as_dict()
    sessions = {"training_world": WORLD, "evaluation_world": WORLD}
    (tmp_path / "metrics.json").write_text(json.dumps({**stored, "sessions": sessions}))
    _, page = report(policy, parts, tmp_path)
    assert "5.125 [4.500, 5.750]" in page
    assert "0.625 [0.125, 1.125]" in page
    assert "Figures of simulated sessions come from an earlier evaluation, in metrics.json." in page
    assert json.loads((tmp_path / "metrics.json").read_text())["sessions"] == sessions


def test_sessions_of_another_test_part_are_not_taken_for_these(parts, tmp_path):
    body = {"test_digest": "other", "seed": 0, "sessions": {"training_world": WORLD, "evaluation_world": WORLD}}
    (tmp_path / "metrics.json").write_text(json.dumps(body))
    _, page = report(policy_of(tiny_session_artifact(), parts, "item_mean"), parts, tmp_path)
    assert "Simulated sessions are left out" in page
    assert "5.125" not in page
