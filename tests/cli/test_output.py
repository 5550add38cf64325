import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recpolicy.cli import output
from recpolicy.cli.output import print_frame, print_json, print_text


def test_tables_show_a_named_index_and_three_digits(capsys):
    index = pd.Index(["linucb"], name="policy")
    print_frame(pd.DataFrame({"rmse": [0.123456], "items": [80]}, index=index), "A title")
    title, head, row = capsys.readouterr().out.splitlines()
    assert title.strip() == "A title"
    assert head.split() == ["policy", "rmse", "items"]
    assert row.split() == ["linucb", "0.123", "80"]


def test_long_rows_are_not_folded(capsys):
    print_frame(pd.DataFrame({"title": ["x" * 150], "rating": [4.0]}))
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("title", ["[bold] and [/bold]", "Alien [1979]", "What? [/]"])
def test_brackets_in_titles_are_text(capsys, title):
    print_frame(pd.DataFrame({"title": [title]}))
    assert title in capsys.readouterr().out


HOSTILE = "\x1b[2Jgone\r\u202e"


def test_no_control_character_reaches_the_terminal(capsys):
    print_frame(pd.DataFrame({"title": [HOSTILE, "two\nlines"], HOSTILE: [1, 2]}), HOSTILE)
    print_text(f"agent: {HOSTILE}\nnext line")
    out = capsys.readouterr().out
    assert [letter for letter in out if not letter.isprintable() and letter != "\n"] == []
    assert r"\x1b[2Jgone\r\u202e" in out
    assert r"two\nlines" in out
    assert len(out.splitlines()) == 6


def test_every_command_prints_through_it():
    """`print` is called in output.py only: anything else could show a name as it is."""
    for path in sorted(Path(output.__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        used = [call.id for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert path.name == "output.py" or used == [], path.name


def test_json_takes_what_frames_hold_and_refuses_nan(capsys):
    print_json(pd.DataFrame({"a": np.array([1.5], np.float32), "b": ["x"], "c": [3]}).to_dict(orient="records"))
    assert json.loads(capsys.readouterr().out) == [{"a": 1.5, "b": "x", "c": 3}]
    with pytest.raises(ValueError, match="JSON"):
        print_json({"a": float("nan")})
