"""Start the servers of this benchmark, and send requests over connections that stay open."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SERVE = [sys.executable, "-c", "from recpolicy.cli.main import main; main()", "serve"]


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    pid: int

    def processor_seconds(self) -> float:
        """Return the processor seconds of all threads of the process."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(command: Sequence[str]) -> Iterator[Server]:
    """Start a server that prints its URL in the first line, and stop it at the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        assert line, f"{command}: the server did not start"
        yield Server(int(line[-1].rsplit(":", 1)[1].strip("/")), process.pid)
    finally:
        process.terminate()
        process.wait()


def serve_command(source: Path, config: Path, *options: str) -> list[str]:
    """Return the command of a recpolicy server on a free port."""
    return [*SERVE, str(source), "--port", "0", "--config", str(config), *options]


def peer_command(python: str, *options: str) -> list[str]:
    """Return the command of the server over Vowpal Wabbit."""
    return [python, str(HERE / "peer.py"), *options]


def request_bytes(path: str, body: Any, key: str | None = None) -> bytes:
    """Return a POST request as it goes over the wire; a body that is not bytes becomes JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
    )
    authorization = "" if key is None else f"authorization: Bearer {key}\r\n"
    return f"{head}{authorization}\r\n".encode() + data


class Connection:
    """A connection that sends one request after the other."""

    def __init__(self, server: Server):
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def send(self, request: bytes) -> bytes:
        """Send a request and return the body of its answer; any status but 200 ends the benchmark."""
        self._socket.sendall(request)
        answer = self._rest
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._receive()
        head = answer[:end].lower()
        assert head.startswith(b"http/1.1 200"), answer[:500]
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        while len(answer) < end + 4 + length:
            answer += self._receive()
        self._rest = answer[end + 4 + length :]
        return answer[end + 4 : end + 4 + length]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _receive(self) -> bytes:
        data = self._socket.recv(1 << 18)
        assert data, "the server closed the connection"
        return data


def requests_per_second(server: Server, requests: Sequence[bytes], connections: int) -> dict[str, float]:
    """Send the requests over some connections at once; return the rate and the processor milliseconds of the server."""
    opened = [Connection(server) for _ in range(connections)]

    def work(place: int) -> None:
        for request in requests[place::connections]:
            opened[place].send(request)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(connections)]
    processor, start = server.processor_seconds(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    spent = server.processor_seconds() - processor
    for connection in opened:
        connection.close()
    return {"per_s": len(requests) / seconds, "processor_ms": 1e3 * spent / len(requests)}
