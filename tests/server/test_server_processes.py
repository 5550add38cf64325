"""The processes of a server: open files, the end of workers, and what killed servers leave behind."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import processes
import pytest
from processes import ServerProcess
from trained_policies import trained
from waiting import PATIENCE, wait_until

from recpolicy.server.processes import MetricsFolder, connection_bounds


@pytest.fixture
def start(tmp_path):
    running = []

    def go(*words, **settings):
        running.append(ServerProcess(trained("linucb"), tmp_path / "state", *words, **settings))
        return running[-1]

    yield go
    for server in running:
        server.stop()


@pytest.mark.parametrize(
    ("open_files", "connections", "waiting"), [(65_536, 63_360, 2_048), (1_024, 640, 256), (256, 64, 64), (64, 16, 16)]
)
def test_connections_stay_below_the_open_files(open_files, connections, waiting):
    assert connection_bounds(open_files) == (connections, waiting)
    assert connections + waiting <= open_files


SOFT_LIMIT = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
from recpolicy.server.processes import raise_open_files
print(raise_open_files(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one():
    done = subprocess.run([sys.executable, "-c", SOFT_LIMIT], capture_output=True, text=True, check=True)
    limit, soft, hard = map(int, done.stdout.split())
    assert limit == soft == (65_536 if hard < 0 else min(hard, 65_536))


def test_more_connections_than_open_files_stop_neither_the_writer_nor_who_is_connected(start, monkeypatch):
    monkeypatch.setattr("processes.SERVE", ["prlimit", "--nofile=192:192", *processes.SERVE])
    server = start()
    host, port = server.url.removeprefix("http://").split(":")
    body, headers = json.dumps({"user": 1}), {"content-type": "application/json"}
    with closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE)) as client, ExitStack() as stack:

        def recommend():
            client.request("POST", "/v1/recommend", body, headers)
            return json.load(client.getresponse())["event_id"]

        before = recommend()
        for _ in range(300):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE))
        assert None not in [before, *(recommend() for _ in range(20))]
        assert len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) < 192
    assert server.post("/v1/recommend", {"user": 2})[1]["event_id"]
    assert server.get("/readyz")["store"] == "up"


def test_workers_end_with_their_parent_and_leave_the_port(start):
    server = start("--workers", "2", TMPDIR=tempfile.gettempdir())
    port = int(server.url.rpartition(":")[2])
    children = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True).stdout.split()
    server.stop(signal.SIGKILL)

    def is_free():
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return True
        return False

    wait_until(is_free, "the end of the workers")
    wait_until(lambda: not any(Path(f"/proc/{child}/cmdline").exists() for child in children), "their exit", PATIENCE)


def test_the_next_start_removes_the_metrics_of_a_killed_server_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    running = MetricsFolder()
    killed = subprocess.Popen(
        [
            sys.executable, "-c",
            "import tempfile, sys, signal; tempfile.tempdir = sys.argv[1]\n"
            "from recpolicy.server.processes import MetricsFolder\n"
            "print(MetricsFolder().path, flush=True); signal.pause()",
            tmp_path,
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    left = Path(killed.stdout.readline().strip())
    (left / "gauge.db").touch()
    killed.kill()
    killed.communicate()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "recpolicy-metrics-link").symlink_to(elsewhere)
    new = MetricsFolder()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["elsewhere", "recpolicy-metrics-link", new.path.name, running.path.name]
    )
    for folder in (new, running):
        folder.remove()
    assert not new.path.exists()
