"""The jobs that run in a subprocess of low priority, whose memory is freed when it ends: retrain and evaluate.

The child reads its request as one line of JSON from stdin, which stays open: when it closes, the server is gone and the
child exits. Its result is the last line of stdout; output of libraries goes to NAME.log in the jobs' folder.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from recpolicy.core.config import Count, Seed, as_dict, config_dataclass
from recpolicy.core.errors import ConfigError, RecpolicyError
from recpolicy.server.db.admin import SERVER
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.scheduler import STOP_EVENT, Job
from recpolicy.server.rollout import controller

logger = logging.getLogger(__name__)

FOLDER = "jobs"
_POLL_SECONDS = 0.5


class JobError(RecpolicyError):
    """A job in a subprocess failed; the message is one line."""


@config_dataclass
class RetrainParameters:
    """Parameters of a training by hand; None: as in the settings."""

    min_interactions_per_user: Count | None = None
    min_interactions: Count | None = None
    epochs: Count = 1
    seed: Seed = 0


@config_dataclass
class EvaluateParameters:
    """Parameters of an evaluation by hand."""

    days: Annotated[float, Field(gt=0, le=365)] | None = None
    """Days that the evaluation covers; None: as in the settings."""


@dataclass(frozen=True)
class JobRequest:
    """The input of a subprocess."""

    database: str
    """URL with its password: it goes through a pipe, never into a command line."""
    registry: str
    folder: str
    """Folder for the files of the job."""
    settings: Mapping[str, Any]
    """The tables that jobs read, plain."""
    parameters: Mapping[str, Any]

    @classmethod
    def from_state(cls, state: AppState, parameters: Mapping[str, Any]) -> "JobRequest":
        """Return a request of this server; raises ConfigError for a server without a registry or a state folder."""
        registry = state.models.registry
        if registry is None or state.folder is None:
            raise ConfigError("this job needs a registry and a database; this server has none (--no-store)")
        url = state.require_store().engine.url.render_as_string(hide_password=False)
        tables = ("jobs", "strategies", "guardrails", "new_items", "sessions", "store")
        settings = {name: as_dict(getattr(state.settings, name)) for name in tables}
        return cls(url, str(registry.folder), str(state.folder / FOLDER), settings, dict(parameters))


def retrain(state: AppState, parameters: Mapping[str, Any]) -> JobResult:
    """Train, gate and register in a subprocess; if the settings say so, start a rollout of a version that passed."""
    result = run_in_subprocess(state, "retrain", parameters)
    number, verdict = result.metadata.get("version"), result.metadata.get("gate", {}).get("verdict")
    if not state.settings.jobs.auto_rollout or number is None or verdict != "pass":
        return result
    metadata = {**result.metadata, "rollout": _start_rollout(state, int(number))}
    return JobResult(status=result.status, users=result.users, records=result.records, metadata=metadata)


def evaluate(state: AppState, parameters: Mapping[str, Any]) -> JobResult:
    """Evaluate the last days in a subprocess."""
    return run_in_subprocess(state, "evaluate", parameters)


def run_in_subprocess(state: AppState, name: str, parameters: Mapping[str, Any]) -> JobResult:
    """Run the worker `name` of job_process.py; returns its result.

    Raises JobError if it failed or was stopped, ConfigError for a server without a registry or a state folder.
    """
    request = JobRequest.from_state(state, parameters)
    folder = Path(request.folder)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "recpolicy.server.jobs.job_process", name]
    files = name if name != "evaluate_ranks" else f"{name}-{os.getpid()}"  # each process may run one
    with (folder / f"{files}.log").open("wb") as log, (folder / f"{files}.out").open("w+b") as output:
        environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=log, env=environment)
        try:
            _wait(child, json.dumps(asdict(request)).encode() + b"\n")
        finally:
            child.kill()
            child.wait()
            assert child.stdin is not None
            with suppress(BrokenPipeError):
                child.stdin.close()
        output.seek(0)
        lines = output.read().splitlines()
    return _result(files, child.returncode, lines[-1] if lines else b"")


def _wait(child: "subprocess.Popen[bytes]", line: bytes) -> None:
    """Send the request and wait for the end of the child, or of the server."""
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it died at once; its log says why
        child.stdin.write(line)
        child.stdin.flush()
    stop = STOP_EVENT.get()
    while True:
        try:
            child.wait(_POLL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            if stop is not None and stop.is_set():
                raise JobError("the server was stopped") from None


def _result(name: str, code: int, line: bytes) -> JobResult:
    try:
        body = json.loads(line)
    except ValueError:
        raise JobError(f"the process ended with exit code {code} and no result; see {FOLDER}/{name}.log") from None
    if "error" in body:
        raise JobError(body["error"])
    return JobResult(**body)


def _start_rollout(state: AppState, number: int) -> str:
    """Start a rollout; returns "started", or the reason against it."""
    try:
        controller.start(state, number, actor=SERVER)
    except RecpolicyError as error:  # such as another running rollout; the new version stays registered
        logger.warning("version %d is not rolled out: %s", number, error)
        return f"not started: {error}"
    return "started"


RETRAIN = Job(
    name="retrain",
    description="Train the champion on new feedback, evaluate the new version by its gate, and register it.",
    cron="0 1 * * mon",
    run=retrain,
    parameters=RetrainParameters,
)
EVALUATE = Job(
    name="evaluate",
    description="Compute mean rewards of the last days, and estimate rewards of the champion and of baselines.",
    cron="0 2 * * *",
    run=evaluate,
    parameters=EvaluateParameters,
)
