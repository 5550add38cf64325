"""JSON that the server writes: responses and log lines.

A log line is one JSON object without user data. The fields of a record's `extra={"fields": {...}}` become keys of the
object. An exception leaves only its type and the location that raised it, because its message may contain ids or
ratings. A record with `extra={"requests": [...]}` gives a line per request. Responses turn non-finite numbers into
null; no model validates their rows again.
"""

import json
import logging
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from fastapi import Response
from starlette.responses import JSONResponse

_encode_line = json.JSONEncoder(default=str).encode  # created once: json.dumps creates an encoder per line
encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
"""Encodes the body of a response."""
NO_SNIFF = (b"x-content-type-options", b"nosniff")
SAFE_HEADERS = (NO_SNIFF, (b"cache-control", b"no-store"))
"""Headers of all responses but pages, which have their own: no browser guesses the type, no cache keeps an answer."""
_JSON_HEADERS = ((b"content-type", b"application/json"), *SAFE_HEADERS)
_LONGEST_MESSAGE = 500


class JsonFormatter(logging.Formatter):
    """A formatter of records as one line of JSON: time (UTC), level, logger, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        requests: Sequence[LoggedRequest] | None = getattr(record, "requests", None)
        if requests is not None:
            return "\n".join([_request_line(record.name, request) for request in requests])
        fields = getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            fields = fields | exception_location(record.exc_info[1])
        more = f", {_encode_line(fields)[1:-1]}" if fields else ""
        head = _head(record.levelname, record.name, record.getMessage())
        return f'{{"time": "{_utc(record.created)}", {head}{more}}}'


class LoggedRequest(NamedTuple):
    """A request in the log: without URL, body, key and client."""

    time: float
    """Seconds since 1970, UTC."""
    method: str
    route: str
    status: int
    ms: float

    def fields(self) -> dict[str, Any]:
        """Return the keys of the line, besides those of every line."""
        return {"method": self.method, "route": self.route, "status": self.status, "ms": self.ms}


def _request_line(name: str, request: LoggedRequest) -> str:
    """Return the line of one request."""
    time, *same, ms = request
    return f'{{"time": "{_utc(time)}", {_request_head(name, *same)}, "ms": {ms}}}'


@lru_cache(1_000)
def _request_head(name: str, method: str, route: str, status: int) -> str:
    """Return the fields that the lines of many requests share."""
    return (
        f"{_head('INFO', name, 'request')}, {_encode_line({'method': method, 'route': route, 'status': status})[1:-1]}"
    )


@lru_cache(100)
def _head(level: str, name: str, message: str) -> str:
    """Return the fields that many lines share."""
    return _encode_line({"level": level.lower(), "logger": name, "message": message})[1:-1]


def _utc(time: float) -> str:
    """Return a time in ISO 8601, with milliseconds."""
    return f"{_second(int(time))}.{int(time % 1.0 * 1e3):03d}+00:00"


@lru_cache(4)
def _second(second: int) -> str:
    """Return a second of UTC in ISO 8601; many lines share one."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def exception_location(error: BaseException) -> dict[str, str]:
    """Return the type of an exception and the line that raised it, without its message."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
    return {"exception": type(error).__name__, "raised_at": place}


class JsonText(Response):
    """A response of status 200 with ready JSON; the constructor of Response does more, and takes longer."""

    def __init__(self, body: bytes):
        self.status_code, self.background, self.body = 200, None, body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), *_JSON_HEADERS]


def finite(values: Any) -> list[float | None]:
    """Return the array as plain numbers; None where a value is not finite."""
    numbers: list[float | None] = values.tolist()
    if np.isfinite(values).all():
        return numbers
    return [number if ok else None for number, ok in zip(numbers, np.isfinite(values).tolist(), strict=True)]


def json_response(body: Any, status: int = 200) -> Response:
    """Return the body as JSON."""
    return Response(encode(body), status, media_type="application/json")


def error_response(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error in the shape of all errors; the message may contain any text from the request."""
    text = message[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode()
    return JSONResponse({"error": {"code": code, "message": text}}, status, headers)
