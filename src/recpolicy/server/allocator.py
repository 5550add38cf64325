"""The memory allocator of a server process.

glibc gives each busy thread its own arena, up to eight per core, and raises its threshold for separate mappings to the
size of the blocks that it frees. Both trade memory for speed: what a thread frees stays with its arena, and a large
answer leaves a hole in the heap. A server computes large answers in several threads, so it grew to twice its size.
"""

import asyncio
import ctypes
import os

ARENAS = 2
"""The event loop's, and one for all other threads: the interpreter's lock lets one of them work at a time."""
MAPPED_BYTES = 128 << 10
"""Larger blocks return to the system as soon as they are freed; glibc's initial threshold."""
TRIM_SECONDS = 30.0
"""Time between two returns of free memory to the system."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
_VARIABLES = {_M_ARENA_MAX: "MALLOC_ARENA_MAX", _M_MMAP_THRESHOLD: "MALLOC_MMAP_THRESHOLD_"}


async def release_free_memory() -> None:
    """Return free pages of all arenas to the system, in a thread; glibc returns only those at an arena's end."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        await asyncio.to_thread(trim, 0)


def limit_arenas() -> None:
    """Limit the arenas of this process, and fix the size of separately mapped blocks.

    Variables of the environment that glibc reads for the same purpose take precedence. Without glibc, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return
    for option, value in ((_M_ARENA_MAX, ARENAS), (_M_MMAP_THRESHOLD, MAPPED_BYTES)):
        if _VARIABLES[option] not in os.environ:
            mallopt(option, value)
