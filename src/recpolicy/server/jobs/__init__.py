"""The server's jobs: trainings, evaluations, checks, the allocation of new items, return times, and
deletion of old events."""

from collections.abc import Mapping

from recpolicy.server.jobs.drift import DRIFT
from recpolicy.server.jobs.new_item_job import ALLOCATE_NEW_ITEMS
from recpolicy.server.jobs.retention import DELETE_OLD_EVENTS
from recpolicy.server.jobs.return_job import FIT_RETURNS
from recpolicy.server.jobs.rollout_job import CHECK_ROLLOUT
from recpolicy.server.jobs.scheduler import Job
from recpolicy.server.jobs.strategy_jobs import EVALUATE_STRATEGIES, TRAIN_STRATEGIES
from recpolicy.server.jobs.subprocess_jobs import EVALUATE, RETRAIN

JOBS: Mapping[str, Job] = {
    job.name: job
    for job in (
        RETRAIN,
        EVALUATE,
        DRIFT,
        CHECK_ROLLOUT,
        DELETE_OLD_EVENTS,
        TRAIN_STRATEGIES,
        EVALUATE_STRATEGIES,
        ALLOCATE_NEW_ITEMS,
        FIT_RETURNS,
    )
}
