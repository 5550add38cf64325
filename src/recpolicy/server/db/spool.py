"""A spool: if the database fails, events are durably appended to a file and replayed when the database answers again.

Each event is one line of JSON. An incomplete last line was never acknowledged and is ignored. Each process has its own
file and locks it while it runs; another process that finds an unlocked file replays it.
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
        """Append rows durably. Raises OSError; then none of the rows counts."""
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
        """Return True if there may be events to replay."""
        return any(self._folder.glob("*.jsonl"))

    def replay(self, write: Callable[[list[dict[str, Any]]], None]) -> int:
        """Pass the spooled rows of this and of dead processes to `write`, then delete them; return their number.

        After a crash between the two, `write` gets a row a second time and must ignore it.
        """
        return sum(self._replay_file(path, write) for path in sorted(self._folder.glob("*.jsonl")))

    def close(self) -> None:
        """Unlock the file, so that another process can replay it."""
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
