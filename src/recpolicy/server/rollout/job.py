"""The job that moves rollouts on."""

from recpolicy.server.jobs.job import Job
from recpolicy.server.rollout.check import check_rollout

CHECK_ROLLOUT = Job(
    name="check_rollout",
    description="Moves the rollout under way a stage on, promotes its challenger or rolls it back.",
    cron="@every 10s",
    run=check_rollout,
)
