"""The job that fits return times to the sessions of a server."""

import json

import numpy as np
from event_factory import event

from recpolicy.core.config import as_dict
from recpolicy.server.db.deletion import delete_user
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import id_key, insert_events, now_ms
from recpolicy.server.jobs.return_job import RETURN_MODEL, fit_returns_of_server
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.server.settings import SessionsConfig

DAY = 86_400_000


def visits(engine, users, count):
    """Users with `count` sessions of two requests: user u comes back after 1 + u mod 3 days."""
    begin = now_ms() - 40 * DAY
    rows = [
        event(
            user, session_id=f"{user}-{number}", step=step,
            time=begin + (1 + user % 3) * DAY * number + 60_000 * step,
        )
        for user in range(users) for number in range(count) for step in range(2)
    ]  # fmt: skip
    with transaction(engine) as connection:
        insert_events(connection, rows)


def request(engine, folder):
    url = engine.url.render_as_string(hide_password=False)
    return JobRequest(url, "", str(folder), {"sessions": as_dict(SessionsConfig())}, {})


def test_the_job_writes_the_model_of_its_sessions_without_any_user(engine, tmp_path):
    visits(engine, users=90, count=5)
    result = fit_returns_of_server(request(engine, tmp_path))
    assert (result.status, result.users, result.records) == ("done", 90, 450)
    model = result.metadata["model"]
    assert (model["gaps"], model["censored"], model["users"]) == (360, 90, 90)
    assert result.metadata["calibration"]["users"] == 45
    rates = result.metadata["return_rates"]
    np.testing.assert_allclose([rates[days]["value"] for days in ("1", "3")], [4 / 15, 0.8])  # 4 of 5 sessions return
    assert json.loads((tmp_path / RETURN_MODEL).read_text())["model"] == model
    delete_user(engine, id_key(7))
    assert fit_returns_of_server(request(engine, tmp_path)).users == 89


def test_without_returns_the_job_is_skipped_and_keeps_the_file(engine, tmp_path):
    visits(engine, users=3, count=1)
    (tmp_path / RETURN_MODEL).write_text("older")
    result = fit_returns_of_server(request(engine, tmp_path))
    assert result.status == "skipped"
    assert result.metadata["reason"].startswith(
        "return times: 3 sessions of 3 users; 3 sessions were followed for 10 days, with a return of 0 users"
    )
    assert (tmp_path / RETURN_MODEL).read_text() == "older"
