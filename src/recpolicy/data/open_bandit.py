"""Read logs in the format of the Open Bandit Dataset: a CSV file with one recommended item a line.

    timestamp, item_id, position, click, propensity_score, user_feature_0, ..., user-item_affinity_0, ...

`propensity_score` is the probability with which it was shown at its position, and the click the
reward: 0 or 1 (or any number on `scale`). A column `user_id` names the user; where there is none, all who have the same
user features count as one. Lost: position (every line is a separate choice), affinities and other columns. Files
are read in batches. Source: Saito, Aihara, Matsutani & Narita 2021 (2008.07146).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_import import UNIT, Batch, Imported, Texts, assemble, refuse

_NEEDED = ("timestamp", "item_id", "click", "propensity_score")
_FEATURE = "user_feature_"
_ROWS = 1 << 17


def read_open_bandit(
    path: Path, tables: IdVocabulary | None = None, scale: tuple[float, float] = UNIT, policy: str = "open_bandit"
) -> Imported:
    """Read the log; see `assemble` for scale, tables and errors. Raises DataError that names file and line."""
    header = _header(path)
    lacking = [name for name in _NEEDED if name not in header]
    if lacking:
        raise DataError(f"{path}:1: no column {', '.join(lacking)}; found {', '.join(header)}")
    who = ["user_id"] if "user_id" in header else [name for name in header if name.startswith(_FEATURE)]
    if not who:
        raise DataError(f"{path}:1: neither a column user_id nor any {_FEATURE}*; users cannot be distinguished")
    rounds, ids = assemble(path, policy, _batches(path, who), scale, tables)
    used = {*_NEEDED, *who}
    # pandas calls the nameless first column, which numbers the lines, so.
    return Imported(rounds, ids, tuple(name for name in header if name not in used and name != "Unnamed: 0"))


def _header(path: Path) -> list[str]:
    try:
        return [str(name) for name in pd.read_csv(path, nrows=0, dtype=str).columns]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected a log in CSV") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not readable as CSV: {_first_line(error)}") from None


def _batches(path: Path, who: list[str]) -> Iterator[Batch]:
    options = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "chunksize": _ROWS}
    first = 2  # line 1 is the header
    try:
        with pd.read_csv(path, usecols=[*_NEEDED, *who], **options) as reader:  # type: ignore[call-overload]
            for frame in reader:
                yield _batch(path, frame.fillna(""), who, first)
                first += len(frame)
    except (pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not readable as CSV: {_first_line(error)}") from None


def _batch(path: Path, frame: pd.DataFrame, who: list[str], first: int) -> Batch:
    line = np.arange(first, first + len(frame))
    for name in ("item_id", *who[:1]):
        refuse(path, line, (frame[name] == "").to_numpy(bool), lambda _, name=name: f"{name} is missing")  # type: ignore[misc]
    time = pd.to_datetime(frame["timestamp"], utc=True, format="ISO8601", errors="coerce")
    refuse(path, line, time.isna().to_numpy(bool), lambda row: (
        f"timestamp {frame['timestamp'].iloc[row]!r}: expected a time such as 2019-11-24 00:00:00+00:00"
    ))  # fmt: skip
    return Batch(
        line=line, time=time.dt.as_unit("ms").to_numpy("datetime64[ms]").astype(np.int64), user=_users(frame[who]),
        item=frame["item_id"].to_numpy(object), propensity=_numbers(path, frame["propensity_score"], line),
        reward=_numbers(path, frame["click"], line),
    )  # fmt: skip


def _numbers(path: Path, column: "pd.Series[str]", line: NDArray[np.int64]) -> NDArray[np.float64]:
    values = np.asarray(pd.to_numeric(column, errors="coerce"), np.float64)
    refuse(path, line, np.isnan(values), lambda row: f"{column.name} {column.iloc[row]!r}: expected a number")
    return values


def _users(frame: pd.DataFrame) -> Texts:
    """Return the user's id, or all features in one text."""
    first, *others = (frame[name] for name in frame.columns)
    return np.asarray(first.str.cat(pd.concat(others, axis=1), sep="|") if others else first, object)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
