"""A command that cannot read a table of ratings names options that this command takes, and no others."""

import re
import shutil

import pytest
import typer
from command_line import recpolicy, refused
from tiny_dataset import write_miniature
from trained_policies import trained

from recpolicy.cli.main import app

TABLES = {
    "bad.csv": ("user,item,stars\na,1,4\n", "no column 'rating'"),
    "wide.csv": ("user,item,rating\na,1,9\n", r"rating 9 is not in 1\.\.5"),
    "semicolon.csv": ("user;item;rating\na;1;4\n", "contains ';'"),
    "bare.csv": ("7,1,4\n", "no columns 'user'"),
    "twice.csv": ("user,item,rating\na,1,4\na,1,5\n", "rated item 1 before"),
    "soon.csv": ("user,item,rating,timestamp\na,1,4,soon\n", "timestamp 'soon' is not a number of seconds"),
}
REMEDIES = {
    "option": (
        "name it with --rating stars",
        "give --scale 1 9,",
        'give --separator ";"',
        "give --no-header",
        "give --repeated last, first or mean",
        "give --no-timestamps",
    ),
    "config": (
        'columns = { rating = "stars" } in [data]',
        "scale = [1, 9]",
        'separator = ";" in [data]',
        "header = false in [data]",
        'repeated = "last", "first" or "mean" in [data]',
        "timestamps = false",
    ),
    "parameter": (
        'name it with data_settings={"columns": {"rating": "stars"}}',
        'set data_settings={"scale": [1, 9]}',
        'set data_settings={"separator": ";"}',
        'set data_settings={"header": false}',
        'set data_settings={"repeated": "last"}',
        'set data_settings={"timestamps": false}',
    ),
    "file": (
        "rename the column to 'rating' in the file",
        "correct it in the file",
        "separate the columns by ','",
        "add a first line with the names",
        "keep one rating of each pair in the file",
        "correct it in the file",
    ),
}
COMMANDS = {
    "data info TABLE": "option",
    "data check TABLE": "option",
    "data split random --data TABLE --out out": "option",
    "train highest_mean --data TABLE --split random --out out": "config",
    "log simulate --data TABLE --split random --rounds 10 --out out": "config",
    "log ingest policy --data TABLE --out out": "config",
    "simulator validate --data TABLE --split random": "config",
    "ope benchmark --data TABLE --split random --quick": "config",
    "log import log.csv --format obd --data TABLE --out out": "file",
    "demo --data TABLE --out out": "file",
    "evaluate policy --data TABLE": "file",
    "compare policy --data TABLE": "file",
    "report policy --data TABLE": "file",
    "gate policy --log log --data TABLE": "file",
    "pipeline run train --inline --param data=TABLE": "parameter",
}


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """A directory with a policy, tables that cannot be read as they are, and MovieLens in miniature."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained("random"), tmp_path / "policy")
    write_miniature(tmp_path / "ml-100k")
    for name, (text, _) in TABLES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def options_of(words):
    """The names of the options of the command."""
    command = typer.main.get_command(app)
    for word in words:
        if not hasattr(command, "commands"):
            break
        command = command.commands[word]
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_that_cannot_be_read_names_what_the_command_takes(capsys, command):
    for index, (table, (_, fact)) in enumerate(TABLES.items()):
        words = command.replace("TABLE", table).split()
        message = refused_or_failed(recpolicy(capsys, *words))
        assert re.search(fact, message)
        assert REMEDIES[COMMANDS[command]][index] in message
        assert {*re.findall(r"--\w[\w-]*", message)} <= options_of(words)


def refused_or_failed(answer):
    """The message; a pipeline ends with exit code 1 and prints it among its lines."""
    if answer.code == 2:
        return refused(answer)
    assert answer.code == 1
    return " ".join((answer.out + answer.err).split())


def test_the_config_that_is_named_is_the_one_that_was_given(capsys, directory):
    (directory / "shop.toml").write_text("")
    words = ("--data", "bad.csv", "--config", "shop.toml", "--split", "random", "--out", "out")
    message = refused(recpolicy(capsys, "train", "highest_mean", *words))
    assert message.endswith('name it with columns = { rating = "stars" } in [data] of shop.toml\n')
    (directory / "shop.toml").write_text('[data]\ncolumns = { rating = "stars" }\n')
    assert "no column" not in refused(recpolicy(capsys, "train", "highest_mean", *words))


@pytest.mark.parametrize("command", ["data info", "data check", "data split random --out out --data"])
def test_the_options_that_are_named_read_the_table(capsys, command):
    words = command.split()
    assert recpolicy(capsys, *words, "wide.csv", "--scale", 1, 9).code == 0 or command.endswith("--data")
    (code, _, message) = recpolicy(capsys, *words, "bad.csv", "--rating", "stars")
    assert "no column" not in message
    assert code == 0 or command.endswith("--data")


@pytest.mark.parametrize("command", ["simulator validate", "ope benchmark --quick"])
def test_the_table_of_the_config_is_read(capsys, directory, command):
    (directory / "shop.toml").write_text('[data]\ncolumns = { rating = "stars" }\n')
    words = ("--data", "bad.csv", "--config", "shop.toml", "--split", "random")
    assert "no column" not in refused(recpolicy(capsys, *command.split(), *words))


@pytest.mark.parametrize("command", ["predict", "recommend"])
def test_an_unknown_user_is_described_by_the_option_rating(capsys, command):
    message = refused(recpolicy(capsys, command, "policy", "--user", "nobody"))
    assert message.endswith("describe a new user by some ratings: --rating ITEM=VALUE\n")
    assert recpolicy(capsys, command, "policy", "--user", "nobody", "--rating", "1=5").code == 0


def test_tables_that_accompany_the_ratings_have_columns_of_their_own(capsys, directory):
    (directory / "mine.csv").write_text("user,item,rating\na,1,4\n")
    (directory / "items.csv").write_text("thing,title\n1,One\n")
    (directory / "shop.toml").write_text('[data]\nitems = "items.csv"\n')
    words = ("--data", "mine.csv", "--config", "shop.toml", "--split", "random", "--out", "out")
    message = refused(recpolicy(capsys, "train", "highest_mean", *words))
    assert "items.csv:1: no column 'item'" in message
    assert message.endswith('name it with item_columns = { item = "NAME" } in [data] of shop.toml\n')
    message = refused(recpolicy(capsys, "data", "check", "mine.csv", "--config", "shop.toml"))
    assert 'item_columns = { item = "NAME" } in [data] of a TOML file, given as --config FILE' in message
    (directory / "shop.toml").write_text('[data]\nitems = "items.csv"\nitem_columns = { item = "thing" }\n')
    assert recpolicy(capsys, "data", "check", "mine.csv", "--config", "shop.toml").code == 0
