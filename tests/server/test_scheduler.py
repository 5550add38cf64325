"""Jobs run when they are due and never twice: by a clock that jumps, by several threads and processes, after a kill."""

import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from job_fixtures import DAY, HOUR, MONDAY, Clock, Gate, get_state, job, runs, scheduler, tick
from sqlalchemy import select
from waiting import PATIENCE, wait_until

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.server.db.schema import audit, schedules
from recpolicy.server.jobs import scheduler as module
from recpolicy.server.jobs.scheduler import LOST_SECONDS, JobResult, Scheduler
from recpolicy.server.settings import JobsConfig, Settings

WEEK = 7 * DAY


def next_at(engine, name="count"):
    with engine.connect() as connection:
        return connection.scalar(select(schedules.c.next_at).where(schedules.c.name == name))


def test_a_job_runs_once_at_each_of_its_times(each_engine):
    engine, clock = each_engine, Clock()
    one = scheduler(engine, job(), clock=clock)
    assert tick(one) == []
    for week in range(3):
        clock.now = MONDAY + HOUR + week * WEEK - 1
        assert tick(one) == []
        clock.now += 1
        assert len(tick(one)) == 1
        assert tick(one) == []
    found = runs(engine)
    assert [row["due_at"] for row in found] == [MONDAY + HOUR + week * WEEK for week in range(3)]
    assert {row["status"] for row in found} == {"done"}


def test_what_was_missed_runs_once_and_the_next_time_is_ahead(engine):
    clock = Clock()
    tick(scheduler(engine, job(), clock=clock))
    clock.now = MONDAY + 5 * WEEK + 3 * HOUR
    after_the_pause = scheduler(engine, job(), clock=clock)
    assert len(tick(after_the_pause)) == 1
    assert tick(after_the_pause) == []
    assert next_at(engine) == MONDAY + 6 * WEEK + HOUR


def test_a_clock_put_back_runs_nothing_twice(engine):
    clock = Clock()
    one = scheduler(engine, job(cron="*/10 * * * *"), clock=clock)
    tick(one)
    for minute in range(61):
        clock.now = MONDAY + minute * 60_000
        tick(one)
    assert len(runs(engine)) == 6
    for minute in range(30, 70):
        clock.now = MONDAY + minute * 60_000
        assert tick(one) == []
    clock.now = MONDAY + HOUR + 600_000
    assert len(tick(one)) == 1


def test_after_a_leap_ahead_and_back_the_job_goes_on(engine):
    clock = Clock()
    one = scheduler(engine, job(cron="* * * * *"), clock=clock)
    tick(one)
    clock.now = MONDAY + 365 * DAY
    assert len(tick(one)) == 1
    clock.now = MONDAY + HOUR
    tick(one)
    clock.now += 60_000
    assert len(tick(one)) == 1


def test_a_time_that_was_run_is_passed_over_when_the_clock_was_put_back_far(engine):
    clock = Clock()
    one = scheduler(engine, job(cron="0 * * * *"), clock=clock)
    tick(one)
    for hour in (1, 2, 3, 4):
        clock.now = MONDAY + hour * HOUR
        assert len(tick(one)) == 1
    clock.now = MONDAY + HOUR + 1
    assert tick(one) == []
    for hour in (2, 3, 4):
        clock.now = MONDAY + hour * HOUR
        assert tick(one) == []
    clock.now = MONDAY + 5 * HOUR
    assert len(tick(one)) == 1


def test_schedulers_in_threads_never_run_one_job_twice(each_engine):
    engine, ran, clock = each_engine, Counter(), Clock()
    lock = threading.Lock()

    def count(*_):
        with lock:
            ran[clock.now] += 1
        return JobResult()

    several = [scheduler(engine, job(count, cron="@every 1s"), clock=clock) for _ in range(4)]
    tick(several[0])
    for _ in range(15):
        clock.now += 1_000
        barrier = threading.Barrier(4)

        def look(one, barrier=barrier):
            barrier.wait()
            tick(one)

        threads = [threading.Thread(target=look, args=(one,)) for one in several]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert list(ran.values()) == [1] * 15
    assert len(runs(engine)) == 15


PROCESS = """
import sys, threading
sys.path[:0] = {paths!r}
from job_fixtures import job, get_state
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.jobs.scheduler import Scheduler
from recpolicy.server.db.engine import open_store

def run(*_):
    with open({ran!r}, "a") as stream:
        stream.write("x")
    if {stuck}:
        threading.Event().wait()
    return JobResult()

one = Scheduler(get_state(open_store({url!r})), {{"count": job(run, cron="@every 1s")}})
one.start()
print("up", flush=True)
sys.stdin.read()
one.close()
"""


