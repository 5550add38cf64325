"""Find columns by their meaning: a name that the caller gives, else one of the usual names, or the place.

The columns of a file without a header are called "1", "2", ... by their place.
"""

import re
from collections.abc import Collection, Mapping, Sequence

from recpolicy.core.errors import DataError, closest_name
from recpolicy.core.text import join_words
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
"""Names under which a column is found without being mapped, in capitals or small letters."""
_SYNONYMS: Mapping[str, frozenset[str]] = {
    "user": frozenset({"user", "uid", "customer", "visitor", "member", "reviewer", "account", "person", "viewer"}),
    "item": frozenset({
        "item", "iid", "movie", "film", "video", "product", "asin", "sku", "book", "isbn", "article", "song", "track",
        "business", "action", "arm",
    }),
    "rating": frozenset({"rating", "star", "score", "overall", "response", "vote", "grade"}),
    "timestamp": frozenset({"timestamp", "time", "date", "datetime", "ts"}),
    "title": frozenset({"title", "name"}),
    "genres": frozenset({"genre", "category", "tag"}),
    "year": frozenset({"year"}),
    "time": frozenset({"timestamp", "time", "date", "datetime", "ts"}),
    "reward": frozenset({"reward", "click", "conversion", "purchase", "response", "label"}),
    "propensity": frozenset({"propensity", "pscore", "probability", "prob"}),
    "action": frozenset({"action", "arm", "choice"}),
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


def find_columns(
    names: Sequence[str],
    meanings: Sequence[str],
    source: Source,
    wanted: Mapping[str, str],
    *,
    optional: Collection[str] = (),
    table: str = "columns",
) -> dict[str, str]:
    """Return the names of the columns by meaning, without those that may be missing and are.

    Args:
        names: Names of the columns of the file.
        meanings: Some of RATING_COLUMNS, ITEM_COLUMNS or USER_COLUMNS.
        source: The file.
        wanted: Names that the caller gave, by meaning; a column of such a name must exist.
        optional: Meanings that may be missing.
        table: The option that maps the columns of this file.

    Raises:
        DataError: Columns are missing (all are named), or there are two of one name.
    """
    found, missing = {}, {}
    for meaning in meanings:
        candidates = possible_names(meaning, wanted.get(meaning), header=source.header)
        name = next((candidate for candidate in candidates if candidate in names), None)
        if name is None and meaning not in wanted:
            name = _ignoring_case(names, candidates)
        if name is not None and list(names).count(name) > 1:
            raise DataError(f"{source.path}: two columns named {name!r}")
        if name is not None:
            found[meaning] = name
        elif meaning in wanted or meaning not in optional:
            missing[meaning] = candidates[0]
    if missing:
        raise _missing_columns(
            [name for name in names if name not in found.values()], names, missing, source, wanted, table
        )
    return found


def _ignoring_case(names: Sequence[str], candidates: Sequence[str]) -> str | None:
    """Return the only column that has one of these names in other letters, such as "UserID"; None if several have."""
    letters = {candidate.casefold() for candidate in candidates}
    same = [name for name in names if name.casefold() in letters]
    return same[0] if len(same) == 1 else None


def _missing_columns(
    free: Sequence[str],
    names: Sequence[str],
    missing: Mapping[str, str],
    source: Source,
    wanted: Mapping[str, str],
    table: str,
) -> DataError:
    """Return the error of a file without columns: `missing` by meaning; one of the `free` ones may be meant."""
    start = f"{source.path}:{1 + source.skipped_lines}" if source.separator else str(source.path)
    lacks = join_words([f"{name!r} for the {meaning}" for meaning, name in missing.items()])
    fact = f"{start}: no column{'s' * (len(missing) > 1)} {lacks}."
    if not source.header:
        return column_error(
            f"{fact} The columns are numbered from 1 to {len(names)}", dict.fromkeys(missing, NAME), table
        )
    likely = likely_columns(free, {meaning: wanted.get(meaning) for meaning in missing})
    fact = f"{fact}{did_you_mean(likely, len(missing))} Found in the first line: {', '.join(names)}"
    own_names = not wanted.keys().isdisjoint(missing)
    if not own_names and source.separator and table == "columns" and any(map(_is_number, names)):
        return header_error(fact)
    return column_error(fact, {meaning: likely.get(meaning, NAME) for meaning in missing}, table)


def did_you_mean(likely: Mapping[str, str], missing: int) -> str:
    """Return the question that follows the names of `missing` columns, with the likely ones by meaning; "" for none."""
    if not likely:
        return ""
    if missing == 1:
        return f" Did you mean {next(iter(likely.values()))!r}?"
    return f" Did you mean {join_words([f'{name!r} for the {meaning}' for meaning, name in likely.items()])}?"


def likely_columns(names: Sequence[str], missing: Mapping[str, str | None]) -> dict[str, str]:
    """Return by meaning the columns that are probably meant, each once.

    Args:
        names: Names of the columns that have no meaning yet.
        missing: The missing meanings, with the name that the caller gave or None.
    """
    likely: dict[str, str] = {}
    for meaning, wanted in missing.items():
        free = [name for name in names if name not in likely.values()]
        if wanted is not None:
            name = closest_name(wanted, free)
        else:
            name = _likely_column(free, meaning) or closest_name(meaning, _unnamed(free), 0.75)
        if name is not None:
            likely[meaning] = name
    return likely


def _likely_column(names: Sequence[str], meaning: str) -> str | None:
    """Return the column whose name people give a column of this meaning; None if there is none."""
    return next((name for name in names if _last_word(name) in _SYNONYMS.get(meaning, ())), None)


def _unnamed(names: Sequence[str]) -> list[str]:
    """Return the columns whose names say no meaning; one of them may be misspelled."""
    elsewhere = frozenset().union(*(_SYNONYMS[meaning] for meaning in _ALIASES))
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
