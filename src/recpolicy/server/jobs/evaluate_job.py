"""The daily job that says what each version earned, and what the champion would have; done apart (estimating.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recpolicy.core.errors import ConfigError
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.job import Job, JobResult
from recpolicy.server.jobs.subprocess_job import run_in_subprocess

NAME = "evaluate"


@dataclass(frozen=True, kw_only=True)
class EvaluateParameters:
    """What a run by hand may ask."""

    days: float | None = None
    """Days to look at; None: as the settings say."""

    def __post_init__(self) -> None:
        if self.days is not None and not 0 < self.days <= 365:
            raise ConfigError(f"days is {self.days:g}; expected within 0 (excluded) and 365")


def evaluate(state: AppState, parameters: Mapping[str, Any]) -> JobResult:
    """Evaluate the last days apart."""
    return run_in_subprocess(state, NAME, parameters)


EVALUATE = Job(
    name=NAME,
    description="Mean rewards of the last days, and estimates of what the champion and baselines would earn.",
    cron="0 2 * * *",
    run=evaluate,
    parameters=EvaluateParameters,
)
