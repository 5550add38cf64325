"""`recpolicy features`: propose a feature schema from rounds."""

from pathlib import Path
from typing import Annotated

import typer

from recpolicy.cli.output import print_json, print_text
from recpolicy.core.errors import ConfigError

app = typer.Typer(help="Propose a feature schema for your own contexts and actions.", no_args_is_help=True)


@app.callback()
def _features() -> None:
    """Keep `infer` a subcommand although it is the only one."""


@app.command(epilog="Example: recpolicy features infer rounds.parquet --out schema.toml")
def infer(
    log: Annotated[
        Path,
        typer.Argument(help="Feature log, folder of `log ingest`, or a table of rounds (Parquet, JSON lines)."),
    ],
    out: Annotated[Path | None, typer.Option(help="TOML file to write (default: print it).")] = None,
    reward: Annotated[str, typer.Option(help="Column with the reward; it is no feature.")] = "reward",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Propose names, types and encodings of features, and say which columns to drop and why.

    Dropped are identifiers, free text, constants, copies, and leaks: columns that say the reward.
    """
    from recpolicy.core.files import atomic_path
    from recpolicy.data.features.rounds_table import read_rounds_table

    if out is not None and out.exists():
        raise ConfigError(f"{out}: exists already; choose another --out")
    table = read_rounds_table(log, reward)
    schema, dropped = table.infer()
    notes = "".join(f"# dropped [{item.part}.{item.name}]: {item.reason}\n" for item in dropped)
    text = schema.to_toml() + (f"\n{notes}" if notes else "")
    if out is not None:
        with atomic_path(out) as path:
            path.write_text(text, encoding="utf-8")
    if as_json:
        reasons = [{"part": item.part, "name": item.name, "reason": item.reason} for item in dropped]
        print_json({"rounds": len(table), "schema": schema.as_dict(), "dropped": reasons, "out": out and str(out)})
        return
    if out is None:
        print_text(text)
        return
    print_text(
        f"{out}: {len(schema.context)} context and {len(schema.action)} action features from {len(table):,} rounds"
    )
    for item in dropped:
        print_text(f"dropped {item.part}.{item.name}: {item.reason}")
