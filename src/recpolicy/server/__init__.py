"""The server: it recommends over HTTP, stores feedback, and routes users to versions."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def freeze_startup_objects() -> Iterator[None]:
    """Disable the garbage collector during start-up, then freeze all loaded objects so that it never scans them.

    Imports create 100,000 permanent objects. Repeated scans of them take an eighth of the start-up time, and later
    block all answers for 70 ms at a time (2-core machine).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
