"""Read one line of Vowpal Wabbit's JSON: its label, the probabilities of its actions, and features by dotted names.

Vowpal Wabbit compares the names of labels without case. The place of the shown action is `_labelIndex` (from 0), the
action that carries a `_label`, or `_label_Action` (from 1). Errors are ValueErrors without a place; the reader adds it.
Source: https://github.com/VowpalWabbit/vowpal_wabbit, parse_example_json.cc.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

_TOLERANCE = 1e-4
"""Between `p` and `_label_probability`, one of which may have been printed as a float32."""
_ENVELOPE = {"a", "p", "o", "c", "pdrop", "eventid", "timestamp", "version", "vwstate", "deferredaction"}
"""Keys of a line that are no features, in lower case; names that begin with _ are none either."""


@dataclass(frozen=True)
class Label:
    """The label of a decision."""

    cost: float
    probability: float
    action: int
    """Number of the action, from 1."""


def read_label(record: Mapping[str, Any], actions: Mapping[int, Any]) -> Label:
    """Return the label of a line; `actions` are the features of each action by its number, from 1.

    Raises:
        ValueError: A part of the label is missing or wrong.
    """
    fields = {key.lower(): value for key, value in record.items() if key.lower().startswith("_label")}
    place, parts = _labeled_action(actions)
    if parts is None and (whole := fields.get("_label")) is not None:
        parts = _parts(whole)
    named = {name: fields.get(f"_label_{name}") for name in ("action", "cost", "probability")}
    named = {name: (parts or {}).get(name) if value is None else value for name, value in named.items()}
    if place is None and (index := fields.get("_labelindex")) is not None:
        if not is_integer(index) or index + 1 not in actions:
            raise ValueError(f"_labelIndex is {index!r}; expected one of the {len(actions)} actions, from 0")
        place = index + 1
    if place is None:
        action = named["action"]
        if not is_integer(action) or action not in actions:
            raise ValueError(f"_label_Action is {action!r}; expected one of the {len(actions)} actions, from 1")
        place = action
    cost, probability = (as_number(named[name], f"_label_{name}") for name in ("cost", "probability"))
    return Label(cost, probability, place)


def has_label(record: Mapping[str, Any]) -> bool:
    """Return True if the line itself has a label."""
    return any(key.lower().startswith("_label") for key in record)


def probability_of_places(record: Mapping[str, Any], label: Label, places: list[int]) -> float:
    """Return the probability of the shown action, summed over the places that offer it.

    Args:
        record: The line; `a` (or `_a`) has the actions in the order of `p` (or `_p`).
        label: Its label.
        places: Numbers of the actions that are the shown one; `label.action` is among them.

    Raises:
        ValueError: `a` and `p` disagree with each other or with the label, or are missing although they are needed.
    """
    ranked, chances = _first(record, "a", "_a"), _first(record, "p", "_p")
    if ranked is None or chances is None:
        if len(places) > 1:
            raise ValueError(f"the shown action is offered {len(places)} times; its probability needs a and p")
        return label.probability
    if not isinstance(ranked, list) or not isinstance(chances, list) or len(ranked) != len(chances):
        raise ValueError("a and p are not lists of one length")
    if 0 in ranked:
        raise ValueError("a counts the actions from 0; expected from 1, as _label_Action does")
    if label.action not in ranked:
        raise ValueError(f"_label_Action {label.action} is not in a")
    of_label = [chance for action, chance in zip(ranked, chances, strict=True) if action == label.action]
    if not any(
        isinstance(chance, int | float) and abs(chance - label.probability) <= _TOLERANCE for chance in of_label
    ):
        raise ValueError(
            f"p gives action {label.action} {of_label[0]!r}, but _label_probability is {label.probability:g}"
        )
    if len(places) == 1 and len(of_label) == 1:
        return label.probability
    shown = [chance for action, chance in zip(ranked, chances, strict=True) if action in places]
    return math.fsum(as_number(chance, "a value of p") for chance in shown)


def shared_features(record: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the features of the context; without an own object `c` they stand between labels."""
    own = context is not record
    return {
        key: value
        for key, value in context.items()
        if not key.startswith("_") and (own or key.lower() not in _ENVELOPE)
    }


def action_features(action: Mapping[str, Any]) -> dict[str, Any]:
    """Return the features of an action, without its label."""
    return {key: value for key, value in action.items() if not key.lower().startswith("_label")}


def value_at(features: Any, name: str) -> str:
    """Return the value at a dotted name; lists of objects count as one object, and a key may have dots.

    Raises:
        ValueError: There is no value, or there are several.
    """
    values = list(dict.fromkeys(_values(features, name)))
    if not values:
        raise ValueError(f"no {name} among the features {', '.join(features) or '(none)'}")
    if len(values) > 1:
        raise ValueError(f"{name} has several values: {', '.join(values[:3])}")
    return values[0]


def _values(features: Any, name: str) -> Iterator[str]:
    if isinstance(features, list):
        for part in features:
            yield from _values(part, name)
    elif isinstance(features, dict):
        for key, value in features.items():
            if key == name:
                yield from _plain(value)
            elif name.startswith(f"{key}."):
                yield from _values(value, name[len(key) + 1 :])


def _plain(value: Any) -> Iterator[str]:
    """Yield a number, text or truth value as text; none of an object or of a list of other than one value."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None and not isinstance(value, dict | list):
        yield str(value)


def _labeled_action(actions: Mapping[int, Any]) -> tuple[int | None, dict[str, Any] | None]:
    """Return the number and the label of the action that carries one."""
    for number, features in actions.items():
        for key, value in features.items() if isinstance(features, dict) else ():
            if key.lower() == "_label":
                return number, _parts(value)
    return None, None


def _parts(label: Any) -> dict[str, Any]:
    """Return action, cost and probability of a label such as "2:-1:0.5" or an object."""
    if isinstance(label, dict):
        return {key.lower(): value for key, value in label.items()}
    values = str(label).split(":")
    try:
        action, cost, probability = int(values[0]), *map(float, values[1:])
    except ValueError:
        raise ValueError(f"_label is {label!r}; expected action:cost:probability, such as 1:-1:0.5") from None
    return {"action": action, "cost": cost, "probability": probability}


def _first(record: Mapping[str, Any], *names: str) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def as_number(value: Any, name: str) -> float:
    """Return a finite number; raises ValueError for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; expected a number")
    return float(value)


def is_integer(value: Any) -> TypeGuard[int]:
    """Return True for a JSON number without a fraction; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)
