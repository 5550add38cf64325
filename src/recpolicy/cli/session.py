"""`recpolicy session`: what a policy does with the history of a session, and when users come back after it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recpolicy.cli.evaluation import LikeModel
from recpolicy.cli.output import print_frame, print_json, print_text

if TYPE_CHECKING:
    from recpolicy.evaluation.history_influence import HistoryInfluence

app = typer.Typer(
    help="Replay logged sessions with a policy; measure what its choices depend on, and when users come back.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(help="Folder of a trained policy.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command(epilog="Example:  recpolicy session replay runs/dqn --log logs/sessions --session 4f1c22aa-0000012")
def replay(
    folder: Folder,
    log: Annotated[
        Path,
        typer.Option(
            "--log", help="File `sessions.parquet`, or the folder of `log export` or `log simulate --sessions`."
        ),
    ],
    session: Annotated[
        str | None, typer.Option("--session", help="Id of the session (default: the first one of the log).")
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", help="greedy: the policy's best item; exploring: its most probable one.")
    ] = "greedy",
    data: Annotated[
        str | None, typer.Option("--data", help="The ratings, if their path has changed since training.")
    ] = None,
    like_estimates: Annotated[
        bool, typer.Option("--like-estimates/--no-like-estimates", help="Fit a model of the responses for P(like).")
    ] = True,
    like_model: LikeModel = None,
    as_json: Json = False,
) -> None:
    """Play one logged session with another policy: at each step the logged item and the policy's choice.

    Each step keeps the logged history: a row is one deviation, not a session as the policy would have led it.
    """
    from recpolicy.cli.evaluation import load_training_split
    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.session_what_if import fit_response_model, read_session, replay_session

    policy = load_policy(folder)
    logged = read_session(log, session, policy)
    responses = fit_response_model(policy, load_training_split(policy, data), like_model) if like_estimates else None
    result = replay_session(policy, logged, responses, mode)
    if as_json:
        print_json(result.as_dict())
        return
    print_frame(
        result.table(),
        f"Session {result.session} of user {result.user}, logged by {result.logged_by}: what if {folder}",
    )
    for note in result.notes:
        print_text(f"\n{note}")


@app.command(epilog="Example:  recpolicy session influence runs/dqn --items-shown 5 --plot influence.svg")
def influence(
    folder: Folder,
    items_shown: Annotated[int, typer.Option("--items-shown", min=1, help="Items of one genre in a history.")] = 5,
    users: Annotated[int, typer.Option("--users", min=2, help="Number of users, drawn at random.")] = 200,
    mode: Annotated[
        str, typer.Option("--mode", help="exploring: probabilities with exploration; greedy: without.")
    ] = "exploring",
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the plot: a .svg or .png file.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the users and the intervals.")] = 0,
    as_json: Json = False,
) -> None:
    """Show how a policy's choices depend on the history: likes or skips of one genre against an empty history."""
    from recpolicy.core.errors import DataError
    from recpolicy.evaluation.history_influence import history_influence
    from recpolicy.inference.predictor import load_policy

    if plot is not None and plot.suffix not in (".svg", ".png"):
        raise DataError(f"{plot}: expected a name that ends in .svg or .png")
    result = history_influence(load_policy(folder), items_shown, users, mode, seed)
    if plot is not None:
        _write_plot(result, plot)
    if as_json:
        print_json(result.as_dict())
        return
    print_frame(result.table(), f"Probability of a genre after {items_shown} of its items, {result.users} users")
    print_text(f"\nmean total variation against an empty history: {result.distance:.4f}")
    if result.distance == 0:
        print_text("The history has no influence: this policy chooses by the user alone.")
    if plot is not None:
        print_text(f"plot: {plot}")


@app.command("fit-returns", epilog="Example:  recpolicy session fit-returns logs/sessions --out returns.json")
def fit_returns(
    log: Annotated[Path, typer.Argument(help="File `sessions.parquet`, or its folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file for the model and its figures.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the held-out half and the intervals.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit the days until users come back to a log, and compare them with those of held-out users.

    A log without the columns days_to_return and returned is joined by user, and ends with its last step.
    """
    from recpolicy.data.session_ingest import find_sessions
    from recpolicy.data.session_log_files import SESSIONS, own_vocabulary, read_sessions
    from recpolicy.models.return_fit import fit_returns as fit_them
    from recpolicy.models.return_fit import write_return_model
    from recpolicy.models.return_time import RETURN_DAYS, return_times_of_log
    from recpolicy.workflows.artifacts import check_absent

    check_absent(out)
    path = find_sessions(log) or (log / SESSIONS if log.is_dir() else log)
    fit = fit_them(return_times_of_log(read_sessions(path, own_vocabulary(path))), seed)
    write_return_model(out, fit, str(log))
    if as_json:
        print_json(fit.as_dict())
        return
    model, checked = fit.model, fit.calibration
    print_text(
        f"{fit.sessions:,} sessions of {fit.users:,} users, {fit.users_without_return:,} of them without any return;"
        f" of sessions followed for {RETURN_DAYS} days: {model.gaps:,} returns within {RETURN_DAYS} days,"
        f" {model.late:,} later, {model.censored:,} censored"
    )
    print_text(f"log-odds of a return per day: mean {model.mean:.3f}, standard deviation over users {model.std:.3f}")
    print_text(
        f"calibration on {checked.users:,} held-out users, first return of each: mean days"
        f" {checked.predicted_days:.2f} predicted, {checked.observed_days:.2f} observed;"
        f" day 1 {checked.predicted_day_1:.3f} and {checked.observed_day_1:.3f}; distribution functions differ by"
        f" {checked.ks:.3f} at most"
    )
    for days, rate in fit.rates.items():
        print_text(f"return rate within {days} days, of sessions followed so long: {rate}")
    for note in fit.notes:
        print_text(f"note: {note}")
    print_text(f"written: {out}")


def _write_plot(result: "HistoryInfluence", path: Path) -> None:
    from recpolicy.core.files import atomic_path
    from recpolicy.core.optional_deps import require_extra

    require_extra("report", "a plot")
    from recpolicy.evaluation.plots import history_influence_figure

    with atomic_path(path) as temporary:
        history_influence_figure(result).savefig(temporary, format=path.suffix[1:])
