"""Errors of tables that other reading options could read, with a remedy in the words of the caller.

Python callers name the argument of `load_ratings`, commands their option or the table [data] of their config file. A
command without any of these tells the reader to change the file.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from recpolicy.core.errors import DataError

Remedy = Literal["argument", "option", "config", "file"]


class ReadOptionError(DataError):
    """A table cannot be read with these options; `remedies` says in the words of each caller what to do."""

    def __init__(self, fact: str, remedies: dict[Remedy, str]):
        super().__init__(f"{fact}; {remedies['argument']}")
        self.fact, self.remedies = fact, remedies


def column_error(fact: str, meaning: str) -> ReadOptionError:
    """Return the error of a file that names its column of this meaning in another way."""
    return ReadOptionError(
        fact,
        {
            "argument": f'name it with columns={{"{meaning}": NAME}}',
            "option": f"name it with --{meaning} NAME",
            "config": f'name it with columns = {{ {meaning} = "NAME" }}',
            "file": f"rename the column to {meaning!r} in the file",
        },
    )


def scale_error(fact: str, low: float, high: float) -> ReadOptionError:
    """Return the error of a file whose ratings from `low` to `high` are outside the scale."""
    return ReadOptionError(
        fact,
        {
            "argument": f"for another scale pass scale=({low:g}, {high:g}), which holds all ratings",
            "option": f"for another scale give --scale {low:g} {high:g}, which holds all ratings",
            "config": f"for another scale set scale = [{low:g}, {high:g}], which holds all ratings",
            "file": "correct it in the file",
        },
    )


def separator_error(fact: str, used: str, separator: str) -> ReadOptionError:
    """Return the error of a file that seems to have another separator than the one in use."""
    text = json.dumps(separator)
    return ReadOptionError(
        fact,
        {
            "argument": f"pass separator={text}",
            "option": f"give --separator {text}",
            "config": f"set separator = {text}",
            "file": f"separate the columns by {used!r} in the file",
        },
    )


@contextmanager
def reading_for(remedy: Remedy, config: Path | None = None) -> Iterator[None]:
    """Raise the errors of tables read inside with the remedy that the caller offers.

    Args:
        remedy: `option` for options as those of `recpolicy data check`, `config` for a table [data] in a TOML file,
            `file` if there is neither.
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
