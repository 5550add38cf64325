"""The classic MovieLens 100K files out of the `recbole` wheel, which carries the data in a form of its own.

The wheel has tab-separated .inter, .item and .user files with a typed header, in the original order. u.data and u.user
come out byte for byte. u.item cannot: release dates, links and one spelling are lost; its titles, years and genres are
kept. Everything here maps bytes to bytes.
"""

from collections.abc import Mapping

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
    """Fields of a u.item line: id, title (year), release date, video release date, link, 19 genre flags."""
    movie_id, title, year, genres = row
    title = "unknown" if title == _UNKNOWN else f"{title} ({year})"
    named = genres.split()
    for genre in named:
        if genre not in ITEM_GENRES:
            raise DataError(f"ml-100k.item: movie {movie_id}: genre {genre!r} is none of {', '.join(ITEM_GENRES)}")
    return [movie_id, title, "", "", "", *("1" if genre in named else "0" for genre in ITEM_GENRES)]


def _joined(rows: list[list[str]], separator: str) -> bytes:
    return "".join(separator.join(row) + "\n" for row in rows).encode("latin-1")
