"""Commands that ask a trained policy: predict, recommend."""

import sys
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.command import Command
from recpolicy.cli.evaluation import Folder, Json
from recpolicy.cli.guardrail_options import parse_guardrails, warnings_on_stderr
from recpolicy.cli.ids import parse_history, parse_ids, parse_ratings
from recpolicy.cli.output import print_frame, print_json, print_text

if TYPE_CHECKING:
    from recpolicy.inference.predictor import Policy
    from recpolicy.inference.scorer import FoldIn
    from recpolicy.inference.scorer import History as SessionHistory

Users = Annotated[list[str], typer.Option("--user", "-u", help="User id; repeat for several.")]
Rating = Annotated[
    list[str] | None, typer.Option("--rating", help="ITEM=RATING of a new user (with one --user); repeat for several.")
]
History = Annotated[
    list[str] | None,
    typer.Option(
        "--history", help="ITEM=like or ITEM=skip, in order: the session so far (session policies, one --user)."
    ),
]


def predict(
    folder: Folder,
    user: Annotated[list[str] | None, typer.Option("--user", "-u", help="User id; repeat for several.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All users; with --out FILE.parquet.")] = False,
    item: Annotated[list[str] | None, typer.Option("--item", "-m", help="Item id; repeat; default: all.")] = None,
    rating: Rating = None,
    history: History = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a .csv or .parquet file.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="With --all: also write a CSV file.")] = None,
    as_json: Json = False,
) -> None:
    """Estimate the ratings of a user, known or described by a few ratings; or of all users, into a file."""
    from recpolicy.inference.predictor import load_policy

    if everyone:
        if user or rating or history or as_json or out is None:
            raise typer.BadParameter("--all can only be combined with --out, --csv and --item", param_hint="--all")
        _predict_all(folder, item, out, csv)
        return
    if not user or csv:
        raise typer.BadParameter("name users with --user, or write all with --all --out FILE.parquet")
    _check_one_user(user, rating, history)
    policy = load_policy(folder)
    users, items, known, past = _parsed(policy, user, item, rating, history)
    with _naming_the_option():
        estimates = policy.predict(users, items, known, past)
    _print_or_write(estimates, out, as_json)


