"""Logs of the server: one JSON object per line, without user data.

The fields of a record's `extra={"fields": {...}}` become keys of the object. An exception leaves only its type and the
location that raised it, because its message may contain ids or ratings.
"""

import json
import logging
import traceback
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

_ENCODE = json.JSONEncoder(default=str).encode  # created once: json.dumps creates an encoder per line


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
        return _ENCODE(line)


@lru_cache(4)
def _second(second: int) -> str:
    """Return a second of UTC in ISO 8601; many lines share one."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def exception_location(error: BaseException) -> dict[str, str]:
    """Return the type of an exception and the line that raised it, without its message."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
    return {"exception": type(error).__name__, "raised_at": place}
