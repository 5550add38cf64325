"""`recpolicy serve` as a process: it answers, it stops when told, and what it cannot do is one line."""

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from command_line import recpolicy, refused
from trained_policies import trained
from waiting import PATIENCE, wait_until


@pytest.fixture
def start():
    """Start `recpolicy serve` and return the process; none outlives its test."""
    running = []

    def go(*words, **environment):
        command = [sys.executable, "-c", "from recpolicy.cli.main import main; main()", "serve", *map(str, words)]
        env = os.environ | environment
        running.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1, env=env)
        )
        return running[-1]

    yield go
    for process in running:
        process.kill()
        process.communicate()


def stopped(process):
    """The rest of what it prints. Not by `communicate`, which leaves out what `readline` has read ahead."""
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    process.wait(PATIENCE)
    return rest


def ready(url):
    """Wait until somebody answers: with several workers the parent speaks first."""

    def answer():
        with contextlib.suppress(OSError):
            return get(f"{url}/healthz")

    wait_until(answer, "an answer")


def get(url):
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return json.load(answer)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_it_answers_on_a_free_port_and_stops_when_told(start, how, workers, tmp_path):
    process = start(trained("linucb"), "--port", 0, "--state", tmp_path / "state", "--workers", workers)
    url = process.stdout.readline().split()[-1]
    assert process.stdout.readline().startswith("operator key, shown only now: rp_")
    ready(url)
    assert get(f"{url}/healthz") == {"status": "alive"}
    assert get(f"{url}/readyz")["policy"]["agent"] == "linucb"
    process.send_signal(how)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "")
    routes = [line["route"] for line in map(json.loads, err.splitlines()) if line["message"] == "request"]
    assert set(routes) == {"/healthz", "/readyz"}  # two workers may log in any order
    assert (tmp_path / "state" / "server.db").is_file()


def test_the_second_start_shows_no_key_and_goes_on_with_the_same_state(start, tmp_path):
    for expected in (True, False):
        process = start(trained("random"), "--port", 0, "--state", tmp_path / "state")
        url = process.stdout.readline().split()[-1]
        ready(url)
        assert stopped(process).startswith("operator key") == expected


def test_another_run_in_a_used_state_folder_is_said_to_wait(start, tmp_path):
    for agent in ("random", "linucb"):
        process = start(trained(agent), "--port", 0, "--state", tmp_path / "state")
        said = process.stdout.readline()
        ready(said.split()[-1])
        rest = stopped(process)
    assert said.startswith("serving random")
    assert "is version 2, but version 1 is the champion; to change that: recpolicy admin promote 2 --ungated" in rest


def test_without_a_store_nothing_is_written(start, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained("random"), run)
    process = start(run, "--port", 0, "--no-store")
    url = process.stdout.readline().split()[-1]
    assert get(f"{url}/readyz")["store"] == "none"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_run_may_come_from_the_environment(start, tmp_path):
    process = start("--port", 0, "--state", tmp_path / "state", RECPOLICY_RUN=str(trained("random")))
    said = process.stdout.readline()
    assert said.startswith("serving random: http://127.0.0.1:")
    assert get(f"{said.split()[-1]}/healthz")["status"] == "alive"


def test_a_folder_that_is_no_policy_is_one_line(capsys, tmp_path):
    assert "not a registry" in refused(recpolicy(capsys, "serve", tmp_path))


def test_a_port_that_is_taken_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(recpolicy(capsys, "serve", trained("random"), "--port", port))
    assert f"127.0.0.1 port {port}" in said
    assert "--port" in said


def test_a_host_that_is_not_this_machines_is_one_line(capsys):
    assert "192.0.2.1" in refused(recpolicy(capsys, "serve", trained("random"), "--host", "192.0.2.1", "--port", 0))


def test_without_the_extra_it_says_what_to_install(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "recpolicy[serve]" in refused(recpolicy(capsys, "serve", tmp_path))


def test_requests_are_answered_although_nobody_reads_the_log(start, tmp_path):
    process = start(trained("linucb"), "--port", 0, "--state", tmp_path / "state")
    fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)  # some 30 lines
    url = process.stdout.readline().split()[-1]
    ready(url)
    for _ in range(200):
        assert get(f"{url}/readyz")["status"] == "ready"
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
