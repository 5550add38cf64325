"""The jobs of the strategy engine: the weekly training and the daily evaluation, each in a subprocess."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from recpolicy.core.config import Count, config_dataclass
from recpolicy.server.db.jobs import SKIPPED, JobResult
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.scheduler import Job
from recpolicy.server.jobs.subprocess_jobs import run_in_subprocess

_OFF = "this server serves no strategies: [strategies] enabled is false"


@config_dataclass
class TrainStrategiesParameters:
    """Parameters of a training by hand; None: as in the settings."""

    days_back: Annotated[float, Field(gt=0, le=365)] | None = None
    min_interactions_per_user: Count | None = None
    min_interactions: Count | None = None


@config_dataclass
class EvaluateStrategiesParameters:
    """Parameters of an evaluation by hand."""

    test_days: Annotated[float, Field(gt=0, le=365)] | None = None
    """Days that the evaluation covers; None: as in the settings."""


def train_strategies(state: AppState, parameters: Mapping[str, Any]) -> JobResult:
    """Train, register and promote the next version of the strategies, and serve it in this process at once."""
    if state.strategies is None:
        return JobResult(status=SKIPPED, metadata={"reason": _OFF})
    result = run_in_subprocess(state, "train_strategies", parameters)
    state.strategies.refresh()
    return result


def evaluate_strategies(state: AppState, parameters: Mapping[str, Any]) -> JobResult:
    """Report the mean reward and the like rate of the last days."""
    if state.strategies is None:
        return JobResult(status=SKIPPED, metadata={"reason": _OFF})
    return run_in_subprocess(state, "evaluate_strategies", parameters)


TRAIN_STRATEGIES = Job(
    name="train_strategies",
    description="Let the strategies learn from the new events of the last days, and serve the new version.",
    cron="0 1 * * mon",
    run=train_strategies,
    parameters=TrainStrategiesParameters,
)
EVALUATE_STRATEGIES = Job(
    name="evaluate_strategies",
    description="Compute the mean reward and the like rate of strategies in the last days, by kind of content.",
    cron="30 2 * * *",
    run=evaluate_strategies,
    parameters=EvaluateStrategiesParameters,
)
