"""Import a policy artifact from an untrusted .zip or .tar(.gz) archive.

The archive holds the artifact at its top or in one folder. The import rejects it, and leaves nothing behind, for: an
absolute path, `..`, a backslash, a link or device, two entries of one path, encryption, too many files or bytes, and
for an artifact whose files are not the ones that its manifest names. Sizes are counted as bytes come out, not as the
archive claims. Sources of the attacks: the Zip Slip disclosure (Snyk 2018); CVE-2007-4559 (tarfile).
"""

import gzip
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import STORAGE_ERRORS, atomic_directory
from recpolicy.inference.artifact_files import MANIFEST
from recpolicy.registry.model_registry import Note, Registry
from recpolicy.registry.version_files import Version, sound_manifest

_PIECE = 1 << 20
_UNREADABLE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError,
    RuntimeError,  # zip: a method that is not known, a password; tar: headers nested without end
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImportLimits:
    """Limits of an archive: files and bytes."""

    files: int = 1_000
    """Entries, folders included; a policy has about 20."""
    total_bytes: int = 2 << 30
    """Of all files together, unpacked."""


_Entry = tuple[str, bool, int, Any]
"""Name, whether it is a folder, claimed size, and the archive's own record of it."""


def import_version(
    registry: Registry,
    archive: Path | str,
    *,
    note: Note = None,
    limits: ImportLimits = ImportLimits(),
    check: Callable[[Path], None] | None = None,
) -> Version:
    """Register the artifact in an archive; raises what `unpack_version`, `check` and `Registry.register` raise.

    `check` gets the folder of the unpacked artifact before anything is registered.
    """
    with tempfile.TemporaryDirectory(prefix="recpolicy-import-") as scratch:
        folder = unpack_version(archive, Path(scratch) / "policy", limits=limits)
        if check is not None:
            check(folder)
        return registry.register(folder, note=note)


def unpack_version(archive: Path | str, into: Path | str, *, limits: ImportLimits = ImportLimits()) -> Path:
    """Unpack an artifact to the new folder `into` and check it against its manifest; returns the folder.

    Raises ArtifactError for an invalid archive, or if `into` exists.
    """
    source, target = Path(archive), Path(into)
    if target.exists() or target.is_symlink():
        raise ArtifactError(f"{target}: already exists; choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".part") as scratch:
        root = Path(scratch)
        try:
            _unpack(source, root, limits)
        except ArtifactError:
            raise
        except _UNREADABLE as error:
            if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
                raise  # not the fault of the archive
            raise ArtifactError(f"{source}: cannot be unpacked: {error}") from None
        artifact = _artifact_in(source, root)
        manifest = sound_manifest(artifact)
        with atomic_directory(target) as temporary:
            for name in (MANIFEST, *manifest["files"]):
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (artifact / name).rename(temporary / name)
    return target


def _unpack(source: Path, root: Path, limits: ImportLimits) -> None:
    with _opened(source) as (entries, read):
        taken: dict[PurePosixPath, bool] = {}
        left = limits.total_bytes
        for count, (name, folder, size, record) in enumerate(entries, 1):
            if count > limits.files:
                raise ArtifactError(f"{source}: contains more than {limits.files} entries; a policy has about 20 files")
            path = _checked(source, name, folder, taken)
            if folder:
                (root / path).mkdir(parents=True, exist_ok=True)
                continue
            if size > left:
                raise _too_large(source, limits)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            with read(record) as stream, (root / path).open("xb") as copy:
                while piece := stream.read(_PIECE):
                    left -= len(piece)
                    if left < 0:
                        raise _too_large(source, limits)
                    copy.write(piece)


def _checked(source: Path, name: str, folder: bool, taken: dict[PurePosixPath, bool]) -> PurePosixPath:
    """Return the path of an entry, which stays inside and is new; `taken` holds those before and is added to."""
    path = PurePosixPath(name)
    odd = "\\" in name or ":" in name or any(ord(letter) < 32 for letter in name)
    if odd or path.is_absolute() or ".." in path.parts or (not path.parts and not folder):
        raise ArtifactError(f"{source}: names the file {name!r}, which is not inside the archive's own folder")
    same = PurePosixPath(str(path).casefold())  # two names that are one file on some systems
    if (same in taken and not (folder and taken[same])) or any(not taken.get(above, True) for above in same.parents):
        raise ArtifactError(f"{source}: contains {name!r} twice")
    taken[same] = folder
    for above in same.parents:
        taken.setdefault(above, True)
    return path


def _too_large(source: Path, limits: ImportLimits) -> ArtifactError:
    return ArtifactError(f"{source}: unpacks to more than {limits.total_bytes:,} bytes; a policy is smaller")


def _artifact_in(source: Path, root: Path) -> Path:
    """Return the folder of the manifest: the top, or the only folder there."""
    inside = list(root.iterdir())
    for folder in (root, *inside[:1]):
        if (folder / MANIFEST).is_file() and (folder == root or len(inside) == 1):
            return folder
    raise ArtifactError(f"{source}: contains no policy: {MANIFEST} is missing in its top folder")


@contextmanager
def _opened(source: Path) -> Iterator[tuple[Iterator[_Entry], Any]]:
    """Return the entries of an archive and the function that opens one; the first bytes tell the format."""
    with source.open("rb") as stream:
        head = stream.read(4)
        stream.seek(0)
        if head.startswith(b"PK"):
            with zipfile.ZipFile(stream) as zipped:
                yield _zip_entries(source, zipped), zipped.open
            return
        plain: Any = gzip.GzipFile(fileobj=stream) if head.startswith(b"\x1f\x8b") else stream
        bounded: Any = _Bounded(plain)
        with tarfile.open(fileobj=bounded, mode="r:") as tarred:
            yield _tar_entries(source, tarred), tarred.extractfile


def _zip_entries(source: Path, zipped: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in zipped.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _not_plain(source, info.filename)
        yield info.filename, info.is_dir(), info.file_size, info


def _tar_entries(source: Path, tarred: tarfile.TarFile) -> Iterator[_Entry]:
    for member in tarred:
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.size < 0:
            raise _not_plain(source, member.name)
        yield member.name, member.isdir(), member.size, member


def _not_plain(source: Path, name: str) -> ArtifactError:
    return ArtifactError(f"{source}: {name!r} is not a file or folder; the import accepts no links or devices")


class _Bounded:
    """A stream for tarfile that reads small pieces, so a header that claims gigabytes does no harm."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _PIECE:
            raise tarfile.ReadError("a header is longer than a header can be")
        return self._stream.read(size)
