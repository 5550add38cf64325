"""Run `recpolicy` as the shell does: through `main`, with its exit code, stdout and stderr."""

import sys
from typing import NamedTuple

import pytest

from recpolicy.cli.main import main


class Answer(NamedTuple):
    """What the shell sees."""

    code: int
    out: str
    err: str


def recpolicy(capsys: pytest.CaptureFixture[str], *words: object) -> Answer:
    """Run the command line with these words."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recpolicy", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    out, err = capsys.readouterr()
    return Answer(ended.value.code or 0, out, err)


def refused(answer: Answer) -> str:
    """The one line on stderr with which a command ended in exit code 2."""
    assert answer.code == 2, answer
    assert answer.out == ""
    assert answer.err.startswith("recpolicy: ")
    assert answer.err.count("\n") == 1, answer.err
    return answer.err
