"""All jobs by name."""

from collections.abc import Mapping

from recpolicy.server.jobs.drift import DRIFT
from recpolicy.server.jobs.evaluate_job import EVALUATE
from recpolicy.server.jobs.job import Job
from recpolicy.server.jobs.retrain_job import RETRAIN
from recpolicy.server.rollout.job import CHECK_ROLLOUT

JOBS: Mapping[str, Job] = {job.name: job for job in (RETRAIN, EVALUATE, DRIFT, CHECK_ROLLOUT)}
