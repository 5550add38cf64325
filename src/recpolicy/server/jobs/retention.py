"""The job that deletes events older than `[store] keep_days`, with their feedback and rewards.

It does not look for exports: `keep_days` is a promise to users, and an export that is late must not break it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from recpolicy.server.db.deletion import delete_before
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.scheduler import STOP_EVENT, Job


def delete_old_events(state: AppState, _: Mapping[str, Any]) -> JobResult:
    """Delete the events older than the setting; skipped if the server keeps all events."""
    keep_days = state.settings.store.keep_days
    if not keep_days:
        return JobResult(status="skipped", metadata={"reason": "[store] keep_days is 0: the server keeps all events"})
    stop, before = STOP_EVENT.get(), now_ms() - int(keep_days * DAY_MS)
    deleted = delete_before(state.require_store().engine, before, lambda: stop is not None and stop.is_set())
    return JobResult(records=deleted.events + deleted.ranks, metadata={"before": before, "deleted": asdict(deleted)})


DELETE_OLD_EVENTS = Job(
    name="delete_old_events",
    description="Delete events older than keep_days with their feedback, rewards and signals.",
    cron="30 3 * * *",
    run=delete_old_events,
)
