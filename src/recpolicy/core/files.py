"""Write files atomically (write a temporary file, then rename it), and compute digests."""

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ArtifactError

_CHUNK = 1 << 20
_TEXTS = 1 << 16

Migration = Callable[[dict[str, Any]], dict[str, Any]]
"""A function from the content of a file to its content in the next version of the format."""
NO_MIGRATIONS: Mapping[int, Migration] = {}
STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}
"""Reasons for which a file cannot be written, and which an operator can remove."""


def mode_in(folder: Path, widest: int) -> int:
    """Return the mode of a new file or folder in `folder`: everything for its owner, and for others no more than
    `widest` and no more than they may do in the folder. It does not depend on the umask.
    """
    return (folder.stat().st_mode | stat.S_IRWXU) & widest


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path next to `target`; it replaces `target` on success and is deleted on failure.

    Others may read the file if they may read its folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    tmp = Path(name)
    try:
        yield tmp
        tmp.chmod(mode_in(target.parent, 0o644))
        tmp.replace(target)
    finally:
        tmp.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `target`; it replaces `target` on success and is deleted on failure.

    An existing `target` is moved away first and deleted last, so a complete folder always exists.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    old = tmp.with_suffix(".old")
    try:
        yield tmp
        tmp.chmod(mode_in(target.parent, 0o755))
        if target.exists():
            target.replace(old)
        try:
            tmp.replace(target)
        except OSError:
            with suppress(OSError):
                old.replace(target)
            raise
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
        if target.exists():  # else `old` is all that is left
            shutil.rmtree(old, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 `text` to `target` atomically."""
    with atomic_path(target) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_versioned_json(
    path: Path, file_format: str, version: int, migrations: Mapping[int, Migration] = NO_MIGRATIONS, *,
    digest_key: str | None = None, advice: str = "write it again", former_format: str | None = None,
    max_bytes: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return a JSON file that says `"format": file_format, "version": ...`, migrated to the current version.

    Args:
        path: The file.
        file_format: The expected value of "format".
        version: The current version of the format.
        migrations: For each older version, a function from its content to that of the next version. They run in order.
        digest_key: The key of a digest of all other keys. It is checked before the migrations, and removed.
        advice: What the user can do about a file that changed since it was written.
        former_format: The name of the format in files of older versions.
        max_bytes: The largest size of the file; a larger one is not read.

    Raises:
        ArtifactError: The file is missing or too large, has another format or an unknown version, or its digest
            differs.
    """
    try:
        size = path.stat().st_size
        if max_bytes is not None and size > max_bytes:
            raise ArtifactError(f"{path}: {size:,} bytes; expected a {file_format} of at most {max_bytes:,}")
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; expected a {file_format}") from None
    except ArtifactError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(body, dict) or body.get("format") not in (file_format, former_format or file_format):
        raise ArtifactError(f"{path}: not a {file_format}: its format is not {file_format!r}")
    _check_version(body, version, migrations, path)
    if digest_key is not None and body.pop(digest_key, None) != content_digest(body):
        raise ArtifactError(f"{path}: changed since it was written; {advice}")
    return migrate(body, version, migrations, path)


def migrate(body: dict[str, Any], version: int, migrations: Mapping[int, Migration], path: Path) -> dict[str, Any]:
    """Return the content of a file of an older version as that of the current version; `path` is for messages.

    Raises:
        ArtifactError: The version is unknown, or the content lacks what every file of its version has.
    """
    _check_version(body, version, migrations, path)
    for older in range(body["version"], version):
        try:
            body = migrations[older](body)
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{path}: not a complete file of format version {older}: {error!r}") from None
    return {**body, "version": version}


def _check_version(body: dict[str, Any], version: int, migrations: Mapping[int, Migration], path: Path) -> None:
    written = body.get("version")
    if type(written) is not int or not (written == version or written in migrations):
        known = ", ".join(map(str, (*sorted(migrations), version)))
        raise ArtifactError(f"{path}: format version {written!r}, but this recpolicy reads {known}")


def rename_keys(value: Any, names: Mapping[str, str], *, nested: bool = False) -> Any:
    """Return a mapping with some keys renamed, in the same order; with `nested` also in the mappings and lists below.

    A value that is not a mapping (or, with `nested`, a list) is returned unchanged.
    """
    if isinstance(value, Mapping):
        items = value.items()
        return {names.get(key, key): rename_keys(part, names, nested=True) if nested else part for key, part in items}
    if nested and isinstance(value, list):
        return [rename_keys(part, names, nested=True) for part in value]
    return value


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the hex digest of a file's bytes, read in pieces."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class ArrayBlocks:
    """An array that is computed block by block; its digest is that of the whole array."""

    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable["np.ndarray[Any, Any]"]]
    """A function that returns the blocks in order."""


@dataclass(frozen=True)
class Repeated:
    """An object array of texts, `values[rows]`, that need not exist: N places of U distinct values."""

    values: "NDArray[np.object_]"  # [U]
    rows: "NDArray[np.integer[Any]]"  # [N]


def content_digest(*parts: Any) -> str:
    """Return the SHA-256 over arrays (dtype, shape and bytes) and JSON-able values, in order.

    Arrays of objects count as texts; a `Repeated` has the digest of its array. Memory does not grow with the length of
    an array.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, ArrayBlocks):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            for block in part.blocks():
                digest.update(np.ascontiguousarray(block, part.dtype).data)
        elif isinstance(part, Repeated):
            for piece in _json_of_repeated(part):
                digest.update(piece)
        elif isinstance(part, np.ndarray) and part.dtype != object:
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        elif isinstance(part, np.ndarray):
            for piece in _json_of_texts(part.ravel()):
                digest.update(piece)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _json_of_texts(values: "np.ndarray[Any, Any]") -> Iterator[bytes]:
    """Yield the JSON list of the texts of these values, in pieces."""
    yield b"["
    for first in range(0, len(values), _TEXTS):
        piece = json.dumps([str(value) for value in values[first : first + _TEXTS]])[1:-1]
        yield (f", {piece}" if first else piece).encode()
    yield b"]"


def _json_of_repeated(texts: Repeated) -> Iterator[bytes]:
    """Yield the JSON list of the texts in pieces; every distinct text is encoded once."""
    encoded = np.array([json.dumps(str(value)).encode() for value in texts.values], object)
    yield b"["
    for first in range(0, len(texts.rows), _TEXTS):
        piece = b", ".join(encoded[texts.rows[first : first + _TEXTS]].tolist())
        yield b", " + piece if first else piece
    yield b"]"
