"""Cron expressions: five fields and six, for Kubeflow and for Vertex AI."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import ConfigError
from recpolicy.pipelines.cron import kubeflow_cron, vertex_cron


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
    ],
)
def test_each_scheduler_gets_its_own_number_of_fields(text, kubeflow, vertex):
    assert kubeflow_cron(text) == kubeflow
    assert vertex_cron(text) == vertex


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has 0 fields"),
        ("@weekly", "has 1 fields"),
        ("* * * *", "has 4 fields"),
        ("* * * * * * *", "has 7 fields"),
        ("60 * * * *", "'60' is no minute; expected 0 to 59"),
        ("0 24 * * *", "'24' is no hour"),
        ("0 1 0 * *", "'0' is no day of month; expected 1 to 31"),
        ("0 1 * 13 *", "'13' is no month"),
        ("0 1 * MON *", "'MON' is no month"),
        ("0 1 * * 7", "'7' is no weekday; expected 0 to 6"),
        ("5-1 * * * *", "'5-1' is no minute"),
        ("*/0 * * * *", "'*/0' is no minute"),
        ("1,,2 * * * *", "'' is no minute"),
        ("-1 * * * *", "'-1' is no minute"),
        ("² * * * *", "is no minute"),
        ("99 0 1 * * 1", "'99' is no second"),
    ],
)
def test_what_no_scheduler_would_take_is_named(text, says):
    for read in (kubeflow_cron, vertex_cron):
        with pytest.raises(ConfigError) as error:
            read(text)
        assert says in str(error.value)


def test_vertex_knows_no_seconds():
    assert kubeflow_cron("30 0 1 * * 1") == "30 0 1 * * 1"
    with pytest.raises(ConfigError, match="full minutes"):
        vertex_cron("30 0 1 * * 1")


@given(st.text(st.sampled_from("0123456789*?/,- MONJA"), max_size=20))
def test_what_is_taken_has_its_fields_and_is_taken_again(text):
    try:
        read = kubeflow_cron(text)
    except ConfigError:
        return
    assert len(read.split(" ")) == 6
    assert kubeflow_cron(read) == read