def recommend(
    folder: Folder, user: Users,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Number of items (default: the policy's slate size, or 10).")
    ] = None,
    include_rated: Annotated[bool, typer.Option("--include-rated", help="Include rated items.")] = False,
    sample: Annotated[bool, typer.Option("--sample", help="Sample a slate from the policy's probabilities.")] = False,
    rating: Rating = None,
    history: History = None,
    guardrails: Annotated[
        Path | None,
        typer.Option("--guardrails", help="TOML file with the table \\[guardrails], such as a server's settings."),
    ] = None,
    diversity: Annotated[
        float | None, typer.Option("--diversity", help="Weight of dissimilar items in a list, 0 to 1.")
    ] = None,
    novelty: Annotated[
        float | None, typer.Option("--novelty", help="Weight of the penalty on popular items, 0 to 1.")
    ] = None,
    tilt: Annotated[
        list[str] | None,
        typer.Option("--tilt", help="CATEGORY=WEIGHT, -1 to 1: prefer a genre, or avoid it; repeat for several."),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            "--candidates", min=1, help="Rank only so many items: those of the highest expected rating by embeddings."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of ties and samples.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a .csv or .parquet file.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """List the best items for a user."""
    from recpolicy.inference.predictor import load_policy

    _check_one_user(user, rating, history)
    rails = parse_guardrails(guardrails, diversity, novelty, tilt)
    policy = load_policy(folder)
    users, _, known, past = _parsed(policy, user, None, rating, history)
    with _naming_the_option(), warnings_on_stderr():
        suggestions = policy.recommend(
            users, k, not include_rated, known, seed=seed, history=past, sample=sample, guardrails=rails,
            candidates=candidates,
        )  # fmt: skip
    for name, reason in suggestions.attrs.get("short", {}).items():
        print_text(f"user {name}: {reason}", file=sys.stderr)
    if out is None and not as_json:
        print_frame(_marked(suggestions))
        order = _RANDOM_ORDER if sample else _UTILITY if "weights" in suggestions.attrs else _RANK
        print_text(f"\n{order} {_session_note(suggestions)}{_NUMBERS}")
        for name, weights in suggestions.attrs.get("weights", {}).items():
            text = ", ".join(f"{head} {weight:.2f}" for head, weight in weights.items())
            failed = "; the layer failed" if name in suggestions.attrs["fallback"] else ""
            print_text(f"weights of user {name}: {text} (the policy's score has 1{failed})")
        return
    _print_or_write(suggestions, out, as_json)


_RANK = "Ranked by the policy's score without exploration (`value`, if it has one)."
_UTILITY = "Ranked by the utility under the weights that the tuned layer gives the user."
_RANDOM_ORDER = "Drawn from the probabilities, one after the other."
_NUMBERS = (
    "`probability`: of the item in a round of the exploring policy, * marks the most probable.\n"
    "`rating`: the expected rating, `std`: its standard deviation, `low` to `high`: 95 of 100 single ratings."
)


def _session_note(suggestions: Any) -> str:
    return "`session_value`: of the whole rest of the session. " if "session_value" in suggestions else ""


def _marked(suggestions: Any) -> Any:
    """Return the table for people, with an asterisk at the most probable item."""
    marks = [" *" if most else "" for most in suggestions["most_probable"]]
    texts = [f"{p:.3f}{mark}" for p, mark in zip(suggestions["probability"], marks, strict=True)]
    return suggestions.assign(probability=texts).drop(columns="most_probable")


@contextmanager
def _naming_the_option() -> Iterator[None]:
    """Add the option --rating to the error of an unknown user."""
    from recpolicy.core.errors import UnknownUserError

    try:
        yield
    except UnknownUserError as error:
        raise UnknownUserError(f"{error}: --rating ITEM=VALUE") from None


def _check_one_user(users: list[str], ratings: list[str] | None, history: list[str] | None) -> None:
    """Raise BadParameter for ratings or a session of more than one user."""
    if ratings and len(users) != 1:
        raise typer.BadParameter("ratings of a new user need exactly one --user", param_hint="--rating")
    if history and len(users) != 1:
        raise typer.BadParameter("the history of a session needs exactly one --user", param_hint="--history")


def _parsed(
    policy: "Policy", users: list[str], items: list[str] | None, ratings: list[str] | None, history: list[str] | None
) -> "tuple[list[Hashable], list[Hashable] | None, FoldIn | None, SessionHistory | None]":
    """Return user ids, item ids, ratings and session with the types of the policy's ids."""
    known_items = policy.scorer.item_ids
    user_ids = parse_ids(users, policy.scorer.user_ids)
    return (
        user_ids,
        None if items is None else parse_ids(items, known_items),
        {user_ids[0]: parse_ratings(ratings, known_items)} if ratings else None,
        {user_ids[0]: parse_history(history, known_items)} if history else None,
    )


def _predict_all(folder: Path, items: list[str] | None, out: Path, csv: Path | None) -> None:
    from recpolicy.core.errors import DataError
    from recpolicy.inference.batch_predict import predict_to_files
    from recpolicy.inference.predictor import load_policy

    if out.suffix != ".parquet":
        raise DataError(f"{out}: expected a name that ends in .parquet; --csv names an additional CSV file")
    policy = load_policy(folder)
    chosen = None if items is None else parse_ids(items, policy.scorer.item_ids)
    rows = predict_to_files(policy, out, csv, items=chosen)
    print_text(f"{rows:,} rows: {', '.join(str(path) for path in (out, csv) if path)}")


def _print_or_write(frame: Any, out: Path | None, as_json: bool) -> None:
    if out is not None:
        _write(frame, out)
        print_text(f"{len(frame):,} rows: {out}")
    elif as_json:
        print_json(frame.to_dict(orient="records"))
    else:
        print_frame(frame)


def _write(frame: Any, out: Path) -> None:
    from recpolicy.core.errors import DataError
    from recpolicy.core.files import atomic_path

    writers = {
        ".csv": lambda path: _without_formulas(frame).to_csv(path, index=False),
        ".parquet": lambda path: frame.to_parquet(path),
    }
    if out.suffix not in writers:
        raise DataError(f"{out}: expected a name that ends in .csv or .parquet")
    with atomic_path(out) as tmp:
        writers[out.suffix](tmp)


def _without_formulas(frame: Any) -> Any:
    """Return the table with text that no spreadsheet runs as a formula."""
    from recpolicy.core.text import escape_formula

    texts = [name for name in frame.columns if frame[name].dtype.kind not in "biuf"]
    return frame.assign(**{name: frame[name].map(escape_formula) for name in texts})


COMMANDS = (
    Command(predict, "Example:  recpolicy predict runs/linucb --user 196 --item 50 --item 181"),
    Command(recommend, "Example:  recpolicy recommend runs/linucb --user 196 -k 5 --diversity 0.2 --novelty 0.1"),
)
