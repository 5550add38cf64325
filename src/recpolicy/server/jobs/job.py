"""What a job is, and what it says when it is done."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recpolicy.server.deps import AppState


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What a job did."""

    status: str = "done"
    """done, or skipped where there was nothing to do."""
    users: int | None = None
    """Users processed."""
    records: int | None = None
    """Records processed."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON: statistics of a training, figures of a check."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One thing that can be run by name."""

    name: str
    description: str
    """One sentence for people."""
    cron: str
    """Default schedule: five fields (minute, hour, day, month, weekday; UTC), or an interval such as `@every 10s`."""
    run: Callable[[AppState, Mapping[str, Any]], JobResult]
    """Given the state of the server and the parameters of this run; an exception is the job's failure."""
    parameters: type | None = None
    """Dataclass of the parameters that a run by hand may name, each with a default; None: there are none."""
