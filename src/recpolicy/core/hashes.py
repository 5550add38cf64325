"""Sorted sets of 64-bit hashes: of texts, in a file, compared with another set.

N texts. A hash is a chain of the finalizer of splitmix64 over the words of a text (Steele, Lea & Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014). It is no protection against somebody who looks for two texts
with one hash. Files keep these hashes, so the function must stay as it is; a test has fixed values.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ArtifactError

Hashes = NDArray[np.uint64]
MAX_HASHES = 1 << 26
"""Largest number of hashes in a file: 512 MiB."""
_HEADER_BYTES = 1 << 10


def text_hashes(texts: Any) -> Hashes:
    """Return a hash [N] of each text: its UTF-8 bytes, eight at a time, and its length.

    Args:
        texts: [N], an array of objects or an Arrow array.
    """
    import pyarrow as pa

    column = texts.cast(pa.large_string()) if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
    offsets, data = (np.frombuffer(column.buffers()[part] or b"", dtype) for part, dtype in ((1, np.int64), (2, "u1")))
    offsets = offsets[column.offset : column.offset + len(texts) + 1]
    start, length = offsets[: len(texts)], np.diff(offsets)
    padded = np.concatenate([data, np.zeros(8, np.uint8)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 8)
    hashes = mix(np.zeros(len(texts), np.uint64), length.astype(np.uint64))
    for first in range(0, int(length.max(initial=0)), 8):
        rows = np.flatnonzero(length > first)
        word = np.ascontiguousarray(windows[start[rows] + first]).view("<u8")[:, 0]
        bits = np.minimum(8 * (length[rows] - first), 64).astype(np.uint64)
        word &= ~np.uint64(0) >> (np.uint64(64) - bits)  # the bytes of the next text do not count
        hashes[rows] = mix(hashes[rows], word)
    return hashes


def mix(hashes: Hashes, word: Hashes) -> Hashes:
    """Return the hashes [N] after one further word [N] each, by the finalizer of splitmix64: a bijection of each."""
    with np.errstate(over="ignore"):
        z = (hashes + np.uint64(0x9E3779B97F4A7C15)) ^ word
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def count_matches(hashes: Hashes, others: Hashes) -> int:
    """Return how many hashes two sorted sets share."""
    few, many = sorted((hashes, others), key=len)
    if not len(few):
        return 0
    place = np.minimum(np.searchsorted(many, few), len(many) - 1)
    return int(np.count_nonzero(many[place] == few))


def write_hashes(path: Path, hashes: Hashes) -> None:
    """Write sorted hashes as a .npy file."""
    np.save(path, np.asarray(hashes, "<u8"), allow_pickle=False)


def read_hashes(path: Path) -> Hashes:
    """Read sorted hashes; raise ArtifactError for a file that is too large or anything else."""
    size = path.stat().st_size
    if size > 8 * MAX_HASHES + _HEADER_BYTES:
        raise ArtifactError(f"{path}: {size:,} bytes; expected at most {MAX_HASHES:,} hashes of 8 bytes")
    try:
        hashes = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(f"{path}: not an array of hashes: {error}") from None
    if not isinstance(hashes, np.ndarray) or hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise ArtifactError(f"{path}: not an array of hashes; expected 64-bit unsigned integers in one row")
    if not (hashes[1:] > hashes[:-1]).all():
        raise ArtifactError(f"{path}: its hashes are not sorted, each once; copy the artifact or train it again")
    return hashes
