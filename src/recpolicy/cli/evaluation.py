"""Commands that evaluate trained policies: evaluate, compare, report."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.command import Command
from recpolicy.cli.ids import parse_ids
from recpolicy.cli.output import print_frame, print_json, print_text

if TYPE_CHECKING:
    from recpolicy.data.splits import Split
    from recpolicy.inference.predictor import Policy
    from recpolicy.workflows.held_out_evaluation import HeldOutEvaluation
    from recpolicy.workflows.session_evaluation import SessionEvaluation

Folder = Annotated[Path, typer.Argument(help="Folder that `recpolicy train --out` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Sessions = Annotated[
    int | None,
    typer.Option(
        "--sessions",
        min=2,
        max=1_000_000,
        help="Number of simulated sessions in each world (default: four of each user; for bandits none).",
    ),
]
Worlds = Annotated[
    int | None,
    typer.Option(
        "--worlds",
        min=2,
        max=1_000,
        help="Number of evaluation worlds, each fitted on half of its users: limits that include the simulator's"
        " uncertainty.",
    ),
]
LikeModel = Annotated[
    str | None,
    typer.Option(
        "--like-model",
        help="Your own P(like) in place of the fitted one: module:function, or a .csv or .parquet table.",
    ),
]
Data = Annotated[str | None, typer.Option("--data", help="The ratings, if their path has changed since training.")]


def evaluate(
    folder: Folder,
    data: Data = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            help="Of a training that diverged or was interrupted: the policy at this step, or `last`; writes nothing.",
        ),
    ] = None,
    sessions: Sessions = None,
    worlds: Worlds = None,
    like_model: LikeModel = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Evaluate a policy on held-out ratings, with the baselines; also write metrics.json into its folder."""
    if checkpoint is not None:
        simulation = {"sessions": sessions, "ensemble": worlds, "like_model": like_model}
        _evaluate_checkpoint(folder, checkpoint, data, simulation, seed, as_json)
        return
    from recpolicy.core.files import write_json
    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.held_out_evaluation import METRICS_FILE
    from recpolicy.workflows.held_out_evaluation import evaluate as evaluate_policies
    from recpolicy.workflows.session_evaluation import evaluate_or_read_sessions, read_metrics

    policy = load_policy(folder)
    policies, split = {policy.artifact.agent: policy}, load_training_split(policy, data)
    stored = read_metrics(folder)
    result = evaluate_policies(policies, split, seed=seed)
    in_sessions, notes = (
        evaluate_or_read_sessions(policy, split, folder, seed, stored, sessions, worlds, like_model)
        if policy.sequential or (sessions, worlds, like_model) != (None, None, None)
        else (None, [])
    )
    write_json(folder / METRICS_FILE, _figures(result, in_sessions))  # after all that can fail
    _print_evaluation(str(folder), policy, result, in_sessions, as_json)
    for note in [] if as_json else notes:
        print_text(f"\n{note}")


def _evaluate_checkpoint(
    folder: Path, checkpoint: str, data: str | None, simulation: dict[str, Any], seed: int, as_json: bool
) -> None:
    """Evaluate the policy that an unfinished training had at a checkpoint, and print it."""
    from recpolicy.core.optional_deps import require_extra

    require_extra("train", "the policy of a checkpoint")
    from recpolicy.workflows.held_out_evaluation import evaluate as evaluate_policies
    from recpolicy.workflows.session_evaluation import evaluate_sessions
    from recpolicy.workflows.training_checkpoints import policy_of_checkpoint, read_training, work_folder

    work = work_folder(folder)
    split = _split_of(read_training(work), data)
    policy = policy_of_checkpoint(work, split, checkpoint)
    policies = {policy.artifact.agent: policy}
    result = evaluate_policies(policies, split, seed=seed)
    simulated = policy.sequential or any(value is not None for value in simulation.values())
    sessions = evaluate_sessions(policies, split, **simulation, seed=seed) if simulated else None
    _print_evaluation(f"{folder} at step {policy.metadata['training']['step']:,}", policy, result, sessions, as_json)


def _print_evaluation(
    name: str, policy: "Policy", result: "HeldOutEvaluation", sessions: "SessionEvaluation | None", as_json: bool
) -> None:
    """Print an evaluation of one policy."""
    if as_json:
        print_json(_figures(result, sessions))
        return
    print_frame(result.table(), f"{name}, {_title(result)}")
    _print_more(result, policy.artifact.agent)
    if sessions is not None:
        print_text()
        sessions.show()


def _figures(result: "HeldOutEvaluation", sessions: "SessionEvaluation | None") -> dict[str, Any]:
    """Return the figures of an evaluation as plain values."""
    return {**result.as_dict(), **({} if sessions is None else {"sessions": sessions.as_dict()})}


