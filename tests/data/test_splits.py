"""Splits: the official rules on a toy whose answer is written out, laws on any table."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_dataset import miniature_ratings

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.joined_tables import bare_items
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import SPLITS, split, write_split

NAMES = [*(name for name in SPLITS if not name.endswith("-N")), "leave-last-1", "leave-last-3", "tail-1", "tail-7"]


def table(users, items=None, timestamps=None, ratings=None):
    """Ratings with the given rows; user and item ids are row numbers plus one."""
    users = np.asarray(users, np.int32)
    items = np.arange(len(users), dtype=np.int32) if items is None else np.asarray(items, np.int32)
    return Ratings(
        user=users,
        item=items,
        rating=np.ones(len(users), np.float32) if ratings is None else np.asarray(ratings, np.float32),
        timestamp=None if timestamps is None else np.asarray(timestamps, np.int64),
        users=pd.DataFrame({"user_id": np.arange(users.max() + 1) + 1}),
        items=bare_items(np.arange(items.max() + 1) + 1),
        name="toy",
    )


def tables():
    """Any table of up to 60 rows after 21 of one user (so that no part is empty), items all different."""
    rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=60).map(lambda rows: [(0, 5)] * 21 + rows)
    return rows.map(lambda rows: table([user for user, _ in rows], timestamps=[time for _, time in rows]))


@pytest.fixture(scope="module")
def ratings():
    return miniature_ratings()


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_fifths_are_runs_of_rows_in_file_order(number):
    parts = split(table([0, 1, 2] * 10), f"u{number}")
    assert parts.test.item.tolist() == list(range(6 * number - 6, 6 * number))


def test_ua_takes_the_first_ten_of_each_user_in_file_order_and_ub_the_next_ten():
    user = [0] * 12 + [1] * 5 + [0] * 13  # user 0 has 25 ratings, user 1 has 5
    assert split(table(user), "ua").test.item.tolist() == [*range(10), *range(12, 17)]
    assert split(table(user), "ub").test.item.tolist() == [10, 11, *range(17, 25)]


def test_temporal_takes_the_last_fifth_of_each_user_and_ties_follow_the_file():
    #                user 0: ten rows, two latest of equal time at 3 and 8, so test = both; user 1: four rows, so none
    time = [1, 1, 1, 9, 1, 1, 1, 1, 9, 1, 5, 6, 7, 8]
    assert split(table([0] * 10 + [1] * 4, timestamps=time), "temporal").test.item.tolist() == [3, 8]
    #                all of one second: the last two of the file
    assert split(table([0] * 10, timestamps=[4] * 10), "temporal").test.item.tolist() == [8, 9]


def test_leave_last_takes_n_by_time_and_nothing_of_users_who_would_be_left_with_none():
    parts = split(table([0, 0, 0, 0, 1, 1], timestamps=[40, 10, 30, 20, 1, 2]), "leave-last-2")
    assert parts.test.item.tolist() == [0, 2]
    assert parts.train.item.tolist() == [1, 3, 4, 5]


@given(tables(), st.integers(1, 20))
def test_tail_takes_the_last_n_rows_whoever_rated_what_and_when(ratings, number):
    parts = split(ratings, f"tail-{number}")
    assert parts.test.item.tolist() == list(range(len(ratings) - number, len(ratings)))
    assert parts.name == f"tail-{number}"


@pytest.mark.parametrize("number", [10, 11])
def test_a_tail_that_is_the_whole_table_is_refused(number):
    with pytest.raises(DataError, match=f"split 'tail-{number}' of 10 ratings leaves its train part empty"):
        split(table([0] * 10), f"tail-{number}")


@given(tables(), st.sampled_from(NAMES))
def test_parts_are_disjoint_complete_and_in_file_order(ratings, name):
    parts = split(ratings, name)
    both = np.concatenate([parts.train.item, parts.test.item])  # items are row numbers here
    assert sorted(both) == list(range(len(ratings)))
    assert (np.diff(parts.train.item) > 0).all()
    assert (np.diff(parts.test.item) > 0).all()


@given(tables(), st.sampled_from(["temporal", "leave-last-1", "leave-last-3"]))
def test_no_rating_in_test_is_older_than_one_of_the_same_user_in_fit(ratings, name):
    test = np.zeros(len(ratings), bool)
    test[split(ratings, name).test.item] = True
    for user in np.unique(ratings.user[test]):
        own = ratings.user == user
        assert ratings.timestamp[own & test].min() >= ratings.timestamp[own & ~test].max()


def test_random_holds_a_fifth_and_follows_its_seed(ratings):
    one, again, other = (split(ratings, "random", seed) for seed in (1, 1, 2))
    assert len(one.test) == len(ratings) // 5
    assert one.digest == again.digest
    assert one.digest != other.digest


def test_every_split_has_its_own_digest(ratings):
    assert len({split(ratings, name).digest for name in NAMES}) == len(NAMES)


def test_ua_and_ub_do_not_overlap_and_fifths_cover_everything(ratings):
    ua, ub = (set(zip(part.user, part.item, strict=True)) for part in (split(ratings, n).test for n in ("ua", "ub")))
    assert not ua & ub
    assert len(ua) == len(ub) == 10 * ratings.shape[0]
    assert sum(len(split(ratings, f"u{number}").test) for number in range(1, 6)) == len(ratings)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("u6", ""), ("leave-last-N", ""), ("tail-N", ""), ("tail-0", ""), ("tail-", ""),
        ("tempora", "Did you mean 'temporal'"),
    ],
)  # fmt: skip
def test_unknown_split_is_named_with_the_nearest_known(ratings, name, hint):
    with pytest.raises(ConfigError, match=f"no split named '{name}'.*{hint}.*Known: leave-last-N, random"):
        split(ratings, name)


@pytest.mark.parametrize("name", ["temporal", "leave-last-1"])
def test_rule_of_time_without_times_is_refused(name):
    with pytest.raises(DataError, match=f"split '{name}' needs timestamps"):
        split(table([0] * 10), name)


def test_split_with_an_empty_part_is_refused():
    with pytest.raises(DataError, match="leaves its train part empty"):
        split(table([0] * 10), "ua")


def test_files_are_sorted_by_user_then_item_as_numbers(tmp_path):
    ratings = table([9, 1, 9, 1, 0], [2, 11, 10, 1, 0], timestamps=[5, 6, 7, 8, 9], ratings=[1, 2, 3, 4, 5])
    base, test = write_split(split(ratings, "u5"), tmp_path / "deep")
    assert base.name == "u5.base"
    assert base.read_bytes() == b"2\t2\t4\t8\n2\t12\t2\t6\n10\t3\t1\t5\n10\t11\t3\t7\n"
    assert test.read_bytes() == b"1\t1\t5\t9\n"


def test_files_of_half_stars_and_no_times_have_three_columns(tmp_path):
    base, _ = write_split(split(table([0] * 5, ratings=[0.5, 4, 3, 2, 1]), "u5"), tmp_path)
    assert base.read_text() == "1\t1\t0.5\n1\t2\t4.0\n1\t3\t3.0\n1\t4\t2.0\n"
