"""The log that counts in an evaluation: read rounds or sessions, and choose a part of the users."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError, unknown_name_error
from recpolicy.core.seeds import generator
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import EVALUATION
from recpolicy.data.session_ingest import find_sessions
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_log_files import read_sessions
from recpolicy.inference.predictor import Policy
from recpolicy.workflows.interaction_logs import read_rounds

ALL_USERS, USER_HALVES = "all", ("selection", "gate")
"""Users whose rounds count in an evaluation; a sweep chooses on one half and gates on the other."""
_OF_SESSIONS = "a log of sessions; expected rounds. Use recpolicy ope estimate --log for session policies"


def read_evaluation_rounds(path: Path, policy: Policy) -> BanditLog:
    """Return the rounds for evaluation from a file, or from the folder that `recpolicy log ingest` wrote.

    Args:
        path: A file of rounds, or the folder of an ingested log.
        policy: The policy whose ids the rounds use.

    Returns:
        The rounds, in order of time.

    Raises:
        DataError: The log is one of sessions, a raw log, or wrong.
    """
    if is_log_of_sessions(path):
        raise DataError(f"{path}: {_OF_SESSIONS}")
    if path.is_dir():
        if not (path / EVALUATION).is_file():
            raise DataError(
                f"{path}: no {EVALUATION} in this folder; turn a raw log into rounds first: recpolicy log ingest"
            )
        path = path / EVALUATION
    return read_rounds(path, IdVocabulary.from_policy(policy))


def is_log_of_sessions(path: Path) -> bool:
    """Return True for a session log: a file, or a folder with one, ingested or not."""
    return find_sessions(path) is not None


def read_gate_log(path: Path, policy: Policy) -> BanditLog | SessionLog:
    """Return the rounds or the sessions for evaluation; raises what `read_evaluation_rounds` and `read_sessions` do."""
    sessions = find_sessions(path)
    if sessions is None:
        return read_evaluation_rounds(path, policy)
    return read_sessions(sessions, IdVocabulary.from_policy(policy))


def rounds_of_users(log: BanditLog | SessionLog, users: str) -> BanditLog | SessionLog:
    """Return the rounds or sessions of all users, or of one half of them, drawn at random but always the same.

    A choice on the rounds of one half has no influence on the rounds of the other, because users are independent. If
    the unit of the log is the round, the halves are of rounds.

    Args:
        log: The rounds or sessions.
        users: ALL_USERS or one of USER_HALVES.

    Raises:
        ConfigError: `users` is unknown.
        DataError: The half has no rounds or sessions.
    """
    if users == ALL_USERS:
        return log
    if isinstance(log, SessionLog):
        counted = chosen_users(int(log.user.max()) + 1, users)[log.user[log.start[:-1]]]
        if not counted.any():
            raise DataError(f"{log.name}: no sessions of the users for {users}; a sweep needs a log of more users")
        return log.select_sessions(counted)
    rows = np.flatnonzero(chosen_users(int(log.units.max()) + 1, users)[log.units])
    if not len(rows):
        raise DataError(f"{log.name}: no rounds of the users for {users}; a sweep needs a log of more users")
    return log.select(rows, log.name)


def chosen_users(count: int, users: str) -> NDArray[np.bool_]:
    """Return True for the users of a part; raise ConfigError for an unknown part.

    Args:
        count: Number U of users; the part of a user does not depend on it.
        users: ALL_USERS or one of USER_HALVES.

    Returns:
        [U], True for the users that count.
    """
    if users == ALL_USERS:
        return np.ones(count, bool)
    if users not in USER_HALVES:
        raise unknown_name_error("part of the users", users, (ALL_USERS, *USER_HALVES))
    first_half = generator(0, "sweep/users").random(count) < 1 / 2
    return np.asarray(first_half == (users == USER_HALVES[0]))
