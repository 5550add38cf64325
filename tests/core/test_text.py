"""Text that somebody else wrote: what a terminal shows, and what a spreadsheet runs."""

import pytest

from recpolicy.core.text import escape_controls, escape_formula, is_utf8, is_word


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain (1995)", "plain (1995)"),
        ("Amélie 天", "Amélie 天"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("a\rb\x07", r"a\rb\x07"),
        ("a\nb", r"a\nb"),
        ("a\u202eb", r"a\u202eb"),
        ("a\ud800b", r"a\ud800b"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_controls_are_escaped(text, shown):
    assert escape_controls(text) == shown
    assert shown.isprintable()


def test_layout_may_stay():
    assert escape_controls("a\nb\tc\x1b", keep="\n\t") == "a\nb\tc\\x1b"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "\n=1", '=HYPERLINK("http://x")'])
def test_formulas_get_an_apostrophe(cell):
    assert escape_formula(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["Alien (1979)", "", "a=1", " =1", -1, 2.5, None])
def test_other_cells_stay(cell):
    assert escape_formula(cell) == cell


def test_words_are_printable_and_short():
    assert is_word("linucb", 6)
    for value in ("", "linucb2", "a\n", "a\ud800", "a\u202e", None, 3, ["a"]):
        assert not is_word(value, 6)
    assert is_utf8(["a", "天"])
    assert not is_utf8(["a", "\udfff"])
