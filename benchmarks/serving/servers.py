"""The servers of this benchmark, and wrk, which loads them from a process of its own (Debian: apt-get install wrk)."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("recpolicy")
PREDICT = "/v1/models/recpolicy:predict"
RECOMMEND = "/v1/recommend"
USERS = 943
SCRIPT = """
local n = 0
local batch, single = %d, %s
request = function()
  local users = {}
  for i = 1, batch do n = n + 1; users[i] = '{"user":' .. ((n * 7) %% 943 + 1) .. ',"k":10}' end
  local body = single and users[1] or '{"instances":[' .. table.concat(users, ",") .. ']}'
  return wrk.format("POST", [[%s]], {["Content-Type"] = "application/json"}, body)
end
"""


@dataclass(frozen=True)
class Server:
    """A running server."""

    pid: int
    port: int
    path: str
    """Path of the requests with instances."""
    start_seconds: float

    def post(self, path: str, body: Any) -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def rss_mib(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def warm(self) -> None:
        """Ask for each user once, in requests of 20."""
        users = [{"user": user + 1, "k": 10} for user in range(USERS)]
        for start in range(0, USERS, 20):
            self.post(self.path, {"instances": users[start : start + 20]})


class Connection:
    """One connection that asks a server for lists."""

    def __init__(self, server: Server):
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def ask(self, request: Mapping[str, Any]) -> float:
        """Return the milliseconds until the whole answer."""
        body = json.dumps(request)
        start = time.perf_counter()
        self._connection.request("POST", RECOMMEND, body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        answer.read()
        assert answer.status == 200
        return 1e3 * (time.perf_counter() - start)


@dataclass(frozen=True)
class Load:
    """What wrk saw."""

    connections: int
    per_second: float
    """Recommendations per second."""
    p50_ms: float
    p99_ms: float
    failed: int


@contextlib.contextmanager
def running(command: list[Any], path: str) -> Iterator[Server]:
    """Run a server; the port is the last word of its command."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    environment = {**os.environ, "RECPOLICY_ADMIN_KEY": "mQ7zR2vX9pL4tW8nB5dK-Yc6Hs1Fj3Tg"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [*map(str, command), str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
                break
            if process.poll() is not None:
                raise SystemExit(f"{command[:3]} ended with {process.returncode}")
            time.sleep(0.02)
        yield Server(process.pid, port, path, time.perf_counter() - start)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def ours(policy: Path, config: Path, state: Path | None) -> contextlib.AbstractContextManager[Server]:
    """`recpolicy serve`, one worker; it stores each event, unless there is no folder for its state."""
    store = ["--no-store"] if state is None else ["--state", state]
    return running([COMMAND, "serve", policy, "--config", config, *store, "--port"], PREDICT)


def peer(form: str, policy: Path) -> contextlib.AbstractContextManager[Server]:
    """One of the forms of peer.py."""
    return running([sys.executable, HERE / "peer.py", form, policy], "/predict")


def bare(length: int) -> contextlib.AbstractContextManager[Server]:
    return running([sys.executable, HERE / "bare.py", length], "/")


def wrk(server: Server, connections: int, seconds: float, batch: int = 1, path: str | None = None) -> Load:
    """Load a server with requests of `batch` instances; with `path`, single requests to it."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % (batch, "false" if path is None else "true", path or server.path))
        script.flush()
        words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", script.name]
        text = subprocess.run(
            [*words, f"http://127.0.0.1:{server.port}"], capture_output=True, text=True, check=True
        ).stdout
    failed = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", text)))
    failed += sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", text)))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]
    return Load(connections, rate * batch, _ms(text, "50"), _ms(text, "99"), failed)


def _ms(text: str, share: str) -> float:
    number, unit = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)\b", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]
