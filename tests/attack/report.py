"""The result of a part, and the table and the file of all results."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

MAX_RSS_MIB = 400.0
"""Largest resident memory of one server process."""
MAX_DETAILS = 20
COLUMNS = ("tries", "lost", "let in", "wrong 5xx", "dead tasks", "other", "peak RSS MiB", "verdict", "seconds")
COUNTS = ("lost", "let_in", "wrong_5xx", "dead_tasks", "other")


@dataclass
class PartResult:
    """The counts of one part."""

    part: str
    tries: int = 0
    lost: int = 0
    """Acknowledged events, feedback and changes that are not stored, or stored twice."""
    let_in: int = 0
    """Requests without the right key that an admin route answered."""
    wrong_5xx: int = 0
    """Answers with a status from 500 on that the documentation does not give for this situation."""
    dead_tasks: int = 0
    """Background tasks that ended, and servers that no longer store, learn or follow the registry."""
    other: int = 0
    """Other broken promises; `details` describes them."""
    peak_rss_mib: float = 0.0
    seconds: float = 0.0
    not_run: list[str] = field(default_factory=list)
    """Reasons why the part, or something in it, was not run."""
    figures: dict[str, object] = field(default_factory=dict)
    """Measurements by name."""
    details: list[str] = field(default_factory=list)
    """Descriptions of the first broken promises."""

    def count(self, kind: str, detail: str, number: int = 1) -> None:
        """Count broken promises of a kind (COUNTS); keep the first descriptions."""
        if number:
            setattr(self, kind, getattr(self, kind) + number)
            if len(self.details) < MAX_DETAILS:
                self.details.append(f"{kind}: {detail}"[:500])

    def require(self, condition: object, detail: str, kind: str = "other") -> None:
        """Count a broken promise unless the condition holds."""
        if not condition:
            self.count(kind, detail)

    @property
    def failed(self) -> bool:
        """True if a promise was broken."""
        return any(getattr(self, kind) for kind in COUNTS) or self.peak_rss_mib > MAX_RSS_MIB

    @property
    def verdict(self) -> str:
        """`FAIL`, `pass`, `pass in part` or `not run`."""
        if self.failed:
            return "FAIL"
        if not self.tries:
            return "not run"
        return "pass in part" if self.not_run else "pass"

    def cells(self) -> tuple[str, ...]:
        """Return the cells of COLUMNS."""
        rss = f"{self.peak_rss_mib:.0f}" if self.peak_rss_mib else "-"
        counts = (str(getattr(self, kind)) for kind in ("tries", *COUNTS))
        return *counts, rss, self.verdict, f"{self.seconds:.0f}"


def table_lines(results: Sequence[PartResult]) -> list[str]:
    """Return the lines of the table: a header, a line for each part, and their sum."""
    total = PartResult("all parts", peak_rss_mib=max((result.peak_rss_mib for result in results), default=0.0))
    for result in results:
        for name in ("tries", *COUNTS, "seconds"):
            setattr(total, name, getattr(total, name) + getattr(result, name))
        total.not_run += result.not_run
    rows = [("part", *COLUMNS), *((result.part, *result.cells()) for result in (*results, total))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def write_report(path: Path, results: Sequence[PartResult], **context: object) -> None:
    """Write all results with their verdicts as JSON."""
    parts = [asdict(result) | {"verdict": result.verdict} for result in results]
    page = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **context, "parts": parts}
    path.write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
