"""Errors of tables that other reading options could read, with a remedy in the words of the caller.

Python callers name the argument of `load_ratings`, commands their option or the table [data] of their config file,
pipelines their parameter `data_settings`. A command without any of these tells the reader to change the file.
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from recpolicy.core.errors import DataError
from recpolicy.core.text import join_words

Remedy = Literal["argument", "option", "config", "parameter", "file"]
NAME = "NAME"


class ReadOptionError(DataError):
    """A table cannot be read with these options; `remedies` says in the words of each caller what to do."""

    def __init__(self, fact: str, remedies: dict[Remedy, str]):
        super().__init__(f"{fact}; {remedies['argument']}")
        self.fact, self.remedies = fact, remedies


def column_error(fact: str, columns: Mapping[str, str], table: str = "columns") -> ReadOptionError:
    """Return the error of a file that names its columns of some meanings in another way.

    Args:
        fact: The fault and its place.
        columns: For each meaning (user, item, rating, ...) the name of the column that probably has it, or NAME.
        table: The option that maps the columns of this file: columns, or user_columns or item_columns of a table that
            accompanies the ratings. The command line has an option for each column of the ratings only.
    """
    it = "it" if len(columns) == 1 else "them"
    config = f"{table} = {{ {', '.join(f'{meaning} = {json.dumps(name)}' for meaning, name in columns.items())} }}"
    values = [f'"{meaning}": {NAME if name == NAME else repr(name)}' for meaning, name in columns.items()]
    options = " ".join(f"--{meaning} {shlex.quote(name)}" for meaning, name in columns.items())
    return ReadOptionError(
        fact,
        {
            "argument": f"name {it} with {table}={{{', '.join(values)}}}",
            "option": (
                f"name {it} with {options}"
                if table == "columns"
                else f"name {it} with {config} in [data] of a TOML file, given as --config FILE"
            ),
            "config": f"name {it} with {config}",
            "parameter": f"name {it} with {_parameter({table: dict(columns)})}",
            "file": f"rename the column{'s' * (len(columns) > 1)} to {join_words([*map(repr, columns)])} in the file",
        },
    )


def scale_error(fact: str, low: float, high: float) -> ReadOptionError:
    """Return the error of a file whose ratings from `low` to `high` are outside the scale."""
    ends = f"{plain_number(low)}, {plain_number(high)}"
    holds = "which holds all ratings"
    return ReadOptionError(
        fact,
        {
            "argument": f"for another scale pass scale=({ends}), {holds}",
            "option": f"for another scale give --scale {ends.replace(',', '')}, {holds}",
            "config": f"for another scale set scale = [{ends}], {holds}",
            "parameter": f'for another scale set data_settings={{"scale": [{ends}]}}, {holds}',
            "file": "correct it in the file",
        },
    )


def separator_error(fact: str, used: str, separator: str, *, header: bool = True) -> ReadOptionError:
    """Return the error of a file that seems to have another separator than the one in use.

    Args:
        fact: The fault and its place.
        used: The separator in use.
        separator: The separator that the file seems to have.
        header: False if the first line seems to hold values instead of names, too.
    """
    text = json.dumps(separator)
    if not header:
        rows = "the first line has values, not names"
        return ReadOptionError(
            f"{fact}; {rows}",
            {
                "argument": f"pass separator={text} and header=False",
                "option": f"give --separator {text} --no-header",
                "config": f"set separator = {text} and header = false",
                "parameter": f"set {_parameter({'separator': separator, 'header': False})}",
                "file": f"separate the columns by {used!r} in the file, and add a line with their names",
            },
        )
    return ReadOptionError(
        fact,
        {
            "argument": f"pass separator={text}",
            "option": f"give --separator {text}",
            "config": f"set separator = {text}",
            "parameter": f"set {_parameter({'separator': separator})}",
            "file": f"separate the columns by {used!r} in the file",
        },
    )


def header_error(fact: str) -> ReadOptionError:
    """Return the error of a file whose first line holds values instead of names."""
    return ReadOptionError(
        fact,
        {
            "argument": "for a file without a header pass header=False",
            "option": "for a file without a header give --no-header",
            "config": "for a file without a header set header = false",
            "parameter": f"for a file without a header set {_parameter({'header': False})}",
            "file": "add a first line with the names of the columns, such as user,item,rating",
        },
    )


def timestamp_error(fact: str) -> ReadOptionError:
    """Return the error of a file whose times cannot be read; a caller can leave them out."""
    return ReadOptionError(
        fact,
        {
            "argument": "correct it, or pass timestamps=False to leave out the times",
            "option": "correct it, or give --no-timestamps to leave out the times",
            "config": "correct it, or set timestamps = false to leave out the times",
            "parameter": f"correct it, or set {_parameter({'timestamps': False})} to leave out the times",
            "file": "correct it in the file",
        },
    )


def repeated_error(fact: str) -> ReadOptionError:
    """Return the error of a file with several ratings of one pair."""
    which = "keep one rating of each pair"
    return ReadOptionError(
        fact,
        {
            "argument": f'{which}: pass repeated="last", "first" or "mean"',
            "option": f"{which}: give --repeated last, first or mean",
            "config": f'{which}: set repeated = "last", "first" or "mean"',
            "parameter": f'{which}: set {_parameter({"repeated": "last"})}, or "first" or "mean"',
            "file": f"{which} in the file",
        },
    )


@contextmanager
def reading_for(remedy: Remedy, config: Path | None = None) -> Iterator[None]:
    """Raise the errors of tables read inside with the remedy that the caller offers.

    Args:
        remedy: `option` for options as those of `recpolicy data check`, `config` for a table [data] in a TOML file,
            `parameter` for the parameter of a pipeline, `file` if there is none of them.
        config: With `config`: the TOML file, if the caller was given one.

    Raises:
        DataError: The table cannot be read; the message ends with the remedy.
    """
    try:
        yield
    except ReadOptionError as error:
        file = config or "a TOML file, given as --config FILE"
        where = f" in [data] of {file}" if remedy == "config" else ""
        raise DataError(f"{error.fact}; {error.remedies[remedy]}{where}") from None


def plain_number(value: float) -> str:
    """Return a number with as few digits as show it exactly: 5 for 5.0, but 5.0000001."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def _parameter(settings: dict[str, Any]) -> str:
    """Return the parameter of a pipeline with some settings, as JSON."""
    return f"data_settings={json.dumps(settings)}"
