"""Read tables of decisions: a CSV file with one recommended item a line, as in the Open Bandit Dataset.

    timestamp, item_id, position, click, propensity_score, user_feature_0, ..., user-item_affinity_0, ...

`propensity_score` is the probability with which the item was shown at its position, and the click the reward: 0 or 1
(or any number on `scale`). Other names of the columns can be given. A column `user_id` names the user. Without it the
log names nobody: rounds with the same user features have one user, and the round is the unit of intervals. Lost:
position (every line is a separate choice), affinities and other columns. Files are read in batches. Source: Saito,
Aihara, Matsutani & Narita 2021 (2008.07146).
"""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError, unknown_name_error
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.column_names import likely_columns
from recpolicy.data.csv_reader import SEPARATORS, check_separator
from recpolicy.data.log_import import UNIT, Batch, Imported, Texts, assemble, refuse
from recpolicy.data.read_options import NAME

COLUMNS: Mapping[str, str] = {
    "time": "timestamp", "item": "item_id", "reward": "click", "propensity": "propensity_score", "user": "user_id",
}  # fmt: skip
"""Names of the columns by their meaning; only the user may be missing."""
_FEATURE = "user_feature_"
_EVERYBODY = "everybody"
_ROWS = 1 << 17
_WHOLE_FLOAT = r"^(0|-?[1-9][0-9]*)\.0+$"
_MILLISECONDS = 1e11
"""Larger numbers are milliseconds since 1970, smaller ones seconds."""
_LATEST = 1e14


def read_open_bandit(
    path: Path,
    tables: IdVocabulary | None = None,
    scale: tuple[float, float] = UNIT,
    policy: str = "open_bandit",
    *,
    columns: Mapping[str, str] | None = None,
    separator: str = ",",
    unit: str = "",
) -> Imported:
    """Read the log.

    Args:
        path: The file; one that ends in .gz is uncompressed.
        tables: See `assemble`, also for `scale` and errors.
        scale: Lowest and highest reward of the file.
        policy: Name of the logging policy.
        columns: Names of columns by meaning, where they differ from COLUMNS.
        separator: Separator of the file.
        unit: user or round; by default round unless a column names the users.

    Raises:
        DataError: The file is wrong; names file and line.
        ConfigError: An option is unknown.
    """
    names, header = column_names(path, columns or {}, separator)
    named = names["user"] in header
    who = [names["user"]] if named else [name for name in header if name.startswith(_FEATURE)]
    batches = _batches(path, names, who, separator)
    rounds, ids = assemble(path, policy, batches, scale, tables, unit or ("user" if named else "round"))
    used = {*names.values(), *who}
    # pandas calls the nameless first column, which numbers the lines, so.
    return Imported(rounds, ids, tuple(name for name in header if name not in used and name != "Unnamed: 0"))


def column_names(path: Path, columns: Mapping[str, str], separator: str) -> tuple[dict[str, str], list[str]]:
    """Return the names of the columns by meaning, checked, and all names of the file."""
    for meaning in columns:
        if meaning not in COLUMNS:
            raise unknown_name_error("column of a log", meaning, COLUMNS)
    check_separator(separator)
    header = _header(path, separator)
    others = [other for other in SEPARATORS if len(header) == 1 and other != separator and other in header[0]]
    if others:
        raise DataError(
            f"{path}:1: the header {header[0][:80]!r} has one column when split at {separator!r}, and contains"
            f" {others[0]!r}; give --separator {others[0]!r}"
        )
    names = {**COLUMNS, **columns}
    lacking = [m for m, name in names.items() if name not in header and (m != "user" or "user" in columns)]
    if lacking:
        raise missing_log_columns(f"{path}:1", header, names, lacking, columns)
    return names, header


def missing_log_columns(
    place: str, found: Sequence[str], names: Mapping[str, str], lacking: Sequence[str], columns: Collection[str]
) -> DataError:
    """Return the error of a table of decisions without some columns.

    Args:
        place: The file, with the line if it is text.
        found: Names of its columns.
        names: The names that were looked for, by meaning.
        lacking: The meanings of those that are missing.
        columns: The meanings whose names the caller gave.
    """
    free = [name for name in found if name not in names.values()]
    likely = likely_columns(free, {meaning: names[meaning] if meaning in columns else None for meaning in lacking})
    hints = " ".join(f"--{meaning} {shlex.quote(likely.get(meaning, NAME))}" for meaning in lacking)
    return DataError(
        f"{place}: no column {', '.join(names[meaning] for meaning in lacking)}; found {', '.join(found)}; name"
        f" {'it' if len(lacking) == 1 else 'them'} with {hints}"
    )


