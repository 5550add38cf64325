"""`recpolicy ope`: what a log says of a policy by every estimator, and how far the estimators are to be trusted."""

from pathlib import Path
from typing import Annotated

import typer

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
    from recpolicy.api.ope import CARD_FILE, PAGE_FILE, QUICK, report_estimators
    from recpolicy.cli.output import print_frame, print_json
    from recpolicy.core.config import read_toml, reject_unknown_tables
    from recpolicy.data.load import load_ratings
    from recpolicy.data.splits import split as split_ratings

    tables = read_toml(config) if config else {}
    reject_unknown_tables(tables, ("card", "train", "rating_model"), str(config))
    settings = {**(QUICK if quick else {}), **tables.get("card", {})}
    fit = split_ratings(load_ratings(data), split, seed).fit
    card = report_estimators(
        fit, out, config=settings, train=tables.get("train"), model_config=tables.get("rating_model"), seed=seed
    )
    if as_json:
        print_json(card.as_dict())
        return
    print(f"{card.world}: {card.users:,} users, {card.actions:,} movies; the target earns {card.truth:.4f}")
    for logger in card.loggers:
        print(f"\n{logger} logging policy: {card.about_logger(logger)}")
        print_frame(card.error_table(logger), "\nRelative error (%) by log size")
        for cell in card.of(logger):
            title = f"\nCoverage (%) ± mean half-width, {cell.repetitions} logs of {cell.rounds:,} rounds"
            print_frame(card.coverage_table(logger, cell.rounds), title)
    print_frame(card.recommendations(), "\nWhich estimator for which log")
    if out is not None:
        print(f"written: {out / CARD_FILE}, {out / PAGE_FILE}")


@app.command(epilog="Example:  recpolicy ope estimate runs/linucb --log rounds/week1 --against runs/incumbent")
def estimate(
    candidate: Annotated[Path, typer.Argument(help="Folder of the policy to judge.", show_default=False)],
    log: Annotated[Path, typer.Option("--log", help="What `recpolicy log ingest` wrote: its folder or a file of it.")],
    against: Annotated[
        Path | None, typer.Option("--against", help="Folder of a policy to compare with, round by round.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with the table \\[off_policy].")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Print what every estimator says a policy would have earned, with intervals and what the log can tell."""
    from recpolicy.api.ope import estimate_policy, rounds_for
    from recpolicy.cli.output import print_frame, print_json
    from recpolicy.core.config import read_toml, reject_unknown_tables
    from recpolicy.serving.predictor import load_policy

    tables = read_toml(config) if config else {}
    reject_unknown_tables(tables, ("off_policy",), str(config))
    policy = load_policy(candidate)
    incumbent = None if against is None else load_policy(against)
    found = estimate_policy(policy, rounds_for(policy, log), incumbent, config=tables.get("off_policy"), seed=seed)
    if as_json:
        print_json(found.as_dict())
        return
    print_frame(found.estimates.table(), f"{policy.artifact.agent} on {found.log} (mean logged {found.logged:.3f})")
    if found.gains:
        print_frame(found.gain_table(), f"\nGain over {against}")
