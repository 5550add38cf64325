"""Join the attributes of a table of users to the contexts of a feature log.

N rounds, U users. The user's attributes become features of the context under `user.NAME`. A policy that learned them
expects them in the context of each request, as values of an object `user` or under these names.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.feature_columns import Columns, object_array, plain_value
from recpolicy.data.feature_log import FeatureLog

PREFIX = "user."


def with_user_attributes(log: FeatureLog, user_id: NDArray[Any], attributes: Columns) -> FeatureLog:
    """Return the log with the attributes of each round's user in its context; unknown users have missing ones.

    Args:
        log: N rounds with users.
        user_id: Ids of the users of the table [U], each once; 3 and "3" are different users.
        attributes: Columns [U] of the table.

    Raises:
        DataError: The log names no users, an id occurs twice, or the context has such a feature already.
    """
    if log.user is None:
        raise DataError(f"{log.name}: the rounds name no users, so attributes of users cannot join them")
    row = {plain_value(identifier): place for place, identifier in enumerate(user_id.tolist())}
    if len(row) < len(user_id):
        raise DataError(f"the table of users has {len(user_id) - len(row)} ids twice; expected one row per user")
    taken = [name for name in attributes if PREFIX + name in log.context]
    if taken:
        raise DataError(f"{log.name}: the context has a feature {PREFIX + taken[0]!r} already; rename the attribute")
    place = np.array([row.get(plain_value(identifier), -1) for identifier in log.user.tolist()], np.int64)
    joined = {PREFIX + name: _taken(column, place) for name, column in attributes.items()}
    return replace(log, context={**log.context, **joined})


def _taken(column: NDArray[Any], place: NDArray[np.int64]) -> NDArray[Any]:
    """Return the values [N] at the places; -1 is missing."""
    if not len(column):
        return object_array([None] * len(place))
    values: NDArray[Any] = column[np.maximum(place, 0)]
    unknown = place < 0
    if not unknown.any():
        return values
    values = values.copy() if column.dtype.kind == "f" else values.astype(object)
    values[unknown] = np.nan if column.dtype.kind == "f" else None
    return values
