"""Alerts: a line in the log, and a POST to a webhook where one is named.

What is sent is JSON, {"kind", "message", "figures", "time"}, and holds nothing about users. The same kind is not
repeated within a day, whichever process says it. The URL may hold a secret: it is never logged.
"""

import http.client
import json
import logging
import os
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from recpolicy.core.errors import ConfigError
from recpolicy.server.db.audit import SERVER, note
from recpolicy.server.db.clock import now_ms
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.schema import audit

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from recpolicy.server.deps import AppState

logger = logging.getLogger(__name__)

ALERT_URL = "RECPOLICY_ALERT_URL"
TIMEOUT_SECONDS = 5.0
PAUSES = (1.0, 4.0)
"""Seconds before the second and the third try."""


@dataclass(frozen=True, kw_only=True)
class AlertsConfig:
    """Where alerts go."""

    url: str = field(default="", repr=False)
    """http or https; RECPOLICY_ALERT_URL, where it is set, counts instead. Empty: to the log only."""

    def __post_init__(self) -> None:
        _check(self.url, "url")


def send_alert(state: "AppState", kind: str, message: str, figures: Mapping[str, Any] | None = None) -> bool:
    """Say that something needs a look; returns whether it was said, which it is not twice within a day.

    kind: what happened to what, such as "drift.reward"; at most 50 letters. Never raises, never waits for the webhook.
    """
    engine = None if state.store is None else state.store.engine
    if engine is not None and not _deduplicate(engine, kind, message):
        return False
    fields = {"kind": kind, "figures": dict(figures or {})}
    logger.warning("alert: %s", message, extra={"fields": fields})
    try:
        url = webhook(state.settings.alerts)
    except ConfigError as error:
        logger.error("%s", error)
        return True
    if url:
        body = {**fields, "message": message, "time": now_ms()}
        threading.Thread(target=post_webhook, args=(url, body), name="recpolicy-alert", daemon=True).start()
    return True


def webhook(config: AlertsConfig) -> str:
    """The URL that alerts are sent to; empty where there is none. Raises ConfigError for one that is not http."""
    url = os.environ.get(ALERT_URL)
    return config.url if url is None else _check(url.strip(), ALERT_URL)


def post_webhook(url: str, body: Mapping[str, Any], pauses: tuple[float, ...] = PAUSES) -> bool:
    """POST the body, again after each pause while it is not taken; returns whether it was."""
    data = json.dumps(body, default=str).encode()
    problem = ""
    for pause in (0.0, *pauses):
        time.sleep(pause)
        request = urllib.request.Request(url, data, {"content-type": "application/json"}, method="POST")
        try:
            with _OPENER.open(request, timeout=TIMEOUT_SECONDS):
                return True
        except HTTPError as error:
            problem = f"answered {error.code}"
            error.close()
        except (OSError, ValueError, http.client.HTTPException) as error:  # its message may hold the URL
            problem = type(error).__name__
    logger.error("an alert was not delivered to %s: %s", urlsplit(url).hostname, problem)
    return False


class _Stay(urllib.request.HTTPRedirectHandler):
    """A webhook that sends elsewhere is not followed: who runs it was not asked for."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay())


def _check(url: str, where: str) -> str:
    """The URL; what is wrong with it is said without it."""
    try:
        parts = urlsplit(url)
        sound = not url or (parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc)
    except ValueError:
        sound = False
    if not sound or not url.isprintable() or " " in url:
        raise ConfigError(f"{where}: not a URL to send alerts to; expected http://HOST/... or https://HOST/...")
    return url


def _deduplicate(engine: "Engine", kind: str, message: str) -> bool:
    """Note the alert unless it was said within a day; where the database does not answer, it is said."""
    action, now = f"alert {kind}"[:64], now_ms()
    try:
        with transaction(engine) as connection:
            last = connection.scalar(select(func.max(audit.c.time)).where(audit.c.action == action))
            if last is not None and abs(now - last) < DAY_MS:
                return False
            note(connection, SERVER, action, {"message": message})
    except SQLAlchemyError:
        logger.error("the database does not answer: whether this alert is new is not known")
    return True
