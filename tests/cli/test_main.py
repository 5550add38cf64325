"""`recpolicy` itself: help, exit codes, and the one place where errors become a line."""

import importlib.metadata
import logging
import subprocess
import sys

import numpy as np
import pytest
from command_line import recpolicy

import recpolicy as package
from recpolicy.cli import evaluation, policy, training
from recpolicy.cli import main as main_module
from recpolicy.core.memory import check_memory

COMMANDS = [command.function.__name__ for command in (*training.COMMANDS, *evaluation.COMMANDS, *policy.COMMANDS)]


@pytest.fixture(autouse=True)
def log_level():
    """The command line sets the level of the package's log; the next test gets it back."""
    logging_policy = logging.getLogger("recpolicy")
    before = logging_policy.level
    yield
    logging_policy.setLevel(before)


def test_the_commands_are_these():
    assert sorted(COMMANDS) == ["compare", "demo", "evaluate", "predict", "recommend", "report", "train"]


def test_version(capsys):
    answer = recpolicy(capsys, "--version")
    assert (answer.code, answer.out) == (0, f"recpolicy {importlib.metadata.version('recpolicy')}\n")
    assert package.__version__ == importlib.metadata.version("recpolicy")


def test_help_of_the_whole_names_every_command(capsys):
    for words in (["--help"], ["-h"]):
        answer = recpolicy(capsys, *words)
        assert answer.code == 0
        assert all(command in answer.out for command in [*COMMANDS, "data"])


@pytest.mark.parametrize(
    "words", [("predikt",), ("predict",), ("recommend", "x", "-u", "1", "-k", "0"), ("train", "ucb1")]
)
def test_words_that_make_no_sense_end_in_exit_code_2(capsys, words):
    answer = recpolicy(capsys, *words)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("recpolicy: ")
    assert "--help" in answer.err
    assert answer.err.count("\n") == 1


def test_verbose_lets_the_package_speak(capsys, tmp_path):
    recpolicy(capsys, "--verbose", "predict", tmp_path, "-u", "1")
    assert logging.getLogger("recpolicy").level == logging.INFO
    recpolicy(capsys, "predict", tmp_path, "-u", "1")
    assert logging.getLogger("recpolicy").level == logging.WARNING


def test_errors_that_are_not_ours_are_not_hidden(monkeypatch):
    def broken(**_):
        raise ZeroDivisionError

    monkeypatch.setattr(main_module, "app", broken)
    with pytest.raises(ZeroDivisionError):
        main_module.main()


def test_a_reader_that_has_had_enough_is_no_error(tmp_path):
    """`recpolicy ... | head -1`: the pipe breaks, nobody complains."""
    code = "import sys\nsys.argv = ['recpolicy', '--help']\nfrom recpolicy.cli.main import main\nmain()"
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running.stdout.close()
    assert "Traceback" not in running.stderr.read()
    running.stderr.close()
    running.wait()


def test_memory_that_is_not_there_is_one_line_with_the_size(monkeypatch, capsys):
    def allocate(*_, **__):
        np.empty(1 << 60, np.uint8)

    monkeypatch.setattr(main_module, "app", allocate)
    answer = recpolicy(capsys, "train", "linucb")
    assert answer.code == 1
    assert answer.err.startswith("recpolicy: out of memory: Unable to allocate 1.00 EiB for an array")
    assert answer.err.count("\n") == 1


def test_work_that_is_known_to_be_too_large_is_one_line_before_it_starts(monkeypatch, capsys):
    def check(*_, **__):
        check_memory(1e30, "svd of 9 users x 9 items", "use fewer")

    monkeypatch.setattr(main_module, "app", check)
    answer = recpolicy(capsys, "train", "linucb")
    assert answer.code == 2
    assert answer.err.startswith("recpolicy: svd of 9 users x 9 items need about")
