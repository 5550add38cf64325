"""The record of logged rounds: what it refuses, its parts, its digest."""

from dataclasses import replace

import numpy as np
import pytest
from hand_logs import CATALOGUE, assert_same_rounds, hand_rounds

from recpolicy.core.errors import DataError


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
        (with_value("movie", 3), "round 2: movie row 3: not in the catalogue"),
        ({"reward": np.ones(3)}, r"columns of different lengths: \[3, 12\]"),
        ({"policy": np.full(5, "x", object)}, r"different lengths: \[5, 12\]"),
        ({"candidate": CATALOGUE}, "come together, or not at all"),
        ({"candidate_start": np.arange(13)}, "come together, or not at all"),
        ({"candidate": CATALOGUE, "candidate_start": np.arange(13)}, "do not begin and end as 12 rounds need"),
        ({"candidate": CATALOGUE, "candidate_start": np.array([0, 5])}, "do not begin and end"),
    ],
)
def test_what_cannot_have_been_logged_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        hand_rounds(**changes)


def test_a_catalogue_in_disorder_is_refused():
    with pytest.raises(DataError, match="ascending order, each once"):
        replace(hand_rounds(), catalogue=CATALOGUE[::-1])


def test_candidates_must_be_of_the_catalogue_and_hold_what_was_shown():
    rounds = hand_rounds(candidates=True)
    strange = rounds.candidate.copy()
    strange[0] = 3
    with pytest.raises(DataError, match="a candidate is not in the catalogue"):
        replace(rounds, candidate=strange)
    other = np.where(rounds.candidate[: rounds.candidate_start[1]] == rounds.movie[0], CATALOGUE[0], CATALOGUE[1])
    other = np.where(other == rounds.movie[0], CATALOGUE[2], other)
    with pytest.raises(DataError, match=f"round 0: movie row {rounds.movie[0]}: not among the candidates"):
        replace(rounds, candidate=np.concatenate([other, rounds.candidate[len(other) :]]).astype(np.int32))


def test_a_probability_of_exactly_one_is_allowed_and_propensities_are_exponentials():
    rounds = hand_rounds(**with_value("log_propensity", 0.0))
    assert rounds.propensity[2] == 1.0
    np.testing.assert_allclose(np.log(rounds.propensity), rounds.log_propensity, rtol=1e-12)


def test_an_arm_is_the_place_in_the_catalogue():
    rounds = hand_rounds()
    np.testing.assert_array_equal(CATALOGUE[rounds.arm()], rounds.movie)


def test_allowed_marks_the_candidates_of_each_round_and_only_those():
    rounds = hand_rounds(candidates=True)
    for rows in (slice(0, 12), slice(3, 7), slice(10, 40), slice(5, 5)):
        expected = np.zeros((12, 5), bool)
        for round_, (first, last) in enumerate(zip(rounds.candidate_start, rounds.candidate_start[1:], strict=False)):
            for movie in rounds.candidate[first:last]:
                expected[round_, CATALOGUE.tolist().index(movie)] = True
        np.testing.assert_array_equal(rounds.allowed(rows), expected[rows])
    assert hand_rounds().allowed(slice(0, 3)) is None


@pytest.mark.parametrize("candidates", [False, True])
def test_parts_hold_their_rounds_and_candidates(candidates):
    whole = hand_rounds(candidates=candidates)
    part = whole.take(4, 9, "part")
    assert part.name == "part"
    np.testing.assert_array_equal(part.event_id, whole.event_id[4:9])
    if candidates:
        np.testing.assert_array_equal(part.allowed(slice(0, 5)), whole.allowed(slice(4, 9)))
    assert_same_rounds(whole.take(0, 12, "all"), whole)
    assert len(whole.take(3, 3, "none")) == 0


def test_the_digest_is_that_of_the_content_not_of_the_name():
    rounds = hand_rounds(candidates=True)
    assert replace(rounds, name="other").digest == rounds.digest
    changed = [
        with_value("time", 5), with_value("reward", 2.5), with_value("log_propensity", -0.5),
        with_value("event_id", "x"), with_value("policy", "x"), with_value("version", "x"), {"scale": (1.0, 6.0)},
        {"candidate": None, "candidate_start": None},
    ]  # fmt: skip
    digests = {replace(rounds, **change).digest for change in changed}
    assert len(digests | {rounds.digest}) == len(changed) + 1


def test_the_digest_knows_where_the_candidates_of_a_round_begin():
    movie, candidate = np.full(2, 4, np.int32), np.full(3, 4, np.int32)
    one, other = (
        replace(hand_rounds(2), movie=movie, candidate=candidate, candidate_start=np.array(start))
        for start in ([0, 1, 3], [0, 2, 3])
    )
    assert one.digest != other.digest
