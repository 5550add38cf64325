"""How errors are answered: {"error": {"code", "message"}}, and what each code means."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from recpolicy.core.errors import ConfigError, DataError, RecpolicyError, StoreError, UnknownIdError
from recpolicy.server.db.writer import QueueFullError
from recpolicy.server.middleware import error_response, internal_error
from recpolicy.server.schemas.responses import ErrorResponse

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The body is not JSON (`invalid_request`)."},
    404: {"model": ErrorResponse, "description": "A user or item is not known (`unknown_id`)."},
    413: {"model": ErrorResponse, "description": "The body is too large (`too_large`)."},
    422: {"model": ErrorResponse, "description": "The request is not as described (`invalid_request`, `refused`)."},
    429: {"model": ErrorResponse, "description": "Too much at once (`busy`, `rate_limited`); see Retry-After."},
    503: {"model": ErrorResponse, "description": "The store does not answer (`store_down`); see Retry-After."},
}


def handle_errors(app: FastAPI) -> None:
    """Make the app answer every error in the one shape."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_such)
    for kind in (DataError, ConfigError):
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(StoreError, _store)
    for silence in (OperationalError, PoolTimeoutError):
        app.add_exception_handler(silence, _database)
    app.add_exception_handler(Exception, _failed)


def response_to_error(error: RequestValidationError | DataError | ConfigError | StoreError) -> Response:
    """What the app would answer to an error that was raised on the way to it."""
    if isinstance(error, RequestValidationError):
        return _invalid(None, error)
    return _store(None, error) if isinstance(error, StoreError) else _refused(None, error)


def status_and_code(error: RecpolicyError) -> tuple[int, str]:
    """Status and code of what the library says of the caller's input."""
    return (404, "unknown_id") if isinstance(error, UnknownIdError) else (422, "refused")


def _invalid(_: Request | None, error: Exception) -> Response:
    """Where and why the body is not as described; what was found is not repeated."""
    assert isinstance(error, RequestValidationError)
    first, *others = error.errors()
    place = ".".join(map(str, first["loc"]))
    more = f" (and {len(others)} more)" if others else ""
    return error_response(422, "invalid_request", f"{place}: {first['msg'].removeprefix('Value error, ')}{more}")


async def _failed(_request: Request, _error: Exception) -> Response:
    """The guard, which sees the exception as well, writes it to the log."""
    return internal_error()


def _no_such(_: Request, error: Exception) -> Response:
    """No such path, method or encoding."""
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    headers = dict(error.headers) if error.headers else None
    return error_response(
        error.status_code, "invalid_request" if code == "bad_request" else code, error.detail, headers
    )


def _refused(_: Request | None, error: Exception) -> Response:
    """What the library says of the caller's input; its other errors are the server's own and answer 500."""
    assert isinstance(error, RecpolicyError)
    return error_response(*status_and_code(error), str(error))


def _store(_: Request | None, error: Exception) -> Response:
    """The store does not take it now."""
    if isinstance(error, QueueFullError):
        return error_response(429, "busy", str(error), {"retry-after": "1"})
    return error_response(503, "store_down", str(error), {"retry-after": "5"})


def _database(_: Request, __: Exception) -> Response:
    """A handler that asked the database itself had no answer."""
    return error_response(503, "store_down", "the database does not answer", {"retry-after": "5"})
