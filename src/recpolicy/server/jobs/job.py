"""A job and its result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recpolicy.server.deps import AppState


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """The result of a run."""

    status: str = "done"
    """done, or skipped if there was nothing to do."""
    users: int | None = None
    """Users processed."""
    records: int | None = None
    """Records processed."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON: statistics of a training, metrics of a check."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A task that runs by name, on a schedule or by hand."""

    name: str
    description: str
    """One sentence."""
    cron: str
    """Default schedule: five fields (minute, hour, day, month, weekday; UTC), or an interval such as `@every 10s`."""
    run: Callable[[AppState, Mapping[str, Any]], JobResult]
    """Takes the state of the server and the parameters of the run; an exception fails the run."""
    parameters: type | None = None
    """Config of the parameters of a run by hand, each with a default; None: the job takes none."""
