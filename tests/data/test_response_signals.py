"""Click and watch logs as ratings: levels by hand, what is refused, and that watch fractions stay with their rows."""

import numpy as np
import pandas as pd
import pytest

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.loaders import data_options, load_ratings
from recpolicy.data.ratings_store import load_saved_ratings, save_ratings
from recpolicy.data.splits import split

LOG = pd.DataFrame({
    "user": ["a", "a", "a", "b", "b", "b", "c", "c"], "item": [1, 2, 3, 1, 2, 3, 1, 2],
    "timestamp": np.arange(8) * 60 + 10**9,
    "is_click": [1, 1, 0, 0, 0, 1, 0, 1], "done": [1, 0, 0, 0, 0, 1, 0, 0],
    "seconds": [95, 30, 8, 0, 70, 88, 30, 60], "length": [100] * 8,
    "device": ["tv", "tv", "phone", "phone", "tv", "tv", "phone", "tv"],
})  # fmt: skip
WATCH = {"watch_time": "seconds", "duration": "length"}


def levels(**signals):
    return (load_ratings(LOG, signals=signals).rating - 1).tolist()


def test_like_and_watch_fraction_are_one_of_five_levels():
    assert levels(clicked="is_click") == [4, 4, 0, 0, 0, 4, 0, 4]
    # Of the clicks, .95 and .88 are the highest level; without a click the nearest quarter, two at most.
    assert levels(clicked="is_click", **WATCH) == [4, 3, 0, 0, 2, 4, 1, 3]
    # Completed comes before clicked; a click that was left is no like.
    assert levels(clicked="is_click", completed="done", **WATCH) == [4, 1, 0, 0, 2, 4, 1, 2]
    # Without either, three quarters watched are a like.
    assert levels(**WATCH) == [4, 1, 0, 0, 2, 4, 1, 2]


def test_watch_times_without_a_duration_are_shares_of_a_long_one():
    seconds = LOG["seconds"].to_numpy()
    longest = np.quantile(seconds[seconds > 0], 0.95)
    watch = load_ratings(LOG, signals={"clicked": "is_click", "watch_time": "seconds"}).watch
    np.testing.assert_allclose(watch, np.minimum(seconds / longest, 1), rtol=1e-6)
    assert watch.max() == 1


def test_watch_and_context_stay_with_their_rows(tmp_path):
    log = load_ratings(LOG, signals={"clicked": "is_click", "context": "device", **WATCH})
    assert log.scale == (1, 5)
    assert log.context.tolist() == LOG["device"].tolist()
    np.testing.assert_allclose(log.take(log.user == 1).watch, [0, 0.7, 0.88], rtol=1e-6)
    parts = split(log, "random", 0)
    seen = {(u, i): w for u, i, w in zip(log.user, log.item, log.watch, strict=True)}
    for part in (parts.train, parts.test):
        assert [seen[pair] for pair in zip(part.user, part.item, strict=True)] == part.watch.tolist()
    save_ratings(log, tmp_path / "saved")
    again = load_saved_ratings(tmp_path / "saved")
    assert again.digest == log.digest
    assert again.watch.tolist() == log.watch.tolist()
    assert again.context.tolist() == log.context.tolist()
    assert load_ratings(LOG, signals={"clicked": "is_click"}).digest != log.digest


def test_the_last_of_several_impressions_counts():
    twice = pd.concat([LOG, LOG.iloc[[3]].assign(timestamp=2 * 10**9, is_click=1, seconds=100)])
    log = load_ratings(twice, signals={"clicked": "is_click", **WATCH}, repeated="last")
    assert len(log) == 8
    assert log.watch[(log.user == 1) & (log.item == 0)].tolist() == [1]
    assert log.merged_rows == 1
    with pytest.raises(ConfigError, match="a mean of two responses is none"):
        load_ratings(twice, signals={"clicked": "is_click"}, repeated="mean")


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ({"click": "is_click"}, r"no signal named 'click'\. Did you mean 'clicked'"),
        ({"context": "device"}, "expected a column for clicked, completed, watch_time or watch_fraction"),
        ({"watch_time": "seconds", "watch_fraction": "seconds"}, "give watch_time or watch_fraction, not both"),
        ({"clicked": "is_click", "duration": "length"}, "duration belongs to watch_time"),
    ],
)
def test_signals_that_say_nothing_are_refused(signals, message):
    with pytest.raises(ConfigError, match=message):
        load_ratings(LOG, signals=signals)


@pytest.mark.parametrize(
    ("changes", "signals", "message"),
    [
        ({"is_click": 2}, {"clicked": "is_click"}, "clicked 2: expected 0 or 1"),
        ({"seconds": -1}, {"watch_time": "seconds"}, "watch_time -1: expected 0 or more"),
        ({"length": 0}, WATCH, "duration 0: expected more than 0"),
        ({"seconds": 3}, {"watch_fraction": "seconds"}, "watch_fraction 3: expected 0 to 1"),
        ({}, {"clicked": "clicks"}, "no column 'clicks' for the signal clicked; found: user, item"),
        (
            {},
            {"clicked": "is_click", "context": "event"},
            "no column 'event'",
        ),
    ],
)
def test_wrong_values_are_one_line(changes, signals, message):
    with pytest.raises(DataError, match=message):
        load_ratings(LOG.assign(**changes), signals=signals)


def test_a_context_of_many_values_is_no_context():
    many = pd.concat([LOG.assign(user=f"u{number}", device=f"device {number}") for number in range(60)])
    with pytest.raises(DataError, match="the context has 60 values; expected 50 at most"):
        load_ratings(many, signals={"clicked": "is_click", "context": "device"})


def test_the_config_has_signals():
    assert data_options({"signals": {"clicked": "c"}}, "data") == {"signals": {"clicked": "c"}}
    with pytest.raises(ConfigError, match="leave out scale, rating and header"):
        load_ratings(LOG, signals={"clicked": "is_click"}, columns={"rating": "seconds"})
