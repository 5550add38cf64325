"""Alerts reach log and webhook once a day, tell nothing about the URL, and stop nobody."""

import json
import logging
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from job_fixtures import get_state
from sqlalchemy import update
from waiting import PATIENCE, wait_until

from recpolicy.core.errors import ConfigError
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.schema import audit
from recpolicy.server.jobs import alerts
from recpolicy.server.jobs.alerts import post_webhook, send_alert
from recpolicy.server.settings import ALERT_URL, AlertsConfig, Settings

SECRET = "s3cr3t-token"


class Receiver(HTTPServer):
    """A webhook on loopback that answers what it is told, one status a request."""

    def __init__(self, *answers):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                self.server.got.append((self.path, json.loads(body)))
                status = self.server.answers.pop(0) if self.server.answers else 200
                self.send_response(status)
                if status == 302:
                    self.send_header("location", self.server.url + "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.got = list(answers), []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(ALERT_URL, raising=False)


def test_a_webhook_gets_kind_message_figures_and_time():
    with Receiver() as there:
        assert post_webhook(there.url + "/hook", {"type": "drift.reward", "metrics": {"sum": 1.5}})
        assert there.got == [("/hook", {"type": "drift.reward", "metrics": {"sum": 1.5}})]


def test_what_is_not_taken_is_sent_again_twice():
    with Receiver(500, 503) as there:
        assert post_webhook(there.url, {}, pauses=(0.01, 0.01))
        assert len(there.got) == 3
    with Receiver(500, 500, 500) as there:
        assert not post_webhook(there.url, {}, pauses=(0.01, 0.01))
        assert len(there.got) == 3


def test_a_webhook_that_sends_elsewhere_is_not_followed():
    with Receiver(302, 302, 302) as there:
        assert not post_webhook(there.url + "/hook", {}, pauses=(0.01, 0.01))
        assert {path for path, _ in there.got} == {"/hook"}


def test_the_url_is_never_logged(caplog):
    caplog.set_level(logging.DEBUG, "recpolicy")
    with Receiver(500) as there:
        closed = there.url
        assert not post_webhook(f"{there.url}/{SECRET}?key={SECRET}", {}, pauses=())
    assert not post_webhook(f"{closed}/{SECRET}", {}, pauses=())
    assert "an alert was not delivered to 127.0.0.1: answered 500" in caplog.text
    assert SECRET not in caplog.text
    assert SECRET not in repr(AlertsConfig(url=f"https://example.org/{SECRET}"))


@pytest.mark.parametrize(
    "url",
    [f"file:///{SECRET}", f"ftp://h/{SECRET}", SECRET, f"http://{SECRET}@h/", "http://", f"http://h/{SECRET} x", "http://[h"],
)  # fmt: skip
def test_other_urls_are_refused_without_being_repeated(url, monkeypatch):
    with pytest.raises(ConfigError, match="not a URL for alerts") as refused:
        AlertsConfig(url=url)
    assert SECRET not in str(refused.value)
    monkeypatch.setenv(ALERT_URL, url)
    with pytest.raises(ConfigError, match=ALERT_URL):
        AlertsConfig().webhook()


def test_the_environment_counts_before_the_settings(monkeypatch):
    config = AlertsConfig(url="https://example.org/a")
    assert config.webhook() == "https://example.org/a"
    monkeypatch.setenv(ALERT_URL, "https://example.org/b")
    assert config.webhook() == "https://example.org/b"


def test_the_same_alarm_is_said_once_a_day_and_others_are_too(each_engine, caplog):
    engine = each_engine
    with Receiver() as there:
        settings = Settings(alerts=AlertsConfig(url=there.url))
        several = [get_state(engine, settings) for _ in range(2)]  # as in two processes
        said = [send_alert(one, "drift.reward", f"the mean fell to {n}", {"n": n}) for n in (1, 2) for one in several]
        assert said == [True, False, False, False]
        assert send_alert(several[0], "drift.users", "they changed")
        with transaction(engine) as connection:
            connection.execute(update(audit).values(time=audit.c.time - 86_400_001))
        assert send_alert(several[1], "drift.reward", "again")
        wait_until(lambda: len(there.got) == 3, "the third alert")
        bodies = sorted((body["type"], body["message"], body["metrics"]) for _, body in there.got)
    assert bodies == [
        ("drift.reward", "again", {}), ("drift.reward", "the mean fell to 1", {"n": 1}),
        ("drift.users", "they changed", {}),
    ]  # fmt: skip
    assert caplog.text.count("alert: ") == 3


def test_a_slow_webhook_holds_up_nobody(engine, monkeypatch):
    let_go, delivered = threading.Event(), threading.Event()
    monkeypatch.setattr(alerts, "post_webhook", lambda *_: let_go.wait(PATIENCE) and delivered.set())
    state = get_state(engine, Settings(alerts=AlertsConfig(url="https://example.org")))
    assert send_alert(state, "job_failed.retrain", "no")
    assert not delivered.is_set()
    let_go.set()
    assert delivered.wait(PATIENCE)


def test_without_store_or_database_it_is_said_all_the_same(engine, caplog, monkeypatch):
    state = get_state(engine)
    assert send_alert(replace(state, store=None), "rollout.rolled_back", "of version 2")
    with transaction(engine) as connection:
        connection.exec_driver_sql("DROP TABLE audit")
    assert send_alert(state, "rollout.rolled_back", "of version 2")
    assert "this alert may have been sent before" in caplog.text
    monkeypatch.setenv(ALERT_URL, f"gopher://{SECRET}")
    assert send_alert(state, "rollout.rolled_back", "of version 2")
    assert SECRET not in caplog.text
