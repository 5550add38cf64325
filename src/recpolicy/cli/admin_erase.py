"""`recpolicy admin erase-user`: erase a user from a running server, and from exported logs on this machine."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from recpolicy.cli.admin_client import URL
from recpolicy.cli.admin_options import Json, KeyFile, Url
from recpolicy.cli.output import print_json, print_text
from recpolicy.core.errors import ConfigError

ERASE = "/v1/admin/users/erase"
NOT_REACHED = (
    "versions that were trained on the user's data, and what the champion has learned online",
    "backups, and exports that you do not name by --export",
    "rounds that `log ingest` made of an export: make them again",
    "logs of sessions (`log export --task sessions`): delete them, and export again",
)


def erase_user(
    user: Annotated[str, typer.Argument(metavar="USER", help="Id of the user, typed as the policy types its ids.")],
    text: Annotated[bool, typer.Option("--text", help="The id is a text, even if it has only digits.")] = False,
    export: Annotated[
        list[Path] | None,
        typer.Option("--export", metavar="FOLDER", help="A log of `log export` on this machine; may be repeated."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = URL, key_file: KeyFile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Erase events, feedback and rewards of a user from database, spool and exported logs."""
    from recpolicy.cli.admin_client import client
    from recpolicy.data.log_erasure import erase_from_log
    from recpolicy.data.log_parts import has_events

    server = client(url, key_file)
    for folder in export or ():
        if not has_events(folder):
            raise ConfigError(
                f"--export {folder}: no events.parquet; expected the folder of recpolicy log export. Feature logs"
                " and session logs are written anew by each export: delete them, and export again"
            )
    if not yes:
        _confirm(f"Erase user {user} for ever?")
    answer = server.post(ERASE, {"user": user, "as_policy": not text})
    identity = answer["user"]
    logs = {str(folder): asdict(erase_from_log(folder, identity)) for folder in export or ()}
    if as_json:
        print_json({**answer, "exports": logs, "not_reached": NOT_REACHED})
        return
    print_text(f"user: {identity!r} ({'number' if isinstance(identity, int) else 'text'})")
    print_text(f"database: {answer['events']:,} events, {answer['feedback']:,} feedback, {answer['rewards']:,} rewards")
    if answer["ranks"]:
        print_text(f"ranks: {answer['ranks']:,} events, {answer['signals']:,} signals, {answer['actions']:,} actions")
    if answer["profiles"]:
        print_text("strategies: the profile of the user")
    if answer["user_ratings"]:
        print_text(f"posterior: {answer['user_ratings']:,} ratings")
    print_text(f"spool: {answer['spooled']:,} events")
    for name, log in logs.items():
        print_text(f"{name}: {log['rounds']:,} rounds, {log['rewards']:,} rewards in {log['files']:,} files")
    if answer["other_id_events"]:
        kind, hint = ("number", "without --text") if text else ("text", "with --text")
        print_text(f"the {kind} {user} is another user, with {answer['other_id_events']:,} events; erase it {hint}")
    if answer["job_running"]:
        print_text("a job is running and may have read the user's events: check the version that it registers")
    print_text("not reached:")
    for place in NOT_REACHED:
        print_text(f"- {place}")


def _confirm(question: str) -> None:
    """Ask; raises ConfigError for another answer than yes, or without a terminal."""
    if not _is_terminal():
        raise ConfigError("erase-user asks before it erases; without a terminal, give --yes")
    if not typer.confirm(question):
        raise ConfigError("nothing was erased")


def _is_terminal() -> bool:
    return sys.stdin.isatty()
