"""The allocation of new items in its own process: traces from the store, beliefs, shares by Thompson sampling.

New items are those that `recpolicy registry add-items` has added to the champion, until some days after the first
list that showed them. Beliefs need no state: each run computes them from all traces of the store.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.coldstart.allocation import thompson_probabilities
from recpolicy.coldstart.attributes import ItemTable
from recpolicy.coldstart.prior_file import PriorModel, read_prior
from recpolicy.coldstart.traces import Traces
from recpolicy.core.config import as_dict, build
from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.core.files import content_digest
from recpolicy.data.feature_columns import object_array
from recpolicy.inference.artifact import FORMAT, Artifact, read_artifact
from recpolicy.inference.artifact_files import format_name
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import make_engine
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.jobs import SKIPPED, JobResult
from recpolicy.server.db.trace_export import read_traces_of_store
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.server.new_items.allocation import (
    NewItem,
    NewItemAllocation,
    allocation_path,
    read_allocation,
    write_allocation,
)
from recpolicy.server.settings import NewItemsConfig
from recpolicy.workflows.cold_start import beliefs_about

logger = logging.getLogger(__name__)


def allocate_new_items(request: JobRequest) -> JobResult:
    """Write the allocation of today; a run that would change nothing is skipped with the reason."""
    config = build(NewItemsConfig, request.settings["new_items"], "allocate_new_items")
    assert config.prior is not None, "the settings refuse a share without a prior"
    model = read_prior(Path(config.prior))
    registry = Registry(request.registry)
    number = registry.version("champion").number
    path, today = allocation_path(Path(request.folder).parent), now_ms() // DAY_MS
    before = _before(path)
    settings = content_digest(as_dict(config) | {"share": 0, "place": 0})
    base = NewItemAllocation(
        str(np.datetime64(today - 1, "D")), number, model.digest, model.prior.days, settings, ()
    )  # fmt: skip
    if before is not None and _same_day(before, base):
        reason = f"the allocation until {base.day} of version {number} exists already"
        return JobResult(status=SKIPPED, metadata={"reason": reason})
    added = _added_items(registry.resolve(number))
    traces = _traces(request, config, model, today - 1, added)
    first = _first_days(traces, {} if before is None else before.first_days)
    items = _allocate(model, config, added, traces, first, today)
    if not items and (before is None or not before.items):
        reason = f"version {number} has no new items; add some with `recpolicy registry add-items`"
        return JobResult(status=SKIPPED, metadata={"reason": reason})
    allocation = NewItemAllocation(**{**vars(base), "items": items, "first_days": first})
    write_allocation(path, allocation)
    metadata = {"version": number, "until": base.day, "prior": model.digest, "items": len(items)}
    keep, days = float(request.settings["store"]["keep_days"]), config.days or model.prior.days
    if 0 < keep < days:
        metadata["warning"] = f"[store] keep_days = {keep:g} deletes traces of items that are new for {days} days"
    return JobResult(records=int(sum(item.traces for item in items)), metadata=metadata)


def _before(path: Path) -> NewItemAllocation | None:
    """Return the allocation so far; None without one, and for a damaged one, which this run replaces."""
    try:
        return read_allocation(path)
    except ArtifactError as error:
        logger.error("the allocation is made anew: %s", error)
        return None


def _same_day(before: NewItemAllocation, base: NewItemAllocation) -> bool:
    """Return True if an allocation has the day, version, prior and settings of another."""
    names = ("day", "version", "prior", "settings")
    return all(getattr(before, name) == getattr(base, name) for name in names)


def _added_items(folder: Path) -> ItemTable:
    """Return the items that were added to a version, with genres and years; retired ones are left out.

    Raises DataError for a policy of features.
    """
    if format_name(folder) != FORMAT:
        raise DataError("the champion is no policy of items; only those have new items")
    artifact: Artifact = read_artifact(folder)
    rows = artifact.action_items[artifact.action_items >= artifact.trained_items]
    table = artifact.items.iloc[rows]
    columns: dict[str, NDArray[Any]] = {
        "genres": table["genres"].to_numpy(object), "year": table["year"].to_numpy(np.float64, na_value=np.nan)
    }  # fmt: skip
    return ItemTable(folder, object_array(table["item_id"].tolist()), columns)


def _traces(
    request: JobRequest, config: NewItemsConfig, model: PriorModel, until: int, added: ItemTable
) -> Traces | None:
    """Return the traces of the added items; None before the first list with one."""
    engine = make_engine(request.database)
    try:
        return read_traces_of_store(engine, model.prior.days, until, config.activity, added.ids.tolist())
    except DataError:  # no list with such an item yet
        return None
    finally:
        engine.dispose()


def _allocate(
    model: PriorModel,
    config: NewItemsConfig,
    added: ItemTable,
    traces: Traces | None,
    first: Mapping[str, int],
    today: int,
) -> tuple[NewItem, ...]:
    """Return the items that are still new, with beliefs and shares, the largest share first."""
    limit = config.days or model.prior.days
    new = np.array([today - first.get(str(item), today) <= limit for item in added.ids], bool)
    if not new.any():
        return ()
    ids = added.ids[new]
    beliefs = beliefs_about(model, ids, traces, added)
    result = beliefs.forecast
    probability = thompson_probabilities(result.belief, config.uniform_mix)
    rows = [
        NewItem(
            item_id=item, mean=float(result.belief.mean[row]), lo=float(result.lo[row]), hi=float(result.hi[row]),
            days=int(today - first.get(str(item), today)), traces=int(result.traces[row]),
            probability=float(probability[row]),
        )
        for row, item in enumerate(ids.tolist())
    ]  # fmt: skip
    return tuple(sorted(rows, key=lambda item: -item.probability))


def _first_days(traces: Traces | None, before: Mapping[str, int]) -> dict[str, int]:
    """Return the day of the first list of each item, also where the store has deleted it since."""
    first = dict(before)
    if traces is not None:
        days = np.full(len(traces.items), np.iinfo(np.int64).max)
        np.minimum.at(days, traces.item, traces.start)
        for item, day in zip(map(str, traces.items), days.tolist(), strict=True):
            first[item] = min(day, first.get(item, day))
    return first
