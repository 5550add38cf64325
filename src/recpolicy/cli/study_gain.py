"""`recpolicy study gain`: predicted against measured gain of the versions that were rolled out."""

from pathlib import Path
from typing import Annotated

import typer

from recpolicy.cli.output import print_frame, print_json, print_text

EPILOG = "Example:  recpolicy study gain runs/registry"


def gain(
    registry: Annotated[Path, typer.Argument(help="Folder of the registry.")],
    state: Annotated[
        Path | None, typer.Option("--state", help="State folder of the server (default: that of the registry).")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Number of rollouts, newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Compare the gain that the gate of a version predicted with the gain that its rollout measured."""
    import os

    from recpolicy.core.errors import ArtifactError
    from recpolicy.core.optional_deps import require_extra

    require_extra("serve", "recpolicy study gain")
    from recpolicy.cli.log_export import database_in
    from recpolicy.registry.aliases import STATE
    from recpolicy.registry.model_registry import Registry
    from recpolicy.server.db.engine import open_store, sqlite_url
    from recpolicy.server.lifespan import DATABASE_URL
    from recpolicy.server.rollout.gain import compare_gains, gain_table

    if not (registry / STATE).is_file():
        raise ArtifactError(f"{registry}: no registry; expected a folder that recpolicy registry register wrote")
    engine = open_store(os.environ.get(DATABASE_URL) or sqlite_url(database_in(state or registry)))
    try:
        with engine.connect() as connection:
            found = compare_gains(Registry(registry), connection, count)
    finally:
        engine.dispose()
    if as_json:
        print_json([each.as_dict() for each in found])
    elif not found:
        print_text("no rollout yet; start one with recpolicy admin rollout start")
    else:
        print_frame(gain_table(found), "Reward: predicted by the gate, and challenger - champion in the rollout")
