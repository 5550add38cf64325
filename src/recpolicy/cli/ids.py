"""User and movie ids on the command line: whole numbers are read as numbers, as the data readers do."""

from collections.abc import Hashable

from recpolicy.core.errors import DataError


def parse_id(text: str) -> Hashable:
    """196 -> 196, "alice" -> "alice", "007" -> "007"."""
    return int(text) if text.isascii() and text.isdigit() and str(int(text)) == text else text


def parse_ratings(pairs: list[str]) -> dict[Hashable, float]:
    """["50=5", "181=4"] -> {50: 5.0, 181: 4.0}; raises DataError for anything else."""
    ratings = {}
    for pair in pairs:
        movie, separator, rating = pair.rpartition("=")
        try:
            ratings[parse_id(movie)] = float(rating)
        except ValueError:
            separator = ""
        if not separator or not movie:
            raise DataError(f"--rate {pair!r}: expected MOVIE=RATING, such as 50=5")
    return ratings
