"""Events on disk while the database does not accept them.

Each process appends events durably to its own file, one line of JSON per event. It replays the file when the database
answers again. A process locks its files (flock) while it runs; another process that finds an unlocked file takes it
over. An incomplete last line was never acknowledged and is ignored.

Rows that cannot be stored do not stop the others. A line that is no event, or an event that the database refuses, goes
to NAME.rejected.jsonl: one line of JSON with the time, the reason and the row. No process replays that file. To try
again, an operator mends the rows and writes them to a new file in this folder whose name ends with .jsonl.
"""

import base64
import fcntl
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from recpolicy.core.errors import StoreError
from recpolicy.core.files import rename_keys
from recpolicy.server.db.events import Event, now_ms
from recpolicy.server.db.rank_events import RankEvent, parse_rank_event, rank_event_line
from recpolicy.server.db.spooled_fields import typed_field

logger = logging.getLogger(__name__)

SPOOLED, REJECTED = ".jsonl", ".rejected.jsonl"
_OLD_LOCK = ".jsonl.lock"
"""Lock files of older versions; this version locks the spool files themselves."""
_OLD_KEYS = {"movies": "item_ids", "content": "policy_digest"}
"""Names in files of older versions, and the current ones."""
_EVENTS_AT_ONCE = 500
_LONGEST_LINE = 16 << 20
_TYPES = {name: get_args(kind) or (kind,) for name, kind in get_type_hints(Event).items()}
"""Types of an event's fields."""
_REQUIRED = {name for name in Event._fields if name not in Event._field_defaults}
_LISTS = ("item_ids", "propensities", "ratings")


class RejectedRow(NamedTuple):
    """A row that cannot be stored."""

    reason: str
    row: str
    """The event as JSON, or the damaged line."""


AnyEvent = Event | RankEvent
Write = Callable[[list[AnyEvent]], list[RejectedRow]]
"""Stores events in the database and returns those that it refuses; raises StoreError if the database is down."""


@dataclass
class Replayed:
    """Counts of a replay."""

    events: int = 0
    rejected: int = 0


class SpoolFile:
    """A locked file of events."""

    def __init__(self, path: Path, descriptor: int):
        self.path, self._descriptor = path, descriptor
        self._size = os.fstat(descriptor).st_size
        self.count = 0
        """Events, or damaged lines."""
        self.broken = False
        """True if a failed append may have left a piece of a line."""
        self.settled = 0
        """Lines at the begin of the file whose rejected rows are in the side file."""

    @classmethod
    def create(cls, folder: Path) -> "SpoolFile":
        """Create a file of this process; its name survives a power cut."""
        while True:
            path = folder / f"{os.getpid()}-{secrets.token_hex(4)}{SPOOLED}"
            with suppress(FileExistsError):
                descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                if _lock(descriptor, path):
                    _sync_folder(folder)
                    return cls(path, descriptor)

    @classmethod
    def take_over(cls, path: Path) -> "SpoolFile | None":
        """Return the file of a process that has ended; None if its process runs, or there is nothing in it."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if not _lock(descriptor, path):
            return None
        file = cls(path, descriptor)
        try:
            file.count = sum(1 for _ in file.lines())
        except OSError:
            file.close()
            raise
        if file.count:
            return file
        file.remove()
        return None

    def append(self, lines: bytes, count: int) -> None:
        """Append lines durably. Raises OSError; then none of them counts."""
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError:
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError:
                self.broken = True
            raise
        self._size += len(lines)
        self.count += count

    def lines(self) -> Iterator[bytes]:
        """Yield the complete lines, without their ends; a line that is too long for an event is cut."""
        with open(self._descriptor, "rb", closefd=False) as stream:
            stream.seek(0)
            while line := stream.readline(_LONGEST_LINE):
                end = line
                while not end.endswith(b"\n"):
                    end = stream.readline(_LONGEST_LINE)
                    if not end:
                        return
                yield line.rstrip(b"\n")

    def close(self) -> None:
        """Unlock the file, so that another process can take it over."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Delete the file, then unlock it."""
        self.path.unlink(missing_ok=True)
        self.close()


