"""Responses to errors, {"error": {"code", "message"}}, with the meaning of each code."""

import os
import re
import tempfile
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from recpolicy.core.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    RecpolicyError,
    SessionError,
    StoreError,
    UnknownIdError,
    WrongPolicyKindError,
)
from recpolicy.core.files import STORAGE_ERRORS
from recpolicy.server.answer_limits import RejectedError
from recpolicy.server.db.failures import failure_reason
from recpolicy.server.db.rollouts import ConflictError
from recpolicy.server.db.writer import QueueFullError
from recpolicy.server.json_output import error_response
from recpolicy.server.middleware import internal_error
from recpolicy.server.schemas.responses import ErrorResponse

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The request is not valid HTTP or JSON (`invalid_request`)."},
    404: {"model": ErrorResponse, "description": "The user or the item is unknown (`unknown_id`)."},
    409: {
        "model": ErrorResponse,
        "description": "The champion is of another kind (`wrong_policy_kind`), or the request does not continue its"
        " session (`session_conflict`).",
    },
    413: {"model": ErrorResponse, "description": "The body is too large (`too_large`)."},
    422: {
        "model": ErrorResponse,
        "description": "The request does not match its schema (`invalid_request`), the policy rejects a value, or the"
        " answer would be too large (`invalid_value`).",
    },
    429: {
        "model": ErrorResponse,
        "description": "Too many requests in all (`overloaded`), or from this caller (`rate_limited`); a batch or large"
        " answer counts as several requests. The header Retry-After says when to try again.",
    },
    503: {
        "model": ErrorResponse,
        "description": "The database does not answer (`database_unavailable`), or the server cannot write its files,"
        " for example on a full disk (`storage_unavailable`), or cannot read those of its registry"
        " (`registry_damaged`). The header Retry-After says when to try again.",
    },
}


def handle_errors(app: FastAPI) -> None:
    """Register handlers that answer every error of the app in this shape."""
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    for input_error in (DataError, ConfigError):
        app.add_exception_handler(input_error, _invalid_value)
    app.add_exception_handler(RejectedError, _rejected)
    app.add_exception_handler(ConflictError, _conflict)
    app.add_exception_handler(StoreError, _store_error)
    app.add_exception_handler(ArtifactError, _registry_damaged)
    for database_error in (OperationalError, PoolTimeoutError):
        app.add_exception_handler(database_error, _database_unavailable)
    app.add_exception_handler(OSError, _storage_unavailable)
    app.add_exception_handler(Exception, _internal_error)


def response_to_error(
    error: RequestValidationError | DataError | ConfigError | StoreError | ConflictError,
) -> Response:
    """Return the response of the app's handlers to an error that was raised outside the app."""
    if isinstance(error, ConflictError):
        return error_response(409, "conflict", str(error))
    if isinstance(error, RequestValidationError):
        return _invalid_request(None, error)
    return _store_error(None, error) if isinstance(error, StoreError) else _invalid_value(None, error)


def item_error(error: DataError | ConfigError) -> dict[str, Any]:
    """Return what takes the place of the answer to one request of a batch."""
    return {"error": {"code": status_and_code(error)[1], "message": str(error)}}


def status_and_code(error: RecpolicyError) -> tuple[int, str]:
    """Return status and code of an error in the caller's input."""
    if isinstance(error, WrongPolicyKindError):
        return 409, "wrong_policy_kind"
    if isinstance(error, SessionError):
        return 409, "session_conflict"
    return (404, "unknown_id") if isinstance(error, UnknownIdError) else (422, "invalid_value")


def _invalid_request(_: Request | None, error: Exception) -> Response:
    """Answer 422 with the field and the fault, without the value."""
    assert isinstance(error, RequestValidationError)
    first, *others = error.errors()
    field = ".".join(map(str, first["loc"]))
    more = f" (and {len(others)} more)" if others else ""
    return error_response(422, "invalid_request", f"{field}: {first['msg'].removeprefix('Value error, ')}{more}")


async def _internal_error(_request: Request, _error: Exception) -> Response:
    """Answer 500; RequestMiddleware sees the exception as well and logs it."""
    return internal_error()


def hide_folders(state: Any, message: str) -> str:
    """Return a message for callers without the folders of this server: paths begin inside of the registry or state."""
    registry = None if state.models.registry is None else state.models.registry.folder
    for folder, name in ((registry, "the registry"), (state.folder, "the state folder")):
        for path in () if folder is None else (folder.absolute(), folder.resolve()):
            message = message.replace(f"{path}/", "").replace(str(path), name)
    # A folder for files in transit, and the hidden one in it that becomes complete.
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/[^/\s]+/(?:\.[^/\s]+/)?", "", message)


def _http_error(request: Request, error: Exception) -> Response:
    """Answer for an unknown path, a wrong method or encoding, and HTTPExceptions of the handlers."""
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    if code == "bad_request":
        code = "invalid_request"
    detail = hide_folders(request.app.state.server, error.detail)
    return error_response(error.status_code, code, detail, dict(error.headers) if error.headers else None)


def _invalid_value(request: Request | None, error: Exception) -> Response:
    """Answer 4xx to errors caused by the caller's input; all other library errors answer 500."""
    assert isinstance(error, RecpolicyError)
    message = str(error) if request is None else hide_folders(request.app.state.server, str(error))
    return error_response(*status_and_code(error), message)


def _rejected(_: Request, error: Exception) -> Response:
    """Answer what the limits of the server have decided."""
    assert isinstance(error, RejectedError)
    return error.response


def _conflict(request: Request, error: Exception) -> Response:
    """Answer 409 to what is impossible in the present state."""
    return error_response(409, "conflict", hide_folders(request.app.state.server, str(error)))


def _registry_damaged(request: Request, error: Exception) -> Response:
    """Answer 503 to what needs a file of the registry that cannot be read; the versions in memory keep serving."""
    message = hide_folders(request.app.state.server, str(error))
    return error_response(503, "registry_damaged", message, {"retry-after": "30"})


def _store_error(_: Request | None, error: Exception) -> Response:
    """Answer 429 while too many writes wait, 503 while the database does not answer."""
    if isinstance(error, QueueFullError):
        return error_response(429, "overloaded", str(error), {"retry-after": "1"})
    return error_response(503, "database_unavailable", str(error), {"retry-after": "5"})


def _database_unavailable(_: Request, error: Exception) -> Response:
    """Answer 503 to a handler whose statement failed, with the reason."""
    return error_response(503, "database_unavailable", failure_reason(error), {"retry-after": "5"})


def _storage_unavailable(_: Request, error: Exception) -> Response:
    """Answer 503 to a handler that could not write a file, with the reason; other errors are the server's fault."""
    assert isinstance(error, OSError)
    if error.errno not in STORAGE_ERRORS:
        raise error
    message = f"the server cannot write its files: {os.strerror(error.errno)}"
    return error_response(503, "storage_unavailable", message, {"retry-after": "30"})
