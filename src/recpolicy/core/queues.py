"""Queues between a server's event loop and its threads."""

import queue
from typing import TypeVar

Entry = TypeVar("Entry")


def take_group(entries: "queue.SimpleQueue[Entry | None]", at_most: int) -> tuple[list[Entry], bool]:
    """Wait for an entry; return it with those behind it, and whether None, the end of the queue, came.

    Args:
        entries: The queue.
        at_most: Longest group.
    """
    group: list[Entry] = []
    entry = entries.get()
    while entry is not None:
        group.append(entry)
        if len(group) == at_most:
            return group, False
        try:
            entry = entries.get_nowait()
        except queue.Empty:
            return group, False
    return group, True
