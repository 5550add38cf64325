"""The small attack of CI, and the attack's own honesty: its table, exit code and clean end."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from waiting import PATIENCE, wait_until

from attack import command, parts
from attack.command import SEED, main, run_part
from attack.parts import PARTS, Part
from attack.report import PartResult, table_lines
from attack.session import write_policy

QUICK = [name for name, part in PARTS.items() if part.quick]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A random policy of the demo's size."""
    return write_policy(tmp_path_factory.mktemp("policy") / "policy")


@pytest.mark.parametrize("name", QUICK)
def test_a_server_withstands(name, policy, tmp_path):
    result = run_part(PARTS[name], tmp_path, policy, SEED, quick=True)
    assert not result.failed, result
    assert result.tries


def part(name, run, **more):
    return Part(name, "a part of a test", run, quick=True, **more)


@pytest.fixture
def run_parts(monkeypatch, tmp_path):
    """Run parts of a test in place of the real ones; return the exit code and the parts of the report."""

    def run(*several):
        monkeypatch.setattr(command, "PARTS", {each.name: each for each in several})
        monkeypatch.setattr(command, "write_policy", lambda folder: folder)
        out = tmp_path / "out.json"
        return main(["--quick", "--out", str(out)]), json.loads(out.read_text())["parts"]

    return run


@pytest.mark.parametrize("kind", ["lost", "let_in", "wrong_5xx", "dead_tasks", "other"])
def test_one_broken_promise_fails_the_run(kind, run_parts):
    def broken(session):
        session.result.tries = 1
        session.result.count(kind, "for the test")

    code, (row,) = run_parts(part("broken", broken))
    assert (code, row["verdict"], row[kind], row["details"]) == (1, "FAIL", 1, [f"{kind}: for the test"])


def test_too_much_memory_and_a_part_that_cannot_run_at_all_fail(run_parts):
    def large(session):
        session.result.tries, session.result.peak_rss_mib = 1, 400.1

    def lost(session):
        raise RuntimeError("no server")

    assert run_parts(part("large", large))[0] == 1
    code, (row,) = run_parts(part("lost", lost))
    assert code == 1
    assert "RuntimeError: no server" in row["details"][0]


def test_what_holds_passes_and_what_cannot_be_tried_is_named(run_parts, capsys):
    def fine(session):
        session.result.tries = 3

    code, rows = run_parts(part("fine", fine), part("root", fine, lacks=lambda: "it needs root"))
    assert code == 0
    assert [row["verdict"] for row in rows] == ["pass", "not run"]
    assert "root: not run: it needs root" in capsys.readouterr().out


def test_the_table_has_a_row_for_each_part_and_their_sum():
    rows = [PartResult("a", tries=2, lost=1), PartResult("b", tries=3, peak_rss_mib=100.0)]
    header, *lines, total = table_lines(rows)
    assert header.split()[:2] == ["part", "tries"]
    assert [line.split()[0] for line in lines] == ["a", "b"]
    assert total.split()[:4] == ["all", "parts", "5", "1"]
    assert len({len(line) for line in (header, *lines, total)}) == 1


def test_names_of_parts_are_unique_and_listed(capsys):
    assert len(PARTS) == len(parts._PARTS)
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PARTS)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_attack_leaves_no_process_and_no_file(how, tmp_path):
    words = [sys.executable, str(ROOT / "tests" / "attack"), "--only", "auth"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: serving(tmp_path), "the start of a server")
        process.send_signal(how)
        assert process.wait(PATIENCE) == {signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    assert not serving(tmp_path)
    assert list(tmp_path.iterdir()) == []


def serving(folder):
    """Return the processes that serve from this folder."""
    return subprocess.run(["pgrep", "-f", f"serve {folder}"], capture_output=True, text=True).stdout.split()
