"""Cold start of items by delayed outcomes: fit a prior, allocate users to new items, forecast stickiness."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.coldstart.allocation import Allocation, allocate
from recpolicy.coldstart.attributes import AttributeEncoder, ItemTable, read_items
from recpolicy.coldstart.filter import ItemStatistics
from recpolicy.coldstart.forecast import Forecast, forecast
from recpolicy.coldstart.prior import fit_prior
from recpolicy.coldstart.prior_file import PriorModel, read_prior, write_prior
from recpolicy.coldstart.trace_files import read_traces, write_traces
from recpolicy.coldstart.traces import Traces
from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.core.files import atomic_directory, atomic_path
from recpolicy.core.seeds import generator

Files = Path | Sequence[Path]


@dataclass(frozen=True)
class PriorFit:
    """A fitted prior and the traces that it was fitted on."""

    model: PriorModel
    traces: Traces
    left_out: int
    """Items left out because they were not finished."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        return {"digest": self.model.digest, "left_out_items": self.left_out, **self.model.metadata}


@dataclass(frozen=True)
class NewItems:
    """The beliefs about new items, given their traces so far."""

    model: PriorModel
    items: NDArray[np.object_]  # [I], ids
    forecast: Forecast
    traces: Traces | None

    def table(self) -> pd.DataFrame:
        """Return a row for each item, the stickiest first."""
        result = self.forecast
        frame = pd.DataFrame({
            "item": self.items, "traces": result.traces.astype(int), "observed_days": result.observed_days,
            "stickiness": result.belief.mean, "lo": result.lo, "hi": result.hi, "user_std": result.user_std,
            "explained": result.explained,
        })  # fmt: skip
        return frame.sort_values("stickiness", ascending=False, kind="stable", ignore_index=True)


def fit_item_prior(
    traces: Files, out: Path, *, horizon: int, until: str | None = None, items: Path | None = None,
    finished_only: bool = False, ridge: float = 1.0,
) -> PriorFit:  # fmt: skip
    """Fit the prior of items on the traces of past items and write it to the file `out`.

    Args:
        traces: Files of traces.
        out: File to write; it must not exist.
        horizon: Days J of a trace.
        until: Last day that is over; None is the last day in the files.
        items: Table of attributes, for a prior that depends on them.
        finished_only: Leave out items with unfinished traces, which are an error otherwise.
        ridge: Penalty of the effects of attributes.

    Raises:
        DataError: A file is wrong, an item is not finished, or there are too few traces.
        ConfigError: An option is out of range.
        ArtifactError: `out` exists.
    """
    _check_new(out)
    if not (np.isfinite(ridge) and ridge >= 0):
        raise ConfigError(f"ridge is {ridge:g}; expected a finite number, 0 or more")
    table = None if items is None else read_items(items)
    known = read_traces(traces, horizon, until)
    finished = known.finished
    if finished_only:
        if not finished.any():
            raise DataError(f"no item is finished by {known.format_day(known.until)}; choose a shorter horizon")
        known = known.select(finished)
    moments = known.moments()
    encoder = AttributeEncoder() if table is None else AttributeEncoder.fit(table, known.items.tolist())
    fitted = fit_prior(moments, encoder.design(known.items.tolist(), table), ridge=ridge)
    metadata = {
        "items": len(known.items), "traces": len(known), "horizon": horizon, "until": known.format_day(known.until),
        "passes": len(fitted.objective) - 1, "converged": fitted.converged, "ridge": ridge,
        "log_likelihood": float(fitted.objective[-1]),
        "versions": {name: version(name) for name in ("recpolicy", "numpy")},
    }  # fmt: skip
    model = PriorModel(fitted.prior, encoder, metadata)
    write_prior(out, model)
    return PriorFit(model, known, int((~finished).sum()) if finished_only else 0)


def new_item_beliefs(
    prior: Path | PriorModel, traces: Files | None = None, *, items: Path | None = None, until: str | None = None
) -> NewItems:
    """Return the beliefs about new items.

    Args:
        prior: The file of the prior, or the prior.
        traces: Files of the traces of new items; None if there are none yet.
        items: Table of the new items, with their attributes if the prior reads any. None takes the items of the traces;
            a table adds items without a trace, and traces of other items do not count.
        until: Last day that is over; None is the last day in the files.

    Raises:
        DataError: A file is wrong, an attribute is unknown, or there is neither a table nor a trace.
        ArtifactError: The prior is damaged.
    """
    model = read_prior(prior) if isinstance(prior, Path) else prior
    table = None if items is None else read_items(items)
    listed = traces is not None and (isinstance(traces, Path) or len(traces) > 0)
    known = read_traces(traces, model.prior.days, until) if listed and traces is not None else None
    if table is None and known is None:
        raise DataError("no new item; give traces, a table of items (--items) or both")
    ids = known.items if table is None and known is not None else _ids(table)
    return beliefs_about(model, ids, known, table)


