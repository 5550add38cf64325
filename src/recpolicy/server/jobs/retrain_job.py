"""The weekly job that trains the champion on with what came since it was trained; it never promotes.

The work is done apart (training.py). A version that passed its gate is rolled out only where the settings say so.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recpolicy.core.errors import RecpolicyError
from recpolicy.server.db.audit import SERVER
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.job import Job, JobResult
from recpolicy.server.jobs.subprocess_job import run_in_subprocess

logger = logging.getLogger(__name__)

NAME = "retrain"


@dataclass(frozen=True, kw_only=True)
class RetrainParameters:
    """What a run by hand may say otherwise than the settings."""

    min_interactions_per_user: int | None = None
    min_interactions: int | None = None
    epochs: int = 1
    seed: int = 0


def retrain(state: AppState, parameters: Mapping[str, Any]) -> JobResult:
    """Train, gate and register apart; then start the rollout of what passed, where that is wanted."""
    result = run_in_subprocess(state, NAME, parameters)
    number, verdict = result.metadata.get("version"), result.metadata.get("gate", {}).get("verdict")
    if not state.settings.jobs.auto_rollout or number is None or verdict != "pass":
        return result
    return JobResult(
        status=result.status, users=result.users, records=result.records,
        metadata={**result.metadata, "rollout": _roll_out(state, int(number))},
    )  # fmt: skip


def _roll_out(state: AppState, number: int) -> str:
    """Start a rollout; returns started, or why not."""
    from recpolicy.server.rollout import controller

    try:
        controller.start(state, number, actor=SERVER)
    except RecpolicyError as error:  # such as another rollout under way: the new version is there all the same
        logger.warning("version %d is not rolled out: %s", number, error)
        return f"not started: {error}"
    return "started"


RETRAIN = Job(
    name=NAME, description="Trains the champion on with new feedback, gates and registers the new version.",
    cron="0 1 * * mon", run=retrain, parameters=RetrainParameters,
)  # fmt: skip
