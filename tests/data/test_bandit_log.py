"""The record of logged rounds: what it refuses, its parts, its digest."""

from dataclasses import replace

import numpy as np
import pytest
from hand_logs import (
    ACTION_ITEMS,
    USERS,
    assert_same_rounds,
    candidate_sets,
    hand_rounds,
    newcomer_rounds,
    page_rounds,
)

from recpolicy.core.errors import DataError
from recpolicy.core.files import content_digest
from recpolicy.data import candidates as module
from recpolicy.data.bandit_log import ColdStartUsers, features_digest
from recpolicy.data.candidates import CandidateSets


def with_value(name, value, row=2):
    column = getattr(hand_rounds(), name).copy()
    column[row] = value
    return {name: column}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (with_value("log_propensity", 0.1), r"hand: round 2: log-propensity 0\.1: expected finite and <= 0"),
        (with_value("log_propensity", np.nan), "log-propensity nan"),
        (with_value("log_propensity", -np.inf), "log-propensity -inf"),
        (with_value("reward", 5.01), r"round 2: reward 5\.01: expected within 1\.\.5"),
        (with_value("reward", np.nan), "round 2: reward nan"),
        (with_value("item", 3), "round 2: item row 3: not in the catalog"),
        ({"reward": np.ones(3)}, r"columns of different lengths: \[3, 12\]"),
        ({"policy": np.full(5, "x", object)}, r"different lengths: \[5, 12\]"),
        ({"candidates": CandidateSets.all_items(11, 5)}, "candidates of 11 rounds and 5 actions; expected 12 and 5"),
        ({"candidates": CandidateSets.all_items(12, 6)}, "candidates of 12 rounds and 6 actions; expected 12 and 5"),
    ],
)
def test_what_cannot_have_been_logged_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        replace(hand_rounds(), **changes)


def test_a_catalog_in_disorder_is_refused():
    with pytest.raises(DataError, match="ascending order, each once"):
        replace(hand_rounds(), action_items=ACTION_ITEMS[::-1])


def test_candidates_must_hold_the_item_shown():
    rounds = hand_rounds()
    lists = [np.setdiff1d(ACTION_ITEMS, rounds.item[:1]), *[ACTION_ITEMS] * 11]
    with pytest.raises(DataError, match=f"round 0: item row {rounds.item[0]}: not among the candidates"):
        replace(rounds, candidates=candidate_sets(lists))
    excluded = [[], rounds.item[1:2].tolist(), *[[]] * 10]
    with pytest.raises(DataError, match=f"round 1: item row {rounds.item[1]}: not among the candidates"):
        replace(rounds, candidates=candidate_sets([ACTION_ITEMS] * 12, excluded))


def test_a_probability_of_exactly_one_is_allowed_and_propensities_are_exponentials():
    rounds = hand_rounds(**with_value("log_propensity", 0.0))
    assert rounds.propensity[2] == 1.0
    np.testing.assert_allclose(np.log(rounds.propensity), rounds.log_propensity, rtol=1e-12)


def test_an_arm_is_the_place_in_the_catalog():
    rounds = hand_rounds()
    np.testing.assert_array_equal(ACTION_ITEMS[rounds.arm()], rounds.item)


def test_allowed_marks_the_candidates_of_each_round_and_only_those():
    rounds = hand_rounds()
    lists = [sorted({rounds.item[row], ACTION_ITEMS[row % 5], ACTION_ITEMS[row % 3]}) for row in range(12)]
    expected = np.array([np.isin(ACTION_ITEMS, items) for items in lists])
    rounds = replace(rounds, candidates=candidate_sets(lists))
    for rows in (slice(0, 12), slice(3, 7), slice(10, 40), slice(5, 5)):
        np.testing.assert_array_equal(rounds.allowed(rows), expected[rows])
    assert hand_rounds().allowed(slice(0, 3)) is None


@pytest.mark.parametrize("whole", [hand_rounds(), hand_rounds(candidates=True), page_rounds()])
def test_parts_hold_their_rounds_and_candidates(whole):
    part = whole.take(4, 9, "part")
    assert part.name == "part"
    np.testing.assert_array_equal(part.event_id, whole.event_id[4:9])
    chosen = whole.select(np.array([1, 4, 8]), "chosen")
    assert chosen.item.tolist() == whole.item[[1, 4, 8]].tolist()
    if whole.candidates is not None:
        np.testing.assert_array_equal(part.allowed(slice(0, 5)), whole.allowed(slice(4, 9)))
        np.testing.assert_array_equal(chosen.allowed(slice(0, 3)), whole.allowed(slice(0, 12))[[1, 4, 8]])
    assert_same_rounds(whole.take(0, 12, "all"), whole)
    assert len(whole.take(3, 3, "none")) == 0


def test_the_digest_is_that_of_the_content_not_of_the_name():
    rounds = hand_rounds(candidates=True)
    assert replace(rounds, name="other").digest == rounds.digest
    changed = [
        with_value("time", 5), with_value("reward", 2.5), with_value("log_propensity", -0.5),
        with_value("event_id", "x"), with_value("policy", "x"), with_value("version", "x"), {"scale": (1.0, 6.0)},
        {"candidates": None}, {"candidates": CandidateSets.all_items(12, 5)},
    ]  # fmt: skip
    digests = {replace(rounds, **change).digest for change in changed}
    assert len(digests | {rounds.digest}) == len(changed) + 1


