"""Inputs and outputs of a policy: ids as a list, estimates as a table, the k best of a catalog.

n users, M items, A arms.
"""

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.floating]


def as_list(users: Any) -> list[Hashable]:
    """Return one id or a sequence of ids as a list; NumPy scalars become plain values, to be keys of a dict."""
    if isinstance(users, str) or not hasattr(users, "__iter__"):
        users = [users]
    ids = [user.item() if isinstance(user, np.generic) else user for user in users]
    if not ids:
        raise DataError("no users given; expected at least one user id")
    return ids


def estimates_frame(ids: list[Hashable], item_ids: Any, titles: Any, columns: Mapping[str, Array]) -> "pd.DataFrame":
    """Return the named arrays [n, M] as a table of n * M rows, users one after the other."""
    import pandas as pd

    users, items = next(iter(columns.values())).shape
    single_user = users == 1
    return pd.DataFrame(
        {
            "user_id": pd.Index(ids).repeat(items),  # ids of several types stay what they are
            "item_id": item_ids if single_user else np.tile(np.asarray(item_ids), users),
            "title": titles if single_user else np.tile(np.asarray(titles, dtype=object), users),
            **{name: values.ravel() for name, values in columns.items()},
        },
        copy=False,
    )


def most_probable(probability: Array) -> NDArray[np.bool_]:
    """Return a mask [I] of the largest probability; False throughout if all items that may be shown tie."""
    best = probability >= probability.max() * (1 - 1e-9)
    return np.asarray(best & (best.sum() < np.count_nonzero(probability)) if best.sum() > 1 else best)


def drawn_arms(probability: Array, k: int, lot: np.random.Generator) -> NDArray[np.intp]:
    """Draw k arms from probabilities [A], one after the other without putting back; fewer where fewer are possible.

    The Gumbel trick: the k largest of log p + noise are k such draws.
    """
    noise = lot.gumbel(size=len(probability))
    drawn = np.log(probability, out=np.full(len(probability), -np.inf), where=probability > 0) + noise
    return np.argsort(-drawn, kind="stable")[: min(k, int((probability > 0).sum()))]


def conditional_propensities(probability: Array, drawn: NDArray[np.intp]) -> Array:
    """Return the probability [K] of each drawn arm given those before it; their product is that of the list."""
    mine = probability[drawn].astype(np.float64)  # [K]
    others = float(np.delete(probability, drawn).sum(dtype=np.float64))
    left = others + np.cumsum(mine[::-1])[::-1]  # [K], of the arms that are not drawn before
    return mine / left
