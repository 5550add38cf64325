"""Heavy jobs run apart: in a process of low priority, whose memory is given back when it ends.

The child reads what to do as one line of JSON on its stdin, which stays open: when it closes, the server is gone, and
the child ends. Its answer is the last line of its stdout; what libraries say goes to NAME.log in the jobs' folder.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ConfigError, RecpolicyError
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.job import JobResult

FOLDER = "jobs"
STOP_EVENT: ContextVar[threading.Event | None] = ContextVar("recpolicy_stopping", default=None)
"""Set when the server wants the job that runs in this context to end."""
_LOOK_SECONDS = 0.5


class JobError(RecpolicyError):
    """A job that ran apart failed; the message is its one line."""


@dataclass(frozen=True)
class JobRequest:
    """What a child is told."""

    database: str
    """URL, its password included: it goes through a pipe, never into a command line."""
    registry: str
    folder: str
    """Where the child may write."""
    settings: Mapping[str, Any]
    """The tables jobs and drift, plain."""
    parameters: Mapping[str, Any]


def run_in_subprocess(state: AppState, name: str, parameters: Mapping[str, Any]) -> JobResult:
    """Run the work `name` of jobs/worker.py in a process; returns what it did.

    Raises JobError where it failed or was stopped, ConfigError for a server without a registry or a folder.
    """
    request = job_request(state, parameters)
    folder = Path(request.folder)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "recpolicy.server.jobs.job_process", name]
    with (folder / f"{name}.log").open("wb") as said, (folder / f"{name}.out").open("w+b") as answer:
        threads = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=answer, stderr=said, env=threads)
        try:
            _wait(child, json.dumps(asdict(request)).encode() + b"\n")
        finally:
            child.kill()
            child.wait()
            assert child.stdin is not None
            with suppress(BrokenPipeError):
                child.stdin.close()
        answer.seek(0)
        lines = answer.read().splitlines()
    return _result(name, child.returncode, lines[-1] if lines else b"")


def job_request(state: AppState, parameters: Mapping[str, Any]) -> JobRequest:
    """What a child of this server is told; raises ConfigError where it has no registry or folder to work in."""
    registry = state.policies.registry
    if registry is None or state.folder is None:
        raise ConfigError("this server has no registry and keeps nothing: it has nothing to train on")
    url = state.require_store().engine.url.render_as_string(hide_password=False)
    settings = {"jobs": as_dict(state.settings.jobs)}
    return JobRequest(url, str(registry.folder), str(state.folder / FOLDER), settings, dict(parameters))


def _wait(child: "subprocess.Popen[bytes]", line: bytes) -> None:
    """Tell the child what to do and wait for its end, or for ours."""
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it died at once; its log says why
        child.stdin.write(line)
        child.stdin.flush()
    stopping = STOP_EVENT.get()
    while True:
        try:
            child.wait(_LOOK_SECONDS)
            return
        except subprocess.TimeoutExpired:
            if stopping is not None and stopping.is_set():
                raise JobError("the server was stopped") from None


def _result(name: str, code: int, line: bytes) -> JobResult:
    try:
        body = json.loads(line)
    except ValueError:
        raise JobError(f"the process ended with {code} and without an answer; see {FOLDER}/{name}.log") from None
    if "error" in body:
        raise JobError(body["error"])
    return JobResult(**body)
