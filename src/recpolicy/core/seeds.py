"""Derive independent random streams from one seed: each consumer names its stream."""

import zlib

import numpy as np

from recpolicy.core.errors import ConfigError


def _sequence(seed: int, stream: str) -> np.random.SeedSequence:
    if seed < 0:
        raise ConfigError(f"seed {seed}: expected 0 or more")
    return np.random.SeedSequence([seed, zlib.crc32(stream.encode())])


def generator(seed: int, stream: str) -> np.random.Generator:
    """Return the NumPy generator of the named stream."""
    return np.random.default_rng(_sequence(seed, stream))


def stateless_seed(seed: int, stream: str) -> tuple[int, int]:
    """Return two non-negative int32 values: the `seed` of TensorFlow's stateless random operations."""
    first, second = _sequence(seed, stream).generate_state(2) & 0x7FFFFFFF
    return int(first), int(second)


def integer_seed(seed: int, stream: str) -> int:
    """Return one non-negative int32 seed, for libraries that take no generator."""
    return stateless_seed(seed, stream)[0]
