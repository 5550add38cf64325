import json

import numpy as np
import pandas as pd
import pytest

from recpolicy.cli.output import print_frame, print_json


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


def test_json_takes_what_frames_hold_and_refuses_nan(capsys):
    print_json(pd.DataFrame({"a": np.array([1.5], np.float32), "b": ["x"], "c": [3]}).to_dict(orient="records"))
    assert json.loads(capsys.readouterr().out) == [{"a": 1.5, "b": "x", "c": 3}]
    with pytest.raises(ValueError, match="JSON"):
        print_json({"a": float("nan")})
