"""Features of contexts and actions: schemas, encoders, hashing, and proposals of a schema from data."""

from recpolicy.data.feature_columns import Columns, columns_from_records
from recpolicy.data.features.encoder import FeatureEncoder, SparseRows
from recpolicy.data.features.hashing import hashed_names, murmur3, pair_indices
from recpolicy.data.features.schema import (
    FEATURE_TYPES,
    Feature,
    FeatureSchema,
    read_schema,
    schema_from_dict,
    unused_names,
)

__all__ = [
    "FEATURE_TYPES",
    "Columns",
    "Feature",
    "FeatureEncoder",
    "FeatureSchema",
    "SparseRows",
    "columns_from_records",
    "hashed_names",
    "murmur3",
    "pair_indices",
    "read_schema",
    "schema_from_dict",
    "unused_names",
]