def csv_options(separator: str) -> dict[str, Any]:
    """Return the options of `pandas.read_csv` that split lines at a separator and keep texts."""
    several = len(separator.encode()) > 1
    return {"sep": re.escape(separator) if several else separator, "engine": "python" if several else "c", "dtype": str}


def _header(path: Path, separator: str) -> list[str]:
    try:
        return [str(name) for name in pd.read_csv(path, nrows=0, **csv_options(separator)).columns]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected a log in CSV") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not readable as CSV: {first_line(error)}") from None


def _batches(path: Path, names: Mapping[str, str], who: list[str], separator: str) -> Iterator[Batch]:
    wanted = [*(name for meaning, name in names.items() if meaning != "user"), *who]
    options = {**csv_options(separator), "keep_default_na": False, "skip_blank_lines": False, "chunksize": _ROWS}
    first = 2  # line 1 is the header
    try:
        with pd.read_csv(path, usecols=wanted, **options) as reader:
            for frame in reader:
                texts = frame.fillna("")
                line = np.arange(first, first + len(frame))
                blank = (texts == "").all(axis=1).to_numpy(bool)
                if not blank.all():
                    yield _batch(path, texts[~blank].reset_index(drop=True), names, who, line[~blank])
                first += len(frame)
    except (pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not readable as CSV: {first_line(error)}") from None


def _batch(path: Path, frame: pd.DataFrame, names: Mapping[str, str], who: list[str], line: NDArray[np.int64]) -> Batch:
    for name in (names["item"], *who[:1]):
        refuse(path, line, (frame[name] == "").to_numpy(bool), lambda _, name=name: f"{name} is missing")  # type: ignore[misc]
    return Batch(
        line=line, time=milliseconds(path, frame[names["time"]], line), user=_users(frame, who),
        item=ids(frame[names["item"]]), propensity=numbers(path, frame[names["propensity"]], line),
        reward=numbers(path, frame[names["reward"]], line),
    )  # fmt: skip


def milliseconds(path: Path, column: "pd.Series[str]", line: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return milliseconds since 1970 [n] of ISO 8601 times, or of numbers of seconds or milliseconds."""
    number = np.asarray(pd.to_numeric(column, errors="coerce"), np.float64)
    if not np.isnan(number).any():
        late = np.abs(number) > _LATEST
        refuse(path, line, late, lambda row: (
            f"{column.name} {column.iloc[row]!r}: expected seconds or milliseconds since 1970"
        ))  # fmt: skip
        return np.round(np.where(np.abs(number) > _MILLISECONDS, number, 1000 * number)).astype(np.int64)
    zoned = column.str.strip().str.replace(r"\s*(UTC|GMT)$", "Z", regex=True)
    time = pd.to_datetime(zoned, utc=True, format="ISO8601", errors="coerce")
    refuse(path, line, time.isna().to_numpy(bool), lambda row: (
        f"{column.name} {column.iloc[row]!r}: expected a time such as 2019-11-24 00:00:00+00:00"
    ))  # fmt: skip
    return time.dt.as_unit("ms").to_numpy("datetime64[ms]").astype(np.int64)


def numbers(path: Path, column: "pd.Series[str]", line: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return numbers [n]; true and false are 1 and 0."""
    lower = column.str.strip().str.lower()
    values = np.asarray(pd.to_numeric(lower.replace({"true": "1", "false": "0"}), errors="coerce"), np.float64)
    refuse(path, line, np.isnan(values), lambda row: f"{column.name} {column.iloc[row]!r}: expected a number")
    return values


def _users(frame: pd.DataFrame, who: list[str]) -> Texts:
    """Return the user's id, or all features in one text, or one user for all."""
    if not who:
        return np.full(len(frame), _EVERYBODY, object)
    first, *others = (frame[name] for name in who)
    return np.asarray(first.str.cat(pd.concat(others, axis=1), sep="|"), object) if others else ids(first)


def ids(column: "pd.Series[str]") -> Texts:
    """Return ids [n]; 12.0, as pandas writes ids of a column with gaps, is 12."""
    return np.asarray(column.str.strip().str.replace(_WHOLE_FLOAT, r"\1", regex=True), object)


def first_line(error: Exception) -> str:
    """Return the first line of the message of an error, or its type."""
    return (str(error) or type(error).__name__).splitlines()[0]
