"""`recpolicy admin backup` and `restore`: they work on the state folder itself, not over HTTP."""

import os
from pathlib import Path
from typing import Annotated

import typer

from recpolicy.cli.admin_options import Json
from recpolicy.cli.output import print_json, print_text


def backup(
    state: Annotated[Path, typer.Argument(metavar="STATE", help="State folder of a server, which may be running.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the backup.")],
    registry: Annotated[
        Path | None, typer.Option("--registry", help="Registry of the server, if it is not in its state folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Copy database, spool, online learning and registry of a server, on the server's machine."""
    from recpolicy.core.optional_deps import require_extra

    require_extra("serve", "recpolicy admin backup")
    from recpolicy.server.backup.create import create_backup
    from recpolicy.server.lifespan import DATABASE_URL

    created = create_backup(state, out, registry, os.environ.get(DATABASE_URL) or None)
    facts = {"folder": str(out), "database": created.database, "schema": created.schema, "events": created.events,
             "files": len(created.files), "bytes": created.bytes}  # fmt: skip
    if as_json:
        print_json(facts)
        return
    print_text(f"backup: {out}, {created.bytes / 1e6:,.1f} MB in {len(created.files):,} files, readable only by you")
    print_text(f"database: {created.database}, {created.events:,} events")
    print_text(f"next: recpolicy admin restore {out} NEW_STATE")


def restore(
    folder: Annotated[Path, typer.Argument(metavar="BACKUP", help="Folder of a backup.")],
    state: Annotated[Path, typer.Argument(metavar="STATE", help="State folder to fill; no server may use it.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the state that STATE (or the database) has.")] = False,
    as_json: Json = False,
) -> None:
    """Fill a state folder, and the PostgreSQL database if there is one, from a backup."""
    from recpolicy.core.optional_deps import require_extra

    require_extra("serve", "recpolicy admin restore")
    from recpolicy.server.backup.create import REGISTRY
    from recpolicy.server.backup.restore import restore_backup
    from recpolicy.server.lifespan import DATABASE_URL

    restored = restore_backup(folder, state, os.environ.get(DATABASE_URL) or None, force)
    registry = state / REGISTRY if (state / REGISTRY).is_dir() else state
    if as_json:
        print_json({"state": str(state), "registry": str(registry), "database": restored.database,
                    "events": restored.events})  # fmt: skip
        return
    print_text(f"restored: {state}, {restored.events:,} events ({restored.database})")
    print_text(f"next: recpolicy serve {registry}{'' if registry == state else f' --state {state}'}")
