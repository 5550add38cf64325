"""Time limits for the statements of a server, so that a database that hangs counts as down.

PostgreSQL ends statements and waits for locks. The kernel ends connections to hosts that are gone. This process ends
all other waits, such as those for a stopped database whose kernel still answers. For SQLite, only the wait for another
process's lock has a limit (engine.py). So the writer also watches its commits (writer.py).
"""

from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

if TYPE_CHECKING:
    from psycopg import Connection

_STATEMENT, _WAIT = 3.0, 4.0
"""Limits of a statement and of a wait, in units of the time limit of a commit; some jobs read for seconds."""


def postgresql_options(seconds: float) -> dict[str, Any]:
    """Return the connection parameters of PostgreSQL that limit statements, waits for locks, and dead connections."""
    ms = round(1e3 * seconds)
    return {
        "options": f"-c statement_timeout={round(_STATEMENT * ms)} -c lock_timeout={ms}",
        "tcp_user_timeout": 2 * ms,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
    }


def limit_waits(engine: Engine, seconds: float) -> None:
    """End every wait of this process for PostgreSQL by an error that closes the connection.

    Args:
        engine: The engine of a PostgreSQL database.
        seconds: Time limit of a commit.
    """
    from psycopg import Connection, OperationalError
    from psycopg.errors import _WaitTimeout

    limit = _WAIT * seconds

    class LimitedConnection(Connection[Any]):
        """A connection whose waits end."""

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            """Wait for the server; raises OperationalError after the time limit."""
            try:
                return super().wait(gen, interval, limit if timeout is None else timeout)
            except _WaitTimeout:
                if timeout is not None:
                    raise
                self.close()
                raise OperationalError(f"the server did not answer within {limit:g} s") from None

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> "Connection[Any]":
        return LimitedConnection.connect(*arguments, **parameters)
