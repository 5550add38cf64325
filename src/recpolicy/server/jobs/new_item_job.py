"""The daily job that allocates new items (new_item_worker.py), in a subprocess."""

from collections.abc import Mapping
from typing import Any

from recpolicy.server.db.jobs import SKIPPED, JobResult
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.scheduler import Job
from recpolicy.server.jobs.subprocess_jobs import run_in_subprocess

_OFF = "lists have no place for new items: [new_items] share is 0"


def allocate_new_items(state: AppState, parameters: Mapping[str, Any]) -> JobResult:
    """Allocate the new items of the champion, and serve the allocation in this process at once."""
    if state.settings.new_items.share == 0:
        return JobResult(status=SKIPPED, metadata={"reason": _OFF})
    result = run_in_subprocess(state, "allocate_new_items", parameters)
    state.models.refresh()
    return result


ALLOCATE_NEW_ITEMS = Job(
    name="allocate_new_items",
    description="Update the beliefs about new items by the days until yesterday, and their shares of lists.",
    cron="15 0 * * *",
    run=allocate_new_items,
)
