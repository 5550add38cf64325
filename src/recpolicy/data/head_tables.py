"""Read tables of numbers per user and item, or per item: heads of a ranking formula from the user's own files."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from recpolicy.core.errors import DataError, unknown_name_error
from recpolicy.data.joined_tables import open_joined
from recpolicy.data.table_columns import identifiers, numbers


def read_head_table(path: Path, ids: tuple[str, ...], names: Sequence[str] = ()) -> pd.DataFrame:
    """Return the id columns, then the columns of numbers.

    Args:
        path: Parquet or CSV file.
        ids: Names of the id columns, such as ("user_id", "item_id"); a row has a distinct combination of them.
        names: Columns to read; all numeric ones if empty.

    Raises:
        DataError: The file is missing, lacks an id column or a number, or has a combination of ids twice.
        ConfigError: A name is not a column.
    """
    file = open_joined(path, path.stem, "item", "item_id", None)
    if missing := [name for name in ids if name not in file.names]:
        raise DataError(f"{path}: no column {missing[0]!r}; found {', '.join(file.names)}")
    for name in names:
        if name not in file.names or name in ids:
            raise unknown_name_error("column", name, [known for known in file.names if known not in ids])
    table = file.read(file.names)
    wanted = list(names) or [name for name in file.names if name not in ids and _is_numeric(table[name])]
    if not wanted:
        raise DataError(f"{path}: no column of numbers besides {', '.join(ids)}")
    frame = pd.DataFrame({name: identifiers(table[name], name, file.source) for name in ids})
    again = frame.duplicated().to_numpy()
    if again.any():
        row = int(again.argmax())
        raise DataError(
            f"{file.source.at(row)}: {', '.join(f'{name} {frame[name][row]}' for name in ids)} occurs twice"
        )
    for name in wanted:
        frame[name] = numbers(table[name], name, file.source)
    return frame


def _is_numeric(column: pa.ChunkedArray) -> bool:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return bool(pd.to_numeric(column.to_pandas(), errors="coerce").notna().all())
    return bool(pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
