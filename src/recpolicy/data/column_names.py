"""Find columns by their meaning: a name that the caller gives, else one of the usual names, or the place.

The columns of a file without a header are called "1", "2", ... by their place.
"""

import re
from collections.abc import Mapping, Sequence

from recpolicy.core.errors import DataError, suggest_name
from recpolicy.data.csv_reader import Source
from recpolicy.data.read_options import NAME, column_error, header_error

RATING_COLUMNS = ("user", "item", "rating", "timestamp")
"""Meanings of the columns of ratings; only timestamp may be missing."""
ITEM_COLUMNS = ("item", "title", "genres", "year")
"""Meanings of the columns of a table of items; only item is needed."""
USER_COLUMNS = ("user",)
"""Meanings of the columns of a table of users; its other columns are attributes."""
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "userId"),
    "item": ("item", "item_id", "itemId", "movie", "movie_id", "movieId"),
    "rating": ("rating",),
    "timestamp": ("timestamp",),
    "title": ("title",),
    "genres": ("genres",),
    "year": ("year",),
}
"""Names under which a column is found without being mapped."""
_SYNONYMS: Mapping[str, frozenset[str]] = {
    "user": frozenset({"user", "uid", "customer", "visitor", "member", "reviewer", "account", "person", "viewer"}),
    "item": frozenset({
        "item", "iid", "movie", "film", "video", "product", "asin", "sku", "book", "isbn", "article", "song", "track",
        "business",
    }),
    "rating": frozenset({"rating", "star", "score", "overall", "response", "vote", "grade"}),
    "timestamp": frozenset({"timestamp", "time", "date", "datetime", "ts"}),
    "title": frozenset({"title", "name"}),
    "genres": frozenset({"genre", "category", "tag"}),
    "year": frozenset({"year"}),
}  # fmt: skip
"""Last words of names that people give a column of each meaning. They are suggested, never taken unasked."""
_UNITS = frozenset({"", "id", "token", "float", "ms", "s", "seconds"})
"""Last words that do not say what a column means."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def possible_names(meaning: str, wanted: str | None, *, header: bool = True) -> tuple[str, ...]:
    """Return the names under which a column is looked for, in this order."""
    if wanted is not None:
        return (wanted,)
    return _ALIASES[meaning] if header else (str(RATING_COLUMNS.index(meaning) + 1),)


def find_column(
    names: Sequence[str],
    meaning: str,
    source: Source,
    wanted: str | None = None,
    *,
    needed: bool = True,
    table: str = "columns",
) -> str | None:
    """Return the name of the column with this meaning; None if it may be missing, and is.

    Args:
        names: Names of the columns of the file.
        meaning: One of RATING_COLUMNS, ITEM_COLUMNS or USER_COLUMNS.
        source: The file.
        wanted: The name that the caller gave.
        needed: Whether the column must exist; a name that was given must always exist.
        table: The option that maps the columns of this file.

    Raises:
        DataError: The column is missing, or there are two of its name.
    """
    candidates = possible_names(meaning, wanted, header=source.header)
    for candidate in candidates:
        if list(names).count(candidate) > 1:
            raise DataError(f"{source.path}: two columns named {candidate!r}")
        if candidate in names:
            return candidate
    if not needed and wanted is None:
        return None
    start = f"{source.path}:{1 + source.skipped_lines}" if source.separator else str(source.path)
    fact = f"{start}: no column {candidates[0]!r} for the {meaning}."
    if not source.header:
        raise column_error(f"{fact} The columns are numbered from 1 to {len(names)}", meaning, table)
    likely = None if wanted is not None else _likely_column(names, meaning)
    if likely is not None:
        hint = f" Did you mean {likely!r}?"
    else:
        hint = suggest_name(wanted, names) if wanted is not None else suggest_name(meaning, _unnamed(names), 0.75)
    fact = f"{fact}{hint} Found in the first line: {', '.join(names)}"
    if wanted is None and source.separator and table == "columns" and any(map(_is_number, names)):
        raise header_error(fact)
    raise column_error(fact, meaning, table, likely or NAME)


def _likely_column(names: Sequence[str], meaning: str) -> str | None:
    """Return the column whose name people give a column of this meaning; None if there is none."""
    return next((name for name in names if _last_word(name) in _SYNONYMS[meaning]), None)


def _unnamed(names: Sequence[str]) -> list[str]:
    """Return the columns whose names say no meaning; one of them may be misspelled."""
    elsewhere = frozenset().union(*_SYNONYMS.values())
    return [name for name in names if _last_word(name) not in elsewhere]


def _last_word(name: str) -> str:
    """Return the word of a column's name that says what it means: `rating` of "Book-Rating", `user` of "userIds"."""
    words = [word.lower() for word in _WORD.findall(name)]
    words = [word.removesuffix("id") if word in ("userid", "itemid", "movieid") else word for word in words]
    singular = [
        word[:-3] + "y" if word.endswith("ies") else word[:-1] if word.endswith("s") and len(word) > 3 else word
        for word in words
    ]
    return next((word for word in reversed(singular) if word not in _UNITS), "")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
