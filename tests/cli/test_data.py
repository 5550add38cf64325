"""`recpolicy data`: what is printed for people and for programs, and which errors come through."""

import json
import shutil
import tomllib
from dataclasses import replace

import pytest
from tiny_dataset import write_miniature
from typer.testing import CliRunner

from recpolicy.cli.data import app
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.files import file_digest
from recpolicy.data.datasets import DATASETS


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """Every test runs beside an ml-100k folder that holds the miniature."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECPOLICY_DATA", raising=False)
    write_miniature(tmp_path / "ml-100k")
    return tmp_path


def run(*words):
    """Run the command and return what it prints; errors come through as they are."""
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_info_prints_counts_and_the_spread_of_ratings():
    text = run("info")
    assert "ratings of 60 users on 80 items" in text
    assert text.count("#") > 40


def test_info_as_json_is_the_summary():
    summary = json.loads(run("info", "ml-100k", "--json"))
    assert summary["users"] == 60
    assert sum(summary["shares"].values()) == pytest.approx(1)


def test_split_writes_both_files_and_names_them(directory):
    report = json.loads(run("split", "ua", "--out", "splits", "--json"))
    assert report["test"] == 600
    assert len((directory / "splits" / "ua.test").read_text().splitlines()) == 600
    assert "ua.base" in run("split", "ua", "--out", "splits")


def test_split_of_own_file(directory):
    (directory / "mine.csv").write_text("user,item,rating\n" + "".join(f"{row},1,3\n" for row in range(10)))
    assert json.loads(run("split", "u1", "--data", "mine.csv", "--out", "s", "--json"))["test"] == 2


def test_check_accepts_mapped_columns_scale_and_separator(directory):
    (directory / "mine.txt").write_text("uid\tfilm\tstars\n1\t2\t9\n")
    words = ("--user", "uid", "--item", "film", "--rating", "stars", "--scale", "0", "10", "--separator", r"\t")
    assert "1 ratings of 1 users on 1 items" in run("check", "mine.txt", *words)


def test_check_prints_its_options_as_the_table_of_a_config_file(directory):
    rows = "".join(f"u{row % 5};m{row}\t;{row % 10 / 2}\n" for row in range(10))
    (directory / "mine.txt").write_text('uid;"fi""lm";stars\n' + rows)
    words = ("--user", "uid", "--item", 'fi"lm', "--rating", "stars", "--scale", "0", "5", "--separator", ";")
    text = run("check", "mine.txt", *words, "--repeated", "last", "--no-timestamps")
    config = directory / "mine.toml"
    config.write_text(text[text.index("[data]") :])
    table = tomllib.loads(config.read_text())
    assert table["data"] == {
        "columns": {"user": "uid", "item": 'fi"lm', "rating": "stars"}, "timestamps": False, "separator": ";",
        "scale": [0, 5], "repeated": "last",
    }  # fmt: skip
    again = run("check", "mine.txt", "--config", "mine.toml")
    assert tomllib.loads(again[again.index("[data]") :]) == table
    (directory / "plain.csv").write_text("user,item,rating\n1,2,3\n")
    assert "[data]" not in run("check", "plain.csv")


def test_names_of_a_file_cannot_move_the_cursor(directory):
    """A clear-screen sequence and a new line in the names of the file and of a genre are shown, not obeyed."""
    evil = "x\x1b[2J\ny"
    (directory / f"{evil}.csv").write_text("user,item,rating\n1,1,3\n")
    (directory / "items.csv").write_text(f'item,title,genres\n1,a,"{evil}"\n')
    (directory / "c.toml").write_text('[data]\nitems = "items.csv"\n')
    text = run("check", f"{evil}.csv", "--config", "c.toml")
    assert "\x1b" not in text
    assert text.startswith("x\\x1b[2J\\ny: 1 ratings")
    assert "1 genres: x\\x1b[2J\\ny\n" in text


def test_what_is_wrong_comes_through_as_our_error(directory):
    (directory / "mine.csv").write_text("user,item,rating\n1,2,9\n")
    with pytest.raises(DataError, match=r"mine\.csv:2: rating 9"):
        run("check", "mine.csv")
    with pytest.raises(ConfigError, match="no split named 'u9'"):
        run("split", "u9", "--out", "splits")
    with pytest.raises(DataError, match="neither one of"):
        run("fetch", "--source", "nowhere.zip")


def test_fetch_of_files_that_are_not_the_official_ones_is_refused(directory):
    shutil.move(directory / "ml-100k", directory / "mine")
    with pytest.raises(DataError, match=r"u\.data has md5"):
        run("fetch", "--source", "mine")
    assert not (directory / "ml-100k" / "u.data").exists()


def test_fetch_says_which_files_are_the_official_ones(directory, monkeypatch):
    official = {name: file_digest(directory / "ml-100k" / name, "md5") for name in ("u.data", "u.user")}
    monkeypatch.setitem(DATASETS, "ml-100k", replace(DATASETS["ml-100k"], official=official))
    shutil.move(directory / "ml-100k", directory / "mine")
    text = run("fetch", "--source", "mine")
    assert "ml-100k: fetched from mine, verified" in text
    assert "u.data   identical to the official file" in text
    assert "u.genre  not verified" in text
    assert json.loads(run("fetch", "--json"))["fetched"] is False


@pytest.mark.parametrize("command", ["fetch", "split", "info", "check"])
def test_help_shows_an_example(command):
    assert f"Example: recpolicy data {command}" in run(command, "--help")
