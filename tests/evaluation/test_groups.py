"""Groups of users and their figures: who belongs where, means by hand, intervals that cover."""

import numpy as np
import pandas as pd
import pytest

from recpolicy.core.errors import DataError
from recpolicy.evaluation.groups import MIN_USERS, Groups, group_figures, make_groups


def everyone(users):
    return Groups(("all",), np.ones((1, users), bool))


def test_ages_fall_into_bands_and_missing_values_into_none():
    users = pd.DataFrame(
        {"user_id": range(6), "age": [24, 25, 34, 49, 50, None], "gender": ["F", "M", "M", None, "F", "F"]}
    )
    found = make_groups(users, np.array([1, 2, 3, 4, 5, 5]))
    member = dict(zip(found.names, found.member.astype(int).tolist(), strict=True))
    assert member == {
        "age under 25": [1, 0, 0, 0, 0, 0],
        "age 25 to 34": [0, 1, 1, 0, 0, 0],
        "age 35 to 49": [0, 0, 0, 1, 0, 0],
        "age 50 and over": [0, 0, 0, 0, 1, 0],
        "gender F": [1, 0, 0, 0, 1, 1],
        "gender M": [0, 1, 1, 0, 0, 0],
        "fewer ratings": [1, 1, 1, 0, 0, 0],  # the median is 3.5
        "more ratings": [0, 0, 0, 1, 1, 1],
    }


def test_users_at_the_median_are_among_those_with_fewer_ratings():
    found = make_groups(pd.DataFrame({"user_id": [1, 2, 3]}), np.array([1, 5, 9]))
    assert found.member[found.names.index("fewer ratings")].tolist() == [True, True, False]


def test_without_attributes_activity_remains():
    assert make_groups(pd.DataFrame({"user_id": [1, 2]}), np.array([1, 9])).names == ("fewer ratings", "more ratings")


def test_words_in_the_age_column_make_no_bands():
    users = pd.DataFrame({"user_id": [1, 2], "age": ["young", "old"]})
    assert len(make_groups(users, np.array([1, 9])).names) == 2


def test_mean_of_a_group_is_sum_over_size_of_its_users_only():
    member = np.zeros((2, 30), bool)
    member[0, :10], member[1, 5:] = True, True
    total, size = np.arange(30.0), np.tile([1, 3], 15)
    found = group_figures(Groups(("low", "high"), member), total, size, 30.0)
    assert found["low"].interval.value == pytest.approx(45 / 20)  # 0 + ... + 9 over 5 * 1 + 5 * 3
    assert found["high"].interval.value == pytest.approx(total[5:].sum() / size[5:].sum())
    assert (found["low"].users, found["high"].users) == (10, 25)
    assert found["low"].interval.lo < 45 / 20 < found["low"].interval.hi


def test_users_without_rounds_do_not_count_and_small_groups_are_left_out():
    size = np.ones(MIN_USERS + 1)
    size[0] = 0
    figures = group_figures(everyone(len(size)), size * 2.0, size, 1.0)
    assert figures["all"].users == MIN_USERS
    assert figures["all"].interval.value == 2
    size[1] = 0
    assert group_figures(everyone(len(size)), size * 2.0, size, 1.0) == {}


def test_group_of_everybody_has_the_t_interval_of_the_mean():
    values = np.random.default_rng(1).normal(size=200)
    figure = group_figures(everyone(200), values, np.ones(200), 0.0)["all"]
    half = 1.9719565 * values.std(ddof=1) / np.sqrt(200)  # t(.975; 199)
    assert figure.interval.hi - values.mean() == pytest.approx(half, rel=3e-3)  # a little kurtosis


def test_users_who_are_all_alike_still_have_an_interval():
    figure = group_figures(everyone(20), np.full(20, 3.0), np.ones(20), 4.0)["all"].interval
    assert figure.hi - 3 == pytest.approx(2.093024**2 * 4 / 20, rel=1e-5)  # t(.975; 19)
    few = group_figures(everyone(20), np.full(20, 3.0), np.ones(20), 4.0, weights=[np.arange(20) < 2])["all"].interval
    assert few.hi - 3 == pytest.approx(2.093024**2 * 4 / 2, rel=1e-5)  # two users have all the weight


def test_intervals_of_a_group_cover_its_truth_about_as_often_as_they_say():
    """400 draws of a group of 60 users of mean 1: 95 % is 380 +- 4.4."""
    rng = np.random.default_rng(3)
    groups = Groups(("group",), np.arange(120)[None] < 60)
    covered = 0
    for _ in range(400):
        values = np.where(np.arange(120) < 60, 1.0, -5.0) + rng.normal(size=120)
        interval = group_figures(groups, values, np.ones(120), 0.0)["group"].interval
        covered += interval.lo <= 1 <= interval.hi
    assert 365 <= covered <= 396


def test_figures_of_other_users_are_refused():
    with pytest.raises(DataError, match="groups of 12 users"):
        group_figures(everyone(12), np.ones(11), np.ones(11), 1.0)
