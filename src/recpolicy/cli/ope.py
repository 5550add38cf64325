"""`recpolicy ope`: what a log says of a policy by every estimator, and how far the estimators are to be trusted."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from recpolicy.inference.predictor import Policy
    from recpolicy.workflows.estimate import PolicyEstimates

app = typer.Typer(help="Off-policy evaluation: judge a policy by the rounds of another.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Fixes every random draw.")]


@app.command(epilog="Example:  recpolicy ope report --quick --out runs/estimators")
def report(
    split: Annotated[str, typer.Option("--split", help="u1..u5, ua, ub, temporal, leave-last-N or random.")] = "u1",
    data: Annotated[
        str, typer.Option("--data", help="ml-100k, a MovieLens folder, or a CSV/Parquet file of ratings.")
    ] = "ml-100k",
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with the tables \\[card], \\[train], \\[rating_model].")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small logs and few of them: about a minute.")] = False,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for estimators.json and .html.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try every estimator on simulated logs whose truth is known: errors, coverage, and which to use when."""
    from recpolicy.cli.output import print_frame, print_json
    from recpolicy.core.config import read_toml, reject_unknown_tables
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.splits import split as split_ratings
    from recpolicy.workflows.estimate import CARD_FILE, PAGE_FILE, QUICK, report_estimators

    tables = read_toml(config) if config else {}
    reject_unknown_tables(tables, ("card", "train", "rating_model"), str(config))
    settings = {**(QUICK if quick else {}), **tables.get("card", {})}
    fit = split_ratings(load_ratings(data), split, seed).train
    card = report_estimators(
        fit, out, config=settings, train=tables.get("train"), model_config=tables.get("rating_model"), seed=seed
    )
    if as_json:
        print_json(card.as_dict())
        return
    print(f"{card.world}: {card.users:,} users, {card.actions:,} items; the target earns {card.truth:.4f}")
    for logging_policy in card.loggers:
        print(f"\n{logging_policy} logging policy: {card.about_logger(logging_policy)}")
        print_frame(card.error_table(logging_policy), "\nRelative error (%) by log size")
        for cell in card.of(logging_policy):
            title = f"\nCoverage (%) ± mean half-width, {cell.repetitions} logs of {cell.rounds:,} rounds"
            print_frame(card.coverage_table(logging_policy, cell.rounds), title)
    print_frame(card.recommendations(), "\nWhich estimator for which log")
    if out is not None:
        print(f"written: {out / CARD_FILE}, {out / PAGE_FILE}")


@app.command(epilog="Example:  recpolicy ope estimate runs/linucb --log rounds/week1 --baseline runs/incumbent")
def estimate(
    candidate: Annotated[Path, typer.Argument(help="Folder of the policy to judge.", show_default=False)],
    log: Annotated[
        Path,
        typer.Option(
            "--log",
            help="What `recpolicy log ingest` wrote, or a log of slates; of sessions for a policy of sessions. The"
            " folder or a file of it.",
        ),
    ],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="Folder of a policy to compare with, paired on the log.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with the table \\[off_policy].")] = None,
    act: Annotated[
        str | None,
        typer.Option(
            "--policy-mode", help="Of sessions: greedy (the default), or exploring, as the policies' artifacts say."
        ),
    ] = None,
    gamma: Annotated[
        float | None, typer.Option("--gamma", min=0, max=1, help="Of sessions: discount per step; 1 without.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Print what every estimator says a policy would have earned, with intervals and what the log can tell."""
    from recpolicy.cli.output import print_frame, print_json
    from recpolicy.core.config import read_toml, reject_unknown_tables
    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.estimate_sessions import SessionPolicyEstimates

    tables = read_toml(config) if config else {}
    reject_unknown_tables(tables, ("off_policy",), str(config))
    policies = load_policy(candidate), None if baseline is None else load_policy(baseline)
    of_sessions = {name: value for name, value in (("act", act), ("gamma", gamma)) if value is not None}
    found = _estimates(*policies, log, tables.get("off_policy"), seed, of_sessions)
    if as_json:
        print_json(found.as_dict())
        return
    how, notes = (f" ({found.act})", found.notes) if isinstance(found, SessionPolicyEstimates) else ("", ())
    print_frame(
        found.estimates.table(), f"{policies[0].artifact.agent}{how} on {found.log} (mean logged {found.logged:.3f})"
    )
    if found.gains:
        print_frame(found.gain_table(), f"\nGain over {baseline}")
    for note in notes:
        print(f"\nnote: {note}")


def _estimates(
    policy: "Policy", incumbent: "Policy | None", log: Path, config: Any, seed: int, of_sessions: dict[str, Any]
) -> "PolicyEstimates":
    """The estimates by what the log is: sessions, which alone take `of_sessions`, slates or single rounds."""
    from recpolicy.core.errors import ConfigError
    from recpolicy.data.bandit_log_files import IdVocabulary
    from recpolicy.workflows.compatibility import refuse_other_kind
    from recpolicy.workflows.estimate import estimate_policy, rounds_for
    from recpolicy.workflows.estimate_sessions import estimate_session_policy, holds_sessions, sessions_for
    from recpolicy.workflows.estimate_slates import estimate_slate_policy, holds_slates
    from recpolicy.workflows.slate_logs import read_slate_log

    sessions = holds_sessions(log)
    for one in (policy, *([] if incumbent is None else [incumbent])):
        refuse_other_kind(one, sessions, str(log))
    if sessions:
        logged = sessions_for(policy, log)
        return estimate_session_policy(policy, logged, incumbent, config=config, seed=seed, **of_sessions)
    if of_sessions:
        given = " and ".join(f"--{name}" for name in of_sessions)
        raise ConfigError(f"{log}: no log of sessions; leave out {given}, which only sessions have")
    if holds_slates(log):
        pages = read_slate_log(log, IdVocabulary.from_policy(policy))
        return estimate_slate_policy(policy, pages, incumbent, config=config, seed=seed)
    return estimate_policy(policy, rounds_for(policy, log), incumbent, config=config, seed=seed)
