"""When cron expressions are due, against times worked out on a calendar. 2026-11-22 is a Sunday."""

from datetime import UTC, datetime

import pytest

from recpolicy.core.errors import ConfigError
from recpolicy.server.jobs.cron import next_time


def at(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("cron", "after", "due"),
    [
        ("0 1 * * mon", "2026-11-22T10:00", "2026-11-23T01:00"),
        ("0 1 * * MON", "2026-11-23T01:00", "2026-11-30T01:00"),  # strictly after
        ("0 1 * * 1", "2026-11-22T10:00", "2026-11-23T01:00"),  # Unix: Monday is 1
        ("0 1 * * 0", "2026-11-22T10:00", "2026-11-29T01:00"),
        ("0 1 * * 7", "2026-11-22T10:00", "2026-11-29T01:00"),
        ("0 1 * * 5-7", "2026-11-22T10:00", "2026-11-27T01:00"),
        ("0 1 * * 0-2", "2026-11-24T10:00", "2026-11-29T01:00"),
        ("0 1 * * */2", "2026-11-23T10:00", "2026-11-24T01:00"),  # 0, 2, 4, 6
        ("0 1 * * 3/2", "2026-11-23T10:00", "2026-11-25T01:00"),  # 3, 5
        ("0 1 * * 2,fri", "2026-11-25T10:00", "2026-11-27T01:00"),
        ("*/15 * * * *", "2026-11-22T10:00", "2026-11-22T10:15"),
        ("*/10 * * * * *", "2026-11-22T10:00:00.001", "2026-11-22T10:00:10"),
        ("30 0 2 * * *", "2026-11-22T02:00:30", "2026-11-23T02:00:30"),
        ("0 0 29 2 *", "2026-11-22T00:00", "2028-02-29T00:00"),
    ],
)
def test_the_next_time_is_that_of_the_calendar(cron, after, due):
    assert next_time(cron, at(after)) == at(due)


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("0 1 * *", "has 4 fields; expected 5"),
        ("0 0 1 * * mon *", "has 7 fields"),
        ("61 * * * *", "61"),
        ("* * * * funday", "funday"),
        ("0 0 31 2 *", "is never due"),
    ],
)
def test_what_is_no_cron_expression_is_refused_with_its_reason(cron, says):
    with pytest.raises(ConfigError, match="cron") as refused:
        next_time(cron, at("2026-11-22T10:00"))
    assert says in str(refused.value)
