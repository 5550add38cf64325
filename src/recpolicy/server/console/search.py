"""Searches for users and items by text."""

from collections.abc import Hashable, Iterator, Mapping
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from recpolicy.inference.scorer import Scorer

_POPULAR: "WeakKeyDictionary[Scorer, NDArray[np.intp]]" = WeakKeyDictionary()


def users(scorer: Scorer, text: str, count: int) -> list[Hashable]:
    """Return the first users whose id equals, begins with or contains the text, in that order; an empty text matches
    all.
    """
    sought = text.strip()
    exact = [user for user in _spelt(sought) if scorer.knows(user)]
    begins = (user for user in scorer.user_ids if str(user).startswith(sought))
    holds = (user for user in scorer.user_ids if sought in str(user))
    found = dict.fromkeys(exact)
    for several in (begins, holds):
        found |= dict.fromkeys(islice(several, count))
    return list(found)[:count]


def items(scorer: Scorer, text: str, count: int) -> list[dict[str, Any]]:
    """Return the items with the most ratings whose title has all the words; an empty text matches all."""
    words = text.casefold().split()
    rows = (
        row for row in _by_popularity(scorer).tolist()
        if all(word in str(scorer.titles[row] or "").casefold() for word in words)
    )  # fmt: skip
    return [
        {"item_id": scorer.item_ids[row], "title": scorer.titles[row], "genres": _genres(scorer, row)}
        for row in islice(rows, count)
    ]


def filters(scorer: Scorer) -> Mapping[str, Any]:
    """Return the values of the filters of a list: genres, first and last year (None if the years are unknown)."""
    years = scorer.years[np.isfinite(scorer.years)]
    ends = (int(years.min()), int(years.max())) if len(years) else None
    return {"genres": list(scorer.genre_names), "years": ends}


def _spelt(text: str) -> Iterator[Hashable]:
    """Yield the ids with this spelling: 196 and "196" differ."""
    yield text
    if len(text) < 20 and text.isascii() and text.lstrip("-").isdigit() and str(int(text)) == text:
        yield int(text)


def _by_popularity(scorer: Scorer) -> NDArray[np.intp]:
    """Return the item rows [I], most often rated first."""
    if scorer not in _POPULAR:
        count = np.bincount(scorer.artifact.rated_item, minlength=len(scorer.item_ids))
        _POPULAR[scorer] = np.argsort(-count, kind="stable")
    return _POPULAR[scorer]


def _genres(scorer: Scorer, row: int) -> list[str]:
    return [name for name, has in zip(scorer.genre_names, scorer.genres[row].tolist(), strict=True) if has]
