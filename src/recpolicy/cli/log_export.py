"""`recpolicy log export`: write the events and rewards of a server as a log.

Lists of a policy of ratings become a log to ingest, complete sessions a session log, ranks of a policy of features a
feature log.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from recpolicy.cli.output import print_json, print_text

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from recpolicy.registry.model_registry import Registry
    from recpolicy.server.db.export_policy import LogPolicy
    from recpolicy.server.db.session_export import SessionExportOptions

EPILOG = "Example:  recpolicy log export runs/linucb.server-state --out logs/server"


def export(
    state: Annotated[Path, typer.Argument(metavar="STATE", help="State folder of a server, or its registry.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files of the log.")],
    registry: Annotated[
        Path | None, typer.Option("--registry", help="Registry of the server, if it is not in its state folder.")
    ] = None,
    version: Annotated[
        str,
        typer.Option(
            "--version",
            help="Version that defines the log: a number or alias. A policy of features, or a registry without a"
            " champion, gives a feature log.",
        ),
    ] = "champion",
    places: Annotated[
        int, typer.Option("--places", min=0, help="Number of first positions of each event; 0: all.")
    ] = 0,
    task: Annotated[
        Literal["policy", "sessions", "strategy", "weights"],
        typer.Option(
            "--task",
            help="policy: lists or ranks of the policies; sessions: complete sessions whose requests had a session id"
            " or a history; strategy: events of the strategy engine; weights: lists under drawn weights, for `recpolicy"
            " tune`.",
        ),
    ] = "policy",
    wait_hours: Annotated[
        float,
        typer.Option(
            "--wait-hours",
            min=0,
            help="With --task sessions or weights: rewards count for so many hours, and a session or list is complete"
            " only then.",
        ),
    ] = 24.0,
    gap_minutes: Annotated[
        float,
        typer.Option(
            "--gap-minutes",
            min=0,
            help="With --task sessions or weights: a session without a request for so long has ended.",
        ),
    ] = 30.0,
    max_steps: Annotated[
        int,
        typer.Option(
            "--max-steps",
            min=1,
            help="With --task sessions: items after which a session of a policy of single rounds is cut; a session"
            " policy has a longest session of its own.",
        ),
    ] = 20,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="With --task strategy: TOML file of the engine, with the server's weights."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Append new events and rewards of a server to a log; the server may be running."""
    from recpolicy.core.optional_deps import require_extra

    require_extra("serve", "recpolicy log export")
    from recpolicy.registry.model_registry import Registry
    from recpolicy.server.db.export import ExportOptions, LogPolicy
    from recpolicy.server.db.export import export as export_log
    from recpolicy.server.db.session_export import SessionExportOptions

    if config is not None and task != "strategy":
        raise typer.BadParameter("only for --task strategy; leave it out", param_hint="--config")
    if task == "strategy":
        _export_strategies(state, out, config, as_json)
        return
    versions = Registry(registry or _registry_in(state))
    if _ranks(versions, version):
        if task != "policy":
            raise typer.BadParameter(
                "only for a policy of ratings; leave it out for a policy of features, or a registry without a champion",
                param_hint=f"--task {task}",
            )
        _export_features(state, out, as_json)
        return
    if task == "weights":
        _export_weights(state, versions, version, out, wait_hours, gap_minutes, as_json)
        return
    policy = LogPolicy(versions, version)
    with _store(state) as engine:
        if task == "sessions":
            options = SessionExportOptions(out, wait_hours=wait_hours, gap_minutes=gap_minutes, max_steps=max_steps)
            _export_sessions(engine, policy, options, as_json)
            return
        done = export_log(engine, policy, ExportOptions(out, places=places), show_progress=False if as_json else None)
    if as_json:
        print_json(done.as_dict())
        return
    print_text(f"added {done.new_rounds:,} rounds and {done.new_rewards:,} rewards: {out}")
    print_text(f"the log now has {done.rounds:,} rounds and {done.rewards:,} rewards")
    _print_left_out(done.left_out, _REASONS)
    print_text(f"next: recpolicy log ingest {out} --policy POLICY --out {out}-rounds")


def _export_sessions(engine: "Engine", policy: "LogPolicy", options: "SessionExportOptions", as_json: bool) -> None:
    """Write the complete sessions as a new log."""
    from recpolicy.server.db.session_export import export_sessions
    from recpolicy.workflows.artifacts import check_absent

    check_absent(options.out)
    done = export_sessions(engine, policy, options)
    if as_json:
        print_json(done.as_dict())
        return
    if done.sessions:
        print_text(f"wrote {done.sessions:,} sessions of {done.steps:,} steps: {options.out}")
        censored, alone = done.sessions - done.returned, done.users_without_return
        print_text(
            f"returns: {done.returned:,} sessions whose user came back, {censored:,} censored;"
            f" {alone:,} users without any return"
        )
    else:
        print_text("no complete sessions to write; a request names its session by session_id, and sends its history")
    for reason, count in sorted(done.left_out.items()):
        print_text(f"dropped: {count:,} sessions ({_SESSION_REASONS[reason]})")
    if done.sessions:
        print_text(f"next: recpolicy ope estimate POLICY --log {options.out}")


