"""Ids of users and items: integers or text, all of a table of one type."""

import re
from collections.abc import Collection, Hashable, Sequence

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")


def convert_id(text: str, known: Sequence[Hashable]) -> Hashable:
    """Return an id that was given as text, with the type of the known ids.

    In a table of integers a whole number, with or without a sign, becomes an integer; any other text stays text.
    """
    if known and not isinstance(known[0], str) and _INTEGER.fullmatch(text):
        return int(text)
    return text


def type_hint(unknown: Sequence[Hashable], known: Collection[Hashable]) -> str:
    """Return a hint for the first unknown id that is known with the other type; "" if none is."""
    for identifier in unknown:
        if isinstance(identifier, str) and _INTEGER.fullmatch(identifier) and int(identifier) in known:
            return f"; the ids are integers: {identifier} without quotes"
        if isinstance(identifier, int) and not isinstance(identifier, bool) and str(identifier) in known:
            return f'; the ids are text: "{identifier}"'
    return ""
