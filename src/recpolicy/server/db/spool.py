"""Events that the database did not take: appended to a file, durably, and given to it as soon as it takes them.

One line of JSON an event; a last line that was cut short was never acknowledged and does not count. Each process has a
file of its own, locked as long as it lives; whoever finds a file without an owner replays it.
"""

import base64
import json
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recpolicy.core.files import rename_keys

_BYTES = ("allowed", "context")
_OLD_KEYS = {"movies": "item_ids", "content": "policy_digest"}
"""Names in files of older versions, and the current ones."""
_ROWS_AT_ONCE = 500


class Spool:
    """A folder of spooled events."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = folder / f"{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._lock = FileLock(f"{self._own}.lock")
        self._lock.acquire()

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows down; they are on the disk when this returns. Raises OSError, and then none counts."""
        lines = "".join(json.dumps(_as_text(row)) + "\n" for row in rows).encode()
        with self._own.open("ab") as stream:
            before = stream.tell()
            try:
                stream.write(lines)
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(before)
                raise

    def waiting(self) -> bool:
        """Whether there may be something to replay."""
        return any(self._folder.glob("*.jsonl"))

    def replay(self, write: Callable[[list[dict[str, Any]]], None]) -> int:
        """Hand the spooled rows of this and of dead processes to `write`, and forget them; returns how many.

        `write` may see a row a second time after a crash between the two, and must not take it twice.
        """
        return sum(self._replay_file(path, write) for path in sorted(self._folder.glob("*.jsonl")))

    def close(self) -> None:
        """Give the file to whoever comes next."""
        self._lock.release()

    def _replay_file(self, path: Path, write: Callable[[list[dict[str, Any]]], None]) -> int:
        lock = FileLock(f"{path}.lock")
        if path != self._own:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return 0
        try:
            rows = _read(path)
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                write(rows[start : start + _ROWS_AT_ONCE])
            path.unlink(missing_ok=True)
        finally:
            if path != self._own:
                lock.release()
                Path(f"{path}.lock").unlink(missing_ok=True)
        return len(rows)


def _as_text(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: base64.b64encode(row[name]).decode() for name in _BYTES if row[name] is not None}


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    rows = [rename_keys(json.loads(line), _OLD_KEYS) for line in lines]
    return [
        {
            name: base64.b64decode(value) if name in _BYTES and value is not None else value
            for name, value in row.items()
        }
        for row in rows
    ]
