"""The server: it recommends over HTTP, stores feedback, and routes users to versions."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_NEW_OBJECTS = 50_000
"""Objects between two scans."""


@contextmanager
def freeze_startup_objects() -> Iterator[None]:
    """Disable the garbage collector during start-up, then freeze all loaded objects so that it never scans them.

    Imports create 100,000 permanent objects. Repeated scans of them take an eighth of the start-up time, and later
    block all answers for 70 ms at a time (2-core machine). Later scans are rarer than by default: requests that
    wait for their commit hold many objects and no garbage, and scans took a fifteenth of a busy server's time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(_NEW_OBJECTS, 10, 10)
        gc.enable()
