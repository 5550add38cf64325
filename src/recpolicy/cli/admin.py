"""`recpolicy admin`: a running server under an operator's hand, over HTTP (docs/reference/admin.md)."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.admin_backup import backup, restore
from recpolicy.cli.admin_client import URL
from recpolicy.cli.admin_erase import erase_user
from recpolicy.cli.admin_options import Json, KeyFile, Url
from recpolicy.cli.admin_strategies import strategies
from recpolicy.cli.admin_tables import (
    say,
    say_change,
    say_checklist,
    say_drift,
    say_facts,
    say_rollout_signals,
    say_rollouts,
    say_runs,
    say_signals,
    say_status,
    say_versions,
    show,
)
from recpolicy.cli.output import print_text
from recpolicy.core.errors import ConfigError

if TYPE_CHECKING:
    from recpolicy.cli.admin_client import Client

app = typer.Typer(
    help="A running server: versions, traffic, keys, jobs, rollouts. The key comes from RECPOLICY_KEY.",
    no_args_is_help=True,
)
keys_app = typer.Typer(help="API keys: list, create, revoke.", no_args_is_help=True)
rollout_app = typer.Typer(help="The gradual rollout of a version.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(rollout_app, name="rollout")
app.command(epilog="Example:  recpolicy admin backup runs/linucb.server-state --out backups/monday")(backup)
app.command(epilog="Example:  recpolicy admin restore backups/monday state")(restore)
app.command("erase-user", epilog="Example:  recpolicy admin erase-user 196 --export logs/server --yes")(erase_user)
app.command(epilog="Example:  recpolicy admin strategies")(strategies)

Ungated = Annotated[bool, typer.Option("--ungated", help="Let it serve although it passed no gate.")]
Version = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Number of the version.")]


class Exploration(StrEnum):
    """The actions on exploration."""

    PAUSE = "pause"
    RESUME = "resume"


class Role(StrEnum):
    """The role of a key."""

    CLIENT = "client"
    READER = "reader"
    OPERATOR = "operator"


def _client(url: str, key_file: Path | None) -> "Client":
    from recpolicy.cli.admin_client import client

    return client(url, key_file)


@app.command(epilog="Example:  recpolicy admin status --url http://127.0.0.1:8080")
def status(url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Say who serves whom, and whether the store takes what it is given."""
    server = _client(url, key_file)
    ready, listed = server.get("/readyz"), server.get("/v1/admin/versions")
    show({**ready, "routing": listed["routing"]}, as_json, say_status)


