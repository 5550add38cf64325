"""Rounds of newcomers beside those of users the policy knows: whom a vector describes is judged by that vector."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_logs import tiny_rounds
from tiny_policies import RANK, tiny_artifact

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log import ColdStartUsers
from recpolicy.data.bandit_log_files import IdVocabulary, write_events
from recpolicy.evaluation import groups
from recpolicy.evaluation.groups import Groups
from recpolicy.inference.predictor import Policy
from recpolicy.workflows import log_evaluation
from recpolicy.workflows.log_evaluation import compare_on_log, off_policy_gain
from recpolicy.workflows.policy_estimation import estimate, read_evaluation_log

USERS, KNOWN = 7, 4
FEW = {"resamples": 100}


def policy(seed=0, features=0):
    """A policy that has learnt as `seed` says, on features of their own."""
    learnt = tiny_artifact(seed)
    return Policy(replace(tiny_artifact(features), policy=learnt.policy, metadata=learnt.metadata))


def by_reference():
    return tiny_rounds(1_500)[0]


def by_vectors(shift=0.0):
    """The same rounds; users from the fifth on are newcomers, with their own rows as vectors."""
    log = by_reference()
    new = log.user >= KNOWN
    vectors = np.where(new[:, None], policy().artifact.context[log.user] + shift, np.nan).astype(np.float32)
    user = np.where(new, log.user + USERS - KNOWN, log.user).astype(np.int32)
    return replace(
        log, user=user, context=vectors, cold_start_users=ColdStartUsers(USERS, np.array([91, 92, 93], object))
    )


def figures(log, incumbent=None):
    return estimate(policy(), log, incumbent, config=FEW).as_dict()


def test_estimates_by_vectors_are_those_by_reference(tmp_path):
    """Gains over an incumbent included; the newcomers are resampled as the users that they are."""
    write_events(tmp_path / "rounds.parquet", by_vectors(), IdVocabulary.from_policy(policy()), with_rewards=True)
    log = read_evaluation_log(policy(), tmp_path / "rounds.parquet")
    assert log.cold_start_users.ids.tolist() != []
    incumbent = policy(1)
    found, expected = figures(log, incumbent), figures(by_reference(), incumbent)
    assert len(compare_on_log(policy(), None, log).feedback.clusters) == USERS
    for name, one in expected["estimators"].items():
        assert found["estimators"][name]["value"] == pytest.approx(one["value"], rel=1e-6), name
    assert found["differences"]["dr"]["value"] == pytest.approx(expected["differences"]["dr"]["value"], rel=1e-6)


def test_intervals_by_vectors_are_those_by_reference():
    """Their users come in the same order here, so that the same ones are drawn."""
    found, expected = (off_policy_gain(policy(), None, log) for log in (by_vectors(), by_reference()))
    assert found.intervals == expected.intervals


BASELINE = {"estimator": "rating_model", "head": "greedy", "policy": {}}


@pytest.mark.parametrize("parts", [{}, BASELINE], ids=["linucb", "rating_model"])
def test_another_vector_is_another_choice_and_another_prediction(parts):
    """By hand: what the policy says of the vector is what is asked of it, for a learner and for a baseline."""
    one, log = Policy(replace(policy().artifact, **parts)), by_vectors(shift=-0.8)
    trial = compare_on_log(one, None, log)
    score, rating = one.scores(log.contexts(one.artifact.context))
    everything = slice(0, len(log))
    assert trial.candidate.table(everything).argmax(axis=1).tolist() == score.argmax(axis=1).tolist()
    np.testing.assert_allclose(trial.q(everything), np.clip(rating, 1, 5), rtol=1e-6)
    same = compare_on_log(one, None, by_reference())
    new = log.user >= USERS
    assert (trial.q(everything)[new] != same.q(everything)[new]).any(axis=1).all()
    np.testing.assert_array_equal(trial.q(everything)[~new], same.q(everything)[~new])
    by_vectors_dr, by_reference_dr = (compared.estimates()["dr"].value for compared in (trial, same))
    assert by_vectors_dr != pytest.approx(by_reference_dr, abs=1e-3)


def test_tables_too_large_to_keep_give_the_same_figures(monkeypatch):
    log = by_vectors(shift=-0.8)
    kept = off_policy_gain(policy(), policy(1), log)
    monkeypatch.setattr(log_evaluation, "_MAX_CELLS", 0)
    again = off_policy_gain(policy(), policy(1), log)
    assert again.value == pytest.approx(kept.value, rel=1e-6)
    assert again.intervals["t"].lo == pytest.approx(kept.intervals["t"].lo, rel=1e-6)


def test_newcomers_belong_to_no_group(monkeypatch):
    monkeypatch.setattr(groups, "MIN_USERS", 1)
    all_of_them = Groups(("everybody",), np.ones((1, USERS), bool))
    log = by_vectors()
    found = compare_on_log(policy(), None, log).group_gains(all_of_them)["everybody"]
    assert found.users == KNOWN
    order = np.flatnonzero(~log.with_context)
    columns = ("event_id", "time", "user", "item", "log_propensity", "reward", "policy", "version")
    rest = replace(by_reference(), **{name: getattr(by_reference(), name)[order] for name in columns})
    expected = off_policy_gain(policy(), None, rest).value  # its reward model is fitted on fewer rounds
    assert found.interval.value == pytest.approx(expected, abs=0.02)


def test_vectors_that_the_policy_cannot_read_are_refused():
    log = by_vectors()
    narrow = replace(log, context=np.ascontiguousarray(log.context[:, :2]), name="week 2")
    with pytest.raises(DataError, match=f"^week 2: contexts of 2 numbers, but the policy's have {RANK}; "):
        compare_on_log(policy(), None, narrow)
    with pytest.raises(DataError, match=f"^week 2: contexts of 2 numbers, but the policy's have {RANK}; "):
        estimate(policy(), narrow, config=FEW)


def test_vectors_that_the_incumbent_would_take_for_somebody_else_are_refused():
    other = policy(1, features=1)
    with pytest.raises(DataError, match=r"^tiny log: has context vectors, and the incumbent \(linucb\) was"):
        compare_on_log(policy(), other, by_vectors())
    assert compare_on_log(policy(), other, by_reference()).gain.value != 0  # by reference, each knows its users
