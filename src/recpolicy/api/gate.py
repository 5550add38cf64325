"""A gate over a judgement on disk: its record as JSON, and as a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from recpolicy.api.judge import read_judgement
from recpolicy.core.config import build
from recpolicy.core.extras import require_extra
from recpolicy.core.files import file_digest, read_json_of, write_json
from recpolicy.evaluation.gate import Gate, GateConfig, gate

RECORD_FORMAT, RECORD_VERSION = "recpolicy gate", 1


def gate_judgement(judgement: Path, settings: Mapping[str, Any] | None = None) -> Gate:
    """Hold the judgement in the file against the limits; raises ConfigError for settings unknown or out of range."""
    config = build(GateConfig, settings or {}, "gate")
    body = read_judgement(judgement)
    result = gate(body, config)
    return Gate(
        result.verdict, result.criteria, result.reasons, result.config,
        {**result.policy, "judgement": file_digest(judgement)},
    )  # fmt: skip


def write_gate(result: Gate, record: Path, page: Path | None = None) -> None:
    """Write the record as JSON and, for people, as a page."""
    write_json(record, {"format": RECORD_FORMAT, "version": RECORD_VERSION, **result.as_dict()})
    if page is None:
        return
    require_extra("train", "the page of a gate")
    from recpolicy.evaluation.report import ReportContent, write_report

    words = {"pass": "PASS", "fail": "FAIL", "no_verdict": "NO VERDICT"}
    reasons = pd.DataFrame(
        {"reason": list(result.reasons)}, index=pd.RangeIndex(1, len(result.reasons) + 1, name="no.")
    )
    tables = [("Criteria", result.table())] + ([("Not kept", reasons)] if result.reasons else [])
    content = ReportContent(
        title=f"Gate: {words[result.verdict]}",
        summary=[(key, str(value)) for key, value in result.policy.items()],
        tables=tables,
        notes=[
            "A gain counts by the lower end of its 95 % interval over users. Where the logged rounds say too little,"
            " there is no verdict, and nothing is promoted."
        ],
    )
    write_report(page, content)


def read_gate(record: Path) -> dict[str, Any]:
    """Read a gate record; raises ArtifactError for any other file."""
    return read_json_of(record, RECORD_FORMAT, RECORD_VERSION)
