"""Read the slots of a line of Vowpal Wabbit: conditional contextual bandits (CCB) and slates.

    CCB     {"c": {..., "_multi": [{...}, ...], "_slots": [{...}, ...]},
             "_outcomes": [{"_label_cost": -1, "_a": [2, 0, 1], "_p": [0.5, 0.25, 0.25]}, ...]}
    slates  the same with a `_slot_id` in each action, and one `_label_cost` of the line

`_a` has numbers of actions, from 0, the shown one first; `_p` their probabilities. In CCB the slots choose one after
the other: a slot can show the actions of its `_inc` (all without it) that no slot before it shows, and its
probabilities are those given the slots before it. In slates `_a` counts the actions of the slot, and no slot depends
on another. Errors are ValueErrors without a place; the reader adds it.
Source: https://github.com/VowpalWabbit/vowpal_wabbit/wiki, Conditional-Contextual-Bandit and Slates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recpolicy.data.vw_records import as_number, is_integer

OUTCOMES, SLOTS, SLOT_ID = "_outcomes", "_slots", "_slot_id"
_TOLERANCE = 1e-4
"""Between 1 and a sum of probabilities that were printed as float32."""


@dataclass(frozen=True)
class SlotChoice:
    """The choice of one slot."""

    features: Mapping[str, Any]
    """Features of the slot."""
    offered: tuple[str, ...]
    """Names of the actions that the slot could show, in the order of the line."""
    shown: str
    probability: float
    """Probability of the shown action, given the slots before it."""
    cost: float | None
    """Cost of the slot; None if the line has one cost for all slots."""
    restricted: bool
    """True if the line lists the actions of this slot (`_inc`)."""


def read_slots(
    record: Mapping[str, Any], context: Mapping[str, Any], names: Sequence[str], shelf: Sequence[int] | None
) -> tuple[SlotChoice, ...]:
    """Return the choices of a line, first slot first.

    Args:
        record: The line.
        context: Its context, with `_slots`.
        names: Names of the actions, in the order of the line.
        shelf: For slates, the slot of each action; None for CCB.

    Raises:
        ValueError: A part is missing or wrong.
    """
    slots, outcomes = context.get(SLOTS), record[OUTCOMES]
    if not isinstance(slots, list) or not slots:
        raise ValueError(f"c.{SLOTS} is {slots!r}; expected a list of the slots")
    if not isinstance(outcomes, list) or len(outcomes) != len(slots):
        count = len(outcomes) if isinstance(outcomes, list) else "no"
        raise ValueError(f"{OUTCOMES} has {count} entries for {len(slots)} slots; expected one for each")
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"action {twice!r} is offered twice; actions of slots need ids that differ (--item)")
    taken: dict[int, int] = {}
    choices = []
    for number, (slot, outcome) in enumerate(zip(slots, outcomes, strict=True)):
        if not isinstance(slot, dict) or not isinstance(outcome, dict):
            raise ValueError(f"slot {number}: expected an object in {SLOTS} and in {OUTCOMES}")
        if slot.get("_id") is not None and outcome.get("_id") not in (None, slot["_id"]):
            raise ValueError(f"slot {number} is {slot['_id']!r}, but its outcome is of slot {outcome['_id']!r}")
        try:
            choices.append(_choice(number, slot, outcome, names, shelf, taken))
        except ValueError as error:
            raise ValueError(f"slot {number}: {error}") from None
    return tuple(choices)


def _choice(
    number: int, slot: Mapping[str, Any], outcome: Mapping[str, Any], names: Sequence[str], shelf: Sequence[int] | None,
    taken: dict[int, int],
) -> SlotChoice:  # fmt: skip
    """Return the choice of a slot, and add its action to `taken`, the slot of each action that is shown."""
    included = _included(slot, len(names)) if shelf is None else None
    if shelf is None:
        offered = [place for place in range(len(names)) if place not in taken and _is_in(place, included)]
    else:
        offered = [place for place, of_slot in enumerate(shelf) if of_slot == number]
    ranked, chances = _listed(outcome, "_a"), [as_number(chance, "a value of _p") for chance in _listed(outcome, "_p")]
    if len(ranked) != len(chances):
        raise ValueError(f"_a has {len(ranked)} actions and _p {len(chances)} probabilities; expected as many")
    limit = len(names) if shelf is None else len(offered)
    for index in ranked:
        if not is_integer(index) or not 0 <= index < limit:
            raise ValueError(f"_a has {index!r}; expected one of the {limit} actions, from 0")
    if len(set(ranked)) < len(ranked):
        raise ValueError(f"_a has an action twice: {ranked}")
    places = ranked if shelf is None else [offered[index] for index in ranked]
    for place, chance in zip(places, chances, strict=True):
        if place not in offered and (place == places[0] or chance > 0):
            shown = "it shows" if place == places[0] else "_p has a probability of"
            reason = f"slot {taken[place]} shows already" if place in taken else "is not in its _inc"
            raise ValueError(f"{shown} action {place}, which {reason}")
    total = math.fsum(chances)
    if len(chances) > 1 and abs(total - 1) > _TOLERANCE:
        raise ValueError(f"the probabilities of _p sum to {total:g}; expected 1")
    taken[places[0]] = number
    return SlotChoice(
        features=_features(slot), offered=tuple(names[place] for place in offered), shown=names[places[0]],
        probability=chances[0], cost=None if shelf is not None else label_cost(outcome),
        restricted=included is not None,
    )  # fmt: skip


def label_cost(labeled: Mapping[str, Any]) -> float:
    """Return the `_label_cost` of an outcome or of a line; its name is compared without case."""
    cost = next((value for key, value in labeled.items() if key.lower() == "_label_cost"), None)
    return as_number(cost, "_label_cost")


def _is_in(place: int, included: frozenset[int] | None) -> bool:
    return included is None or place in included


def _included(slot: Mapping[str, Any], actions: int) -> frozenset[int] | None:
    """Return the actions that the slot lists; None without a list."""
    listed = slot.get("_inc")
    if listed is None:
        return None
    if not isinstance(listed, list) or not all(is_integer(index) and 0 <= index < actions for index in listed):
        raise ValueError(f"_inc is {listed!r}; expected numbers of the {actions} actions, from 0")
    return frozenset(listed)


def _listed(outcome: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list of an outcome; a single number counts as a list of one."""
    value = outcome.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is {value!r}; expected a list, the shown action first")
    return value


def _features(slot: Mapping[str, Any]) -> dict[str, Any]:
    """Return the features of a slot, its `_id` as `id`."""
    features = {key: value for key, value in slot.items() if not key.startswith("_")}
    if slot.get("_id") is not None:
        features.setdefault("id", slot["_id"])
    return features
