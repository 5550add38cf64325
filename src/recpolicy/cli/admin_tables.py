"""Output of server responses: tables for people, JSON for machines.

Lists become tables and other fields one line each, so that fields of a newer server are shown, too.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any


def say(
    answer: Any, as_json: bool, rows: str | None = None, columns: Sequence[str] = (), none: str | None = None
) -> None:
    """Print an answer; of `rows`, the name of its list, these columns (all where none is named) and nothing else."""
    from recpolicy.cli.output import print_json

    if as_json:
        print_json(answer)
    elif rows is not None and isinstance(answer, Mapping) and rows in answer:
        listed = [{name: row.get(name) for name in columns or row} for row in answer[rows]]
        say_rows(listed, none or f"no {rows} yet")
    elif isinstance(answer, Mapping):
        _say_facts(answer)
    elif answer is not None:
        say_rows(answer, "nothing yet")


def say_rows(rows: Sequence[Mapping[str, Any]], none: str) -> None:
    """Print rows as a table, or `none` where there are none."""
    import pandas as pd

    from recpolicy.cli.output import print_frame

    if not rows:
        print(none)
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    print_frame(pd.DataFrame({name: [_cell(name, row.get(name)) for row in rows] for name in names}, dtype=object))


def say_routing(routing: Mapping[str, Any]) -> None:
    """Print who serves whom, one fact a line."""
    print(f"champion: {_version(routing['champion'])}")
    if routing["challenger"] is None:
        print("challenger: none")
    else:
        what = "shadows" if routing["shadow"] else "answers"
        print(
            f"challenger: version {routing['challenger']}, {what} {100 * routing['traffic_fraction']:g} % of the users"
        )
    print(f"previous: {_version(routing['previous'])}")
    print(f"exploration: {'on' if routing['exploration'] else 'paused'}")


def _version(number: int | None) -> str:
    return "none" if number is None else f"version {number}"


def _say_facts(answer: Mapping[str, Any]) -> None:
    for name, value in answer.items():
        if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            print(f"{name}:")
            say_rows(value, "")
        else:
            print(f"{name}: {_cell(name, value)}")


def _cell(name: str, value: Any) -> str:
    """A value in one line; milliseconds since 1970 as a time in UTC."""
    if value is None:
        return ""
    if type(value) is int and value > 10**11 and (name == "time" or name.endswith("_at")):
        return datetime.fromtimestamp(value / 1e3, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, float):
        return f"{value:.3f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
