import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_cases import candidates_with, flat, scored_users

from recpolicy.core.errors import DataError
from recpolicy.evaluation.held_out_choice import (
    choice_values,
    greedy_weights,
    held_out_choice,
    oracle_values,
    random_values,
    restricted_weights,
)


def rng():
    return np.random.default_rng(0)


def greedy(ratings, scores, resamples=200):
    candidates = candidates_with(ratings)
    return held_out_choice(candidates, greedy_weights(candidates, flat(scores)), rng(), resamples)


def test_values_of_two_users_by_hand():
    # user 0 takes the 5 of (5, 3, 1); user 1 is torn between 4 and 2 of (4, 2, 3)
    # policy (5 + 3) / 2, random (3 + 3) / 2, oracle (5 + 4) / 2, place (4 - 3) / (4.5 - 3)
    found = greedy([[5, 3, 1], [4, 2, 3]], [[9, 8, 7], [6, 6, 1]])
    assert found.by_user.tolist() == [5, 3]
    assert (found.policy.value, found.random.value, found.oracle.value) == (4, 3, 4.5)
    assert found.normalized.value == pytest.approx(2 / 3)


def test_probabilities_are_read_within_the_candidates():
    # 1/4 and 1/12 on ratings 5 and 1 mean 3 to 1: (3 * 5 + 1 * 1) / 4
    candidates = candidates_with([[5, 1]])
    assert choice_values(candidates, restricted_weights(candidates, np.array([1 / 4, 1 / 12]))).tolist() == [4]


def test_a_policy_that_never_takes_any_candidate_takes_them_alike():
    candidates = candidates_with([[5, 1, 3], [2, 4]])
    weight = restricted_weights(candidates, np.array([0, 0, 0, 0.1, 0.3]))
    assert choice_values(candidates, weight).tolist() == pytest.approx([3, 3.5])


@given(scored_users())
def test_constant_scores_are_exactly_the_random_choice(users):
    ratings, _ = users
    found = greedy(ratings, [[7] * len(row) for row in ratings], resamples=20)
    assert found.policy == found.random
    assert found.by_user.tolist() == [sum(row) / len(row) for row in ratings]


@given(scored_users())
def test_true_ratings_as_scores_are_exactly_the_oracle(users):
    ratings, _ = users
    found = greedy(ratings, ratings, resamples=20)
    assert found.policy == found.oracle
    assert found.normalized is None or (found.normalized.value, found.normalized.lo, found.normalized.hi) == (1, 1, 1)
    assert (found.normalized is None) == all(len(set(row)) == 1 for row in ratings)


@given(scored_users())
def test_random_and_policy_are_at_most_the_oracle(users):
    ratings, scores = users
    candidates = candidates_with(ratings)
    highest = oracle_values(candidates)
    assert (random_values(candidates) <= highest).all()
    assert (choice_values(candidates, greedy_weights(candidates, flat(scores))) <= highest).all()
    assert highest.tolist() == [max(row) for row in ratings]


@given(scored_users())
def test_a_monotone_transform_of_scores_changes_nothing(users):
    ratings, scores = users
    transformed = [[np.exp(score) * 5 - 100 for score in row] for row in scores]
    assert greedy(ratings, scores, resamples=20) == greedy(ratings, transformed, resamples=20)


@given(scored_users(), st.randoms())
def test_permuting_users_changes_no_value(users, random):
    pairs = list(zip(*users, strict=True))
    shuffled = random.sample(pairs, len(pairs))
    before = greedy(*zip(*pairs, strict=True), resamples=20)
    after = greedy(*zip(*shuffled, strict=True), resamples=20)
    for name in ("policy", "random", "oracle"):
        assert getattr(before, name).value == pytest.approx(getattr(after, name).value, abs=1e-12)
    assert sorted(before.by_user) == sorted(after.by_user)


def many_users(seed, users=300, size=8):
    return np.random.default_rng(seed).integers(1, 6, (users, size)).astype(float)


def test_scores_that_know_nothing_stand_at_place_zero():
    # 40 worlds: the interval of place must hold 0 in most, and the mean place be 0 within 4 standard errors
    places = []
    for seed in range(40):
        ratings = many_users(seed)
        places.append(
            greedy(ratings, np.random.default_rng([seed, 1]).normal(size=ratings.shape), resamples=200).normalized
        )
    values = np.array([place.value for place in places])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(40)
    assert np.mean([place.lo <= 0 <= place.hi for place in places]) >= 0.85


def test_reversed_scores_stand_below_the_random_choice():
    ratings = many_users(0)
    assert greedy(ratings, -ratings).normalized.hi < 0


def test_better_informed_scores_stand_higher():
    ratings = many_users(0)
    noise = np.random.default_rng(1).normal(size=ratings.shape)
    weak, strong = (greedy(ratings, ratings + std * noise).normalized for std in (4, 1))
    assert 0 < weak.lo < weak.hi < strong.lo < strong.hi < 1


def test_place_survives_resamples_of_users_who_rate_everything_alike():
    # half of the resamples of two users hold one of them twice; those of the second leave no room for a place
    place = greedy([[5, 1], [3, 3]], [[2, 1], [1, 1]]).normalized
    assert (place.value, place.lo, place.hi) == (1, 1, 1)


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(DataError, match="1 scores are not finite"):
        greedy_weights(candidates_with([[5, 1]]), np.array([np.nan, 1]))


@pytest.mark.parametrize("probability", [[-0.1, 1.1], [np.nan, 1]])
def test_probabilities_must_be_probabilities(probability):
    with pytest.raises(DataError, match="finite and not negative"):
        restricted_weights(candidates_with([[5, 1]]), np.array(probability))
