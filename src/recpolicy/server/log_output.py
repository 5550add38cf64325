"""Log lines on stderr, written by a thread: a reader that is slow or gone stops no request.

Lines wait for a moment, so that many lines share a call of the operating system. If too many wait, because nobody reads
the pipe, further ones are dropped and counted; a line says how many as soon as there is room.
"""

import logging
import os
import threading
from collections import deque
from contextlib import suppress
from time import monotonic, sleep

MAX_LINES = 20_000
"""Lines that may wait: about 4 MB."""
_PAUSE_SECONDS = 0.02
_LINES_AT_ONCE = 500
_FLUSH_SECONDS = 1.0


class BackgroundHandler(logging.Handler):
    """A handler that hands records to a thread, which writes them to a file descriptor."""

    def __init__(self, descriptor: int = 2, max_lines: int = MAX_LINES):
        super().__init__()
        self.dropped = 0
        """Lines dropped since the start."""
        self._descriptor, self._max_lines = descriptor, max_lines
        self._waiting: deque[tuple[logging.LogRecord, int]] = deque()
        self._lines = self._reported = 0
        self._wake = threading.Event()
        threading.Thread(target=self._run, name="recpolicy-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over a record; never waits. Its requests (json_output.py) are one line each."""
        lines = len(getattr(record, "requests", "1"))
        if self._lines + lines > self._max_lines:  # the handler's lock is held, as always in this method
            self.dropped += lines
            return
        self._lines += lines
        self._waiting.append((record, lines))
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> None:
        """Wait until all lines are written, at most a second: nobody may read them."""
        end = monotonic() + _FLUSH_SECONDS
        while self._lines and monotonic() < end:
            sleep(_PAUSE_SECONDS / 4)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            sleep(_PAUSE_SECONDS)
            self._wake.clear()
            while self._waiting:
                self._write_some()

    def _write_some(self) -> None:
        texts, count = [], 0
        while self._waiting and count < _LINES_AT_ONCE:
            record, lines = self._waiting.popleft()
            count += lines
            with suppress(Exception):  # a record that cannot be formatted must not end the log
                texts.append(self.format(record))
        dropped = self.dropped
        if dropped > self._reported:
            message = "%d log lines were dropped because nobody read them"
            arguments = (dropped - self._reported,)
            note = logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, arguments, None)
            texts.append(self.format(note))
            self._reported = dropped
        rest = memoryview("".join(f"{text}\n" for text in texts).encode("utf-8", "backslashreplace"))
        with suppress(OSError):  # the reader is gone
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        self.acquire()
        self._lines -= count
        self.release()


def dropped_lines() -> int:
    """Return the number of log lines that this process has dropped."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, BackgroundHandler))