def test_the_digest_is_that_of_lists_of_candidates_whatever_their_form(monkeypatch):
    """It is the digest that logs had when their candidates were lists of ids: of starts [N + 1] and item rows [C]."""
    rounds = page_rounds()
    mask = rounds.allowed(slice(0, 12))
    start = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
    lists = np.concatenate([ACTION_ITEMS[row] for row in mask])
    monkeypatch.setattr(module, "_CELLS", 12)  # several blocks
    expected = content_digest(
        rounds.event_id, rounds.time, rounds.user, rounds.item, rounds.log_propensity, rounds.reward,
        rounds.action_items, list(rounds.scale), rounds.policy, rounds.version, start, lists,
    )  # fmt: skip
    assert rounds.digest == expected
    other = CandidateSets.from_lists(start, np.searchsorted(ACTION_ITEMS, lists), 5)
    assert replace(rounds, candidates=other).digest == expected


TABLE = np.random.default_rng(4).normal(size=(USERS, 3)).astype(np.float32)


def with_row(row, *numbers):
    context = newcomer_rounds().context.copy()
    context[row] = numbers
    return context


def test_a_round_is_seen_by_its_vector_and_without_one_as_the_user_is_known():
    rounds = newcomer_rounds()
    found = rounds.contexts(TABLE)
    assert found.dtype == np.float32
    expected = [
        TABLE[user] if np.isnan(vector[0]) else vector for user, vector in zip(rounds.user, rounds.context, strict=True)
    ]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(hand_rounds().contexts(TABLE), TABLE[hand_rounds().user])
    known = rounds.with_context & (rounds.user < USERS)
    assert known.any()
    assert (found[known] != TABLE[rounds.user[known]]).all()


def test_each_distinct_vector_is_one_situation():
    rounds = replace(newcomer_rounds(), context=with_row(4, *newcomer_rounds().context[1]))
    table, row = rounds.distinct_contexts(TABLE)
    np.testing.assert_array_equal(table[row], rounds.contexts(TABLE))
    np.testing.assert_array_equal(table[:USERS], TABLE)
    assert row[1] == row[4]
    assert rounds.user[1] != rounds.user[4]
    assert len(table) == USERS + rounds.with_context.sum() - 1
    same, users = hand_rounds().distinct_contexts(TABLE)
    assert same is TABLE
    assert users.tolist() == hand_rounds().user.tolist()


def test_vectors_of_another_length_than_the_policy_s_are_refused():
    with pytest.raises(DataError, match=r"hand: contexts of 3 numbers, but the policy's have 2; .*contexts = false"):
        newcomer_rounds().contexts(TABLE[:, :2])
    hand_rounds().check_features(TABLE[:, :2])  # without vectors there is nothing to compare


def test_vectors_of_other_features_are_refused_where_the_log_tells_them():
    told = replace(newcomer_rounds(), features=features_digest(TABLE))
    np.testing.assert_array_equal(told.contexts(TABLE), newcomer_rounds().contexts(TABLE))
    other = np.nextafter(TABLE, np.float32(9))
    newcomer_rounds().check_features(other)  # nothing is told
    replace(hand_rounds(), features=features_digest(TABLE)).check_features(other)  # no vectors
    for ask in (told.check_features, told.contexts, told.distinct_contexts):
        with pytest.raises(DataError, match=r"hand: contexts from the features of another training.*`retrain` keeps"):
            ask(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": np.ones((12, 3))}, r"contexts \(12, 3\) of float64; expected \(12, D\) of float32"),
        ({"context": np.ones((11, 3), np.float32)}, r"contexts \(11, 3\) of float32; expected \(12, D\)"),
        ({"context": np.ones(12, np.float32)}, r"contexts \(12,\) of float32"),
        ({"context": np.ones((12, 0), np.float32)}, r"contexts \(12, 0\) of float32"),
        ({"context": with_row(3, 1, np.nan, 2)}, "round 3: context with 2 of 3 numbers finite: expected all, or NaN"),
        ({"context": with_row(3, np.nan, np.inf, np.nan)}, "round 3: context with 0 of 3 numbers finite"),
        ({"context": with_row(4, np.nan, np.nan, np.nan)}, "round 4: user row 5: a cold-start user has no context"),
        ({"context": None}, "round 1: user row 4: a cold-start user has no context"),
        (
            {"cold_start_users": ColdStartUsers(USERS, np.array([70], object))},
            r"round 4: user row 5: cold-start users have the rows 4\.\.4",
        ),
    ],
)
def test_vectors_that_cannot_be_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        replace(newcomer_rounds(), **changes)


def test_parts_hold_their_vectors_and_number_their_newcomers_anew():
    whole = newcomer_rounds()
    part = whole.take(3, 9, "part")
    np.testing.assert_array_equal(part.contexts(TABLE), whole.contexts(TABLE)[3:9])
    assert part.cold_start_users.ids.tolist() == [60, 70]  # the second newcomer comes first here
    assert part.user[[1, 4]].tolist() == [USERS, USERS + 1]
    assert whole.user[[1, 4]].tolist() == [USERS, USERS + 1]
    assert_same_rounds(part.take(0, 6, "again"), part)
    assert_same_rounds(whole.take(0, 12, "all"), whole)
    known = whole.take(5, 7, "known")
    assert known.cold_start_users is None
    assert known.context is not None
    assert_same_rounds(whole.take(2, 3, "own"), hand_rounds().take(2, 3, "own"))


def test_the_digest_covers_vectors_and_newcomers_and_is_the_old_one_without():
    rounds = newcomer_rounds()
    changed = [
        {"context": with_row(1, 1, 2, 3)}, {"cold_start_users": ColdStartUsers(USERS, np.array([70, 61], object))},
        {"context": None, "cold_start_users": None},
    ]  # fmt: skip
    digests = {replace(rounds, **change).digest for change in changed}
    assert len(digests | {rounds.digest}) == 4
    assert hand_rounds().digest == "e32e1080e74a592781c4bd140b10b463177b9ffaab398c30c59e3c5e560e6e78"
