"""Attributes of the users and items of a ratings table as numbers, for policies of items.

U users, I items, X and G encoded columns. A schema names columns of the users table as features of the context and
columns of the items table as features of actions; `id` is the item's id. The encoder is fitted on the users and items
of the train part. Genres are lists of tags.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.text import join_words
from recpolicy.data.column_names import did_you_mean, likely_columns
from recpolicy.data.feature_columns import Columns, column_from_values
from recpolicy.data.features.encoder import FeatureEncoder
from recpolicy.data.features.schema import ACTION_ID, PARTS, FeatureSchema
from recpolicy.data.ratings import GENRE_SEPARATOR, Ratings

GENRES = "genres"
_KEYS, _TABLES = ("user_id", "item_id"), ("users", "items")


@dataclass(frozen=True)
class Attributes:
    """Encoded attributes of all users and items."""

    encoder: FeatureEncoder
    user: NDArray[np.float32]  # [U, X]
    item: NDArray[np.float32]  # [I, G]


def encode_attributes(schema: FeatureSchema, train: Ratings) -> Attributes:
    """Return the attributes of all users and items, by an encoder that was fitted on those of the train part.

    Raises:
        DataError: A table lacks a column of the schema, or has a value of another type.
        ConfigError: The schema has no features.
    """
    if not schema.context and not schema.action:
        raise ConfigError("features: the schema has no features; name columns of users as context, of items as action")
    tables = train.users, train.items
    columns = [attribute_columns(table, key) for table, key in zip(tables, _KEYS, strict=True)]
    for part, known, name in zip(PARTS, columns, _TABLES, strict=True):
        lacking = [feature for feature in schema.part(part) if feature.partition(".")[0] not in known]
        if lacking:
            found = sorted(set(known) - {ACTION_ID})
            missing = f"no column{'s' * (len(lacking) > 1)} {join_words([*map(repr, lacking)])}"
            hint = did_you_mean(likely_columns(found, {name: name for name in lacking}), len(lacking))
            raise DataError(f"features: the table of {name} has {missing}. Found: {', '.join(found) or 'none'}.{hint}")
    seen = np.unique(train.user), np.unique(train.item)
    encoder = FeatureEncoder.fit(
        schema,
        *({name: column[rows] for name, column in part.items()} for part, rows in zip(columns, seen, strict=True)),
    )
    return Attributes(encoder, encoder.dense_context(columns[0]), encoder.dense_action(columns[1]))


def attribute_columns(table: pd.DataFrame, key: str) -> Columns:
    """Return the columns [n] of a table of users or items as raw values of features; `key` is the column of ids."""
    columns = {}
    for name in table.columns:
        series = table[name]
        values = series.astype(object).where(series.notna(), None).tolist()
        if name == GENRES:
            values = [
                None if value is None else [tag for tag in value.split(GENRE_SEPARATOR) if tag] for value in values
            ]
        columns[ACTION_ID if name == key else str(name)] = column_from_values(values, str(name))
    return columns
