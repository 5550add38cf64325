"""`recpolicy simulator validate`: its exit codes are its verdict."""

import json

import pandas as pd
import pytest
from command_line import recpolicy, refused
from synthetic_responses import STEPS, planted_responses

CONFIG = f"""
[simulator]
max_steps = {STEPS}
rank = 4
drift = 0.0
fatigue_genre = 0.0
fatigue_misses = 0.0

[card]
replicates = 3
bayesian = false
"""


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """A file of planted ratings: no genres, so the transitions have nothing to compare."""
    table = planted_responses().ratings
    frame = pd.DataFrame(
        {
            "user": table.users["user_id"].to_numpy()[table.user],
            "item": table.items["item_id"].to_numpy()[table.item],
            "rating": table.rating,
            "timestamp": table.timestamp,
        }
    )
    path = tmp_path_factory.mktemp("planted") / "ratings.csv"
    frame.to_csv(path, index=False)
    return path


def validate(capsys, tmp_path, ratings, *words, config=CONFIG):
    (tmp_path / "card.toml").write_text(config)
    data = ("--data", ratings, "--split", "random", "--config", tmp_path / "card.toml")
    return recpolicy(capsys, "simulator", "validate", *data, *words)


def test_a_simulator_that_passes_ends_in_0_and_writes_its_card(capsys, tmp_path, ratings):
    answer = validate(capsys, tmp_path, ratings, "--out", tmp_path / "out")
    assert answer.code == 0, answer
    assert answer.out.count("PASS") == 6
    assert "assumed, not tested by any gate: fatigue_genre" in answer.out
    assert "FAIL" not in answer.out
    assert json.loads((tmp_path / "out" / "card.json").read_text())["passed"] is True
    assert (tmp_path / "out" / "card.html").is_file()
    assert str(tmp_path / "out" / "card.html") in answer.out


def test_a_simulator_that_fails_ends_in_1(capsys, tmp_path, ratings):
    answer = validate(capsys, tmp_path, ratings, "--json", config=CONFIG + "shift_stay = -2.0\n")
    assert answer.code == 1
    card = json.loads(answer.out)
    assert card["passed"] is False
    assert card["gates"]["session length KS"]["passed"] is False
    assert card["gates"]["like AUC"]["passed"] is True


def test_a_file_without_times_is_one_line(capsys, tmp_path, ratings):
    pd.read_csv(ratings).drop(columns="timestamp").to_csv(tmp_path / "bare.csv", index=False)
    assert "need timestamps" in refused(validate(capsys, tmp_path, tmp_path / "bare.csv"))


def test_a_misspelt_table_is_one_line(capsys, tmp_path, ratings):
    answer = validate(capsys, tmp_path, ratings, config="[simulater]\n")
    assert "Did you mean 'simulator'" in refused(answer)


def test_help_shows_an_example(capsys):
    answer = recpolicy(capsys, "simulator", "validate", "--help")
    assert answer.code == 0
    assert "recpolicy simulator validate --split u1" in " ".join(answer.out.split())