def _export_weights(
    state: Path, registry: "Registry", version: str, out: Path, wait_hours: float, gap_minutes: float, as_json: bool
) -> None:
    """Write the lists under drawn weights as a new log of weights."""
    from recpolicy.server.db.weight_export import WeightExportOptions, export_weights
    from recpolicy.workflows.artifacts import check_absent

    check_absent(out)
    options = WeightExportOptions(out, wait_hours=wait_hours, gap_minutes=gap_minutes)
    with _store(state) as engine:
        done = export_weights(engine, registry, version, options)
    if as_json:
        print_json(done.as_dict())
        return
    means = ", ".join(f"{name} {value:.3f}" for name, value in done.means.items())
    print_text(f"wrote {done.lists:,} lists ({means}): {out}")
    for reason, count in sorted(done.left_out.items()):
        print_text(f"dropped: {count:,} lists ({_WEIGHT_REASONS[reason]})")
    print_text(f"next: recpolicy tune POLICY --log {out} --out runs/tuned")


def _ranks(registry: "Registry", version: str) -> bool:
    """Return True for a policy of features, and for a registry without a champion, whose server ranks at random."""
    from recpolicy.inference.feature_artifact import is_feature_policy

    if version == "champion" and registry.aliases()["champion"] is None:
        return True
    return is_feature_policy(registry.resolve(version))


def _export_features(state: Path, out: Path, as_json: bool) -> None:
    """Append new ranks to a feature log."""
    from recpolicy.server.db.rank_export import export_ranks
    from recpolicy.server.rank.service import stored_reward

    with _store(state) as engine:
        done = export_ranks(engine, stored_reward(engine), out, show_progress=False if as_json else None)
    if as_json:
        print_json(done.as_dict())
        return
    print_text(f"added {done.new_rounds:,} rounds and {done.signals:,} signals: {out}")
    print_text(f"the log now has {done.rounds:,} rounds and {done.actions:,} actions")
    _print_left_out(done.left_out, _RANK_REASONS)
    print_text(f"next: recpolicy features infer {out} --out schema.toml")


def _export_strategies(state: Path, out: Path, config: Path | None, as_json: bool) -> None:
    """Write the events of the strategy engine that have the traits as a feature log."""
    from recpolicy.server.db.feature_export import export_strategies
    from recpolicy.strategies.config import read_strategy_config

    settings = read_strategy_config(config)
    with _store(state) as engine:
        done = export_strategies(
            engine, settings.reward, settings.profile.traits, out, show_progress=False if as_json else None
        )
    if as_json:
        print_json(done.as_dict())
        return
    print_text(f"wrote {done.rounds:,} rounds with {done.signals:,} signals: {out}")
    _print_left_out(done.left_out, _RANK_REASONS)
    print_text(f"next: recpolicy strategy train --log {out} --out runs/strategy")


_SESSION_REASONS = {
    "broken": "events are missing or contradict each other, or a reward is for an item that was not shown",
    "new_user": "the user is unknown to the version, or the request described the user",
    "no_propensity": "no propensity",
    "no_history": "a policy of single rounds answered requests without a history, so what was shown is not known",
    "other_policy": "chosen among items that the version does not have",
    "unplaced": "the user had a request that fits no session, as during an outage, so the session may have gone on",
}
_WEIGHT_REASONS = {
    "other_policy": "of another policy",
    "other_formula": "other heads, grid or bounds than those of the latest list",
    "waiting": "their rewards may still arrive",
}
_RANK_REASONS = {
    "incomplete": "the user did not agree that the server keeps the traits",
    "waiting": "the window of their rewards, or the minute after their activation, is not over",
    "inactive": "deferred and not activated",
    "damaged": "they cannot be read",
}
_REASONS = {
    "new_user": "users unknown to the policy, with an id or features that do not fit this log",
    "other_policy": "versions with other users, items or catalog",
    "no_propensity": "a propensity that is not above 0, as of lists under drawn weights",
}


@contextmanager
def _store(state: Path) -> Iterator["Engine"]:
    """Open the database of a state folder, or the configured one."""
    from recpolicy.server.db.engine import open_store, sqlite_url
    from recpolicy.server.lifespan import DATABASE_URL

    engine = open_store(os.environ.get(DATABASE_URL) or sqlite_url(database_in(state)))
    try:
        yield engine
    finally:
        engine.dispose()


def _print_left_out(left_out: Mapping[str, int], reasons: Mapping[str, str]) -> None:
    for reason, count in sorted(left_out.items()):
        print_text(f"dropped: {count:,} events ({reasons[reason]})")


def _registry_in(state: Path) -> Path:
    """Return the registry of a state folder: the folder itself, or the one in it."""
    from recpolicy.registry.aliases import STATE

    return state if (state / STATE).is_file() else state / "registry"


def database_in(state: Path) -> Path:
    """Return the database file; raise DataError if it does not exist and no other database is configured."""
    from recpolicy.core.errors import DataError
    from recpolicy.server.lifespan import DATABASE_URL
    from recpolicy.server.state_files import DATABASE

    path = state / DATABASE
    if not os.environ.get(DATABASE_URL) and not path.is_file():
        raise DataError(f"{path}: no such file; expected the state folder of a server, or {DATABASE_URL}")
    return path
