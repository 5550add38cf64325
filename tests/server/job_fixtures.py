"""Schedulers for tests: over a real database, with a clock that tests move, and jobs that say when they ran."""

import threading
from datetime import UTC, datetime

from waiting import PATIENCE

from recpolicy.server.db import jobs as runs_of
from recpolicy.server.deps import AppState, Store
from recpolicy.server.jobs.scheduler import Job, JobResult, Scheduler
from recpolicy.server.metrics import Metrics
from recpolicy.server.settings import Settings

MONDAY = int(datetime(2026, 11, 23, tzinfo=UTC).timestamp() * 1000)
HOUR, DAY = 3_600_000, 24 * 3_600_000


class Clock:
    """A clock in milliseconds and one in seconds, both set by hand."""

    def __init__(self, now=MONDAY):
        self.now, self.seconds = now, 0.0

    def __call__(self):
        return self.now

    def monotonic(self):
        return self.seconds


def get_state(engine, settings=None, folder=None):
    """A state with a store and nothing to serve."""
    return AppState(None, Store(engine, None), settings or Settings(), Metrics(), folder)


def job(run=None, name="count", cron="0 1 * * mon", parameters=None):
    """A job that does nothing, unless told what."""
    return Job(
        name=name, description="For tests.", cron=cron, run=run or (lambda *_: JobResult()), parameters=parameters
    )


def scheduler(engine, *jobs, clock=None, settings=None):
    """A scheduler of these jobs that looks when it is told to."""
    clock = clock or Clock()
    return Scheduler(get_state(engine, settings), {one.name: one for one in jobs}, clock, clock.monotonic)


def tick(one):
    """Look once and wait for what was begun; returns the runs."""
    begun = one.tick()
    for run in begun:
        assert one.wait(run, PATIENCE)
    return begun


def runs(engine, name=None):
    """All runs, oldest first."""
    with engine.connect() as connection:
        return runs_of.runs(connection, name, 10_000)[::-1]


class Gate:
    """A job that is under way until it is let go."""

    def __init__(self):
        self.open, self.entered = threading.Event(), threading.Event()

    def __call__(self, *_):
        self.entered.set()
        assert self.open.wait(PATIENCE)
        return JobResult()
