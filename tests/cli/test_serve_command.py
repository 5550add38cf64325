"""`recpolicy serve` as a process: it answers, it stops when told, and what it cannot do is one line."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from command_line import recpolicy, refused
from trained_policies import trained


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


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_on_a_free_port_and_stops_when_told(start, how):
    process = start(trained("linucb"), "--port", 0)
    url = process.stdout.readline().split()[-1]
    assert get(f"{url}/healthz") == {"status": "alive"}
    assert get(f"{url}/readyz")["policy"]["name"] == "linucb"
    process.send_signal(how)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert [json.loads(line)["route"] for line in err.splitlines()] == ["/healthz", "/readyz"]


def test_the_run_may_come_from_the_environment(start):
    process = start("--port", 0, RECPOLICY_RUN=str(trained("random")))
    said = process.stdout.readline()
    assert said.startswith("serving random: http://127.0.0.1:")
    assert get(f"{said.split()[-1]}/healthz")["status"] == "alive"


def test_a_folder_that_is_no_policy_is_one_line(capsys, tmp_path):
    assert "not a policy artifact" in refused(recpolicy(capsys, "serve", tmp_path))


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
