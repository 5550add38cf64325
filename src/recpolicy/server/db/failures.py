"""The two kinds of database failures: it refuses some values, or it is down.

Everything counts as down that is not known to be a refusal. After a refusal the other rows are stored; while the
database is down, all rows wait.
"""

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError

_DATATYPE_MISMATCH = "42804"
_DISK_FULL = "53100"
_NO_TABLE = "42P01"


def refuses_values(error: Exception) -> bool:
    """Return True if the database or its driver refuses the values of a statement.

    An exception that is not the driver's comes from a value that the driver cannot encode.
    """
    if not isinstance(error, DBAPIError):
        return isinstance(error, (ValueError, TypeError, OverflowError))
    if error.connection_invalidated:
        return False
    if isinstance(error, (IntegrityError, DataError)):
        return True
    if not isinstance(error, (InterfaceError, ProgrammingError)):
        return False
    state = getattr(error.orig, "sqlstate", "none")
    if state == "none":  # SQLite
        return "bind" in str(error.orig)
    return state in (None, _DATATYPE_MISMATCH)  # without a state, PostgreSQL's driver has raised it


def failure_reason(error: BaseException) -> str:
    """Return the reason of a failed statement as a message for any caller: without addresses and paths."""
    original = error.orig if isinstance(error, DBAPIError) else None
    text, state = str(original), getattr(original, "sqlstate", None)
    if state == _DISK_FULL or "database or disk is full" in text:
        return "the disk of the database is full"
    if state == _NO_TABLE or "no such table" in text:
        return "the database has no tables of recpolicy"
    if "disk I/O error" in text:
        return "the disk of the database fails"
    if "database is locked" in text:
        return "another process locks the database"
    if "readonly database" in text or "read-only transaction" in text:
        return "the database is read-only"
    return "the database does not answer"