def compare(
    folders: Annotated[list[Path], typer.Argument(help="Two or more folders of trained policies.")],
    data: Data = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Policy or baseline that the differences are taken from (default: the first)."),
    ] = None,
    sessions: Sessions = None,
    worlds: Worlds = None,
    like_model: LikeModel = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Compare policies in one table, and each with one of them; all must be trained on the same part of the data."""
    from recpolicy.core.errors import unknown_name_error
    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.held_out_evaluation import BASELINES
    from recpolicy.workflows.held_out_evaluation import evaluate as evaluate_policies
    from recpolicy.workflows.session_evaluation import evaluate_sessions

    policies = {str(folder): load_policy(folder) for folder in folders}
    against = against or next(iter(policies))
    if against not in (*policies, *BASELINES):
        raise unknown_name_error("policy", against, [*policies, *BASELINES])
    split = load_training_split(next(iter(policies.values())), data)
    result = evaluate_policies(policies, split, seed=seed)
    of_sessions = any(policy.sequential for policy in policies.values())
    in_sessions = None
    if of_sessions or (sessions, worlds, like_model) != (None, None, None):
        in_sessions = evaluate_sessions(
            policies, split, ensemble=worlds, sessions=sessions, like_model=like_model, seed=seed
        )
    if as_json:
        differences = {
            name: result.evaluation.difference(against, name).as_dict()
            for name in result.evaluation.policies
            if name != against
        }
        body = {**result.as_dict(), "against": against, "differences": differences}
        print_json({**body, **({} if in_sessions is None else {"sessions": in_sessions.as_dict()})})
        return
    print_frame(result.table(), _title(result))
    _print_more(result, against)
    if in_sessions is not None:
        print_text()
        in_sessions.show()


def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page (default: FOLDER/report.html).")] = None,
    user: Annotated[str | None, typer.Option("--user", help="User whose recommendations the page shows.")] = None,
    data: Data = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="Folder that `recpolicy log ingest` wrote; adds an off-policy evaluation."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="With --log: folder of the policy in service (default: the logging policy)."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="With --log: TOML file with the table \\[gate], its limits.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write one self-contained HTML page: training, evaluation with the baselines, plots, recommendations, gate."""
    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.evaluation_rounds import read_gate_log
    from recpolicy.workflows.gating import read_gate_config
    from recpolicy.workflows.policy_report import write_policy_report

    if log is None and (baseline or config):
        raise typer.BadParameter(
            "need --log: without logged rounds nothing is compared", param_hint="--baseline, --config"
        )
    policy = load_policy(folder)
    page = out or folder / "report.html"
    write_policy_report(
        policy,
        load_training_split(policy, data),
        folder,
        page,
        user=None if user is None else parse_ids([user], policy.scorer.user_ids)[0],
        seed=seed,
        log=None if log is None else read_gate_log(log, policy),
        incumbent=None if baseline is None else load_policy(baseline),
        limits=read_gate_config(config),
    )
    print_text(f"report: {page}")


def _title(result: "HeldOutEvaluation") -> str:
    evaluation = result.evaluation
    return f"{evaluation.test_ratings:,} held-out ratings of {evaluation.split}"


def _print_more(result: "HeldOutEvaluation", against: str) -> None:
    evaluation = result.evaluation
    print_text()
    print_frame(
        evaluation.difference_table(against), f"Held-out choice of {against} minus that of the policy, paired by user"
    )
    print_text()
    print_frame(evaluation.lists_table(), f"The {evaluation.k} best items not yet rated, all users")
    print_text()
    print_frame(evaluation.group_table(), "Held-out choice by group of users")
    for note in result.notes:
        print_text(f"\n{note}")


def load_training_split(policy: "Policy", data: str | None) -> "Split":
    """Return the split that the policy was trained on, from the ratings."""
    return _split_of(policy.metadata, data)


def _split_of(metadata: Mapping[str, Any], data: str | None) -> "Split":
    """Return the split that the metadata of a policy or of an unfinished training name, from the ratings."""
    from inspect import signature

    from recpolicy.core.errors import DataError
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.read_options import reading_for
    from recpolicy.data.splits import split

    source, recorded = metadata.get("source"), metadata.get("split") or {}
    if data is not None:
        source = {**(source or {}), "source": data}
    if source is None:
        raise DataError("the policy does not name its ratings; give them with --data")
    unknown = set(source) - set(signature(load_ratings).parameters)
    if unknown or not {"name", "seed"} <= recorded.keys():
        raise DataError("the policy does not say how to read its ratings, or how they were split; train it again")
    with reading_for("file"):
        return split(load_ratings(**source), recorded["name"], recorded["seed"])


COMMANDS = (
    Command(evaluate, "Example:  recpolicy evaluate runs/linucb --json"),
    Command(compare, "Example:  recpolicy compare runs/linucb runs/ucb1"),
    Command(report, "Example:  recpolicy report runs/linucb --log rounds/week1 --baseline runs/incumbent"),
)
