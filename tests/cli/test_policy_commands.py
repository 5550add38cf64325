"""Answers of `recpolicy predict|recommend|evaluate` against those of the Python API, and what they refuse besides."""

import json
import shutil

import pytest
from command_line import recpolicy, refused
from trained_policies import loaded, trained


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(trained("random"), tmp_path / "policy")


def test_predict_says_what_the_policy_says(capsys, folder):
    rated = ("--rating", "1=5", "--rating", "2=1.5")
    rows = json.loads(recpolicy(capsys, "predict", folder, "-u", "newcomer", *rated, "--json").out)
    expected = loaded("random").predict("newcomer", fold_in={"newcomer": {1: 5, 2: 1.5}})
    for column in ("rating", "std", "value", "probability"):
        assert [row[column] for row in rows] == pytest.approx(expected[column].tolist())


def test_predict_prints_a_table_for_people(capsys, folder):
    answer = recpolicy(capsys, "predict", folder, "--user", 7, "-m", 3, "-m", 4)
    head, *rows = answer.out.splitlines()
    assert head.split() == ["user_id", "item_id", "title", "rating", "std", "low", "high", "value", "probability"]
    assert len(rows) == 2
    assert "Picture No. 03, The" in rows[0]
    assert answer.err == ""


def test_recommend_explains_its_numbers_and_marks_the_choice_of_the_exploring_policy(capsys):
    """Rank follows the greedy score; LinUCB chooses by an upper bound, so the mark may stand in another row."""
    answer = recpolicy(capsys, "recommend", trained("linucb"), "--user", 7, "-k", 80)
    table, note = answer.out.split("\n\n")
    head, *rows = table.splitlines()
    assert head.split()[-6:] == ["rating", "std", "low", "high", "value", "probability"]
    expected = loaded("linucb").recommend(7, k=80)
    marked = [row.endswith("*") for row in rows]
    assert marked == expected["most_probable"].tolist()
    assert marked.index(True) == expected["probability"].argmax()
    for name in ("Ranked by", "`value`", "`probability`", "`rating`", "`std`"):
        assert name in note
    drawn = recpolicy(capsys, "recommend", trained("linucb"), "--user", 7, "-k", 3, "--sample").out
    assert "Drawn from the probabilities" in drawn


def test_a_policy_without_preference_marks_nothing(capsys, folder):
    assert "*\n" not in recpolicy(capsys, "recommend", folder, "--user", 7, "-k", 3).out.split("\n\n")[0] + "\n"


def test_recommend_leaves_rated_items_out_unless_told(capsys, folder):
    rows = json.loads(recpolicy(capsys, "recommend", folder, "-u", 7, "-k", 99, "--json").out)
    assert [row["item_id"] for row in rows] == loaded("random").recommend(7, 99)["item_id"].tolist()
    everything = json.loads(recpolicy(capsys, "recommend", folder, "-u", 7, "-k", 99, "--include-rated", "--json").out)
    assert len(everything) == 80 > len(rows)


def test_a_newcomers_ratings_go_with_one_user(capsys, folder):
    answer = recpolicy(capsys, "predict", folder, "-u", 1, "-u", 2, "--rating", "1=5")
    assert answer.code == 2
    assert "exactly one --user" in answer.err


@pytest.mark.parametrize("pair", ["five", "1=", "=5", "1=five", "1=nan"])
def test_what_is_no_rating_is_one_line(capsys, folder, pair):
    assert "rat" in refused(recpolicy(capsys, "predict", folder, "-u", "new", "--rating", pair))


def test_a_damaged_policy_is_one_line(capsys, folder):
    (folder / "arrays.npz").write_bytes(b"damaged")
    assert "arrays.npz: changed since" in refused(recpolicy(capsys, "predict", folder, "-u", 1))


def test_a_policy_that_does_not_say_where_its_ratings_came_from_is_one_line(capsys, folder):
    assert "give them with --data" in refused(recpolicy(capsys, "evaluate", folder))
