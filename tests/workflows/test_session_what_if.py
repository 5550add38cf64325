"""One logged session, replayed with tiny policies: choices by `predict`, P(like) by the formulas of the world."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tiny_dataset import miniature_ratings
from tiny_policies import tiny_artifact
from tiny_session_policies import STEPS, chances, led_by, tiny_session_artifact

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.rating_sessions import split_into_sessions
from recpolicy.data.session_log_files import SESSIONS, write_sessions
from recpolicy.inference.predictor import Policy
from recpolicy.models.logistic import sigmoid
from recpolicy.models.session_history import compute_history
from recpolicy.models.user_model import SessionWorldConfig, fit_user_model
from recpolicy.workflows.session_what_if import read_session, replay_session


@cache
def policy(seed: int = 0, **changes) -> Policy:
    return Policy(tiny_session_artifact(seed, **changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    write_sessions(folder / SESSIONS, led_by(policy()), IdVocabulary.from_policy(policy()))
    return folder


@pytest.fixture(scope="module")
def longest():
    """The id of a session with all steps."""
    log = led_by(policy())
    return str(log.session[log.start[:-1]][log.length == STEPS][0])


@pytest.mark.parametrize("mode", ["greedy", "exploring"])
def test_each_step_keeps_the_logged_history(folder, longest, mode):
    other = policy(1)
    log = read_session(folder, longest, other)
    steps = replay_session(other, log, None, mode).steps
    assert steps["item_id"].tolist() == other.artifact.items["item_id"].iloc[log.item].tolist()
    np.testing.assert_allclose(steps["propensity"], np.exp(log.log_propensity))
    for step in range(STEPS):
        past = log.item[:step].tolist(), log.liked[:step].tolist()
        best = chances(other, int(log.user[0]), *past, act=mode).argmax()
        assert steps["policy_item_id"][step] == other.artifact.items["item_id"].iloc[best]
        probability = chances(other, int(log.user[0]), *past)[log.item[step]]
        assert steps["policy_probability"][step] == pytest.approx(probability, abs=1e-6)
    assert (steps["same"] == (steps["item_id"] == steps["policy_item_id"])).all()
    assert not steps["same"].all()


def test_its_own_log_gives_a_policy_its_propensities(folder, longest):
    steps = replay_session(policy(), read_session(folder / SESSIONS, longest, policy()), None).steps
    np.testing.assert_allclose(steps["policy_probability"], steps["propensity"], atol=1e-6)


def test_a_policy_of_single_rounds_replays_too(folder, longest):
    bandit = Policy(tiny_artifact())
    replay = replay_session(bandit, read_session(folder, longest, bandit), None)
    assert len(replay.steps) == STEPS
    assert replay.as_dict()["steps"][0]["p_like"] is None


def test_the_probability_of_a_like_is_that_of_the_response_model():
    """On the miniature: a real session of a user, as if it was logged; the formulas by `compute_history`."""
    ratings = miniature_ratings()
    config = SessionWorldConfig(rating_model="item_knn", rank=5, drift=0.5)
    model = fit_user_model(ratings, np.unique(ratings.user), config, 0)
    sessions = split_into_sessions(ratings)
    rows = sessions.rows[sessions.start[0] : sessions.start[0] + 4]
    one = ratings.take(rows)
    items = ratings.shape[1]
    artifact = tiny_session_artifact(users=ratings.shape[0], items=items)
    like = one.rating >= 4
    log = led_by(Policy(artifact), sessions=1, leave=0.0)
    log = replace(log, item=one.item, user=np.full(4, one.user[0]), liked=like, reward=like.astype(float))
    steps = replay_session(Policy(artifact), log, model).steps
    history = compute_history(split_into_sessions(one, 1e5), one.item, like, model.tastes)
    expected = sigmoid(model.like.odds(model.model.mean[one.user, one.item].astype(float), history, model.drift))
    np.testing.assert_allclose(steps["p_like"], expected, rtol=1e-5)
    assert steps["policy_p_like"].between(0, 1).all()
    with pytest.raises(ConfigError, match="other users or items than the policy"):
        replay_session(Policy(tiny_session_artifact(users=99, items=items)), replace(log, user=log.user + 90), model)


def test_what_cannot_be_replayed_is_one_line(folder, longest):
    with pytest.raises(DataError, match=r"no session 's99x' among 60\. Did you mean"):
        read_session(folder, "s99x", policy())
    few = policy(arms=5)
    with pytest.raises(
        DataError, match=r"step \d: item \d+ is unknown to the policy \(topk_reinforce\), which chooses"
    ):
        read_session(folder, longest, few)
    with pytest.raises(
        DataError, match=r"has 4 steps, but sessions of the policy .* have at most 3; train one with max"
    ):
        read_session(folder, longest, policy(steps=3))
    with pytest.raises(ConfigError, match="no mode named 'greedily'"):
        replay_session(policy(), read_session(folder, longest, policy()), None, "greedily")
