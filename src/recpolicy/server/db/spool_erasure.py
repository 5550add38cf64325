"""Erasure of a user's events from the spool, also from files that other processes hold and append to.

A line is overwritten in place by spaces of the same length: its process appends behind it, and a replay skips blank
lines. So no lock is needed, and it works while the database is down.
"""

import json
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)


def erase_from_spool(folder: Path, user_key: str) -> int:
    """Erase the events of a user from all spool files, also rejected ones; return their number. Raises OSError."""
    return sum(_erase_from_file(path, user_key) for path in sorted(folder.glob("*.jsonl")))


def _erase_from_file(path: Path, user_key: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # its process has replayed it
        return 0
    count, start = 0, 0
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor, not a path
        for line in stream:
            text = line.rstrip(b"\n")
            if text.strip() and _is_of_user(text, user_key):
                os.pwrite(descriptor, b" " * len(text), start)
                count += 1
            start += len(line)
        if count:
            os.fsync(descriptor)
    return count


def _is_of_user(line: bytes, user_key: str) -> bool:
    """Return True for an event of the user, a rejected event, or a damaged line that names the user."""
    try:
        row = json.loads(line)
        if isinstance(row, dict) and "user_key" not in row and isinstance(row.get("row"), str):  # a rejected row
            return _is_of_user(row["row"].encode(), user_key)
        return isinstance(row, dict) and row.get("user_key") == user_key
    except (ValueError, RecursionError):
        return f'"user_key": {json.dumps(user_key)}'.encode() in line
