"""The session that a session policy saw before it chose a list, packed: 4 bytes per item that the session has shown.

An item is its row in the tables of the event's version, times two, plus 1 if the user liked it, as a little-endian
32-bit number. The oldest item is first. A request has at most 100 items (schemas/requests.MAX_K), so an event has at
most 400 bytes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pack_history(rows: NDArray[np.integer], liked: Sequence[bool]) -> bytes:
    """Return the packed session; rows [n] are item rows, liked [n] the user's responses."""
    return bytes((2 * np.asarray(rows, "<u4") + np.asarray(liked, "<u4")).tobytes())


def unpack_history(packed: bytes) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return item rows [n] and responses [n] of a packed session, oldest first."""
    numbers = np.frombuffer(packed, "<u4")
    return (numbers >> 1).astype(np.int32), (numbers & 1).astype(bool)
