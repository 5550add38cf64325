"""`recpolicy registry`: list, import and promote versions of a policy, and route users to them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recpolicy.cli.output import print_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recpolicy.registry.model_registry import Note, Registry
    from recpolicy.registry.version_files import Version

app = typer.Typer(
    help="Versions of a policy: list, import, promote, set a challenger, roll back.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(metavar="REGISTRY", help="Folder of the registry.")]
Number = Annotated[int, typer.Argument(metavar="N", min=1, help="Number of the version.")]
Name = Annotated[str, typer.Argument(metavar="N", help="Number or alias of the version.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Ungated = Annotated[bool, typer.Option("--ungated", help="Let it serve although it passed no gate.")]
Message = Annotated[str | None, typer.Option("--message", metavar="TEXT", help="Reason, for the audit log.")]


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
        print_text(f"{folder}: no versions yet")
        return
    columns = {
        "version": [str(version.number) for version in versions],
        "alias": [_names(registry, version.number) for version in versions],
        "agent": [f"{version.agent}{_layer(version, ', ')}" for version in versions],
        "gate": [version.verdict or "none" for version in versions],
        "registered": [f"{version.registered_at[:19]}Z" for version in versions],
        "digest": [version.digest[:12] for version in versions],
    }
    print_frame(pd.DataFrame(columns))


@app.command(epilog="Example:  recpolicy registry show runs/registry champion")
def show(folder: Folder, name: Name, as_json: Json = False) -> None:
    """Show one version: digests, gate record, lineage."""
    from dataclasses import asdict

    from recpolicy.cli.output import print_json
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    version = registry.version(name)
    if as_json:
        print_json({**asdict(version), "folder": str(registry.resolve(name))})
        return
    lineage = version.lineage
    split = lineage.get("split", "unknown")
    split = split.get("name", "unknown") if isinstance(split, dict) else split
    rows = {
        "version": version.number, "alias": _names(registry, version.number) or "none", "agent": version.agent,
        "layer": _layer(version) or "none", "gate": version.verdict or "none",
        "data": lineage.get("data", "unknown"), "catalog": _catalog(lineage),
        "split": split, "seed": lineage.get("seed", "unknown"),
        "registered": version.registered_at, "note": _plain(version.note), "digest": version.digest,
        "policy": version.policy_digest, "folder": registry.resolve(name),
    }  # fmt: skip
    for label, value in rows.items():
        print_text(f"{label:<12}{value}")


@app.command(epilog="Example:  recpolicy registry audit runs/registry")
def audit(folder: Folder, as_json: Json = False) -> None:
    """List all changes in order: registrations, promotions, roll-backs, with author and reason if they are known."""
    from recpolicy.cli.output import print_json
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    registry.aliases()  # raises an error for a folder that is not a registry
    lines = registry.audit()
    if as_json:
        print_json(lines)
        return
    for line in lines:
        number = line.get("number")
        rest = {key: value for key, value in line.items() if key not in ("time", "change", "number", "digest")}
        change = f"{line['change']:<19}{'' if number is None else number:<4}"
        print_text(f"{line['time'][:19]}Z  {change}{_plain(rest) if rest else ''}".rstrip())


@app.command(epilog="Example:  recpolicy registry add runs/registry runs/offers --gate runs/gate/gate.json")
def add(
    folder: Folder,
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="Folder that `recpolicy train --out` wrote.")],
    gate: Annotated[
        Path | None, typer.Option("--gate", help="gate.json of `recpolicy gate --out`; without it, no gate record.")
    ] = None,
    message: Message = None,
    as_json: Json = False,
) -> None:
    """Register a policy as the next version, with its gate record; item policies and feature policies alike."""
    from recpolicy.cli.output import print_json
    from recpolicy.registry.model_registry import Registry
    from recpolicy.workflows.gating import read_record_of

    registry = Registry(folder)
    version = registry.register(
        policy, gate=None if gate is None else read_record_of(policy, gate), note=_note(message)
    )
    if as_json:
        print_json({"number": version.number, "digest": version.digest, "gate": version.verdict})
        return
    print_text(
        f"registered: version {version.number}, gate {version.verdict or 'none'}, {registry.resolve(version.number)}"
    )
    print_text(f"next: recpolicy registry promote {folder} {version.number}")


@app.command("import", epilog="Example:  recpolicy registry import runs/registry policy.tar.gz")
def import_archive(
    folder: Folder,
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A .zip or .tar(.gz) that holds an artifact.")],
    message: Message = None,
    as_json: Json = False,
) -> None:
    """Register the policy in an archive as the next version; archives with links or odd paths are rejected."""
    from recpolicy.cli.output import print_json
    from recpolicy.registry.import_version import import_version
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    version = import_version(registry, archive, note=_note(message))
    if as_json:
        print_json({"number": version.number, "digest": version.digest})
        return
    print_text(f"registered: version {version.number}, {registry.resolve(version.number)}")


@app.command("add-items", epilog="Example:  recpolicy registry add-items runs/registry champion new_items.csv")
def add_items(
    folder: Folder,
    name: Name,
    items: Annotated[
        Path, typer.Argument(metavar="ITEMS", help="CSV, TSV or Parquet with the columns item, title, genres and year.")
    ],
    message: Message = None,
    as_json: Json = False,
) -> None:
    """Register a copy of a version with new items, whose estimates come from their genres; nothing is trained."""
    from recpolicy.registry.add_items import change_items
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    version = change_items(registry, name, items, note=_note(message))
    _say_changed(registry, version, as_json)


@app.command("retire-items", epilog="Example:  recpolicy registry retire-items runs/registry champion 50 181")
def retire_items(
    folder: Folder,
    name: Name,
    items: Annotated[list[str], typer.Argument(metavar="ITEM...", help="Ids of items that nobody shall be shown.")],
    message: Message = None,
    as_json: Json = False,
) -> None:
    """Register a copy of a version that no longer recommends some items."""
    _change_known(folder, name, "retire", items, message, as_json)


@app.command("restore-items", epilog="Example:  recpolicy registry restore-items runs/registry champion 50")
def restore_items(
    folder: Folder,
    name: Name,
    items: Annotated[list[str], typer.Argument(metavar="ITEM...", help="Ids of retired items.")],
    message: Message = None,
    as_json: Json = False,
) -> None:
    """Register a copy of a version that recommends retired items again, as it did before."""
    _change_known(folder, name, "restore", items, message, as_json)


def _change_known(
    folder: Path, name: str, change: Literal["retire", "restore"], items: list[str], message: str | None, as_json: bool
) -> None:
    """Register a copy of a version with a change of items that it knows, and print the copy."""
    from recpolicy.cli.ids import parse_ids
    from recpolicy.inference.artifact import read_inference_artifact
    from recpolicy.registry.add_items import change_items
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    known = parse_ids(items, read_inference_artifact(registry.resolve(name)).tables.item_ids)
    retire, restore = (known, ()) if change == "retire" else ((), known)
    version = change_items(registry, name, retire=retire, restore=restore, note=_note(message))
    _say_changed(registry, version, as_json)


@app.command(epilog="Example:  recpolicy registry promote runs/registry 3")
def promote(
    folder: Folder, number: Number, ungated: Ungated = False, message: Message = None, as_json: Json = False
) -> None:
    """Make a version the champion; a version that is damaged or passed no gate is rejected."""
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    registry.promote(number, ungated=ungated, note=_note(message))
    _say(registry, as_json)


@app.command(
    "set-challenger", epilog="Example:  recpolicy registry set-challenger runs/registry 3 --traffic-fraction 0.1"
)
def set_challenger(
    folder: Folder,
    number: Number,
    traffic_fraction: Annotated[float, typer.Option(help="Fraction of the users that it serves, 0..1.")],
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Compute and compare its lists without serving them.")
    ] = False,
    ungated: Ungated = False,
    message: Message = None,
    as_json: Json = False,
) -> None:
    """Route a fraction of the users to a version; `roll-back` removes the challenger."""
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    registry.set_challenger(number, traffic_fraction, shadow=shadow, ungated=ungated, note=_note(message))
    _say(registry, as_json)


@app.command("roll-back", epilog="Example:  recpolicy registry roll-back runs/registry")
def roll_back(folder: Folder, message: Message = None, as_json: Json = False) -> None:
    """Remove the challenger; without one, make the previous champion the champion again."""
    from recpolicy.registry.model_registry import Registry

    registry = Registry(folder)
    registry.roll_back(note=_note(message))
    _say(registry, as_json)


def _say_changed(registry: "Registry", version: "Version", as_json: bool) -> None:
    """Print a version whose catalog was changed."""
    from recpolicy.cli.output import print_json

    change = version.lineage["catalog_change"]
    if as_json:
        print_json({"number": version.number, "from": version.lineage["changed_from"], **change})
        return
    counts = " and ".join(
        f"{len(ids):,} {'item' if len(ids) == 1 else 'items'} {verb}"
        for verb, ids in ((verb, change[verb]) for verb in ("added", "retired", "restored"))
        if ids
    )
    print_text(f"registered: version {version.number}, version {version.lineage['changed_from']} with {counts}")
    print_text(f"next: recpolicy registry promote {registry.folder} {version.number} --ungated, or gate it first")


def _layer(version: "Version", before: str = "") -> str:
    """Return the text that names the policy below a tuned layer; an empty one without a layer."""
    return "" if version.layer is None else f"{before}tuned layer over {str(version.layer['base_policy'])[:12]}"


def _note(message: str | None) -> "Note":
    return None if message is None else {"why": message}


def _catalog(lineage: "Mapping[str, Any]") -> str:
    """Return the change of the catalog with which a version was made."""
    change, parent = lineage.get("catalog_change"), lineage.get("changed_from")
    if not isinstance(change, dict) or parent is None:
        return "as trained"
    counts = {verb: len(change.get(verb, ())) for verb in ("added", "retired", "restored")}
    return ", ".join([f"version {parent}", *(f"{count} {verb}" for verb, count in counts.items() if count)])


def _names(registry: "Registry", number: int) -> str:
    """Return the aliases of a version."""
    return ", ".join(name for name, version in registry.aliases().items() if version == number)


def _plain(record: object) -> str:
    """Return a record on one line."""
    import json

    return "none" if record is None else json.dumps(record, sort_keys=True, ensure_ascii=False)


def _say(registry: "Registry", as_json: bool) -> None:
    """Print the routing."""
    from dataclasses import asdict

    from recpolicy.cli.output import print_json

    aliases, routing = registry.aliases(), registry.routing()
    if as_json:
        print_json({**asdict(routing), **aliases})
        return
    print_text(f"champion: version {aliases['champion']}, {registry.resolve('champion')}")
    print_text(f"previous: {'none' if aliases['previous'] is None else 'version ' + str(aliases['previous'])}")
    if routing.challenger is not None:
        mode = "shadows" if routing.shadow else "answers"
        print_text(f"challenger: version {routing.challenger}, {mode} {routing.traffic_fraction:.1%} of the users")
