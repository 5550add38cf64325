"""A log as a table of ratings: means of pairs, the train part from training rounds only, nothing of it held out
twice."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ratings import log_ratings
from recpolicy.data.ratings import Ratings

USERS, ITEMS = 4, 5


def tables() -> IdVocabulary:
    """Four users and five items, rewards in 0..1."""
    return IdVocabulary(
        pd.DataFrame({"user_id": ["a", "b", "c", "d"]}), pd.DataFrame({"item_id": np.arange(ITEMS) + 1}), (0.0, 1.0)
    )


def rounds(rows, start=0):
    """Rounds of (user, item, reward), a second apart."""
    count = len(rows)
    user, item, reward = (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
    return BanditLog(
        event_id=np.array([f"{start}-{row}" for row in range(count)], object),
        time=1_000_000 + 1000 * (start + np.arange(count)), user=user.astype(np.int32), item=item.astype(np.int32),
        log_propensity=np.full(count, -1.0), reward=reward.astype(np.float64),
        action_items=np.arange(ITEMS, dtype=np.int32), scale=(0.0, 1.0), name="rounds",
        policy=np.full(count, "p", object), version=np.full(count, "v", object),
    )  # fmt: skip


def rows_of(ratings: Ratings):
    """(user, item, rating, second) of every row."""
    assert ratings.timestamp is not None
    columns = (ratings.user, ratings.item, ratings.rating, ratings.timestamp)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_row_is_the_mean_of_a_pairs_rounds_at_the_time_of_the_first_and_the_tail_is_what_came_new():
    learn = rounds([(1, 2, 1), (0, 4, 0), (1, 2, 0), (1, 2, 0), (0, 0, 1)])
    judge = rounds([(2, 2, 1), (0, 3, 0), (2, 2, 0)], start=5)
    ratings, held_out = log_ratings(learn, judge, tables(), "clicks")
    assert rows_of(ratings) == [
        (1, 2, pytest.approx(1 / 3), 1000), (0, 4, 0, 1001), (0, 0, 1, 1004), (2, 2, 0.5, 1005), (0, 3, 0, 1006)
    ]  # fmt: skip
    assert held_out == 2
    assert (ratings.name, ratings.scale) == ("clicks", (0.0, 1.0))
    assert ratings.users["user_id"].tolist() == ["a", "b", "c", "d"]  # also d, who had no round
    assert ratings.items.columns.tolist() == ["item_id", "title", "year", "genres"]
    assert ratings.items["title"].tolist() == ["1", "2", "3", "4", "5"]


def test_of_the_pairs_shown_again_a_share_is_held_out_and_not_fitted():
    every = [(user, item, 1) for user in range(USERS) for item in range(ITEMS)]
    again = [(user, item, 0) for user, item, _ in every[:10]]
    ratings, held_out = log_ratings(rounds(every), rounds(again, start=20), tables(), "clicks")
    assert held_out == 3  # 10 of 30 rounds are for evaluation: a third of 10 pairs
    assert ratings.rating.tolist() == [1] * 17 + [0] * 3
    assert len({(user, item) for user, item, _, _ in rows_of(ratings)}) == 20


ROWS = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1), st.integers(0, 1)), max_size=40)


@given(ROWS.filter(len), ROWS)
def test_parts_are_disjoint_and_each_speaks_of_its_own_rounds_only(learn, judge):
    ratings, held_out = log_ratings(rounds(learn), rounds(judge, start=len(learn)), tables(), "clicks")
    cut = len(ratings) - held_out
    assert cut >= 1
    pairs = [(user, item) for user, item, _, _ in rows_of(ratings)]
    assert len(set(pairs)) == len(pairs)
    shown = {pair[:2] for pair in learn}, {pair[:2] for pair in judge}
    assert set(pairs) == shown[0] | shown[1]
    assert shown[1] - shown[0] <= set(pairs[cut:])
    for rows, part in ((learn, slice(0, cut)), (judge, slice(cut, None))):
        means = [np.mean([one[2] for one in rows if one[:2] == pair]) for pair in pairs[part]]
        np.testing.assert_allclose(ratings.rating[part], means, atol=1e-6)
        assert (np.diff(ratings.timestamp[part]) >= 0).all()


@given(ROWS.filter(len), ROWS)
def test_what_is_held_out_does_not_depend_on_the_rewards(learn, judge):
    def table_of(turn):
        parts = (rounds(learn), rounds(judge, start=len(learn)))
        return log_ratings(*(replace(one, reward=abs(turn - one.reward)) for one in parts), tables(), "clicks")

    (one, held_out), (other, also) = table_of(0), table_of(1)
    assert held_out == also
    assert (one.user.tolist(), one.item.tolist()) == (other.user.tolist(), other.item.tolist())


@pytest.mark.parametrize(
    ("learn", "judge", "fitted", "held_out"),
    [
        ([(0, 0, 1)], [], 1, 0),  # no rounds for evaluation
        ([(0, 0, 1)], [(0, 0, 0)], 1, 0),  # one pair is all there is: it is fitted
        ([(0, 0, 1), (0, 1, 1)], [(0, 0, 0)], 1, 1),  # something is held out, even where a share of it is less than one
    ],
)
def test_something_is_always_left_to_fit(learn, judge, fitted, held_out):
    ratings, found = log_ratings(rounds(learn), rounds(judge, start=9), tables(), "clicks")
    assert (len(ratings) - found, found) == (fitted, held_out)
