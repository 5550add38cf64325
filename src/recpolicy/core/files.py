"""Files that are never seen half-written: write beside, then rename. And digests, for knowing what one has."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.errors import ArtifactError

_CHUNK = 1 << 20


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write a file to; it replaces `target` on success and vanishes on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        beside.chmod(0o644)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a folder beside `target` to fill; it takes the place of `target` on success and vanishes on failure.

    A folder already at `target` is moved aside first and removed last, so that there is always a whole one to find.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    old = beside.with_suffix(".old")
    try:
        yield beside
        beside.chmod(0o755)
        if target.exists():
            target.replace(old)
        try:
            beside.replace(target)
        except OSError:
            with suppress(OSError):
                old.replace(target)
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if target.exists():  # else `old` is all that is left
            shutil.rmtree(old, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 `text` to `target` atomically."""
    with atomic_path(target) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json_of(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Read a JSON file that says `"format": kind, "version": version`; raises ArtifactError for any other file."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; expected a {kind}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(body, dict) or body.get("format") != kind:
        raise ArtifactError(f"{path}: not a {kind}: its format is not {kind!r}")
    if body.get("version") != version:
        raise ArtifactError(f"{path}: format version {body.get('version')!r}, but this recpolicy reads {version}")
    return body


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file's bytes, read in pieces."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def content_digest(*parts: Any) -> str:
    """SHA-256 over arrays (dtype, shape and bytes) and JSON-able values, in order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype != object:
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        elif isinstance(part, np.ndarray):
            digest.update(json.dumps([str(value) for value in part.ravel()]).encode())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()
