"""A pipeline run on this machine: its steps, their states and their artifacts."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from recpolicy.pipelines.outcome import RunOutcome

LOGS, RUN_LOG, PAGES = "logs", "run.log", "pages"
_EXCEPTION = re.compile(r"(?:[a-z_]\w*\.)*([A-Z]\w*(?:Error|Exception|Interrupt)\b.*)")


@dataclass
class Step:
    """One step of a run."""

    name: str
    state: str = "running"
    """running, done, cached, failed, skipped, retrying or killed."""
    started: float = 0.0
    """Seconds since 1970."""
    seconds: float = 0.0
    log: str = ""
    """Path of the step's log; empty if it has none."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """Output name to path."""


@dataclass(frozen=True)
class PipelineRun:
    """A finished run."""

    pipeline: str
    folder: Path
    parameters: Mapping[str, Any]
    state: str
    """done, failed or killed."""
    seconds: float
    steps: tuple[Step, ...]
    note: str = ""
    """Why the cache answered no step; empty if it could."""

    @property
    def failed(self) -> Step | None:
        """The first step that failed."""
        return next((step for step in self.steps if step.state == "failed"), None)

    def artifact(self, step: str, name: str) -> Path:
        """Return the path of a step's output; raise KeyError for an unknown step or output."""
        for item in self.steps:
            if item.name == step and name in item.artifacts:
                return Path(item.artifacts[name])
        known = [f"{item.name}/{key}" for item in self.steps for key in item.artifacts]
        raise KeyError(f"{step}/{name}; the run has {', '.join(known)}")

    @cached_property
    def outcome(self) -> RunOutcome:
        """The verdict of the gate, the registration and the winner of a sweep."""
        return RunOutcome.from_artifacts({step.name: step.artifacts for step in self.steps})

    @property
    def pages(self) -> list[Path]:
        """The steps' pages as .html files."""
        return sorted((self.folder / PAGES).glob("*.html"))

    @property
    def failure(self) -> str:
        """One line: the failed step, its error and its log (the log of the run if no step failed)."""
        step = self.failed
        path = Path(step.log) if step is not None and step.log else self.folder / LOGS / RUN_LOG
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        errors = [match[1] for line in lines if (match := _EXCEPTION.match(line.strip()))]
        reason = f": {errors[-1]}" if errors else ""
        return f"{f'step {step.name}' if step else f'run {self.pipeline}'} {self.state}{reason}; its log: {path}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        steps = [asdict(step) for step in self.steps]
        return {**asdict(self), "folder": str(self.folder), "steps": steps, "outcome": asdict(self.outcome)}
