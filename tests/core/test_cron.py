"""The next times of cron expressions, worked out on a calendar; the dialects of Kubeflow and Vertex AI.

2026-11-22 is a Sunday.
"""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.cron import kubeflow_cron, next_time, vertex_cron
from recpolicy.core.errors import ConfigError


def at(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("cron", "after", "due"),
    [
        ("0 1 * * mon", "2026-11-22T10:00", "2026-11-23T01:00"),
        ("0 1 * * MON", "2026-11-23T01:00", "2026-11-30T01:00"),  # strictly after
        ("0 1 * * mon", "2026-11-23T00:59:59.999", "2026-11-23T01:00"),
        ("0 1 * * 1", "2026-11-22T10:00", "2026-11-23T01:00"),  # Unix: Monday is 1
        ("0 1 * * 0", "2026-11-22T10:00", "2026-11-29T01:00"),
        ("0 1 * * 7", "2026-11-22T10:00", "2026-11-29T01:00"),
        ("0 1 * * 5-7", "2026-11-22T10:00", "2026-11-27T01:00"),
        ("0 1 * * 0-2", "2026-11-24T10:00", "2026-11-29T01:00"),
        ("0 1 * * */2", "2026-11-23T10:00", "2026-11-24T01:00"),  # 0, 2, 4, 6
        ("0 1 * * 3/2", "2026-11-23T10:00", "2026-11-25T01:00"),  # 3, 5, 7
        ("0 1 * * 2,fri", "2026-11-25T10:00", "2026-11-27T01:00"),
        ("0 1 1 * mon", "2026-11-24T10:00", "2026-11-30T01:00"),  # the first of the month, or Monday
        ("*/15 * * * *", "2026-11-22T10:00", "2026-11-22T10:15"),
        ("@every 10s", "2026-11-22T10:00:00.001", "2026-11-22T10:00:10"),
        ("@every 10s", "2026-11-22T10:00:10", "2026-11-22T10:00:20"),
        ("@every 5m", "2026-11-22T10:04", "2026-11-22T10:05"),
        ("@every 2H", "2026-11-22T10:04", "2026-11-22T12:00"),
        ("0 0 29 2 *", "2026-11-22T00:00", "2028-02-29T00:00"),
    ],
)
def test_next_time_is_that_of_the_calendar(cron, after, due):
    assert next_time(cron, at(after)) == at(due)


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 1 * *", "has 4 fields; expected 5"),
        ("0 0 1 * * mon", "has 6 fields"),
        ("@weekly", 'such as "@every 10s"'),
        ("@every 0s", "has 2 fields"),
        ("61 * * * *", "bad minute '61'"),
        ("* * * * funday", "bad day-of-week 'funday'; expected 0-6 or SUN-SAT"),
        ("0 0 31 2 *", "bad day-of-month '31'; expected 1-31, a day that the month has"),
    ],
)
def test_other_text_is_rejected_with_a_reason(cron, message):
    with pytest.raises(ConfigError, match="cron") as error:
        next_time(cron, at("2026-11-22T10:00"))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "kubeflow", "vertex"),
    [
        ("0 1 * * 1", "0 0 1 * * 1", "0 1 * * 1"),
        ("0 0 1 * * 1", "0 0 1 * * 1", "0 1 * * 1"),
        (
            "  */15  0-6/2,22 ?  JAN-mar MON,wed ",
            "0 */15 0-6/2,22 ? JAN-mar MON,wed",
            "*/15 0-6/2,22 ? JAN-mar MON,wed",
        ),
        ("5/10 * 31 12 0", "0 5/10 * 31 12 0", "5/10 * 31 12 0"),
        ("0 1 * JUL */7", "0 0 1 * JUL */7", "0 1 * JUL */7"),
    ],
)
def test_each_platform_gets_its_own_number_of_fields(text, kubeflow, vertex):
    assert kubeflow_cron(text) == kubeflow
    assert vertex_cron(text) == vertex


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 fields"),
        ("@weekly", "has 1 fields"),
        ("@every 10s", "has 2 fields"),
        ("* * * *", "has 4 fields"),
        ("* * * * * * *", "has 7 fields"),
        ("60 * * * *", "bad minute '60'; expected 0-59"),
        ("0 24 * * *", "bad hour '24'"),
        ("0 1 0 * *", "bad day-of-month '0'; expected 1-31"),
        ("0 1 L * *", "bad day-of-month 'L'"),
        ("0 1 * 13 *", "bad month '13'"),
        ("0 1 * MON *", "bad month 'MON'"),
        ("0 1 * * 7", "bad day-of-week '7'; expected 0-6"),
        ("0 1 * * 5-7", "bad day-of-week '5-7'"),
        ("0 1 * * 5L", "bad day-of-week '5L'"),
        ("0 1 * * 1#2", "bad day-of-week '1#2'"),
        ("5-1 * * * *", "bad minute '5-1'"),
        ("*/0 * * * *", "bad minute '*/0'"),
        ("1,,2 * * * *", "bad minute '1,,2'"),
        ("-1 * * * *", "bad minute '-1'"),
        ("² * * * *", "bad minute '²'"),
        ("99 0 1 * * 1", "bad second '99'"),
    ],
)
def test_expressions_that_no_platform_takes_are_rejected(text, message):
    for check in (kubeflow_cron, vertex_cron):
        with pytest.raises(ConfigError) as error:
            check(text)
        assert message in str(error.value)


def test_vertex_has_no_seconds():
    assert kubeflow_cron("30 0 1 * * 1") == "30 0 1 * * 1"
    with pytest.raises(ConfigError, match="full minutes"):
        vertex_cron("30 0 1 * * 1")


@given(st.text(st.sampled_from("0123456789*?/,- MONJAL#"), max_size=20))
def test_an_accepted_expression_has_six_fields_and_is_accepted_again(text):
    try:
        fields = kubeflow_cron(text)
    except ConfigError:
        return
    assert len(fields.split(" ")) == 6
    assert kubeflow_cron(fields) == fields
