"""Read arrays from .npz files, and check that their numbers are plausible.

`numpy.savez` stores its members without compression, so a file holds every byte of its arrays. A file that claims
more is refused before memory is taken: neither zeros that deflate to nothing nor a header of 8 TiB is read.
"""

import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from recpolicy.core.memory import available_bytes

LARGEST = 1e15
"""Largest plausible size of a number in a learner, a policy or a rating model; float32 loses all small ones there."""
_ONE_AT_A_TIME = threading.Lock()
"""NumPy has Python's parser read every array's header, and CPython 3.11 counts that parser's depth once for all
threads: two at a time may end in "SystemError: AST constructor recursion depth mismatch" (CPython issue 106905)."""
_MAX_MEMBERS, _MAX_NAME, _MAX_AXES = 1_000, 100, 8
_PIECE = 1 << 18
_KINDS = "biufU"
"""Kinds of numbers and text; no objects, which are pickled, no records, no times."""
_MEMORY_FACTOR = 2
"""Memory that the arrays and what is derived from them take, as a multiple of the file."""
_HEADERS: Mapping[tuple[int, int], Callable[[IO[bytes]], Any]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return all arrays of a .npz file by name; pickled objects are rejected.

    Raises FileNotFoundError, and ValueError, OSError or zipfile.BadZipFile for a file that is not whole, that claims
    more than it holds, or that needs more memory than there is.
    """
    try:
        with _ONE_AT_A_TIME, path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            members = _members(archive, path.stat().st_size)
            return {name: _read_member(archive, info) for name, info in members.items()}
    except (OSError, ValueError, zipfile.BadZipFile):
        raise
    except Exception as error:  # zipfile and NumPy's parser of headers raise many kinds
        raise ValueError(f"not readable as arrays: {type(error).__name__}: {error}") from None


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members by the names of their arrays, after a check of all that the directory claims."""
    infos = archive.infolist()
    if len(infos) > _MAX_MEMBERS:
        raise ValueError(f"{len(infos)} arrays; expected at most {_MAX_MEMBERS}")
    members = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name == info.filename or not name.isprintable() or not 0 < len(name) <= _MAX_NAME or name in members:
            raise ValueError(f"the member {info.filename[:_MAX_NAME]!r} is not an array with a name of its own")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"the array {name} is compressed; expected arrays that numpy.savez wrote")
        members[name] = info
    claimed = sum(info.file_size for info in infos)
    if claimed > size:
        raise ValueError(f"the arrays claim {claimed:,} bytes in a file of {size:,}")
    free = available_bytes()
    if free is not None and claimed * _MEMORY_FACTOR > free:
        needed, left = (number >> 20 for number in (claimed * _MEMORY_FACTOR, free))
        raise ValueError(f"the arrays need {needed:,} MiB of memory, but {left:,} MiB are free")
    return members


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as stream:
        version = npy.read_magic(stream)  # type: ignore[no-untyped-call]
        if version not in _HEADERS:
            raise ValueError(f"{info.filename}: format {version} of a .npy file")
        shape, by_columns, dtype = _HEADERS[version](stream)
        return _read_numbers(stream, info, shape, by_columns, dtype)


def _read_numbers(
    stream: IO[bytes], info: zipfile.ZipInfo, shape: tuple[int, ...], by_columns: bool, dtype: np.dtype[Any]
) -> NDArray[Any]:
    if dtype.kind not in _KINDS or dtype.fields or not dtype.isnative:
        raise ValueError(f"{info.filename}: holds {dtype}; expected numbers or text")
    if len(shape) > _MAX_AXES or any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"{info.filename}: its shape is {str(shape)[:_MAX_NAME]}")
    count = 1
    for length in shape:
        count *= length  # whole numbers of Python do not overflow
    left = info.file_size - stream.tell()
    if count * dtype.itemsize != left:
        raise ValueError(f"{info.filename}: its header claims {count * dtype.itemsize:,} bytes, but {left:,} follow")
    if max(shape, default=0) > 1 << 31 or (count and not dtype.itemsize):  # many rows of nothing
        raise ValueError(f"{info.filename}: its shape is {str(shape)[:_MAX_NAME]}")
    numbers = np.empty(count, dtype)
    octets, place = numbers.view(np.uint8), 0
    while piece := stream.read(_PIECE):  # to the end, where the checksum is compared
        octets[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
        place += len(piece)
    if place != left:
        raise ValueError(f"{info.filename}: is cut")
    return numbers.reshape(shape, order="F" if by_columns else "C")


def find_implausible(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the first array with a number that is not finite or exceeds LARGEST; an empty text if there is none."""
    for name, array in arrays.items():
        if array.dtype.kind != "f" or not array.size:
            continue
        low, high = float(array.min()), float(array.max())  # NaN if any number is
        if not np.isfinite(low) or not np.isfinite(high):
            return f"{name} holds numbers that are not finite"
        if max(-low, high) > LARGEST:
            return f"{name} holds absurd numbers, {low:.3g} to {high:.3g}"
    return ""
