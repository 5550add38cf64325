"""Split a session log by time: sessions to learn from, and the latest ones, which only evaluation sees.

The files have the names of an ingested log of rounds, and the format of session logs. N steps, M sessions.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import EVALUATION, TRAINING
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_log_files import SESSIONS, is_session_log, read_sessions, write_sessions


@dataclass(frozen=True)
class SessionIngestReport:
    """Counts of a session log that was split."""

    sessions: int
    steps: int
    training: int
    """Sessions to learn from."""
    evaluation: int
    """Sessions that only evaluation sees, all of which ended later."""
    returned: int | None = None
    """Sessions with a return; None for a log without return times."""
    censored: int | None = None
    """Sessions without a return."""
    users_without_return: int | None = None
    """Users none of whose sessions has a return."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def find_sessions(path: Path, ingested: str = EVALUATION) -> Path | None:
    """Return the file of sessions at a path, which may be the file or its folder; None if there is none.

    Args:
        path: A file, or the folder of a session log, ingested or not.
        ingested: The file of an ingested log: TRAINING or EVALUATION.
    """
    if not path.is_dir():
        return path if is_session_log(path) else None
    if (path / SESSIONS).is_file():
        return path / SESSIONS
    return path / ingested if (path / ingested).is_file() and is_session_log(path / ingested) else None


def split_sessions(log: SessionLog, share: float) -> tuple[SessionLog, SessionLog]:
    """Return the earlier sessions and the latest `share` of them, by their last step; equal times stay together."""
    last = log.time[log.start[1:] - 1]
    boundary = np.quantile(last, 1 - share, method="lower")
    return log.select_sessions(last <= boundary), log.select_sessions(last > boundary)


def ingest_sessions(folder: Path, out: Path, tables: IdVocabulary, share: float) -> SessionIngestReport:
    """Check a session log and write its sessions for training and for evaluation to the existing folder `out`.

    Args:
        folder: The folder of the log.
        out: The folder for the two files.
        tables: The users and items that the log may have.
        share: Share of the sessions, the latest, for evaluation only.

    Raises:
        DataError: The log is wrong, or no session is left for evaluation; names the file.
    """
    log = read_sessions(folder / SESSIONS, tables)
    train, evaluation = split_sessions(log, share)
    if share > 0 and not len(evaluation):
        raise DataError(
            f"{folder}: {len(log.length)} sessions, the latest {share:.0%} of them for evaluation: none is left for"
            " evaluation; log more sessions or raise evaluation_share"
        )
    write_sessions(out / TRAINING, train, tables)
    if len(evaluation):
        write_sessions(out / EVALUATION, evaluation, tables)
    counts = len(log.length), len(log), len(train.length), len(evaluation.length)
    if log.returns is None:
        return SessionIngestReport(*counts)
    back = int(log.returns.returned.sum())
    return SessionIngestReport(*counts, back, counts[0] - back, log.returns.without_return(log.session_user))
