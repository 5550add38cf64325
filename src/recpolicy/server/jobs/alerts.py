"""Alerts: a line in the log, and a POST to a webhook if one is configured.

The webhook gets JSON, {"type", "message", "metrics", "time"}, without data about users. The same type is not repeated
within a day, by any process. The URL may contain a secret, so it is never logged.
"""

import json
import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from recpolicy.core.errors import ConfigError
from recpolicy.server.db.admin import SERVER, write_audit
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.schema import audit
from recpolicy.server.deps import AppState

if TYPE_CHECKING:
    from sqlalchemy import Engine

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
PAUSES = (1.0, 4.0)
"""Seconds before the second and the third attempt."""


def send_alert(state: AppState, alert_type: str, message: str, metrics: Mapping[str, Any] | None = None) -> bool:
    """Log an alert and post it to the webhook; returns False if the same type was sent within a day.

    Never raises and never waits for the webhook.

    Args:
        alert_type: subject and event, such as "drift.reward"; at most 50 characters.
    """
    engine = None if state.store is None else state.store.engine
    if engine is not None and not _deduplicate(engine, alert_type, message):
        return False
    fields = {"type": alert_type, "metrics": dict(metrics or {})}
    logger.warning("alert: %s", message, extra={"fields": fields})
    try:
        url = state.settings.alerts.webhook()
    except ConfigError as error:
        logger.error("%s", error)
        return True
    if url:
        body = {**fields, "message": message, "time": now_ms()}
        threading.Thread(target=post_webhook, args=(url, body), name="recpolicy-alert", daemon=True).start()
    return True


def post_webhook(url: str, body: Mapping[str, Any], pauses: tuple[float, ...] = PAUSES) -> bool:
    """POST the body, again after each pause if it fails; return True if it succeeded.

    Redirects are not followed: the operator named this receiver and no other.
    """
    data = json.dumps(body, default=str).encode()
    problem = ""
    for pause in (0.0, *pauses):
        time.sleep(pause)
        try:
            response = httpx.post(
                url, content=data, headers={"content-type": "application/json"}, timeout=TIMEOUT_SECONDS
            )
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # the message may hold the URL
            problem = type(error).__name__
            continue
        if response.is_success:
            return True
        problem = f"answered {response.status_code}"
    logger.error("an alert was not delivered to %s: %s", urlsplit(url).hostname, problem)
    return False


def _deduplicate(engine: "Engine", alert_type: str, message: str) -> bool:
    """Record the alert; returns False if one of this type is less than a day old.

    If the database does not answer, the alert is sent.
    """
    action, now = f"alert {alert_type}"[:64], now_ms()
    try:
        with transaction(engine) as connection:
            last = connection.scalar(select(func.max(audit.c.time)).where(audit.c.action == action))
            if last is not None and abs(now - last) < DAY_MS:
                return False
            write_audit(connection, SERVER, action, {"message": message})
    except SQLAlchemyError:
        logger.error("the database does not answer: this alert may have been sent before")
    return True
