"""A gate over an evaluation: its record as JSON, and as a page."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from recpolicy.core.config import build, read_toml, reject_unknown_tables
from recpolicy.core.files import file_digest, read_versioned_json, write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.data.splits import Split
from recpolicy.evaluation.gate import Gate, GateConfig, gate
from recpolicy.inference.predictor import Policy
from recpolicy.registry.version_files import migrate_gate
from recpolicy.workflows.artifacts import refuse_file
from recpolicy.workflows.evaluate_candidate import (
    evaluate_candidate,
    read_candidate_evaluation,
    read_trial_rounds,
    write_candidate_evaluation,
)

RECORD_FORMAT, RECORD_VERSION = "recpolicy gate", 2
JUDGEMENT_FILE, RECORD_FILE, PAGE_FILE = "evaluation.json", "gate.json", "gate.html"
OFF = "off"
"""No limit, in files that cannot say null."""
VERDICTS = {"pass": "PASS", "fail": "FAIL", "no_verdict": "NO VERDICT"}
Tables = list[tuple[str, pd.DataFrame]]


def gate_evaluation(evaluation: Path, settings: Mapping[str, Any] | None = None) -> Gate:
    """Hold the evaluation in the file against the limits; raises ConfigError for settings unknown or out of range."""
    config = limits(settings)
    result = gate(read_candidate_evaluation(evaluation), config)
    return replace(result, policy={**result.policy, "evaluation": file_digest(evaluation)})


def limits(settings: Mapping[str, Any] | None = None, where: str = "gate") -> GateConfig:
    """Limits from plain values; None and "off" switch a criterion off. Raises ConfigError."""
    chosen = {name: None if value == OFF else value for name, value in (settings or {}).items()}
    return build(GateConfig, chosen, where)


def limits_in(config: Path | None) -> GateConfig:
    """Limits from the table [gate] of a TOML file; the defaults without one. Raises ConfigError."""
    tables = read_toml(config) if config else {}
    reject_unknown_tables(tables, ("gate",), str(config))
    return limits(tables.get("gate"), f"{config}: gate")


def gate_tables(result: Gate) -> Tables:
    """The criteria, what was not kept, and the figures without a limit, each with its caption."""
    reasons = pd.DataFrame(
        {"reason": list(result.reasons)}, index=pd.RangeIndex(1, len(result.reasons) + 1, name="no.")
    )
    figures = pd.DataFrame(
        {"figure": [f"{one:.4g}" for one in result.figures.values()]},
        index=pd.Index(list(result.figures), name="reported without a limit"),
    )
    tables = [(f"Gate: {VERDICTS[result.verdict]}", result.table())]
    tables += [("Not kept", reasons)] if result.reasons else []
    return tables + ([("Beside the gate", figures)] if result.figures else [])


def write_gate(result: Gate, record: Path, page: Path | None = None) -> None:
    """Write the record as JSON and, for people, as a page."""
    write_json(record, {"format": RECORD_FORMAT, "version": RECORD_VERSION, **result.as_dict()})
    if page is None:
        return
    require_extra("train", "the page of a gate")
    from recpolicy.evaluation.report_page import ReportContent, write_report
    from recpolicy.workflows.evaluation_page import policy_summary

    content = ReportContent(
        title=f"Gate: {VERDICTS[result.verdict]}",
        summary=policy_summary(result.policy),
        tables=gate_tables(result),
        notes=[
            "A gain counts by the lower end of its 95 % interval over users. Where the logged rounds say too little,"
            " there is no verdict, and nothing is promoted."
        ],
    )
    write_report(page, content)


def read_gate(record: Path) -> dict[str, Any]:
    """Read a gate record; raises ArtifactError for any other file."""
    return read_versioned_json(record, RECORD_FORMAT, RECORD_VERSION, {1: lambda body: migrate_gate(body) or {}})


def gate_files(
    policy: Policy, split: Split | None, log: Path, incumbent: Policy | None, config: GateConfig, seed: int = 0,
    out: Path | None = None,
) -> Gate:  # fmt: skip
    """Evaluate the policy on held-out ratings (if any) and on the rounds in `log`, and gate it.

    With `out`, the folder gets evaluation.json, gate.json and gate.html, all of them after the verdict.
    """
    if out is not None:
        refuse_file(out)
    rounds = read_trial_rounds(log, policy)
    evaluation = evaluate_candidate(policy, split, rounds, incumbent, seed)
    result = gate(evaluation.as_dict(), config)
    if out is not None:
        write_candidate_evaluation(evaluation, out / JUDGEMENT_FILE)
        result = replace(result, policy={**result.policy, "evaluation": file_digest(out / JUDGEMENT_FILE)})
        write_gate(result, out / RECORD_FILE, out / PAGE_FILE)
    return result
