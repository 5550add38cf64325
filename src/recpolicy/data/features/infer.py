"""Propose a feature schema from rounds, and say which columns it leaves out and why.

N rounds, M different actions. The proposal follows the values: their types, their skewness, how many are different. It
leaves out columns that say nothing (constants, copies), that name a row (identifiers, free text), or that say the
reward, which nobody knows when an action is chosen (leaks).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array
from recpolicy.data.feature_columns import Columns, canonical_texts
from recpolicy.data.features.columns import Column
from recpolicy.data.features.schema import (
    ACTION_ID,
    BooleanFeature,
    CategoryFeature,
    Feature,
    FeatureSchema,
    JsonFeature,
    NumberFeature,
    TagsFeature,
    TimestampFeature,
)

MAX_ROWS = 100_000
"""Rounds that a proposal looks at; of more it takes evenly spaced ones."""
_FEW = 20
"""Rows below which a column of different values need not be an identifier."""
_ONE_HOT = 100
"""Most different values for one-hot columns."""
_LEAK = 0.98
"""Share of the reward's variance, or rank correlation, from which a column says the reward."""
_TIME = re.compile(r"(^|[._ ])(time|date|datetime|timestamp|ts|day)$|_at$", re.IGNORECASE)
_IDENTIFIER = re.compile(r"(?i:(^|[._ ])(id|uuid|guid|key|hash|token|session|email)$)|[a-z](Id|ID|Key|Hash)$")
_CODE = re.compile(r"(?i:(^|[._ ])(code|zip|zipcode|postcode|sku|isbn|asin)$)|[a-z](Code|Zip)$")
"""Names whose whole numbers are names: the next number is not the next thing."""
_RANGES = {"ms": (5e11, 5e12), "s": (5e8, 5e9)}
"""Numbers that are times between 1985 and 2128."""


@dataclass(frozen=True)
class Dropped:
    """A column that the proposal leaves out."""

    part: str
    name: str
    reason: str


def infer_schema(
    context: Columns,
    action: Columns,
    *,
    action_id: NDArray[Any] | None = None,
    reward: Array | None = None,
    chosen_action: NDArray[np.integer[Any]] | None = None,
) -> tuple[FeatureSchema, list[Dropped]]:
    """Return a proposed schema and the columns that it leaves out.

    Args:
        context: Columns [N] of the contexts.
        action: Columns [M] of the actions.
        action_id: Ids of the actions [M]; few ones become the feature `id`.
        reward: Rewards [N], NaN where unknown; None: no search for leaks.
        chosen_action: Row of the action that each round showed [N], to find leaks among the features of actions.

    Raises:
        ConfigError: No column is left.
    """
    dropped: list[Dropped] = []
    rows = _sample(len(next(iter(context.values()), ())))
    known = reward[rows] if reward is not None and context else None
    features = {"context": _infer_part("context", {n: c[rows] for n, c in context.items()}, known, dropped)}
    shown = None if chosen_action is None or reward is None else (chosen_action, reward)
    features["action"] = _infer_part("action", action, None, dropped, shown)
    if action_id is not None and ACTION_ID not in features["action"]:
        count = len(set(map(str, action_id.tolist())))
        if 1 < count <= _ONE_HOT:
            features["action"] = {ACTION_ID: CategoryFeature(), **features["action"]}
        elif count > _ONE_HOT and not features["action"]:
            features["action"] = {ACTION_ID: CategoryFeature(encoding="hashed", size=1024)}
        elif count > _ONE_HOT:
            reason = f'{count:,} different actions, which their features describe; encoding = "hashed" would learn each'
            dropped.append(Dropped("action", ACTION_ID, reason))
    return FeatureSchema(context=features["context"], action=features["action"]), dropped


def _infer_part(
    part: str,
    columns: Mapping[str, Column],
    reward: Array | None,
    dropped: list[Dropped],
    shown: tuple[NDArray[np.integer[Any]], Array] | None = None,
) -> dict[str, Feature]:
    """Return the features of one part; append what it leaves out to `dropped`."""
    features: dict[str, Feature] = {}
    seen: dict[int, str] = {}
    for name, column in columns.items():
        keys = _keys(column)
        reason = _reason_to_drop(name, column, keys)
        if not reason:
            copy = seen.setdefault(hash(tuple(keys)), name)
            reason = f"a copy of {copy}" if copy != name else ""
        if not reason:
            reason = _leak(column, reward) if reward is not None else _leak(column[shown[0]], shown[1]) if shown else ""
        if reason:
            dropped.append(Dropped(part, name, reason))
        else:
            features[name] = _infer_feature(name, column, keys)
    return features


def _reason_to_drop(name: str, column: Column, keys: list[Any]) -> str:
    """Return the reason to leave out a column for its own values; "" if there is none."""
    different = set(keys)
    values = len(different - {None})
    present = len(keys) - keys.count(None)
    if values == 0:
        return "constant: it has no values"
    if len(different) == 1:
        return f"constant: all values are {_short(keys[0])}"
    if present < _FEW or values <= 0.5 * present:
        return ""
    labels = column.dtype == object and all(value is None or isinstance(value, str) for value in column.tolist())
    if labels and not _is_time(name, column):
        words = np.mean([len(text.split()) for text in keys if text is not None])
        if words > 4:
            return f"free text: {values:,} different texts of {words:.0f} words on average"
        if values > 0.9 * present or _IDENTIFIER.search(name):
            return f"identifier: {values:,} different values in {present:,} rows"
    if _is_whole(column) and not _is_time(name, column):
        numbers = column[~np.isnan(column)]
        if _IDENTIFIER.search(name) or (values == present and (np.diff(numbers) == np.diff(numbers)[0]).all()):
            return f"identifier: {values:,} different whole numbers in {present:,} rows"
    return ""


