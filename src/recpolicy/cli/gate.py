"""`recpolicy gate`: decide whether a policy may go into service. The exit code is the verdict."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recpolicy.cli.command import Command
from recpolicy.cli.evaluation import LikeModel
from recpolicy.cli.guardrail_options import ONLY_ITEMS, EvaluatedGuardrails
from recpolicy.cli.output import print_text

if TYPE_CHECKING:
    from recpolicy.data.splits import Split
    from recpolicy.evaluation.gate import Gate, GateConfig
    from recpolicy.inference.predictor import Policy

_FAILED = 1


def gate(
    candidate: Annotated[Path, typer.Argument(help="Folder of the candidate policy.")],
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            help="Folder that `recpolicy log ingest` wrote, one file of rounds, or a log of sessions. Session policies"
            " need none: they are compared in simulated sessions, too. Of a tuned layer: a log of uniform weights.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            help="Folder of the policy in service; by default the logging policy, or in sessions the greedy rating"
            " model.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file with the table \\[gate]; configs/gate.toml has all limits."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="The ratings, if their path has changed since training.")
    ] = None,
    log_only: Annotated[bool, typer.Option("--log-only", help="Evaluate on the log only.")] = False,
    group: Annotated[
        str | None,
        typer.Option("--group", help="Feature policies: context feature by whose values losses of groups are judged."),
    ] = None,
    guardrails: EvaluatedGuardrails = None,
    like_model: LikeModel = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for gate.json, gate.html and evaluation.json.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> int:
    """Gate a policy on held-out ratings, on logged rounds or sessions, and in simulated sessions.

    A policy that was trained with a like model of its own is compared in that world: give the model again, or
    `--like-model fitted` (write ./fitted for a file of that name).

    Exit code 0: pass, 1: no pass, 2: wrong input.
    """
    from recpolicy.cli.evaluation import load_training_split
    from recpolicy.cli.output import print_frame, print_json
    from recpolicy.evaluation.gate import VERDICTS, gate_tables
    from recpolicy.inference.feature_artifact import is_feature_policy
    from recpolicy.inference.feature_policy import FeaturePolicy
    from recpolicy.inference.guardrails import read_guardrails
    from recpolicy.workflows.feature_estimation import load_policies
    from recpolicy.workflows.gating import gate_candidate, gate_feature_candidate, read_gate_config

    limits = read_gate_config(config)
    rails = None if guardrails is None else read_guardrails(guardrails)
    if is_feature_policy(candidate) and data is not None:
        raise typer.BadParameter("a feature policy is gated on a log only", param_hint="--data")
    if like_model is not None and (log_only or is_feature_policy(candidate)):
        raise typer.BadParameter("is that of simulated sessions; leave it out", param_hint="--like-model")
    policy, incumbent = load_policies(candidate, baseline)
    if isinstance(policy, FeaturePolicy):
        if rails is not None:
            raise typer.BadParameter(ONLY_ITEMS, param_hint="--guardrails")
        result = gate_feature_candidate(policy, log, incumbent, limits, seed, out, group)
    else:
        if group is not None:
            raise typer.BadParameter("items are gated by groups of users; leave it out", param_hint="--group")
        split = None if log_only else load_training_split(policy, data)
        if policy.scorer.tuned:
            if like_model is not None:
                raise typer.BadParameter(
                    "the evaluation world of a layer has the fitted like model; leave it out", param_hint="--like-model"
                )
            result = _gate_layer(policy, log, baseline, rails, split, limits, seed, out)
        else:
            result = gate_candidate(policy, split, log, incumbent, limits, seed, out, rails, like_model)
    if as_json:
        print_json(result.as_dict())
    else:
        for caption, table in gate_tables(result):
            print_frame(table, caption)
            print_text()
        for note in result.notes:
            print_text(f"note: {note}\n")
        print_text(f"{VERDICTS[result.verdict]}: {candidate}" + (f", written to {out}" if out else ""))
    return 0 if result.verdict == "pass" else _FAILED


def _gate_layer(
    policy: "Policy", log: Path | None, baseline: Path | None, guardrails: object, split: "Split | None",
    limits: "GateConfig", seed: int, out: Path | None,
) -> "Gate":  # fmt: skip
    """Gate a tuned layer; its baseline is the policy below it."""
    from recpolicy.core.optional_deps import require_extra
    from recpolicy.workflows.artifacts import check_writable_folder

    for name, value in (("--baseline", baseline), ("--guardrails", guardrails)):
        if value is not None:
            raise typer.BadParameter(
                "a tuned layer is compared with the policy below it, without guardrails; leave it out", param_hint=name
            )
    require_extra("train", "the gate of a tuned layer")
    from recpolicy.workflows.layer_gating import gate_layer

    if out is not None:
        check_writable_folder(out)
    return gate_layer(policy, log, split, limits, seed, out)


COMMANDS = (
    Command(
        gate, "Example:  recpolicy gate runs/linucb2 --baseline runs/linucb --log rounds/week1 --out gates/linucb2"
    ),
)
