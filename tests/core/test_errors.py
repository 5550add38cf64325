"""The tree of errors, and what they say."""

import pytest

from recpolicy.core.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    DivergedError,
    FetchError,
    MissingExtraError,
    RecpolicyError,
    SubmitError,
    UnknownIdError,
    suggest_name,
    unknown_name_error,
)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (DataError, ValueError),
        (UnknownIdError, LookupError),
        (FetchError, OSError),
        (ConfigError, ValueError),
        (ArtifactError, ValueError),
        (DivergedError, ArithmeticError),
        (SubmitError, OSError),
        (MissingExtraError, ImportError),
    ],
)
def test_every_error_is_ours_and_a_builtin_one(error, builtin):
    raised = error("where: what was found")
    assert isinstance(raised, RecpolicyError)
    assert isinstance(raised, builtin)
    assert str(raised) == "where: what was found"


def test_unknown_name_hints_at_the_nearest_one():
    message = str(unknown_name_error("agent", "linucbb", ["linucb", "dqn", "eps_greedy"]))
    assert message == "no agent named 'linucbb'. Did you mean 'linucb'? Known: dqn, eps_greedy, linucb."


def test_unknown_name_without_a_near_one_only_lists():
    assert str(unknown_name_error("split", "zzz", ["u2", "u1"])) == "no split named 'zzz'. Known: u1, u2."


@pytest.mark.parametrize(
    ("name", "known", "nearest"),
    [
        ("LinUCB", ["dqn", "linucb"], "linucb"),
        ("odb", ["obd", "vw"], "obd"),
        ("alfa", ["alpha", "gamma"], "alpha"),
        ("item", ["user", "time", "rating"], None),  # half of the letters are the same
        ("zzz", [], None),
    ],
)
def test_only_a_similar_name_is_suggested_in_any_case_of_letters(name, known, nearest):
    assert suggest_name(name, known) == ("" if nearest is None else f" Did you mean {nearest!r}?")