def _infer_feature(name: str, column: Column, keys: list[Any]) -> Feature:
    """Return the type and the encoding of a column that is worth having."""
    values = set(keys) - {None}
    if values <= {False, True}:  # also 0.0 and 1.0
        return BooleanFeature()
    if column.dtype.kind == "f":
        names = _is_whole(column) and not _is_time(name, column) and (_IDENTIFIER.search(name) or _CODE.search(name))
        return _infer_category(len(values)) if names else _infer_number(name, column, len(values))
    if _is_time(name, column):
        return TimestampFeature()
    kinds = {type(value) for value in column.tolist() if value is not None}
    if kinds == {list} and all(isinstance(tag, str) for tags in column.tolist() if tags for tag in tags):
        tags = {tag for value in column.tolist() if value for tag in value}
        return TagsFeature() if len(tags) <= _ONE_HOT else TagsFeature(encoding="hashed", size=_slots(len(tags)))
    if kinds & {list, dict}:
        return JsonFeature()
    return _infer_category(len(values))


def _infer_category(values: int) -> CategoryFeature:
    """Return the encoding of a category with so many different values."""
    return CategoryFeature() if values <= _ONE_HOT else CategoryFeature(encoding="hashed", size=_slots(values))


def _infer_number(name: str, column: Column, values: int) -> Feature:
    """Return the encoding of a column of numbers."""
    for unit in ("ms", "s"):
        if _is_time(name, column, unit):
            return TimestampFeature(unit=unit)
    numbers = column[~np.isnan(column)]
    if _is_whole(column) and 3 <= values <= 24 and len(numbers) >= 50 * values:
        return CategoryFeature()
    spread = float(numbers.std())
    skewness = float((((numbers - numbers.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0
    return NumberFeature(scale="bins") if abs(skewness) > 5 else NumberFeature()


def _leak(column: Column, reward: Array) -> str:
    """Return the reason if a column says the reward; "" if it does not."""
    known = ~np.isnan(reward)
    if known.sum() < _FEW or np.ptp(reward[known]) == 0:
        return ""
    target = reward[known]
    if column.dtype.kind in "fb":
        numbers = column[known].astype(float)
        full = ~np.isnan(numbers)
        if full.sum() < _FEW or np.ptp(numbers[full]) == 0 or np.ptp(target[full]) == 0:
            return ""
        if (numbers[full] == target[full]).all():
            return "leak: it equals the reward"
        relation = max(abs(_correlation(numbers[full], target[full])), abs(_separation(numbers[full], target[full])))
        if relation >= _LEAK:
            return f"leak: its correlation with the reward is {relation:.3f}"
        return ""
    groups, code = np.unique(list(map(repr, _keys(column[known]))), return_inverse=True)
    if len(groups) > 0.5 * len(target):
        return ""
    mean = np.bincount(code, target) / np.bincount(code)
    explained = 1 - np.square(target - mean[code]).mean() / target.var()
    return f"leak: it explains {explained:.1%} of the reward's variance" if explained >= _LEAK else ""


def _correlation(x: Array, y: Array) -> float:
    """Return the larger correlation of the values and of the ranks."""
    pairs = [(x, y), (_ranks(x), _ranks(y))]
    return max((float(np.corrcoef(a, b)[0, 1]) for a, b in pairs), key=abs)


def _separation(x: Array, y: Array) -> float:
    """Return how well x tells apart two rewards, 2 AUC - 1; 0 for more than two rewards."""
    low, high = y.min(), y.max()
    if not ((y == low) | (y == high)).all():
        return 0.0
    ranks, above = _ranks(x), y == high
    pairs = above.sum() * (~above).sum()
    return float(2 * (ranks[above].sum() - above.sum() * (above.sum() - 1) / 2) / pairs - 1)


def _ranks(x: Array) -> Array:
    """Return ranks from 0; ties get their mean rank."""
    _, code, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[code]


def _keys(column: Column) -> list[Any]:
    """Return values that can be compared and counted; None is missing."""
    if column.dtype.kind == "f":
        return [None if number != number else number for number in column.tolist()]
    values: list[Any] = column.tolist()
    if any(isinstance(value, list | dict) for value in values):
        return [None if value is None else text for value, text in zip(values, canonical_texts(column), strict=True)]
    return values


def _is_whole(column: Column) -> bool:
    """Return True for whole numbers only."""
    return column.dtype.kind == "f" and bool((np.floor(column) == column)[~np.isnan(column)].all())


def _is_time(name: str, column: Column, unit: str | None = None) -> bool:
    """Return True for texts that are times, or for numbers that a column of this name gives in the unit."""
    if column.dtype.kind == "f":
        numbers = column[~np.isnan(column)]
        units = (unit,) if unit else tuple(_RANGES)
        inside = any(((numbers > _RANGES[one][0]) & (numbers < _RANGES[one][1])).all() for one in units)
        return bool(_TIME.search(name)) and len(numbers) > 0 and inside
    if column.dtype != object:
        return False
    values = [value for value in column.tolist() if value is not None]
    return bool(values) and all(isinstance(value, str) and _parses(value) for value in values)


def _parses(text: str) -> bool:
    """Return True for a text such as 2026-11-30 or 2026-11-30T08:00:00."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return "-" in text


def _slots(values: int) -> int:
    """Return columns for hashing so many values: a power of two, 64 to 1,024."""
    return int(min(1024, max(64, 1 << (values - 1).bit_length())))


def _sample(rows: int) -> NDArray[np.int64]:
    """Return the numbers of at most MAX_ROWS evenly spaced rows."""
    return np.unique(np.linspace(0, rows - 1, min(rows, MAX_ROWS)).astype(np.int64)) if rows else np.zeros(0, np.int64)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
