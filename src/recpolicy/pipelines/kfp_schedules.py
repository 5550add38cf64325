"""Schedules: the recurring runs of Kubeflow Pipelines, and the replacement of older schedules of the same name.

A schedule that is submitted again is created first; then the older ones are deleted. For a moment both are active. A
schedule that could not be deleted is named in the error.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recpolicy.pipelines.kfp_errors import require_field

if TYPE_CHECKING:
    import kfp

logger = logging.getLogger(__name__)

MARK = "Created by `recpolicy pipeline submit`, which replaces it when it is submitted again."
"""The description of our recurring runs; runs with another description are left alone."""
_PAGE_SIZE = 100


def filter_by_name(name: str) -> str:
    """Return the API's filter for objects with this display name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def replace_recurring_runs(
    client: "kfp.Client", name: str, experiment: str, settings: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """Create a recurring run; delete the older ones of this name in this experiment that recpolicy created.

    Args:
        client: The client of the cluster.
        name: Name of the recurring run.
        experiment: Id of the experiment.
        settings: Further arguments of `kfp.Client.create_recurring_run`.

    Returns:
        The new id, and the ids of the deleted recurring runs.

    Raises:
        Exception: A request failed; the note of the error says which schedules are active.
    """
    older = [run for run in _list_recurring_runs(client, name, experiment) if run.display_name == name]
    for run in older:
        if run.description != MARK and run.mode != "DISABLE":
            id = run.recurring_run_id
            logger.warning("schedule %s has the same name, but recpolicy did not create it; it stays", id)

    def create() -> str:
        run = client.create_recurring_run(
            experiment, name, description=MARK, max_concurrency=1, no_catchup=True, enabled=True, **settings
        )
        return require_field(run, "recurring_run_id")

    ours = [run.recurring_run_id for run in older if run.description == MARK]
    return replace_schedules(ours, create, client.delete_recurring_run)


def replace_schedules(
    older: Sequence[str], create: Callable[[], str], delete: Callable[[str], Any]
) -> tuple[str, tuple[str, ...]]:
    """Create a schedule, then delete the older ones; return the new id and the deleted ids.

    If a request fails, its error gets a note that says which schedules are active (see `format_notes`).
    """
    try:
        created = create()
    except BaseException as error:  # Ctrl-C too
        if older:
            error.add_note(f"no schedule was deleted; still there: {' and '.join(older)}")
        raise
    for number, id in enumerate(older):
        try:
            delete(id)
        except BaseException as error:
            error.add_note(
                f"the new schedule {created} is active, and {' and '.join(older[number:])} could not be deleted:"
                " submit again, or delete it in the console"
            )
            raise
    return created, tuple(older)


def _list_recurring_runs(client: "kfp.Client", name: str, experiment: str) -> Iterator[Any]:
    token = ""
    while True:
        page = client.list_recurring_runs(token, _PAGE_SIZE, experiment_id=experiment, filter=filter_by_name(name))
        yield from page.recurring_runs or ()
        token = page.next_page_token
        if not token:
            return
