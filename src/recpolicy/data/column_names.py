"""Find columns by their meaning: a name that the caller gives, else one of the usual names, or the place.

The columns of a file without a header are called "1", "2", ... by their place.
"""

import difflib
from collections.abc import Mapping, Sequence

from recpolicy.core.errors import DataError
from recpolicy.data.csv_reader import Source
from recpolicy.data.read_options import column_error, header_error

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
    close = difflib.get_close_matches(candidates[0], names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    fact = f"{fact}{hint} Found in the first line: {', '.join(names)}"
    if wanted is None and source.separator and table == "columns" and any(map(_is_number, names)):
        raise header_error(fact)
    raise column_error(fact, meaning, table)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
