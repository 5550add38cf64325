"""The weekly job that fits the return-time model to the sessions of the server, in a subprocess.

Sessions are those of requests with a session id, of all versions. The file `jobs/return_model.json` in the state folder
has figures of all users together, and no user.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.config import build
from recpolicy.core.errors import DataError
from recpolicy.server.db.engine import make_engine
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.jobs import SKIPPED, JobResult
from recpolicy.server.db.session_returns import complete_sessions, read_returns
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.scheduler import Job
from recpolicy.server.jobs.subprocess_jobs import JobRequest, run_in_subprocess
from recpolicy.server.settings import SessionsConfig

RETURN_MODEL = "return_model.json"


def fit_returns(state: AppState, parameters: Mapping[str, Any]) -> JobResult:
    """Fit the model in a subprocess."""
    return run_in_subprocess(state, "fit_returns", parameters)


def fit_returns_of_server(request: JobRequest) -> JobResult:
    """Write the model of all complete sessions; skipped where too few users come back."""
    import pandas as pd

    from recpolicy.models.return_fit import fit_returns, write_return_model
    from recpolicy.models.return_time import noted_times

    gap, now = build(SessionsConfig, request.settings["sessions"], "sessions").gap_minutes, now_ms()
    engine = make_engine(request.database)
    try:
        with engine.connect() as connection:
            last = complete_sessions(connection, now - round(gap * 60_000))
            returns = read_returns(connection, last, now)
    finally:
        engine.dispose()
    user = pd.factorize(np.array([key for key, _ in last.values()], object))[0]
    end = np.array([time for _, time in last.values()], np.int64)
    try:
        fit = fit_returns(noted_times(user, end, returns))
    except DataError as error:
        return JobResult(status=SKIPPED, records=len(last), metadata={"reason": str(error)})
    write_return_model(Path(request.folder) / RETURN_MODEL, fit, "sessions of a server")
    return JobResult(users=fit.users, records=fit.sessions, metadata=fit.as_dict())


FIT_RETURNS = Job(
    name="fit_returns",
    description="Fit the days until users come back after a session, with the calibration on held-out users.",
    cron="15 4 * * sun",
    run=fit_returns,
)
