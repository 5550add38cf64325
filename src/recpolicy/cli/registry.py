"""`recpolicy registry`: which versions of a policy there are, and which of them serve whom."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recpolicy.registry.model_registry import Note, Registry

app = typer.Typer(help="Versions of a policy: list, import, promote, challenge, roll back.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="REGISTRY", help="Folder of the registry.")]
Number = Annotated[int, typer.Argument(metavar="N", min=1, help="Number of the version.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Why = Annotated[str | None, typer.Option("--why", metavar="TEXT", help="Reason, kept in the audit.")]


@app.command("list", epilog="Example:  recpolicy registry list runs/registry")
def list_versions(folder: Folder, as_json: Json = False) -> None:
    """List the versions, oldest first, with gate verdict and alias."""
    from dataclasses import asdict

    import pandas as pd

    from recpolicy.cli.output import print_frame, print_json
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    versions, aliases = registry.versions(), registry.aliases()
    if as_json:
        routing = asdict(registry.routing())
        print_json({"aliases": aliases, "routing": routing, "versions": [asdict(version) for version in versions]})
        return
    if not versions:
        print(f"{folder}: no versions yet")
        return
    columns = {
        "version": [str(version.number) for version in versions],
        "alias": [_names(registry, version.number) for version in versions],
        "agent": [version.agent for version in versions],
        "gate": [_verdict(version.gate) for version in versions],
        "registered": [f"{version.registered_at[:19]}Z" for version in versions],
        "digest": [version.digest[:12] for version in versions],
    }
    print_frame(pd.DataFrame(columns))


@app.command(epilog="Example:  recpolicy registry show runs/registry champion")
def show(
    folder: Folder, name: Annotated[str, typer.Argument(metavar="N", help="Number or alias.")], as_json: Json = False
) -> None:
    """Show what is known of one version: digests, gate record, where it comes from."""
    from dataclasses import asdict

    from recpolicy.cli.output import print_json
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    version = registry.version(name)
    if as_json:
        print_json({**asdict(version), "folder": str(registry.resolve(name))})
        return
    lineage = version.lineage
    rows = {
        "version": version.number, "alias": _names(registry, version.number) or "none", "agent": version.agent,
        "gate": _verdict(version.gate), "data": lineage.get("data", "not said"),
        "split": (lineage.get("split") or {}).get("name", "not said"), "seed": lineage.get("seed", "not said"),
        "registered": version.registered_at, "note": _plain(version.note), "digest": version.digest,
        "content": version.content, "folder": registry.resolve(name),
    }  # fmt: skip
    for word, value in rows.items():
        print(f"{word:<12}{value}")


@app.command(epilog="Example:  recpolicy registry audit runs/registry")
def audit(folder: Folder, as_json: Json = False) -> None:
    """List all changes in order: what was registered, promoted, rolled back, by whom and why where that was told."""
    from recpolicy.cli.output import print_json
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    registry.aliases()  # a folder that is no registry has no audit either, and says so here
    lines = registry.audit()
    if as_json:
        print_json(lines)
        return
    for line in lines:
        number = line.get("number")
        rest = {key: value for key, value in line.items() if key not in ("time", "change", "number", "digest")}
        what = f"{line['change']:<19}{'' if number is None else number:<4}"
        print(f"{line['time'][:19]}Z  {what}{_plain(rest) if rest else ''}".rstrip())


@app.command("import", epilog="Example:  recpolicy registry import runs/registry policy.tar.gz")
def import_archive(
    folder: Folder,
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A .zip or .tar(.gz) that holds an artifact.")],
    why: Why = None,
    as_json: Json = False,
) -> None:
    """Register the policy in an archive as the next version; an archive that is not plain is refused."""
    from recpolicy.cli.output import print_json
    from recpolicy.registry.import_version import import_version
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    version = import_version(registry, archive, note=_note(why))
    if as_json:
        print_json({"number": version.number, "digest": version.digest})
        return
    print(f"registered: version {version.number}, {registry.resolve(version.number)}")


@app.command(epilog="Example:  recpolicy registry promote runs/registry 3")
def promote(folder: Folder, number: Number, why: Why = None, as_json: Json = False) -> None:
    """Make a version the champion; refused where it is damaged."""
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    registry.promote(number, note=_note(why))
    _say(registry, as_json)


@app.command(epilog="Example:  recpolicy registry challenge runs/registry 3 --share 0.1")
def challenge(
    folder: Folder,
    number: Number,
    share: Annotated[float, typer.Option(help="Share of the users that it answers, 0..1.")],
    shadow: Annotated[bool, typer.Option("--shadow", help="Ask it, but let the champion answer.")] = False,
    why: Why = None,
    as_json: Json = False,
) -> None:
    """Let a version answer a share of the users beside the champion; `roll-back` withdraws it."""
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    registry.set_challenger(number, share, shadow=shadow, note=_note(why))
    _say(registry, as_json)


@app.command("roll-back", epilog="Example:  recpolicy registry roll-back runs/registry")
def roll_back(folder: Folder, why: Why = None, as_json: Json = False) -> None:
    """Withdraw the challenger where there is one, else make the previous champion the champion again."""
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    registry.roll_back(note=_note(why))
    _say(registry, as_json)


def _note(why: str | None) -> "Note":
    return None if why is None else {"why": why}


def _names(registry: "Registry", number: int) -> str:
    """The aliases of a version."""
    return ", ".join(name for name, one in registry.aliases().items() if one == number)


def _verdict(gate: object) -> str:
    return str(gate.get("verdict", "none")) if isinstance(gate, dict) else "none"


def _plain(record: object) -> str:
    """A record on one line."""
    import json

    return "none" if record is None else json.dumps(record, sort_keys=True, ensure_ascii=False)


def _say(registry: "Registry", as_json: bool) -> None:
    """Who serves now."""
    from dataclasses import asdict

    from recpolicy.cli.output import print_json

    aliases, routing = registry.aliases(), registry.routing()
    if as_json:
        print_json({**asdict(routing), **aliases})
        return
    print(f"champion: version {aliases['champion']}, {registry.resolve('champion')}")
    print(f"previous: {'none' if aliases['previous'] is None else 'version ' + str(aliases['previous'])}")
    if routing.challenger is not None:
        how = "asked, but not heard, for" if routing.shadow else "answers"
        print(f"challenger: version {routing.challenger}, {how} {routing.share:.1%} of the users")
