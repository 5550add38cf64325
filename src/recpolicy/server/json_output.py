"""JSON that the server writes: responses and log lines.

A log line is one JSON object without user data. The fields of a record's `extra={"fields": {...}}` become keys of the
object. An exception leaves only its type and the location that raised it, because its message may contain ids or
ratings. Responses turn non-finite numbers into null; no model validates their rows again.
"""

import json
import logging
import traceback
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from fastapi import Response

_encode_line = json.JSONEncoder(default=str).encode  # created once: json.dumps creates an encoder per line
encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
"""Encodes the body of a response."""
_ROWS_AT_ONCE = 1_000


class JsonFormatter(logging.Formatter):
    """A formatter of records as one line of JSON: time (UTC), level, logger, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03d}+00:00",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= exception_location(record.exc_info[1])
        return _encode_line(line)


@lru_cache(4)
def _second(second: int) -> str:
    """Return a second of UTC in ISO 8601; many lines share one."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def exception_location(error: BaseException) -> dict[str, str]:
    """Return the type of an exception and the line that raised it, without its message."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
    return {"exception": type(error).__name__, "raised_at": place}


def json_response(body: Any, status: int = 200) -> Response:
    """Return the body as JSON."""
    return Response(encode(body), status, media_type="application/json")


def rows_response(rows: list[dict[str, Any]]) -> Response:
    """Return {"rows": [...]}, encoded in pieces, because the encoder blocks all other threads while it works."""
    pieces = [encode(rows[start : start + _ROWS_AT_ONCE])[1:-1] for start in range(0, len(rows), _ROWS_AT_ONCE)]
    return Response('{"rows":[' + ",".join(pieces) + "]}", media_type="application/json")