@app.command(epilog="Example:  recpolicy admin versions")
def versions(url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> None:
    """List the versions of the server's registry, oldest first."""
    show(_client(url, key_file).get("/v1/admin/versions"), as_json, say_versions)


@app.command(epilog="Example:  recpolicy admin promote 3")
def promote(
    number: Version, ungated: Ungated = False, url: Url = URL, key_file: KeyFile = None, as_json: Json = False
) -> None:
    """Make a version the champion."""
    query = "?ungated=true" if ungated else ""
    show(_client(url, key_file).post(f"/v1/admin/versions/{number}/promote{query}"), as_json, say_change)


@app.command("roll-back", epilog="Example:  recpolicy admin roll-back")
def roll_back(url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Take back the last step: the challenger is withdrawn, else the champion before this one is back."""
    show(_client(url, key_file).post("/v1/admin/roll-back"), as_json, say_change)


@app.command(epilog="Example:  recpolicy admin traffic 3 --traffic-fraction 0.1")
def traffic(
    number: Version,
    traffic_fraction: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fraction of users whose requests it answers, 0..1.")
    ] = None,
    shadow: Annotated[
        bool | None, typer.Option("--shadow/--no-shadow", help="Compute and compare its lists without serving them.")
    ] = None,
    ungated: Ungated = False, url: Url = URL, key_file: KeyFile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Let a version answer a share of the users beside the champion."""
    body = {"version": number, "traffic_fraction": traffic_fraction, "shadow": shadow, "ungated": ungated}
    show(_client(url, key_file).post("/v1/admin/traffic", body), as_json, say_change)


@app.command("clear-challenger", epilog="Example:  recpolicy admin clear-challenger")
def clear_challenger(url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Remove the challenger; the champion serves all users."""
    show(_client(url, key_file).delete("/v1/admin/challenger"), as_json, say_change)


@app.command(epilog="Example:  recpolicy admin exploration pause")
def exploration(what: Exploration, url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Stop drawing lists to learn, or begin again."""
    show(_client(url, key_file).post(f"/v1/admin/exploration/{what.value}"), as_json, say_change)


@app.command("import", epilog="Example:  recpolicy admin import policy.tar.gz")
def import_archive(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A .zip or .tar.gz of a trained policy.")],
    url: Url = URL, key_file: KeyFile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Send a trained policy to the server's registry; it serves nobody yet."""
    from recpolicy.cli.admin_client import IMPORT

    show(
        _client(url, key_file).send(IMPORT, archive),
        as_json,
        lambda version: print_text(f"version {version['number']}: {version['agent']}, {version['digest'][:12]}"),
    )


@keys_app.command("list", epilog="Example:  recpolicy admin keys list")
def list_keys(url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> None:
    """List the keys: names and roles, never the keys."""
    say(_client(url, key_file).get("/v1/admin/keys"), as_json, "keys")


@keys_app.command(epilog="Example:  recpolicy admin keys create shop --role client")
def create(
    name: Annotated[str, typer.Argument(help="Name of the key, never used before: letters, digits, dots, hyphens.")],
    role: Annotated[Role, typer.Option("--role", help="Role of the key.")] = Role.CLIENT,
    url: Url = URL, key_file: KeyFile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Make a key and print it, this once."""
    answer = _client(url, key_file).post("/v1/admin/keys", {"name": name, "role": role.value})
    show(answer, as_json, lambda made: print_text(made["key"]))


@keys_app.command(epilog="Example:  recpolicy admin keys revoke shop")
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    url: Url = URL, key_file: KeyFile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Let a key work no more."""
    answer = _client(url, key_file).delete(f"/v1/admin/keys/{_part(name)}")
    show(answer, as_json, lambda key: print_text(f"revoked: {key['name']} ({key['role']})"))


@app.command(epilog="Example:  recpolicy admin audit --count 20")
def audit(
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="Number of changes.")] = 50,
    url: Url = URL, key_file: KeyFile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Show who changed what, newest first."""
    say(_client(url, key_file).get(f"/v1/admin/audit?count={count}"), as_json, "audit")


@app.command(epilog="Example:  recpolicy admin jobs")
def jobs(url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> None:
    """List the jobs of the server with their schedules."""
    say(_client(url, key_file).get("/v1/admin/jobs"), as_json, "jobs")


@app.command(epilog="Example:  recpolicy admin run evaluate --param days=7")
def run(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Name of the job.")],
    param: Annotated[
        list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="A parameter; may be given repeatedly.")
    ] = None,
    url: Url = URL, key_file: KeyFile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Begin a run of a job now; `runs` tells how it goes."""
    parameters = dict(_parameter(text) for text in param or ())
    answer = _client(url, key_file).post(f"/v1/admin/jobs/{_part(job)}", parameters)
    hint = f"run {answer['run']} of {job} has begun; see how it goes: recpolicy admin runs {answer['run']}"
    show(answer, as_json, lambda _: print_text(hint))


@app.command(epilog="Example:  recpolicy admin runs 4")
def runs(
    number: Annotated[
        int | None, typer.Argument(metavar="[NUMBER]", min=1, help="Show this run whole; default: list the last runs.")
    ] = None,
    url: Url = URL, key_file: KeyFile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """List the last runs of jobs, with the reason where one did nothing, or show one run."""
    answer = _client(url, key_file).get("/v1/admin/runs" if number is None else f"/v1/admin/runs/{number}")
    show(answer, as_json, say_facts if number is not None else lambda listed: say_runs(listed["runs"]))


@rollout_app.command(epilog="Example:  recpolicy admin rollout start 3 --set stages=[0.1,1]")
def start(
    number: Version,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A key of the plan: docs/how-to/rollout.md")
    ] = None,
    ungated: Ungated = False, url: Url = URL, key_file: KeyFile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Let a version answer more and more of the users while it does well."""
    body = {"challenger": number, "ungated": ungated, **dict(_parameter(text) for text in settings or ())}
    say(_client(url, key_file).post("/v1/admin/rollouts", body), as_json)


@rollout_app.command(epilog="Example:  recpolicy admin rollout stop")
def stop(url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Stop the rollout; the champion serves all users."""
    say(_client(url, key_file).delete("/v1/admin/rollouts/current"), as_json)


@rollout_app.command("status", epilog="Example:  recpolicy admin rollout status")
def rollout_status(url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Show how the rollout under way does, and the last ones."""
    server = _client(url, key_file)
    now, listed = server.get("/v1/admin/rollouts/current"), server.get("/v1/admin/rollouts")
    show({"current": now, **listed}, as_json, say_rollouts)


@rollout_app.command("signals", epilog="Example:  recpolicy admin rollout signals")
def rollout_signals(url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Compare every signal of both variants, such as likes and revenue, by segment of users."""
    answer = _client(url, key_file).get("/v1/admin/rollouts/current/signals")
    show(answer, as_json, say_rollout_signals)


@app.command(epilog="Example:  recpolicy admin drift")
def drift(url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Show whether users, rewards or choices are other ones than before."""
    show(_client(url, key_file).get("/v1/admin/drift"), as_json, lambda answer: say_drift(answer["run"]))


@app.command(epilog="Example:  recpolicy admin rewards")
def rewards(url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Show what users gave, by version."""
    say(_client(url, key_file).get("/v1/admin/rewards"), as_json, "rows", none="no rewards yet")


@app.command(epilog="Example:  recpolicy admin signals --days 7")
def signals(
    days: Annotated[int, typer.Option("--days", min=1, max=365, help="Days up to now.")] = 7,
    url: Url = URL, key_file: KeyFile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Show the rate of each signal, such as the like rate, by day and version."""
    show(_client(url, key_file).get(f"/v1/admin/signals?days={days}"), as_json, say_signals)


@app.command(epilog="Example:  recpolicy admin checklist")
def checklist(url: Url = URL, key_file: KeyFile = None, as_json: Json = False) -> int:
    """Print the production checklist, each item as kept or not; exit code 1 if one is not."""
    answer = _client(url, key_file).get("/v1/admin/checklist")
    show(answer, as_json, say_checklist)
    return 0 if answer["kept"] else 1


def _part(name: str) -> str:
    """A name as one part of a path."""
    from urllib.parse import quote

    return quote(name, safe="")


def _parameter(text: str) -> tuple[str, Any]:
    """`k=3` as ("k", 3): JSON where the value is JSON, text otherwise; raises ConfigError."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ConfigError(f"--param {text!r}: expected NAME=VALUE, such as days=7")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
