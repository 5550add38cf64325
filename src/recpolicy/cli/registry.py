"""`recpolicy registry`: which versions of a policy there are, and which one is the champion."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recpolicy.serving.registry import Registry

app = typer.Typer(help="Versions of a policy: list, promote, roll back.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="REGISTRY", help="Folder of the registry.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command("list", epilog="Example:  recpolicy registry list runs/registry")
def list_versions(folder: Folder, as_json: Json = False) -> None:
    """List the versions, oldest first, with gate verdict and alias."""
    from dataclasses import asdict

    import pandas as pd

    from recpolicy.cli.output import print_frame, print_json
    from recpolicy.serving.registry import Registry

    registry = Registry(folder)
    versions, aliases = registry.versions(), registry.aliases()
    if as_json:
        print_json({"aliases": aliases, "versions": [asdict(version) for version in versions]})
        return
    if not versions:
        print(f"{folder}: no versions yet")
        return
    names = {number: alias for alias, number in aliases.items()}
    columns = {
        "version": [str(version.number) for version in versions],
        "alias": [names.get(version.number, "") for version in versions],
        "agent": [version.agent for version in versions],
        "gate": [str((version.gate or {}).get("verdict", "none")) for version in versions],
        "registered": [f"{version.registered_at[:19]}Z" for version in versions],
        "digest": [version.digest[:12] for version in versions],
    }
    print_frame(pd.DataFrame(columns))


@app.command(epilog="Example:  recpolicy registry promote runs/registry 3")
def promote(
    folder: Folder, number: Annotated[int, typer.Argument(min=1, help="Version to promote.")], as_json: Json = False
) -> None:
    """Make a version the champion; refused where it is damaged."""
    from recpolicy.serving.registry import Registry

    registry = Registry(folder)
    registry.promote(number)
    _say(registry, as_json)


@app.command("roll-back", epilog="Example:  recpolicy registry roll-back runs/registry")
def roll_back(folder: Folder, as_json: Json = False) -> None:
    """Make the previous champion the champion again."""
    from recpolicy.serving.registry import Registry

    registry = Registry(folder)
    registry.roll_back()
    _say(registry, as_json)


def _say(registry: "Registry", as_json: bool) -> None:
    from recpolicy.cli.output import print_json

    aliases = registry.aliases()
    if as_json:
        print_json(aliases)
        return
    print(f"champion: version {aliases['champion']}, {registry.resolve('champion')}")
    print(f"previous: {'none' if aliases['previous'] is None else 'version ' + str(aliases['previous'])}")
