"""`recpolicy ope`: off-policy evaluation of a policy on a log, and a benchmark of the estimators."""

from pathlib import Path
from typing import Annotated

import typer

from recpolicy.cli.config_tables import read_config_with_data
from recpolicy.cli.guardrail_options import ONLY_ITEMS, EvaluatedGuardrails
from recpolicy.cli.output import print_text

app = typer.Typer(help="Off-policy evaluation: evaluate a policy on the log of another.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random draw.")]


@app.command(epilog="Example:  recpolicy ope benchmark --quick --out runs/estimators")
def benchmark(
    split: Annotated[str, typer.Option("--split", help="u1..u5, ua, ub, temporal, leave-last-N or random.")] = "u1",
    data: Annotated[
        str, typer.Option("--data", help="ml-100k, a MovieLens folder, or a CSV/Parquet file of ratings.")
    ] = "ml-100k",
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="TOML file with the tables \\[data], \\[benchmark], \\[train], \\[rating_model]."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small logs and few of them: about a minute.")] = False,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for estimators.json and .html.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try every estimator on simulated logs with a known true value: errors, coverage, recommendations."""
    from recpolicy.cli.output import print_frame, print_json
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.read_options import reading_for
    from recpolicy.data.splits import split as split_ratings
    from recpolicy.workflows.estimator_benchmark import PAGE_FILE, QUICK, RESULT_FILE, benchmark_estimators

    tables, source = read_config_with_data(config, ("benchmark", "train", "rating_model"))
    settings = {**(QUICK if quick else {}), **tables.get("benchmark", {})}
    with reading_for("config", config):
        train_ratings = split_ratings(load_ratings(data, **source), split, seed).train
    result = benchmark_estimators(
        train_ratings, out, config=settings, train=tables.get("train"), model_config=tables.get("rating_model"),
        seed=seed,
    )  # fmt: skip
    if as_json:
        print_json(result.as_dict())
        return
    print_text(
        f"{result.world}: {result.users:,} users, {result.actions:,} items; target's value {result.true_value:.4f}"
    )
    for name in result.logging_policies:
        print_text(f"\n{name} logging policy: {result.describe(name)}")
        print_frame(result.error_table(name), "\nRelative error (%) by log size")
        for cell in result.get_cells(name):
            title = f"\nCoverage (%) ± mean half-width, {cell.repetitions} logs of {cell.rounds:,} rounds"
            print_frame(result.coverage_table(name, cell.rounds), title)
    print_frame(result.recommendations(), "\nRecommended estimator by kind of log")
    if out is not None:
        print_text(f"written: {out / RESULT_FILE}, {out / PAGE_FILE}")


@app.command(epilog="Example:  recpolicy ope estimate runs/linucb --log rounds/week1 --baseline runs/incumbent")
def estimate(
    candidate: Annotated[Path, typer.Argument(help="Folder of the policy to evaluate.", show_default=False)],
    log: Annotated[
        Path,
        typer.Option(
            "--log", help="Log of rounds (from `recpolicy log ingest`), slates or sessions: the folder or a file of it."
        ),
    ],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="Folder of a policy to compare with, paired on the log.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with the table \\[off_policy].")] = None,
    policy_mode: Annotated[
        str | None,
        typer.Option(
            "--policy-mode",
            help="For sessions: greedy (the default), or exploring as the artifacts say. For policies of features:"
            " exploring, as they are served (the default), or greedy.",
        ),
    ] = None,
    gamma: Annotated[
        float | None, typer.Option("--gamma", min=0, max=1, help="For sessions: discount per step; 1 by default.")
    ] = None,
    guardrails: EvaluatedGuardrails = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Estimate the value of a policy on the log of another, by every estimator, with intervals and diagnostics."""
    from recpolicy.cli.output import print_frame, print_json
    from recpolicy.core.config import read_toml, reject_unknown_tables
    from recpolicy.inference.feature_policy import FeaturePolicy
    from recpolicy.inference.guardrails import read_guardrails
    from recpolicy.workflows.feature_estimation import FeatureEstimates, estimate_features, load_policies
    from recpolicy.workflows.policy_estimation import PolicyEstimates
    from recpolicy.workflows.policy_estimation import estimate as estimate_policy

    tables = read_toml(config) if config else {}
    reject_unknown_tables(tables, ("off_policy",), str(config))
    rails = None if guardrails is None else read_guardrails(guardrails)
    policy, incumbent = load_policies(candidate, baseline)
    settings = tables.get("off_policy")
    result: PolicyEstimates
    if isinstance(policy, FeaturePolicy):
        if gamma is not None:
            raise typer.BadParameter("only for logs of sessions; leave it out", param_hint="--gamma")
        if rails is not None:
            raise typer.BadParameter(ONLY_ITEMS, param_hint="--guardrails")
        result = estimate_features(policy, log, incumbent, policy_mode=policy_mode, config=settings, seed=seed)
    else:
        result = estimate_policy(
            policy, log, incumbent, policy_mode=policy_mode, gamma=gamma, guardrails=rails, config=settings, seed=seed
        )
    if as_json:
        print_json(result.as_dict())
        return
    agent = policy.agent if isinstance(policy, FeaturePolicy) else policy.artifact.agent
    title = f"{agent} ({result.policy_mode}) on {result.log} (mean logged {result.logged_value:.3f})"
    print_frame(result.estimates.table(), title)
    if isinstance(result, FeatureEstimates):
        print_frame(result.baseline_table(), "\nDifference to the baselines, by the doubly robust estimator")
    if result.differences:
        print_frame(result.difference_table(), f"\nDifference to {baseline}")
    for note in result.notes:
        print_text(f"\nnote: {note}")
