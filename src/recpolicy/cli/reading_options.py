"""Options for reading a table of ratings, shared by the commands `recpolicy data info`, `check` and `split`."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from recpolicy.cli.config_tables import read_config_with_data


def _declare(
    user: Annotated[
        str | None, typer.Option("--user", help="Of a file: column of user ids (default: user, user_id, userId).")
    ] = None,
    item: Annotated[
        str | None,
        typer.Option("--item", help="Of a file: column of item ids (default: item, item_id, itemId, movie, ...)."),
    ] = None,
    rating: Annotated[
        str | None, typer.Option("--rating", help="Of a file: column of ratings (default: rating).")
    ] = None,
    timestamp: Annotated[
        str | None, typer.Option("--timestamp", help="Of a file: column of times (default: timestamp, if any).")
    ] = None,
    timestamps: Annotated[
        bool, typer.Option("--timestamps/--no-timestamps", help="Of a file: read the times, or leave them out.")
    ] = True,
    scale: Annotated[
        tuple[float, float] | None,
        typer.Option("--scale", help="Of a file: lowest and highest possible rating (default: 1 5)."),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(
            "--separator", help="Of a file: separator, of any length (default: a tab for .tsv, else a comma)."
        ),
    ] = None,
    header: Annotated[
        bool,
        typer.Option(
            "--header/--no-header",
            help="Of a file: without a header, columns are named by their place from 1: user, item, rating, timestamp.",
        ),
    ] = True,
    repeated: Annotated[
        str | None,
        typer.Option(
            "--repeated",
            help="Of a file: for several ratings of one user and item keep last, first or mean (default: refuse).",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="TOML file with the table \\[data], which has further options; others override it."
        ),
    ] = None,
) -> None:
    """Declare the options."""


def with_reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for reading a table to a command; its argument `options` gets those that were given.

    The options follow the command's own ones, and precede `--json`.
    """
    shared = inspect.signature(_declare).parameters
    hints = get_type_hints(_declare, include_extras=True)
    own = dict(inspect.signature(command).parameters)
    own.pop("options")
    as_json = own.pop("as_json")

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        given = {name: values.pop(name) for name in shared}
        command(options=_options(given), **values)

    parameters = [*own.values(), *shared.values(), as_json]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    own_hints = get_type_hints(command, include_extras=True)
    wrapper.__annotations__ = {p.name: {**hints, **own_hints}[p.name] for p in parameters}
    del wrapper.__wrapped__
    return wrapper


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `load_ratings`: those of the config, overridden by those of the command line."""
    _, options = read_config_with_data(given["config"], None)
    columns = {name: given[name] for name in ("user", "item", "rating", "timestamp") if given[name] is not None}
    if columns:
        options["columns"] = {**options.get("columns", {}), **columns}
    if not given["header"]:
        options["header"] = False
    if not given["timestamps"]:
        options["timestamps"] = False
    if given["separator"] is not None:
        options["separator"] = given["separator"].replace("\\t", "\t")
    options |= {name: given[name] for name in ("scale", "repeated") if given[name] is not None}
    return options
