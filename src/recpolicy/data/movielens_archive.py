"""Read the MovieLens 100K files from a folder, a zip archive or the recbole wheel, as bytes.

Members are found by name and read into memory up to a limit; no path from an archive is written to. The wheel holds
tab-separated .inter, .item and .user files with a typed header. u.data and u.user are restored byte for byte. u.item
loses release dates, links and one spelling; titles, years and genres stay.
"""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from recpolicy.core.errors import DataError
from recpolicy.data.datasets import ITEM_GENRES

WHEEL_FILES = ("ml-100k.inter", "ml-100k.item", "ml-100k.user")
_HEADERS = {
    "ml-100k.inter": ["user_id", "item_id", "rating", "timestamp"],
    "ml-100k.item": ["item_id", "movie_title", "release_year", "class"],
    "ml-100k.user": ["user_id", "age", "gender", "occupation", "zip_code"],
}
# How the wheel writes the one movie of which nothing is known (267 in u.item: "unknown", all else empty).
_UNKNOWN = "unkonwn"


def rebuild(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return u.data, u.user, u.item and u.genre from the wheel's three files; raises DataError when they are others."""
    return {
        "u.data": _joined(_rows(files, "ml-100k.inter"), "\t"),
        "u.user": _joined(_rows(files, "ml-100k.user"), "|"),
        "u.item": _joined([_item(row) for row in _rows(files, "ml-100k.item")], "|"),
        "u.genre": _joined([[name, str(index)] for index, name in enumerate(ITEM_GENRES)], "|") + b"\n",
    }


def _rows(files: Mapping[str, bytes], name: str) -> list[list[str]]:
    lines = files[name].decode("utf-8").removesuffix("\n").split("\n")
    header = [field.partition(":")[0] for field in lines[0].split("\t")]
    if header != _HEADERS[name]:
        raise DataError(f"{name}:1: columns {', '.join(header)}; expected {', '.join(_HEADERS[name])}")
    rows = [line.split("\t") for line in lines[1:]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(f"{name}:{number}: {len(row)} fields, expected {len(header)}")
    return rows


def _item(row: list[str]) -> list[str]:
    """Return fields of a u.item line: id, title (year), release date, video release date, link, 19 genre flags."""
    movie_id, title, year, genres = row
    title = "unknown" if title == _UNKNOWN else f"{title} ({year})"
    named = genres.split()
    for genre in named:
        if genre not in ITEM_GENRES:
            raise DataError(f"ml-100k.item: movie {movie_id}: genre {genre!r} is none of {', '.join(ITEM_GENRES)}")
    return [movie_id, title, "", "", "", *("1" if genre in named else "0" for genre in ITEM_GENRES)]


def _joined(rows: list[list[str]], separator: str) -> bytes:
    return "".join(separator.join(row) + "\n" for row in rows).encode("latin-1")


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
        raise DataError(f"{path}: not a complete zip file ({error}); download it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _choose(available: Mapping[str, Callable[[], bytes]], path: Path) -> tuple[dict[str, bytes], bool]:
    if set(CLASSIC_FILES) <= set(available):
        return {name: available[name]() for name in (*CLASSIC_FILES, *EXTRA_FILES) if name in available}, False
    if set(WHEEL_FILES) <= set(available):
        return rebuild({name: available[name]() for name in WHEEL_FILES}), True
    missing = [name for name in CLASSIC_FILES if name not in available]
    raise DataError(
        f"{path}: not MovieLens 100K: it lacks {', '.join(missing)}; expected the zip or the folder of GroupLens, or "
        "the recbole 1.2.1 wheel"
    )


def _read_file(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES >> 20} MB; not a file of MovieLens 100K")
    return path.read_bytes()


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> bytes:
    """Read one member; the limit applies to the bytes that come out, not to the size that the archive claims."""
    with archive.open(member) as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: {member.filename} is larger than {MAX_BYTES >> 20} MB; not a file of MovieLens 100K")
    return content
