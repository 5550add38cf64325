"""Parse user and item ids on the command line: numbers or text, as in the tables of the policy."""

from collections.abc import Hashable, Sequence

from recpolicy.core.errors import DataError
from recpolicy.core.ids import convert_id


def parse_ids(texts: list[str], known: Sequence[Hashable]) -> list[Hashable]:
    """Return ids with the type of the known ones: "-501" is -501 in a table of numbers, and itself in one of text."""
    return [convert_id(text, known) for text in texts]


def parse_ratings(pairs: list[str], known: Sequence[Hashable]) -> dict[Hashable, float]:
    """Parse ["50=5", "181=4"] -> {50: 5.0, 181: 4.0}; raise DataError for anything else. `known` are the item ids."""
    ratings = {}
    for pair in pairs:
        item, separator, rating = pair.rpartition("=")
        try:
            ratings[convert_id(item, known)] = float(rating)
        except ValueError:
            separator = ""
        if not separator or not item:
            raise DataError(f"--rating {pair!r}: expected ITEM=RATING, such as 50=5")
    return ratings


def parse_history(pairs: list[str], known: Sequence[Hashable]) -> list[tuple[Hashable, bool]]:
    """Parse ["50=like", "181=skip"] -> [(50, True), (181, False)]; raise DataError for anything else.

    `known` are the item ids.
    """
    history = []
    for pair in pairs:
        item, separator, response = pair.rpartition("=")
        if not separator or not item or response not in ("like", "skip"):
            raise DataError(f"--history {pair!r}: expected ITEM=like or ITEM=skip, such as 50=like")
        history.append((convert_id(item, known), response == "like"))
    return history
