"""Ways to spoil a log in Parquet: each returns a change of the folder that holds `file`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Change = Callable[[Path], None]


def rewritten(file: str, change: Callable[[pa.Table], pa.Table]) -> Change:
    """Another table."""

    def spoil(folder: Path) -> None:
        pq.write_table(change(pq.read_table(folder / file)), folder / file)

    return spoil


def column(file: str, name: str, values: Any, kind: Any = None) -> Change:
    """Other values of one column, or a function of the old ones; in its type, or another."""

    def change(table: pa.Table) -> pa.Table:
        place, old = table.schema.get_field_index(name), table.schema.field(name).type
        new = values(table.column(name).to_pylist()) if callable(values) else values
        plain = old.value_type if pa.types.is_dictionary(old) else old
        return table.set_column(place, name, pa.array(new, kind or plain))

    return rewritten(file, change)


def metadata(file: str, text: bytes) -> Change:
    """Another text of what the file says of itself."""
    return rewritten(file, lambda table: table.replace_schema_metadata({b"recpolicy": text}))


def cut(file: str) -> Change:
    """The first half of the file."""

    def spoil(folder: Path) -> None:
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[: len(whole) // 2])

    return spoil
