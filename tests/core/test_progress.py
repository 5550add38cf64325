"""Progress: silent when nobody watches, a bar with counts when somebody does."""

import io
import sys

from recpolicy.core.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nothing_is_drawn_without_a_terminal(capsys):
    with progress("training", 10) as bar:
        bar.advance(10, "regret 0.1")
    assert capsys.readouterr() == ("", "")


def test_nothing_is_drawn_when_it_is_not_wanted(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("training", 10, show=False) as bar:
        bar.advance(10)
    assert sys.stderr.getvalue() == ""


def test_bar_goes_to_stderr_with_counts_from_where_it_resumed(capsys):
    with progress("training", 10, unit="rounds", done=4, show=True) as bar:
        bar.advance(3, "regret 0.1")
    out, err = capsys.readouterr()
    assert out == ""
    assert "training" in err
    assert "7/10 rounds" in err
    assert "regret 0.1" in err


def test_bytes_are_shown_as_sizes(capsys):
    with progress("download", 4_000_000, unit="bytes", show=True) as bar:
        bar.advance(1_000_000)
    assert "1.0/4.0 MB" in capsys.readouterr().err
