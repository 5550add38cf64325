"""Parse user and item ids on the command line; integers become numbers, as in the data readers."""

from collections.abc import Hashable

from recpolicy.core.errors import DataError


def parse_id(text: str) -> Hashable:
    """Parse an id: "196" -> 196, "alice" -> "alice", "007" -> "007"."""
    return int(text) if text.isascii() and text.isdigit() and str(int(text)) == text else text


def parse_ratings(pairs: list[str]) -> dict[Hashable, float]:
    """Parse ["50=5", "181=4"] -> {50: 5.0, 181: 4.0}; raise DataError for anything else."""
    ratings = {}
    for pair in pairs:
        item, separator, rating = pair.rpartition("=")
        try:
            ratings[parse_id(item)] = float(rating)
        except ValueError:
            separator = ""
        if not separator or not item:
            raise DataError(f"--rating {pair!r}: expected ITEM=RATING, such as 50=5")
    return ratings


def parse_history(pairs: list[str]) -> list[tuple[Hashable, bool]]:
    """Parse ["50=like", "181=skip"] -> [(50, True), (181, False)]; raise DataError for anything else."""
    history = []
    for pair in pairs:
        item, separator, response = pair.rpartition("=")
        if not separator or not item or response not in ("like", "skip"):
            raise DataError(f"--history {pair!r}: expected ITEM=like or ITEM=skip, such as 50=like")
        history.append((parse_id(item), response == "like"))
    return history
