"""`python -m recpolicy.server.jobs.job_process NAME`: the process of a heavy job (subprocess_jobs.py starts it)."""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from recpolicy.core.errors import RecpolicyError
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.jobs.scheduler import error_text
from recpolicy.server.jobs.subprocess_jobs import JobRequest

NICENESS = 10
_GONE = 3


def retrain(request: JobRequest) -> JobResult:
    """Train, gate and register."""
    from recpolicy.server.jobs.retrain_worker import train_on

    return train_on(request)


def evaluate(request: JobRequest) -> JobResult:
    """Evaluate the last days."""
    from recpolicy.server.jobs.evaluate_worker import estimate_days

    return estimate_days(request)


def evaluate_ranks(request: JobRequest) -> JobResult:
    """Evaluate ranked events, or compute feature importances."""
    from recpolicy.server.jobs.rank_evaluations import evaluate_ranks as evaluate_them

    return evaluate_them(request)


def train_strategies(request: JobRequest) -> JobResult:
    """Train the strategies on new events."""
    from recpolicy.server.jobs.strategy_worker import train_strategies as train_them

    return train_them(request)


def evaluate_strategies(request: JobRequest) -> JobResult:
    """Evaluate the strategies of the last days."""
    from recpolicy.server.jobs.strategy_worker import evaluate_strategies as evaluate_them

    return evaluate_them(request)


def allocate_new_items(request: JobRequest) -> JobResult:
    """Allocate the new items of the champion."""
    from recpolicy.server.jobs.new_item_worker import allocate_new_items as allocate_them

    return allocate_them(request)


def fit_returns(request: JobRequest) -> JobResult:
    """Fit the return-time model to the server's sessions."""
    from recpolicy.server.jobs.return_job import fit_returns_of_server

    return fit_returns_of_server(request)


WORK: Mapping[str, Callable[[JobRequest], JobResult]] = {
    "retrain": retrain, "evaluate": evaluate, "evaluate_ranks": evaluate_ranks, "train_strategies": train_strategies,
    "evaluate_strategies": evaluate_strategies, "allocate_new_items": allocate_new_items,
    "fit_returns": fit_returns,
}  # fmt: skip


def main() -> None:
    """Run the job of the request on stdin and write its result to stdout; all other output goes to stderr."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.nice(NICENESS)
    request = JobRequest(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_the_server, args=(sys.stdin.fileno(),), daemon=True).start()
    try:
        body: dict[str, Any] = asdict(WORK[sys.argv[1]](request))
    except Exception as error:
        body = {"error": error_text(error)}
        if not isinstance(error, RecpolicyError):
            sys.excepthook(type(error), error, error.__traceback__)
    output.write(json.dumps(body, default=str) + "\n")
    output.flush()


def _end_with_the_server(stdin: int) -> None:
    """Wait for the end of stdin, which means that the server is gone; then exit.

    It reads the descriptor: a reader of the buffered stream holds its lock, and Python aborts at its exit.
    """
    while os.read(stdin, 1):
        pass
    os._exit(_GONE)


if __name__ == "__main__":
    main()
