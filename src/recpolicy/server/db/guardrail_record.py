"""The guardrails of an event, packed: their digest, and what they closed.

Of a list: for each place at which items become closed, the number of the place (a byte) and a bit for each item of the
catalog. Items closed before the first place are not in the event's `allowed`; a closed item stays closed. Of a rank: a
bit for each offer that is closed. An event without guardrails has none.
"""

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Bools
from recpolicy.data.candidates import packed_width

_DIGEST_BYTES = 16


def pack_list(digest: str, closed_at: NDArray[np.int32], places: int) -> bytes:
    """Return the record of a list; closed_at [A], place (from 0) from which on each item is closed."""
    pieces = [bytes.fromhex(digest)]
    for place in np.flatnonzero(np.bincount(closed_at[closed_at < places], minlength=1)).tolist():
        pieces.append(bytes([place]) + np.packbits(closed_at == place).tobytes())
    return b"".join(pieces)


def record_digest(packed: bytes) -> str:
    """Return the digest of the guardrails of a list or a rank."""
    return packed[:_DIGEST_BYTES].hex()


def unpack_list(packed: bytes, items: int) -> tuple[str, list[tuple[int, NDArray[np.uint8]]]]:
    """Return the digest, and for each place at which items become closed their packed bits.

    Args:
        packed: The record of a list.
        items: A, the items of the catalog.

    Raises:
        ValueError: The record does not fit the catalog.
    """
    step = 1 + packed_width(items)
    rest = np.frombuffer(packed[_DIGEST_BYTES:], np.uint8)
    if len(packed) < _DIGEST_BYTES or len(rest) % step:
        raise ValueError(f"a record of guardrails has {len(packed)} bytes; it does not fit {items} items")
    return record_digest(packed), [(int(row[0]), row[1:]) for row in rest.reshape(-1, step)]


def pack_rank(digest: str, closed: Bools) -> bytes:
    """Return the record of a rank; closed [A], True for offers that the guardrails close."""
    return bytes.fromhex(digest) + np.packbits(closed).tobytes()


def unpack_rank(packed: bytes, offers: int) -> tuple[str, Bools]:
    """Return the digest, and the offers [A] that are closed."""
    bits = np.frombuffer(packed[_DIGEST_BYTES:], np.uint8)
    return record_digest(packed), np.unpackbits(bits, count=offers).astype(bool)


def closed_offers(packed: bytes | None, offers: int) -> Bools:
    """Return the offers [A] that the guardrails of a rank closed; none without a record."""
    return np.zeros(offers, bool) if packed is None else unpack_rank(packed, offers)[1]