@contextmanager
def process(url, ran, stuck=False):
    """Another process with a scheduler, which runs until its standard input is closed."""
    paths = [path for path in sys.path if path]
    code = PROCESS.format(paths=paths, ran=str(ran), url=url, stuck=stuck)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "up\n"
            yield child
        finally:
            child.kill()


def test_schedulers_in_processes_never_run_one_job_twice(each_engine, tmp_path):
    engine, url, ran = each_engine, str(each_engine.url), tmp_path / "ran"
    with process(url, ran) as one, process(url, ran) as other:
        wait_until(lambda: len(runs(engine)) >= 3, "the third run")
        for child in (one, other):
            child.stdin.close()
            assert child.wait(PATIENCE) == 0
    found = runs(engine)
    assert len(found) == len(ran.read_text())
    assert len({row["due_at"] for row in found}) == len(found)


def test_a_killed_process_leaves_a_lost_run_and_the_next_one_goes_on(engine, tmp_path):
    with process(str(engine.url), tmp_path / "ran", stuck=True) as child:
        wait_until((tmp_path / "ran").exists, "the run")
        child.send_signal(signal.SIGKILL)
    clock = Clock(int(time.time() * 1000) + 2_000)
    one = scheduler(engine, job(cron="@every 1s"), clock=clock)
    assert tick(one) == []  # it may be alive
    clock.seconds = LOST_SECONDS - 1
    assert tick(one) == []
    clock.seconds = LOST_SECONDS
    assert len(tick(one)) == 1
    lost, done = runs(engine)
    assert (lost["status"], done["status"]) == ("lost", "done")
    assert lost["metadata"] == {"error": "the process of the run has ended"}
    assert lost["finished_at"] == clock.now
    with engine.connect() as connection:
        assert "alert job_lost.count" in connection.scalars(select(audit.c.action)).all()


def test_a_run_whose_heart_beats_is_not_lost_whatever_the_clock_says(engine):
    clock, gate = Clock(), Gate()
    mine = scheduler(engine, job(gate), clock=clock)
    other = scheduler(engine, job(gate), clock=clock)
    tick(mine)
    clock.now = MONDAY + HOUR
    (run,) = mine.tick()
    assert gate.entered.wait(PATIENCE)
    for leap in (0, 10 * DAY, -DAY, 0, 0):  # the clock may even stand still
        clock.seconds += LOST_SECONDS - 5
        clock.now += leap
        mine.tick()
        other.tick()
    assert [row["status"] for row in runs(engine)] == ["running"]
    gate.open.set()
    assert mine.wait(run, PATIENCE)
    assert runs(engine)[0]["status"] == "done"


def test_a_job_under_way_is_not_begun_again_and_runs_once_afterwards(engine):
    clock, gate = Clock(), Gate()
    one = scheduler(engine, job(gate, cron="* * * * *"), clock=clock)
    tick(one)
    clock.now += 60_000
    (run,) = one.tick()
    for _ in range(3):
        clock.now += 60_000
        assert one.tick() == []
    with pytest.raises(ConfigError, match=rf"count is running \(run {run}\)"):
        one.trigger("count", {}, "ada")
    gate.open.set()
    assert one.wait(run, PATIENCE)
    assert len(tick(one)) == 1
    assert next_at(engine) == clock.now + 60_000


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("rows\nare  missing"), "rows are missing"),
        (ValueError("user 7 rated 5"), r"ValueError at test_scheduler.py:"),
    ],
)
def test_a_failure_is_kept_in_one_line_and_says_nothing_of_users(engine, caplog, error, line):
    def fail(*_):
        raise error

    one = scheduler(engine, job(fail))
    run = one.trigger("count", {}, "ada")
    assert one.wait(run, PATIENCE)
    (row,) = runs(engine)
    assert row["status"] == "failed"
    assert row["metadata"]["error"].startswith(line)
    assert "user 7" not in caplog.text + json.dumps(row)


def test_statistics_are_kept_and_what_is_no_number_is_null(engine):
    statistics = {"loss": math.nan, "parts": [1.5, math.inf], "deep": {"one": -math.inf}}
    one = scheduler(engine, job(lambda *_: JobResult(users=3, records=9, metadata=statistics)))
    assert one.wait(one.trigger("count", {}, "ada"), PATIENCE)
    (row,) = runs(engine)
    assert (row["users"], row["records"], row["due_at"]) == (3, 9, None)
    assert row["metadata"] == {"loss": None, "parts": [1.5, None], "deep": {"one": None}}


