"""Sessions by inactivity gap: by hand, as laws, and as counted on the real MovieLens (ALGORITHMS, section 0)."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_dataset import miniature_ratings

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.rating_sessions import split_into_sessions

TABLE = miniature_ratings()


def timed(user, minute):
    """A table of ratings by user row and minute."""
    rows = np.zeros(len(user), int)
    times = np.asarray(60 * np.asarray(minute, float)).astype(np.int64)
    return replace(TABLE.take(rows), user=np.asarray(user, np.int32), timestamp=times)


def test_a_gap_longer_than_the_limit_begins_a_session_and_one_just_as_long_does_not():
    cut = split_into_sessions(timed([0, 0, 0, 0], [0, 30, 60.5, 200]), gap_minutes=30)
    assert cut.length.tolist() == [2, 1, 1]
    assert cut.position.tolist() == [0, 1, 0, 0]
    assert cut.session.tolist() == [0, 0, 1, 2]


def test_users_are_never_in_one_session_and_ties_stay_in_file_order():
    cut = split_into_sessions(timed([1, 0, 1, 0, 1], [5, 3, 2, 3, 5]))
    assert cut.rows.tolist() == [1, 3, 2, 0, 4]  # user 0 in file order; user 1 by time, then in file order
    assert cut.user.tolist() == [0, 1]
    assert cut.start.tolist() == [0, 2]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5_000)), min_size=1, max_size=40),
    st.integers(1, 6),
)
def test_sessions_part_all_ratings_and_cutting_them_changes_no_order(ratings, most):
    user, minute = zip(*ratings, strict=True)
    whole = split_into_sessions(timed(user, minute))
    assert sorted(whole.rows) == list(range(len(user)))
    assert whole.length.sum() == len(user)
    short = whole.cut(most)
    assert short.rows.tolist() == whole.rows.tolist()
    assert short.position.tolist() == (whole.position % most).tolist()
    assert len(short) == np.sum(-(-whole.length // most))
    assert short.length.max() <= most
    np.testing.assert_array_equal(short.user[short.session], whole.user[whole.session])


def test_what_cannot_be_cut_into_sessions_is_refused():
    with pytest.raises(DataError, match="need timestamps"):
        split_into_sessions(replace(TABLE, timestamp=None))
    with pytest.raises(ConfigError, match="gap_minutes is 0"):
        split_into_sessions(TABLE, gap_minutes=0)
    with pytest.raises(ConfigError, match="at most 0"):
        split_into_sessions(TABLE).cut(0)


@pytest.mark.band
def test_counts_on_the_real_data_are_the_known_ones(ml100k):
    cut = split_into_sessions(ml100k)
    assert len(cut) == 2793
    assert np.sum(np.bincount(cut.user) == 1) == 562
    assert np.median(cut.length) == 11
