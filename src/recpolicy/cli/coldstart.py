"""`recpolicy coldstart`: learn how past items fared, and spread users over new items by their delayed outcomes."""

from pathlib import Path
from typing import Annotated

import typer

from recpolicy.cli.output import print_frame, print_json, print_text

app = typer.Typer(
    help="Explore new items by delayed outcomes (Impatient Bandits): prior, allocation, forecast.", no_args_is_help=True
)

Prior = Annotated[Path, typer.Argument(help="File that `recpolicy coldstart fit` wrote.")]
NewTraces = Annotated[
    list[Path] | None, typer.Argument(metavar="[TRACES]...", help="Traces of new items; none before the first one.")
]
Items = Annotated[
    Path | None,
    typer.Option("--items", help="Table of the new items (column item) with the attributes that the prior reads."),
]
Until = Annotated[
    str | None, typer.Option("--until", help="Last day that is over (default: the last day in the files).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


@app.command(epilog="Example: recpolicy coldstart simulate --out runs/cold_start")
def simulate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")],
    past_items: Annotated[int, typer.Option("--past-items", min=2, help="Number of past items.")] = 200,
    new_items: Annotated[int, typer.Option("--new-items", min=1, help="Number of new items.")] = 20,
    traces: Annotated[int, typer.Option("--traces", min=1, help="Mean number of traces of a past item.")] = 100,
    horizon: Annotated[int, typer.Option("--horizon", min=1, help="Days of a trace.")] = 30,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of every random draw.")] = 0,
) -> None:
    """Write traces of synthetic past and new items, for a first try."""
    from recpolicy.workflows.cold_start import simulate_items

    for path in simulate_items(
        out, past_items=past_items, new_items=new_items, traces=traces, horizon=horizon, seed=seed
    ):
        print_text(path)
    print_text(f"next: recpolicy coldstart fit {out}/past_traces.parquet --horizon {horizon} --out {out}/prior.json")


@app.command(
    epilog="Example: recpolicy coldstart fit runs/cold_start/past_traces.parquet --horizon 30 --out"
    " runs/cold_start/prior.json"
)
def fit(
    traces: Annotated[list[Path], typer.Argument(help="Traces of past items: item, start, active_days [, count].")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the prior.")],
    horizon: Annotated[int, typer.Option("--horizon", help="Days of a trace.")] = 30,
    until: Until = None,
    items: Annotated[
        Path | None, typer.Option("--items", help="Table of attributes of the items, which the prior then reads.")
    ] = None,
    finished_only: Annotated[
        bool, typer.Option("--finished-only", help="Leave out items whose traces are not over.")
    ] = False,
    ridge: Annotated[float, typer.Option("--ridge", help="Penalty of the effects of attributes.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Fit the prior of new items on the traces of finished ones, by maximum likelihood."""
    from recpolicy.workflows.cold_start import fit_item_prior

    fitted = fit_item_prior(
        traces, out, horizon=horizon, until=until, items=items, finished_only=finished_only, ridge=ridge
    )
    if as_json:
        print_json(fitted.as_dict())
        return
    facts, prior = fitted.model.metadata, fitted.model.prior
    print_text(f"{out}: {facts['items']:,} items, {facts['traces']:,} traces of {horizon} days until {facts['until']}")
    if fitted.left_out:
        print_text(f"left out: {fitted.left_out:,} items whose traces are not over")
    print_text(f"log likelihood {facts['log_likelihood']:,.1f} after {facts['passes']:,} passes of EM")
    first = fitted.traces.moments().mean.sum(axis=1)
    print_text(
        f"active days of an item: mean {first.mean():.2f}; items differ by a standard deviation of"
        f" {prior.item_covariance.sum() ** 0.5:.2f}, users of one item by {prior.trace_covariance.sum() ** 0.5:.2f}"
    )


@app.command(
    epilog="Example: recpolicy coldstart allocate runs/cold_start/prior.json runs/cold_start/new_traces.csv --users 200"
)
def allocate(
    prior: Prior,
    traces: NewTraces = None,
    users: Annotated[int | None, typer.Option("--users", min=0, help="Number of users to spread.")] = None,
    user_file: Annotated[
        Path | None, typer.Option("--user-file", help="CSV with a column user: a row of the output for each.")
    ] = None,
    items: Items = None,
    until: Until = None,
    uniform_mix: Annotated[float, typer.Option("--uniform-mix", help="Share of uniform choices.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the rounding and of the order of users.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV file to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Spread users over new items by Thompson sampling, with true propensities.

    Prints the share of each item. With --user-file and --out, the file has the item and the propensity of each user.
    """
    from recpolicy.core.errors import ConfigError
    from recpolicy.workflows.cold_start import allocate_users, new_item_beliefs, user_choices, write_allocation

    if (users is None) == (user_file is None):
        raise ConfigError("give --users NUMBER or --user-file FILE")
    ids = None if user_file is None else _user_ids(user_file)
    new_items = new_item_beliefs(prior, traces, items=items, until=until)
    chosen, frame = allocate_users(
        new_items, len(ids) if ids is not None else users or 0, seed=seed, uniform_mix=uniform_mix
    )
    if out is not None:
        write_allocation(out, frame if ids is None else user_choices(new_items, chosen, ids))
    if as_json:
        print_json({"prior": new_items.model.digest, "items": frame.to_dict("records")})
        return
    print_frame(frame)
    if out is not None:
        print_text(f"\n{out}: {len(frame) if ids is None else len(ids):,} rows")


@app.command(epilog="Example: recpolicy coldstart forecast runs/cold_start/prior.json runs/cold_start/new_traces.csv")
def forecast(
    prior: Prior, traces: NewTraces = None, items: Items = None, until: Until = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV file to write.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Forecast the active days of a user within the horizon for each new item, with 95 % intervals."""
    from recpolicy.workflows.cold_start import new_item_beliefs, write_allocation

    new_items = new_item_beliefs(prior, traces, items=items, until=until)
    frame = new_items.table()
    if out is not None:
        write_allocation(out, frame)
    if as_json:
        print_json({"prior": new_items.model.digest, "items": frame.to_dict("records")})
        return
    known = new_items.traces
    day = "" if known is None else f", known until {known.format_day(known.until)}"
    print_frame(frame, f"Active days within {new_items.model.prior.days} days{day}")


@app.command(
    epilog="Example: recpolicy coldstart report runs/cold_start/prior.json runs/cold_start/new_traces.csv --out"
    " runs/cold_start/report.html"
)
def report(
    prior: Prior,
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML page to write.")],
    traces: NewTraces = None, items: Items = None, until: Until = None,
) -> None:  # fmt: skip
    """Write a page with the prior, the beliefs about new items, their shares and how the beliefs narrowed."""
    from recpolicy.workflows.cold_start import new_item_beliefs
    from recpolicy.workflows.cold_start_report import write_cold_start_page

    write_cold_start_page(new_item_beliefs(prior, traces, items=items, until=until), out, items=items)
    print_text(out)


@app.command(epilog="Example: recpolicy coldstart export runs/registry --horizon 30 --out runs/server_traces.parquet")
def export(
    state: Annotated[Path, typer.Argument(metavar="STATE", help="State folder of a server.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV or Parquet file to write.")],
    horizon: Annotated[int, typer.Option("--horizon", help="Days of a trace.")] = 30,
    until: Annotated[
        str | None, typer.Option("--until", help="Last day that counts (default: yesterday, in UTC).")
    ] = None,
    activity: Annotated[
        str,
        typer.Option("--activity", help="any: lists and feedback of the user; item: feedback on the item."),
    ] = "any",
) -> None:
    """Write the traces of a server's lists: on which days users came back; the server may be running."""
    import os

    from recpolicy.core.errors import unknown_name_error
    from recpolicy.core.optional_deps import require_extra

    require_extra("serve", "recpolicy coldstart export")
    from typing import cast

    from recpolicy.cli.log_export import database_in
    from recpolicy.coldstart.trace_files import parse_day
    from recpolicy.server.db.engine import open_store, sqlite_url
    from recpolicy.server.db.trace_export import Activity, export_traces
    from recpolicy.server.lifespan import DATABASE_URL

    if activity not in ("any", "item"):
        raise unknown_name_error("activity", activity, ("any", "item"))
    engine = open_store(os.environ.get(DATABASE_URL) or sqlite_url(database_in(state)))
    try:
        day = None if until is None else parse_day(until)
        traces = export_traces(engine, out, horizon, day, cast("Activity", activity))
    finally:
        engine.dispose()
    finished = int(traces.finished.sum())
    print_text(
        f"{out}: {len(traces):,} traces of {len(traces.items):,} items until {traces.format_day(traces.until)};"
        f" {finished:,} items are finished"
    )
    print_text(f"next: recpolicy coldstart fit {out} --horizon {horizon} --finished-only --out PRIOR")


def _user_ids(path: Path) -> list[object]:
    from recpolicy.data.decision_table import DecisionTable

    table = DecisionTable(path, ",")
    table.check_names(["user"])
    ids: list[object] = table.ids("user").tolist()
    return ids
