"""Convert logs of other systems to feature logs: all features are kept.

Vowpal Wabbit's JSON lines and those of Personalizer are read here, tables of decisions by feature_tables.py. Shared
features become the context, namespaces are nested objects of features, and the actions keep the order of the line.
Every fault is a DataError that names file and line.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.data.feature_columns import canonical_json, plain_value
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.feature_log_builder import FeatureLogBuilder, log_of_propensity
from recpolicy.data.log_import import UNIT, UNITS, LeftOut
from recpolicy.data.vowpal_wabbit import Decision, DecisionReader, milliseconds

_LINES = 1 << 12
_ROUNDING = 1e-6
_ID_DIGITS = 16


@dataclass(frozen=True)
class ImportedFeatureLog:
    """An imported feature log."""

    log: FeatureLog
    lost: tuple[str, ...] = ()
    """Fields of the file that the log does not have."""
    left_out: LeftOut = field(default_factory=LeftOut)


def read_vowpal_wabbit_features(
    path: Path,
    scale: tuple[float, float] = UNIT,
    policy: str = "vowpal_wabbit",
    *,
    user: str = "",
    item: str = "",
    unit: str = "",
    skip_damaged: bool = False,
) -> ImportedFeatureLog:
    """Read the JSON lines of Vowpal Wabbit or Personalizer (cb_adf, dsjson) with all features.

    A line with `pdrop` p stands for 1 / (1 - p) events, and has that weight.

    Args:
        path: The file; one that ends in .gz is uncompressed.
        scale: Lowest and highest reward of the file; a reward is -cost.
        policy: Name of the logging policy.
        user: Dotted name of the user's id among the shared features.
        item: Dotted name of the id within an action; by default its `_tag`, else all its features as one text.
        unit: user or round; by default round unless `user` names the users.
        skip_damaged: Leave out and count lines that are no JSON, instead of raising an error.

    Raises:
        DataError: A line is wrong; names file and line.
        ConfigError: The scale or the unit is wrong.
    """
    check_import_options(scale, unit)
    unit = unit or ("user" if user else "round")
    reader = DecisionReader(path, user, item, skip_damaged)
    builder, occurrences = FeatureLogBuilder(str(path), scale), Counter[str]()
    decisions = reader.decisions()
    while part := list(islice(decisions, _LINES)):
        lines = np.array([decision.line for decision in part])
        times = 1000 * lines
        if reader.timed:
            times = milliseconds(path, lines, [str(decision.timestamp) for decision in part])
        for decision, time in zip(part, times.tolist(), strict=True):
            try:
                _add(builder, decision, time, policy, unit, occurrences)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{decision.line}: {error}") from None
    if not len(builder):
        raise DataError(f"{path}: no rounds")
    return ImportedFeatureLog(
        in_order_of_time(builder.build()), ("probabilities of actions not shown",), reader.left_out
    )


def _add(
    builder: FeatureLogBuilder, decision: Decision, time: int, policy: str, unit: str, occurrences: Counter[str]
) -> None:
    """Add a decision to the log; raises DataError that says what is wrong with it."""
    assert builder.reward_range is not None
    low, high = builder.reward_range
    reward = -decision.cost or 0.0
    if not low <= reward <= high:
        raise DataError(
            f"reward {reward:g} is not in {low:g}..{high:g}; give --scale with the lowest and highest reward of the log"
        )
    names = list(decision.actions)
    actions = [
        (name, {key: value for key, value in features.items() if key != "_tag"})
        for name, features in decision.actions.items()
    ]
    propensity = decision.probability
    if 1 < propensity <= 1 + _ROUNDING:
        propensity = 1.0
    builder.add(
        event_id=decision.event_id or _content_id(decision, occurrences), time=time, context=decision.shared,
        actions=actions, chosen=names.index(decision.shown), log_propensity=log_of_propensity(propensity),
        reward=reward, user=decision.user if unit == "user" else None, policy=policy, version="imported",
        weight=1 / (1 - decision.dropped_share),
    )  # fmt: skip


def _content_id(decision: Decision, occurrences: Counter[str]) -> str:
    """Return an id of the content of a line, with a number if the content occurs several times.

    So a line has the same id in every part of the file that is imported alone.
    """
    content: list[Any] = [plain_value(decision.shared), plain_value(decision.actions), decision.shown]
    content += [decision.probability, decision.cost, decision.timestamp]
    return numbered_id(
        hashlib.sha256(canonical_json(content).encode("utf-8", "surrogatepass")).hexdigest(), occurrences
    )


def numbered_id(content: str, occurrences: Counter[str]) -> str:
    """Return the id of the next event of this content hash."""
    key = content[:_ID_DIGITS]
    occurrences[key] += 1
    return f"{key}-{occurrences[key] - 1}"


def check_import_options(scale: tuple[float, float], unit: str) -> None:
    """Raise ConfigError for a scale without extent, and for an unknown unit."""
    if not (np.isfinite(scale).all() and scale[0] < scale[1]):
        raise ConfigError(f"scale {scale[0]:g}..{scale[1]:g}: expected the lowest reward, then a higher one")
    if unit and unit not in UNITS:
        raise unknown_name_error("unit of a log", unit, UNITS)


def in_order_of_time(log: FeatureLog) -> FeatureLog:
    """Return the log with its rounds in order of time; rounds of one moment keep their order."""
    if (np.diff(log.time) >= 0).all():
        return log
    return log.select(np.argsort(log.time, kind="stable"), log.name)
