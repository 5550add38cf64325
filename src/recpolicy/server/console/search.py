"""Finding users and items by what a person types."""

from collections.abc import Hashable, Iterator, Mapping
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from recpolicy.inference.scorer import Scorer

_POPULAR: "WeakKeyDictionary[Scorer, NDArray[np.intp]]" = WeakKeyDictionary()


def users(scorer: Scorer, text: str, count: int) -> list[Hashable]:
    """The first users whose id is, begins with or holds the text, in that order; an empty text finds anybody."""
    sought = text.strip()
    exact = [user for user in _spelt(sought) if scorer.knows(user)]
    begins = (user for user in scorer.user_ids if str(user).startswith(sought))
    holds = (user for user in scorer.user_ids if sought in str(user))
    found = dict.fromkeys(exact)
    for several in (begins, holds):
        found |= dict.fromkeys(islice(several, count))
    return list(found)[:count]


def items(scorer: Scorer, text: str, count: int) -> list[dict[str, Any]]:
    """The items rated most often whose title has all the words; an empty text finds any."""
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
    """What a list can be narrowed by: genres, first and last year (None: no years are known)."""
    years = scorer.years[np.isfinite(scorer.years)]
    ends = (int(years.min()), int(years.max())) if len(years) else None
    return {"genres": list(scorer.genre_names), "years": ends}


def _spelt(text: str) -> Iterator[Hashable]:
    """The ids that are spelt so: 196 and "196" are two."""
    yield text
    if len(text) < 20 and text.isascii() and text.lstrip("-").isdigit() and str(int(text)) == text:
        yield int(text)


def _by_popularity(scorer: Scorer) -> NDArray[np.intp]:
    """Item rows [I], the most often rated first."""
    if scorer not in _POPULAR:
        count = np.bincount(scorer.artifact.rated_item, minlength=len(scorer.item_ids))
        _POPULAR[scorer] = np.argsort(-count, kind="stable")
    return _POPULAR[scorer]


def _genres(scorer: Scorer, row: int) -> list[str]:
    return [name for name, has in zip(scorer.genre_names, scorer.genres[row].tolist(), strict=True) if has]