class Spool:
    """The spooled events of this process, and of ended ones that it took over; safe for several threads."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = threading.Lock()  # for the two attributes below: append and replay run in different threads
        self._active = SpoolFile.create(folder)  # open from the start: appending needs no free file descriptor
        self._sealed: list[SpoolFile] = []
        self._replaying, self._closed = threading.Lock(), False
        self._unusable: set[Path] = set()
        self._rejected = self._active.path.with_suffix(REJECTED)
        _remove_old_locks(folder)

    @property
    def waiting(self) -> int:
        """Number of events that wait in the files of this process."""
        with self._lock:
            return self._active.count + sum(file.count for file in self._sealed)

    def append(self, events: Sequence[AnyEvent]) -> None:
        """Append events durably. Raises OSError; then none of them counts."""
        lines = "".join(event_line(event) + "\n" for event in events).encode()
        with self._lock:
            if self._active.broken:
                self._seal()
            self._active.append(lines, len(events))

    def is_empty(self) -> bool:
        """Return True if no events wait in any process."""
        return not self.waiting and not any(_size(path) for path in self._others())

    def replay(self, write: Write) -> Replayed:
        """Pass the waiting events of this process and of ended ones to `write`, then delete their files.

        After a failure in between, `write` gets an event a second time and must ignore it. Raises what `write` raises.
        """
        total = Replayed()
        with self._replaying:
            if self._closed:
                return total
            with self._lock:
                if self._active.count:
                    self._seal()
            self._take_over()
            for file in list(self._sealed):
                try:
                    self._replay_file(file, write, total)
                except StoreError:
                    raise
                except OSError as error:
                    logger.error("the spool file %s waits: %s", file.path.name, error.strerror)
        return total

    @property
    def rejected_name(self) -> str:
        """Name of this process's side file."""
        return self._rejected.name

    def reject(self, rows: Sequence[RejectedRow], max_bytes: int | None = None) -> None:
        """Put rows aside durably, unless the side file has reached `max_bytes`. Raises OSError."""
        time = now_ms()
        if max_bytes is not None and _size(self._rejected) >= max_bytes:
            return
        lines = [json.dumps({"time": time, "reason": row.reason, "row": row.row}) + "\n" for row in rows]
        descriptor = os.open(self._rejected, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:  # noqa: PTH123 - a descriptor, not a path
            stream.write("".join(lines).encode())
            stream.flush()
            os.fsync(descriptor)

    def close(self) -> None:
        """Unlock the files, so that another process can take them over."""
        self._closed = True
        if not self._replaying.acquire(blocking=False):
            return  # a replay hangs; the end of the process unlocks them
        with self._lock:
            for file in (self._active, *self._sealed):
                if file.count:
                    file.close()
                else:
                    file.remove()
            self._sealed = []
        self._replaying.release()

    def _seal(self) -> None:
        """Append further events to a new file."""
        new = SpoolFile.create(self._folder)
        if self._active.count:
            self._sealed.append(self._active)
        else:
            self._active.remove()
        self._active = new

    def _others(self) -> list[Path]:
        """Return the spool files that this process does not hold."""
        with self._lock:
            own = {file.path for file in (self._active, *self._sealed)} | self._unusable
        with os.scandir(self._folder) as entries:
            paths = [
                Path(entry.path)
                for entry in entries
                if entry.name.endswith(SPOOLED)
                and not entry.name.endswith(REJECTED)
                and entry.is_file(follow_symlinks=False)
            ]
        return [path for path in sorted(paths) if path not in own]

    def _take_over(self) -> None:
        for path in self._others():
            if path.with_suffix(_OLD_LOCK).exists():
                continue  # a process of an older version holds it
            try:
                file = SpoolFile.take_over(path)
            except OSError as error:
                logger.error("the spool file %s cannot be read: %s", path.name, error.strerror)
                self._unusable.add(path)
                continue
            if file is not None:
                with self._lock:
                    self._sealed.append(file)

    def _replay_file(self, file: SpoolFile, write: Write, total: Replayed) -> None:
        done = 0
        for lines in _chunks(file.lines()):
            events, rejected = _parse(lines)
            if events:
                rejected += write(events)
            done += len(lines)
            if done > file.settled:  # otherwise an earlier, unfinished replay has put them aside
                if rejected:
                    self.reject(rejected)
                file.settled = done
                total.events += len(lines) - len(rejected)
                total.rejected += len(rejected)
        with self._lock:
            file.remove()
            self._sealed.remove(file)


def event_line(event: AnyEvent) -> str:
    """Return an event as one line of JSON; bytes as base64."""
    if isinstance(event, RankEvent):
        return rank_event_line(event)
    row = event._asdict()
    encoded = {name: base64.b64encode(value).decode() for name, value in row.items() if isinstance(value, bytes)}
    return json.dumps(row | encoded)


def parse_event(line: bytes) -> AnyEvent:
    """Return the event of a line, also of older versions; raises ValueError that says what is wrong."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("the line is not JSON") from None
    if not isinstance(row, dict):
        raise ValueError("the line is not an object")
    if "offers" in row:
        return parse_rank_event(row)
    row = rename_keys(row, _OLD_KEYS)
    missing, unknown = _REQUIRED - row.keys(), row.keys() - _TYPES.keys()
    if missing or unknown:
        names = ", ".join(sorted(missing or unknown))[:200]
        raise ValueError(f"the event lacks {names}" if missing else f"the event has the unknown keys {names}")
    return Event(**{name: _field(name, value) for name, value in row.items()})


def _field(name: str, value: Any) -> Any:
    """Return the value of an event's field; raises ValueError."""
    value = typed_field(name, value, _TYPES[name])
    if name in _LISTS and type(_json_or_none(value)) is not list:
        raise ValueError(f"{name} is not a JSON list")
    return value


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parse(lines: Sequence[bytes]) -> tuple[list[AnyEvent], list[RejectedRow]]:
    events: list[AnyEvent] = []
    rejected: list[RejectedRow] = []
    for line in lines:
        if line.isspace() or not line:  # of an erased user (spool_erasure.py)
            continue
        try:
            events.append(parse_event(line))
        except ValueError as error:
            rejected.append(RejectedRow(str(error), line.decode("utf-8", "backslashreplace")))
    return events, rejected


def _chunks(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == _EVENTS_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file that still has this path; if another process holds it, close it and return False."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return True
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # its process has replayed it
        return 0


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_old_locks(folder: Path) -> None:
    """Delete the lock files that killed processes of older versions left."""
    for path in folder.glob(f"*{_OLD_LOCK}"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            if _lock(descriptor, path):
                path.unlink()
                os.close(descriptor)
