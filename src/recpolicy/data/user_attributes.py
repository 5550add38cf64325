"""Attributes of a table of users in the contexts of a feature log.

N rounds. The table has a column `user_id` and a column per attribute; each attribute becomes a context feature of the
rounds of the user. Users that the table lacks, and rounds without a user, have missing values.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from recpolicy.core.errors import DataError
from recpolicy.data.decision_table import NAMELESS, DecisionTable
from recpolicy.data.feature_columns import object_array
from recpolicy.data.feature_log import FeatureLog

USER_ID = "user_id"


def with_user_attributes(log: FeatureLog, table: Path, separator: str = ",") -> FeatureLog:
    """Return the log with the attributes of its users in the contexts.

    Args:
        log: Rounds with users.
        table: CSV, Parquet or JSON lines.
        separator: Separator of a CSV file.

    Raises:
        DataError: The log names no users, the table is wrong or has a user twice, or none of the users is in it.
    """
    if log.user is None:
        raise DataError(f"{log.name}: the log names no users, so the table {table} cannot join its contexts")
    users = DecisionTable(table, separator)
    users.check_names([USER_ID])
    ids = users.ids(USER_ID)
    users.refuse(pd.Series(ids).duplicated().to_numpy(), lambda row: f"{USER_ID} {ids[row]!r} occurs twice")
    names = [name for name in users.names if name != USER_ID and not name.startswith(NAMELESS)]
    for name in names:
        if name in log.context:
            raise DataError(f"{table}: the column {name} is a context feature of the log already; rename it")
    # An id is the same as a number and as a text: tables of other systems often turn one into the other.
    place = {str(identifier): row for row, identifier in enumerate(ids.tolist())}
    row = np.array([-1 if user is None else place.get(str(user), -1) for user in log.user.tolist()])
    if (row < 0).all():
        raise DataError(f"{table}: none of its {len(ids):,} users is in the log; expected ids such as {log.user[0]!r}")
    context = dict(log.context)
    for name in names:
        column = users.feature(name)
        values = column[row]
        if column.dtype.kind == "f":
            context[name] = np.where(row < 0, np.nan, values)
        else:
            known = values.tolist()
            context[name] = object_array(
                [None if missing else value for missing, value in zip(row < 0, known, strict=True)]
            )
    return replace(log, context=context)