def beliefs_about(
    model: PriorModel, ids: NDArray[np.object_], known: Traces | None, table: ItemTable | None = None
) -> NewItems:
    """Return the beliefs about some items.

    Args:
        model: The prior.
        ids: [I], ids of the items.
        known: Traces; those of other items do not count. None if there are none.
        table: Attributes of the items, if the prior reads any.

    Raises:
        DataError: The table lacks an attribute or an item, or has a label that the fit did not see.
    """
    means = model.means(ids.tolist(), table)
    whitening = model.prior.filter().whitening
    if known is None:
        statistics = ItemStatistics.empty(len(ids), model.prior.days)
    else:
        statistics = known.statistics(whitening, ids.tolist())
    return NewItems(model, ids, forecast(model.prior, means, statistics), known)


def allocate_users(
    new_items: NewItems, users: int, *, seed: int = 0, uniform_mix: float = 0.0
) -> tuple[Allocation, pd.DataFrame]:
    """Return the allocation of users to new items, and a table of the items with their shares.

    Args:
        new_items: The beliefs.
        users: Number of users.
        seed: Seed of the rounding and of the order of users.
        uniform_mix: Share of uniform choices.
    """
    chosen = allocate(new_items.forecast.belief, users, generator(seed, "cold start allocation"), uniform_mix)
    frame = pd.DataFrame({
        "item": new_items.items, "users": chosen.count, "probability": chosen.probability,
        "stickiness": new_items.forecast.belief.mean, "std": new_items.forecast.belief.std,
        "traces": new_items.forecast.traces.astype(int),
    })  # fmt: skip
    return chosen, frame.sort_values("probability", ascending=False, kind="stable", ignore_index=True)


def write_allocation(path: Path, frame: pd.DataFrame) -> None:
    """Write a table of an allocation as CSV, atomically; raise ArtifactError if the file exists."""
    _check_new(path)
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)


def user_choices(new_items: NewItems, chosen: Allocation, users: Sequence[Any]) -> pd.DataFrame:
    """Return a row for each user: the item and the propensity."""
    return pd.DataFrame({
        "user": list(users), "item": new_items.items[chosen.item], "propensity": chosen.propensity,
    })  # fmt: skip


def simulate_items(out: Path, *, past_items: int, new_items: int, traces: int, horizon: int, seed: int) -> list[Path]:
    """Write traces of synthetic past and new items and a table of their genres to the folder `out`.

    New items were first shown up to ten days ago, so that most of their days are not over.

    Returns:
        The files: past_traces.parquet, new_traces.csv and items.csv.
    """
    from recpolicy.coldstart.synthetic import GENRES, draw_traces, make_items

    _check_new(out)
    past, new = make_items(past_items, seed, "past"), make_items(new_items, seed, "new")
    today = 20_000  # 2024-10-04
    old = draw_traces(past, traces, horizon, today - 4 * horizon, today - horizon, today, seed)
    recent = draw_traces(new, max(traces // 10, 3), horizon, today - 10, today - 1, today, seed + 1)
    genre = np.take(GENRES, np.concatenate([past.genre, new.genre]))
    with atomic_directory(out) as folder:
        write_traces(folder / "past_traces.parquet", old)
        write_traces(folder / "new_traces.csv", recent)
        ids = np.concatenate([past.ids, new.ids])
        pd.DataFrame({"item": ids, "genre": genre}).to_csv(folder / "items.csv", index=False)
        pd.DataFrame({"item": new.ids, "genre": np.take(GENRES, new.genre)}).to_csv(
            folder / "new_items.csv", index=False
        )
    return [out / name for name in ("past_traces.parquet", "new_traces.csv", "items.csv", "new_items.csv")]


def _ids(table: ItemTable | None) -> NDArray[np.object_]:
    assert table is not None
    return table.ids


def _check_new(path: Path) -> None:
    if path.exists():
        raise ArtifactError(f"{path}: already exists; choose another name")
