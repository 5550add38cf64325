"""The few files we want out of a folder, a zip or a wheel, as bytes.

Members are found by name and read into memory within bounds: no path of an archive is ever written to, so there is
nothing to escape from.
"""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from recpolicy.core.errors import DataError
from recpolicy.data.recbole_wheel import WHEEL_FILES, rebuild

CLASSIC_FILES = ("u.data", "u.user", "u.item", "u.genre")
EXTRA_FILES = ("u.occupation", "u.info", "README")
MAX_BYTES = 64 << 20
"""No file of MovieLens 100K has more than 2 MB; one above this is something else."""


def read_classic(path: Path) -> tuple[dict[str, bytes], bool]:
    """Return the classic files found at `path` by name, and whether they had to be rebuilt.

    `path` is a folder, a zip of the GroupLens kind, or a recbole wheel. Raises DataError when it is damaged, too large
    or has no such files.
    """
    try:
        if path.is_dir():
            children = {child.name: partial(_read_file, child) for child in path.iterdir() if child.is_file()}
            return _choose(children, path)
        with zipfile.ZipFile(path) as archive:
            members = {
                PurePosixPath(member.filename).name: partial(_read_member, archive, member, path)
                for member in archive.infolist()
                if not member.is_dir()
            }
            return _choose(members, path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file or folder") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{path}: not a whole zip file ({error}); get it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _choose(found: Mapping[str, Callable[[], bytes]], path: Path) -> tuple[dict[str, bytes], bool]:
    if set(CLASSIC_FILES) <= set(found):
        return {name: found[name]() for name in (*CLASSIC_FILES, *EXTRA_FILES) if name in found}, False
    if set(WHEEL_FILES) <= set(found):
        return rebuild({name: found[name]() for name in WHEEL_FILES}), True
    missing = [name for name in CLASSIC_FILES if name not in found]
    raise DataError(
        f"{path}: not MovieLens 100K: without {', '.join(missing)}; expected the zip or the folder of GroupLens, or "
        "the recbole 1.2.1 wheel"
    )


def _read_file(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES >> 20} MB; not a file of MovieLens 100K")
    return path.read_bytes()


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> bytes:
    """Read one member; the bound holds for what comes out, whatever the archive says of its size."""
    with archive.open(member) as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: {member.filename} is larger than {MAX_BYTES >> 20} MB; not a file of MovieLens 100K")
    return content
