"""Hash names of features to 32-bit numbers with murmur3, many at a time.

N texts. A feature has a name such as `context.device=mobile` and a value. Its hash gives an index and a sign, as in
scikit-learn's FeatureHasher; tests/data/features/test_hashing.py compares the two. A model of 2^bits weights keeps the
lowest bits of the index. Source: Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.uint32]
Values: TypeAlias = NDArray[np.float32]

MIN_BITS, MAX_BITS = 10, 20
PAIR_PRIME, PAIR_MIX = 16_777_619, 0x85EBCA6B
"""Factors of the hash of a pair of indices: the prime of FNV-1, and a factor of murmur3 that mixes the bits."""
CONSTANT = 11_650_396
"""Index of the constant feature, as in VW."""
_WORDS_AT_ONCE = 1 << 21
_C1, _C2, _M, _N = (np.uint32(number) for number in (0xCC9E2D51, 0x1B873593, 5, 0xE6546B64))


def murmur3(texts: Sequence[str], seed: int = 0) -> Indices:
    """Return the murmur3 hash [N] (x86, 32 bits) of the UTF-8 bytes of each text."""
    if not len(texts):
        return np.zeros(0, np.uint32)
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    length = np.fromiter(map(len, encoded), np.int64, len(encoded))
    if len(encoded) * (int(length.max()) // 4 + 1) <= _WORDS_AT_ONCE:
        return _murmur3_block(encoded, length, seed)
    hashes = np.empty(len(encoded), np.uint32)
    order = np.argsort(length, kind="stable")  # texts of a block have similar lengths
    first = 0
    while first < len(order):
        words = length[order[first:]] // 4 + 1
        count = max(1, int(np.searchsorted(words * np.arange(1, len(words) + 1), _WORDS_AT_ONCE, side="right")))
        rows = order[first : first + count]
        hashes[rows] = _murmur3_block([encoded[row] for row in rows], length[rows], seed)
        first += count
    return hashes


def _murmur3_block(encoded: list[bytes], length: NDArray[np.int64], seed: int) -> Indices:
    """Return the hashes [N] of texts that are padded to one width with zeros."""
    whole = length // 4  # words of four bytes; the last zero to three bytes stand in the word after them
    width = 4 * (int(whole.max()) + 1)
    words = np.array(encoded, dtype=f"S{width}").view("<u4").reshape(len(encoded), -1)
    hashes = np.full(len(encoded), seed, np.uint32)
    with np.errstate(over="ignore"):
        for place in range(words.shape[1] - 1):
            mixed = hashes ^ _scrambled(words[:, place])
            mixed = _rotated(mixed, 13) * _M + _N
            hashes = np.where(place < whole, mixed, hashes)
        hashes ^= _scrambled(words[np.arange(len(words)), whole])
        hashes ^= length.astype(np.uint32)
        hashes = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        hashes = (hashes ^ (hashes >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        return hashes ^ (hashes >> np.uint32(16))


def _scrambled(words: Indices) -> Indices:
    return _rotated(words * _C1, 15) * _C2


def _rotated(words: Indices, bits: int) -> Indices:
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))


def hashed_names(names: Sequence[str]) -> tuple[Indices, Values]:
    """Return the index [N] and the sign [N] of each name: the size and the sign of its hash as a signed number."""
    signed = murmur3(names).view(np.int32).astype(np.int64)
    return np.abs(signed).astype(np.uint32), np.where(signed >= 0, 1.0, -1.0).astype(np.float32)


def pair_indices(first: Indices, second: Indices) -> Indices:
    """Return the index of the product of two features, elementwise with broadcasting; the order matters.

    VW stops at `(first * prime) ^ second`. Its collisions come in groups: the pairs of two indices with two others
    collide together. The steps after it mix the bits, so that pairs collide as random numbers do.
    """
    with np.errstate(over="ignore"):
        pairs = (first * np.uint32(PAIR_PRIME)) ^ second
        pairs = (pairs ^ (pairs >> np.uint32(15))) * np.uint32(PAIR_MIX)
        return pairs ^ (pairs >> np.uint32(13))
