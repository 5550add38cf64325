"""`recpolicy log import`: convert logs of other systems."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.log_ingest import AsJson, check_one_source, print_rewards, vocabulary_of
from recpolicy.cli.output import print_json, print_text

if TYPE_CHECKING:
    from recpolicy.workflows.feature_logs import FeatureImportReport
    from recpolicy.workflows.imported_logs import ImportReport

EPILOG = "Example:  recpolicy log import clicks.csv --format obd --out logs/clicks"


def import_(
    file: Annotated[Path, typer.Argument(help="The log of another system.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="obd: CSV as of the Open Bandit Dataset; vw: JSON lines or text of Vowpal Wabbit, or Personalizer's"
            " log; table: own CSV, Parquet or JSON lines (needs --keep-features).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for events.parquet, rewards included.")],
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Trained policy that defines users and items.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Ratings that define users and items; by default, the ids of the log.")
    ] = None,
    scale: Annotated[
        tuple[float, float],
        typer.Option(
            "--scale", help="Lowest and highest reward (click, or -cost) of the file; of a slot, if slots have costs."
        ),
    ] = (0.0, 1.0),
    user: Annotated[
        str | None,
        typer.Option(
            "--user", help="obd: column of users (default: user_id); vw: dotted name of the id among shared features."
        ),
    ] = None,
    item: Annotated[
        str | None,
        typer.Option("--item", help="obd: column of items (default: item_id); vw: dotted name within an action."),
    ] = None,
    time: Annotated[str | None, typer.Option("--time", help="obd: column of times (default: timestamp).")] = None,
    reward: Annotated[str | None, typer.Option("--reward", help="obd: column of rewards (default: click).")] = None,
    propensity: Annotated[
        str | None, typer.Option("--propensity", help="obd: column of propensities (default: propensity_score).")
    ] = None,
    separator: Annotated[str | None, typer.Option("--separator", help="obd: separator (default: a comma).")] = None,
    unit: Annotated[
        str,
        typer.Option(
            "--unit",
            help="Unit of intervals: user, or round if each round is of another person (default: user if the file"
            " names users).",
        ),
    ] = "",
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="vw: leave out and count lines that are no JSON.")
    ] = False,
    keep_features: Annotated[
        bool,
        typer.Option(
            "--keep-features", help="Write a log of contexts and actions with features, for policies of features."
        ),
    ] = False,
    context: Annotated[
        list[str] | None,
        typer.Option(
            "--context",
            help="With --keep-features, obd and table: column that is a feature of the context; give it for each"
            " (default: all columns without another meaning).",
        ),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            "--items", help="With --keep-features, obd and table: table of the actions with their features and ids."
        ),
    ] = None,
    actions: Annotated[
        str | None,
        typer.Option(
            "--actions",
            help="With --keep-features, table: column with the list of actions of each round, each with its id.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a log from another system and list the fields that were dropped."""
    from recpolicy.data.read_options import reading_for
    from recpolicy.workflows.imported_logs import import_log

    check_one_source(policy, data)
    names = {"user": user, "item": item, "time": time, "reward": reward, "propensity": propensity}
    shared: dict[str, Any] = {
        "columns": {key: name for key, name in names.items() if name is not None},
        "separator": None if separator is None else separator.replace("\\t", "\t"),
        "unit": unit, "skip_damaged": skip_damaged,
    }  # fmt: skip
    of_features = {"--context": context, "--items": items, "--actions": actions}
    if keep_features:
        if policy is not None or data is not None:
            raise typer.BadParameter("a log with features has its own actions", param_hint="--policy, --data")
        shared |= {"context": None if context is None else tuple(context), "items": items, "actions": actions}
        _import_features(file, out, form, scale, shared, as_json=as_json)
        return
    given = [name for name, value in of_features.items() if value is not None]
    if given or form == "table":
        raise typer.BadParameter("give --keep-features, too", param_hint=", ".join(given) or "--format table")
    with reading_for("file"):
        tables = vocabulary_of(policy, data or "", {}) if policy or data else None
    report = import_log(file, out, form, tables, scale, **shared)
    if as_json:
        print_json(report.as_dict())
        return
    amount = f"{report.slates:,} slates of {report.slots} slots" if report.slates else f"{report.rounds:,} rounds"
    print_text(f"imported {amount} of {report.users:,} users and {report.items:,} items: {out}")
    if report.slots > 1 and not report.slates:
        print_text(f"each slot is a round: the slots of the lines differ (at most {report.slots} a line)")
    _print_skipped(report)
    if report.unit != "user":
        alone = f"each {report.unit} counts as another person"
        print_text(f"{alone}: the file names no users (--unit user, or --user NAME)")
    print_text(f"dropped: {', '.join(report.lost) or 'nothing'}")
    if report.derived:
        print_text("users and items are those of the log")
        print_text(f"next: recpolicy log ingest {out} --out {out}-rounds")


def _import_features(
    file: Path, out: Path, form: str, scale: tuple[float, float], options: dict[str, Any], *, as_json: bool
) -> None:
    from recpolicy.workflows.feature_logs import import_feature_log

    report = import_feature_log(file, out, form, scale, **options)
    if as_json:
        print_json(report.as_dict())
        return
    print_text(f"imported {report.rounds:,} rounds with {report.actions:,} actions: {out}")
    print_text(f"context: {', '.join(report.context) or 'no features'}")
    print_text(f"actions: {', '.join(report.features) or 'no features'} ({report.contents:,} distinct ones)")
    _print_skipped(report)
    if report.slots > 1:
        print_text(f"each slot is a round: the lines have up to {report.slots} slots")
    if not report.users:
        part = "line" if report.slots > 1 else "round"
        print_text(f"each {part} counts as another person: the file names no users (--user NAME)")
    if report.weighted:
        print_text("rounds have weights: the lines have different pdrop")
    print_rewards(report.rewards)
    print_text(f"dropped: {', '.join(report.lost) or 'nothing'}")
    print_text(f"next: recpolicy log ingest {out} --out {out}-rounds")


def _print_skipped(report: "ImportReport | FeatureImportReport") -> None:
    if report.skipped:
        print_text(f"skipped {report.skipped:,} lines that are marked as excluded from learning")
    if report.dangling:
        print_text(f"skipped {report.dangling:,} lines without a label, such as rewards without their event")
    if report.damaged:
        print_text(f"skipped {report.damaged:,} lines that are no JSON")