@dataclass(frozen=True, kw_only=True)
class Days:
    days: float = 7.0


def test_a_run_by_hand_is_checked_and_noted(engine):
    given = []
    one = scheduler(engine, job(lambda _, words: given.append(words) or JobResult(), parameters=Days))
    for words in ({}, {"days": 2}):
        assert one.wait(one.trigger("count", words, "ada"), PATIENCE)
    assert given == [{"days": 7.0}, {"days": 2.0}]
    with pytest.raises(ConfigError, match="no setting named 'dayz'"):
        one.trigger("count", {"dayz": 2}, "ada")
    with pytest.raises(ConfigError, match="no job named 'cuont'"):
        one.trigger("cuont", {}, "ada")
    with pytest.raises(ConfigError, match="takes no parameters"):
        scheduler(engine, job()).trigger("count", {"days": 2}, "ada")
    with engine.connect() as connection:
        rows = connection.execute(select(audit.c.actor, audit.c.action, audit.c.detail)).all()
    assert [(row.actor, row.action) for row in rows] == [("ada", "run_job")] * 2
    assert json.loads(rows[1].detail) == {"job": "count", "run": 2, "parameters": {"days": 2}}


def test_settings_move_a_job_or_switch_it_off(engine):
    clock = Clock()
    tick(scheduler(engine, job(), clock=clock))
    assert next_at(engine) == MONDAY + HOUR
    moved = Settings(jobs=JobsConfig(cron={"count": "0 3 * * *"}))
    tick(scheduler(engine, job(), clock=clock, settings=moved))
    assert next_at(engine) == MONDAY + 3 * HOUR
    for config in (JobsConfig(cron={"count": "off"}), JobsConfig(enabled=False)):
        clock.now += WEEK
        off = scheduler(engine, job(), clock=clock, settings=Settings(jobs=config))
        assert tick(off) == []
    for config, says in (({"cuont": "* * * * *"}, "no job named 'cuont'"), ({"count": "x"}, "1 fields")):
        with pytest.raises(ConfigError, match=says):
            scheduler(engine, job(), settings=Settings(jobs=JobsConfig(cron=config))).start()


def test_old_skipped_runs_make_room_and_others_stay(engine):
    clock, status = Clock(), ["skipped"]
    reason = {"reason": "nothing to do"}
    one = scheduler(
        engine, job(lambda *_: JobResult(status=status[0], metadata=reason), cron="*/10 * * * *"), clock=clock
    )
    tick(one)
    for kind in ["done", *["skipped"] * 20]:
        status[0] = kind
        clock.now += 600_000
        assert len(tick(one)) == 1
    assert Counter(row["status"] for row in runs(engine)) == {"done": 1, "skipped": 7}


def test_the_thread_looks_by_itself_and_outlives_a_database_that_is_away(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    ran = threading.Event()

    def run(*_):
        ran.set()
        return JobResult()

    one = Scheduler(get_state(engine), {"count": job(run, cron="@every 1s")})
    path = Path(engine.url.database)
    aside = path.with_name("aside.db")
    engine.dispose()
    path.rename(aside)
    path.symlink_to(tmp_path / "no_folder" / "server.db")  # nothing can be opened here
    with one.running():
        wait_until(lambda: one._down, "a look that failed")
        aside.replace(path)  # in one step: between two, a new and empty database could be opened
        assert ran.wait(PATIENCE)
    assert not one._thread.is_alive()


def test_a_run_that_begins_while_the_scheduler_closes_is_waited_for(engine, monkeypatch):
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    clock, entered, begin = Clock(), threading.Event(), Scheduler._begin

    def begin_late(scheduler, due, now):
        entered.set()
        assert scheduler._stopping.wait(PATIENCE)
        time.sleep(0.2)  # until close() waits
        return begin(scheduler, due, now)

    def run(*_):
        time.sleep(0.2)
        return JobResult()

    one = scheduler(engine, job(run), clock=clock)
    tick(one)
    clock.now = MONDAY + HOUR
    monkeypatch.setattr(Scheduler, "_begin", begin_late)
    with one.running():
        assert entered.wait(PATIENCE)
    assert [row["status"] for row in runs(engine)] == ["done"]


def test_a_server_that_keeps_nothing_runs_no_jobs(engine):
    one = Scheduler(replace(get_state(engine), store=None), {"count": job(cron="@every 1s")})
    with one.running():
        assert one._thread is None
