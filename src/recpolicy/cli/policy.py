"""Commands on trained policies: evaluate, compare, predict, recommend, report."""

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.command import Command
from recpolicy.cli.ids import parse_id, parse_ratings, parse_shown
from recpolicy.cli.output import print_frame, print_json

if TYPE_CHECKING:
    from recpolicy.data.splits import Split
    from recpolicy.inference.predictor import Policy
    from recpolicy.workflows.evaluate import HeldOutEvaluation
    from recpolicy.workflows.evaluate_sessions import SessionEvaluation

Folder = Annotated[Path, typer.Argument(help="Folder that `recpolicy train --out` wrote.")]
Users = Annotated[list[str], typer.Option("--user", "-u", help="User id; repeat for several.")]
Rate = Annotated[
    list[str] | None, typer.Option("--rating", help="ITEM=RATING of a new user (with one --user); repeat for several.")
]
Shown = Annotated[
    list[str] | None,
    typer.Option(
        "--history", help="ITEM=like or ITEM=skip, in order: the session so far (session policies, one --user)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Data = Annotated[
    str | None, typer.Option("--data", help="The ratings, if they are no longer where training read them.")
]


def evaluate(
    folder: Folder, data: Data = None, seed: Annotated[int, typer.Option(min=0)] = 0, as_json: Json = False
) -> None:
    """Say how good a policy is on held-out ratings, beside the baselines; also writes metrics.json into the folder."""
    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.evaluate import evaluate as evaluate_policies

    policy = load_policy(folder)
    policies, split = {policy.artifact.agent: policy}, split_of(policy, data)
    verdict = evaluate_policies(policies, split, seed=seed, out=folder)
    played = _play_sessions(policies, split, seed, folder) if policy.sequential else None
    if as_json:
        print_json({**verdict.as_dict(), **({} if played is None else {"sessions": played.as_dict()})})
        return
    print_frame(verdict.table(), f"{folder}, {_title(verdict)}")
    _print_more(verdict)
    if played is not None:
        print()
        print_frame(played.table(), _SESSIONS)


def compare(
    folders: Annotated[list[Path], typer.Argument(help="Two or more folders of trained policies.")],
    data: Data = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Put several policies into one table; all must have been fitted on the same part of the data."""
    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.evaluate import evaluate as evaluate_policies

    policies = {str(folder): load_policy(folder) for folder in folders}
    split = split_of(next(iter(policies.values())), data)
    verdict = evaluate_policies(policies, split, seed=seed)
    of_sessions = {name: policy for name, policy in policies.items() if policy.sequential}
    played = _play_sessions(of_sessions, split, seed) if of_sessions else None
    if as_json:
        print_json({**verdict.as_dict(), **({} if played is None else {"sessions": played.as_dict()})})
        return
    print_frame(verdict.table(), _title(verdict))
    _print_more(verdict)
    if played is not None:
        print()
        print_frame(played.table(), _SESSIONS)


def predict(
    folder: Folder,
    user: Annotated[list[str] | None, typer.Option("--user", "-u", help="User id; repeat for several.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All users; with --out FILE.parquet.")] = False,
    item: Annotated[list[str] | None, typer.Option("--item", "-m", help="Item id; repeat; default: all.")] = None,
    rate: Rate = None,
    shown: Shown = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a .csv or .parquet file.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="With --all: write the same as CSV, too.")] = None,
    as_json: Json = False,
) -> None:
    """Estimate ratings of a user, known or described by a few ratings; or of all users, into a file."""
    from recpolicy.inference.predictor import load_policy

    items = None if item is None else [parse_id(one) for one in item]
    if everyone:
        if user or rate or shown or as_json or out is None:
            raise typer.BadParameter("takes all users: it goes with --out, --csv and --item only", param_hint="--all")
        _predict_all(folder, items, out, csv)
        return
    if not user or csv:
        raise typer.BadParameter("name users with --user, or write all with --all --out FILE.parquet")
    users = [parse_id(one) for one in user]
    estimates = load_policy(folder).predict(users, items, _fold_in(users, rate), _history(users, shown))
    _answer(estimates, out, as_json)


def recommend(
    folder: Folder, user: Users,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    include_rated: Annotated[bool, typer.Option("--include-rated", help="Also items already rated.")] = False,
    sample: Annotated[bool, typer.Option("--sample", help="Draw a slate from the policy's probabilities.")] = False,
    rate: Rate = None,
    shown: Shown = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes ties and draws.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a .csv or .parquet file.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """List the items that the policy values most for a user."""
    from recpolicy.inference.predictor import load_policy

    users = [parse_id(one) for one in user]
    policy = load_policy(folder)
    suggestions = policy.recommend(
        users, k, not include_rated, _fold_in(users, rate), seed=seed, history=_history(users, shown), sample=sample
    )
    _answer(suggestions, out, as_json)


def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page; FOLDER/report.html when left out.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Whose suggestions are shown.")] = None,
    data: Data = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="Also what logged rounds say: folder that `recpolicy log ingest` wrote."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="With --log: folder of the policy in service; else whoever logged."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="With --log: TOML file with the table \\[gate], its limits.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write one self-contained HTML page: training, figures beside the baselines, plots, suggestions; logs and gate."""
    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.evaluate_candidate import read_trial_rounds
    from recpolicy.workflows.gate_record import limits_in
    from recpolicy.workflows.report import write_policy_report

    if log is None and (baseline or config):
        raise typer.BadParameter(
            "go with --log: without logged rounds nothing is compared", param_hint="--baseline, --config"
        )
    policy = load_policy(folder)
    page = out or folder / "report.html"
    write_policy_report(
        policy, split_of(policy, data), folder, page, user=None if user is None else parse_id(user), seed=seed,
        log=None if log is None else read_trial_rounds(log, policy),
        incumbent=None if baseline is None else load_policy(baseline), limits=limits_in(config),
    )  # fmt: skip
    print(f"report: {page}")


def _title(verdict: "HeldOutEvaluation") -> str:
    evaluation = verdict.evaluation
    return f"{evaluation.test_ratings:,} held-out ratings of {evaluation.split}"


def _print_more(verdict: "HeldOutEvaluation") -> None:
    evaluation = verdict.evaluation
    print()
    print_frame(evaluation.lists_table(), f"The {evaluation.k} best items not yet rated, all users")
    print()
    print_frame(evaluation.group_table(), "Held-out choice by group of users")


_SESSIONS = "Simulated sessions: reward of a session, 95 % intervals over users"


def _play_sessions(
    policies: "dict[str, Policy]", split: "Split", seed: int, out: Path | None = None
) -> "SessionEvaluation":
    from recpolicy.workflows.evaluate_sessions import evaluate_sessions

    return evaluate_sessions(policies, split, seed=seed, out=out)


def split_of(policy: "Policy", data: str | None) -> "Split":
    """The split that the policy was fitted on, made again from the ratings."""
    from recpolicy.core.errors import DataError
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.splits import split

    source = policy.metadata["source"] if data is None else {**(policy.metadata["source"] or {}), "source": data}
    if source is None:
        raise DataError("the policy does not say where its ratings came from; name them with --data")
    described = policy.metadata["split"]
    return split(load_ratings(**source), described["name"], described["seed"])


def _fold_in(users: list[Hashable], rate: list[str] | None) -> dict[Hashable, dict[Hashable, float]] | None:
    if not rate:
        return None
    if len(users) != 1:
        raise typer.BadParameter("ratings of a new user go with exactly one --user", param_hint="--rating")
    return {users[0]: parse_ratings(rate)}


def _history(users: list[Hashable], shown: list[str] | None) -> dict[Hashable, list[tuple[Hashable, bool]]] | None:
    if not shown:
        return None
    if len(users) != 1:
        raise typer.BadParameter("a session so far goes with exactly one --user", param_hint="--history")
    return {users[0]: parse_shown(shown)}


def _predict_all(folder: Path, items: list[Hashable] | None, out: Path, csv: Path | None) -> None:
    from recpolicy.core.errors import DataError
    from recpolicy.inference.batch_predict import predict_to_files
    from recpolicy.inference.predictor import load_policy

    if out.suffix != ".parquet":
        raise DataError(f"{out}: expected a name that ends in .parquet; --csv names a CSV file to write beside it")
    rows = predict_to_files(load_policy(folder), out, csv, items=items)
    print(f"{rows:,} rows: {', '.join(str(path) for path in (out, csv) if path)}")


def _answer(frame: Any, out: Path | None, as_json: bool) -> None:
    if out is not None:
        _write(frame, out)
        print(f"{len(frame):,} rows: {out}")
    elif as_json:
        print_json(frame.to_dict(orient="records"))
    else:
        print_frame(frame)


def _write(frame: Any, out: Path) -> None:
    from recpolicy.core.errors import DataError
    from recpolicy.core.files import atomic_path

    writers = {".csv": lambda path: frame.to_csv(path, index=False), ".parquet": lambda path: frame.to_parquet(path)}
    if out.suffix not in writers:
        raise DataError(f"{out}: expected a name that ends in .csv or .parquet")
    with atomic_path(out) as beside:
        writers[out.suffix](beside)


COMMANDS = (
    Command(evaluate, "Example:  recpolicy evaluate runs/linucb --json"),
    Command(compare, "Example:  recpolicy compare runs/linucb runs/ucb1"),
    Command(predict, "Example:  recpolicy predict runs/linucb --user 196 --item 50 --item 181"),
    Command(recommend, "Example:  recpolicy recommend runs/linucb --user newcomer --rating 50=5 --rating 258=2 -k 5"),
    Command(report, "Example:  recpolicy report runs/linucb --log rounds/week1 --baseline runs/incumbent"),
)
