"""Convert logs of other systems to feature logs: all features are kept.

Vowpal Wabbit's JSON lines and those of Personalizer are read here, tables of decisions by feature_tables.py. Shared
features become the context, namespaces are nested objects of features, and the actions keep the order of the line.

Each slot of a line of CCB or slates is a round `EVENT:SLOT`. Its context has the features of the slot, too, and it
offers the actions that the slot could show. The lines are the independent parts then, unless the file names users.
Every fault is a DataError that names file and line.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.feature_log_builder import FeatureLogBuilder, log_of_propensity
from recpolicy.data.log_import import UNIT, UNITS, LeftOut
from recpolicy.data.vw_reader import Decision, DecisionReader, SlateDecision, event_id, milliseconds

SLOT = "slot"
"""Name of the features of a slot within the context, its position included."""
_LINES = 1 << 12
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ImportedFeatureLog:
    """An imported feature log."""

    log: FeatureLog
    lost: tuple[str, ...] = ()
    """Fields of the file that the log does not have."""
    left_out: LeftOut = field(default_factory=LeftOut)
    slots: int = 1
    """Largest number of slots of a line."""
    named: bool = True
    """False if the users of the log are the lines of the file, because it names nobody."""


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
    decisions, slots = reader.decisions(), 1
    while part := list(islice(decisions, _LINES)):
        lines = np.array([decision.line for decision in part])
        times = 1000 * lines
        if reader.timed:
            times = milliseconds(path, lines, [str(decision.timestamp) for decision in part])
        for decision, time in zip(part, times.tolist(), strict=True):
            slots = max(slots, len(decision.slots) if isinstance(decision, SlateDecision) else 1)
            try:
                _add(builder, decision, time, policy, unit, occurrences)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{decision.line}: {error}") from None
    if not len(builder):
        raise DataError(f"{path}: no rounds")
    return ImportedFeatureLog(
        in_order_of_time(builder.build()), ("probabilities of actions not shown",), reader.left_out, slots,
        named=unit == "user",
    )  # fmt: skip


def _add(
    builder: FeatureLogBuilder, decision: Decision | SlateDecision, time: int, policy: str, unit: str,
    occurrences: Counter[str],
) -> None:  # fmt: skip
    """Add a decision to the log, or a round for each of its slots; raises DataError that says what is wrong with it."""
    event = event_id(decision, occurrences)
    common: dict[str, Any] = {
        "time": time, "policy": policy, "version": "imported", "weight": 1 / (1 - decision.dropped_share),
        "user": decision.user if unit == "user" else None,
    }  # fmt: skip
    if isinstance(decision, SlateDecision):
        if unit != "user":
            common["user"] = event
        if SLOT in decision.shared:
            raise DataError(f"the shared features have {SLOT!r}, which is the name of the features of a slot")
        for number, slot in enumerate(decision.slots):
            cost = decision.cost if slot.cost is None else slot.cost
            assert cost is not None
            _add_round(builder, decision, slot.offered, slot.shown, slot.probability, cost,
                       context={**decision.shared, SLOT: {**slot.features, "position": number}},
                       event_id=f"{event}:{number}", **common)  # fmt: skip
        return
    _add_round(builder, decision, tuple(decision.actions), decision.shown, decision.probability, decision.cost,
               context=decision.shared, event_id=event, **common)  # fmt: skip


def _add_round(
    builder: FeatureLogBuilder, decision: Decision | SlateDecision, offered: tuple[str, ...], shown: str,
    probability: float, cost: float, **columns: Any,
) -> None:  # fmt: skip
    """Add a round that offered these actions."""
    assert builder.reward_range is not None
    low, high = builder.reward_range
    reward = -cost or 0.0
    if not low <= reward <= high:
        raise DataError(
            f"reward {reward:g} is not in {low:g}..{high:g}; give --scale with the lowest and highest reward of the log"
        )
    actions = [
        (name, {key: value for key, value in decision.actions[name].items() if not key.startswith("_")})
        for name in offered
    ]
    if 1 < probability <= 1 + _ROUNDING:
        probability = 1.0
    builder.add(
        actions=actions, chosen=offered.index(shown), log_propensity=log_of_propensity(probability), reward=reward,
        **columns,
    )  # fmt: skip


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
