"""Turn examples in Vowpal Wabbit's text into the records of its JSON: cb_adf, CCB and slates.

    shared |User name=ann          ccb shared |User name=ann     slates shared -1 |User name=ann
    |Item id=a                     ccb action |Item id=a         slates action 0 |Item id=a
    0:-1:0.5 |Item id=b            ccb action |Item id=b         slates action 1 |Item id=b
                                   ccb slot 1:-1:0.5,0:0.5 |     slates slot 0:1 |

An example is some lines, and a blank line ends it. A label is `action:cost:probability` in cb_adf and CCB; further
pairs `action:probability` and, in CCB, a list of the actions of the slot may follow. A feature is a name (value 1),
name:value, or name=text. Namespaces are nested objects, and the tag of an action is its `_tag`. Source:
https://github.com/VowpalWabbit/vowpal_wabbit/wiki, Input-format, Conditional-Contextual-Bandit and Slates.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recpolicy.core.errors import DataError
from recpolicy.data.vw_slots import OUTCOMES, SLOT_ID, SLOTS

_TYPES = ("shared", "action", "slot")
_WHOLE = re.compile(r"[0-9]+(,[0-9]+)*")


@dataclass(frozen=True)
class _Example:
    """The part of one line of an example."""

    line: int
    label: list[str]
    """Words before the features, without the tag."""
    features: dict[str, Any]


def is_text(line: str) -> bool:
    """Return True if the first line of a log is not JSON but text with features."""
    return not line.lstrip().startswith(("{", "[")) and "|" in line


def text_records(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of the first line of each example, and the example as a record of JSON.

    Args:
        lines: Numbers and texts of lines.
        path: The file, for errors.

    Raises:
        DataError: A line is wrong; names file and line.
    """
    part: list[_Example] = []
    for number, text in lines:
        try:
            if text.strip():
                part.append(_example(number, text.rstrip("\r\n")))
            elif part:
                yield part[0].line, _record(part)
                part = []
        except ValueError as error:
            raise DataError(f"{path}:{part[0].line if part and not text.strip() else number}: {error}") from None
    if part:
        try:
            yield part[0].line, _record(part)
        except ValueError as error:
            raise DataError(f"{path}:{part[0].line}: {error}") from None


def _example(number: int, text: str) -> _Example:
    head, bar, rest = text.partition("|")
    if not bar:
        raise ValueError(f"no | before the features: {text[:40]!r}")
    label = head.split()
    features: dict[str, Any] = {}
    if head and not head[-1].isspace() and not (label[-1] in _TYPES or ":" in label[-1]):
        features["_tag"] = label.pop().removeprefix("'")
    elif label and label[-1].startswith("'"):
        features["_tag"] = label.pop()[1:]
    for section in rest.split("|"):
        _add_namespace(features, section)
    return _Example(number, label, features)


def _add_namespace(features: dict[str, Any], section: str) -> None:
    """Add the features of a namespace; without a name they stand among the features of the line."""
    words = section.split()
    space = words.pop(0) if section[:1].strip() else ""
    if ":" in space:
        raise ValueError(f"namespace {space!r} has a weight; expected a name")
    into = features if not space else features.setdefault(space, {})
    for word in words:
        name, colon, value = word.rpartition(":")
        if colon:
            try:
                _add(into, name, float(value))
            except ValueError:
                raise ValueError(f"feature {word!r}: expected name:number, name=text or a name") from None
        else:
            name, equal, value = word.partition("=")
            _add(into, name, value if equal else 1)


def _add(features: dict[str, Any], name: str, value: Any) -> None:
    """Add a feature; one of several values becomes a list."""
    if name not in features:
        features[name] = value
    elif isinstance(features[name], list):
        features[name].append(value)
    else:
        features[name] = [features[name], value]


def _record(part: list[_Example]) -> dict[str, Any]:
    """Return an example as a record of JSON."""
    kind = part[0].label[0] if part[0].label else ""
    if kind in ("ccb", "slates"):
        return _of_slots(kind, part)
    shared = part[0].features if kind == "shared" else {}
    actions = part[1:] if kind == "shared" else part
    labeled = [action for action in actions if action.label]
    begins = next((action for action in labeled if action.label[0] == "shared"), None)
    if begins is not None:
        raise ValueError(f"line {begins.line} begins another example; expected a blank line before it")
    if len(labeled) > 1:
        raise ValueError(
            f"line {labeled[1].line} has a label, too: expected one label among the actions of an example, and a blank"
            " line after it (cb_adf); lines of --cb do not list their actions"
        )
    for action in labeled:
        action.features["_label"] = " ".join(action.label)
    return {"c": {**shared, "_multi": [action.features for action in actions]}}


def _of_slots(kind: str, part: list[_Example]) -> dict[str, Any]:
    """Return an example of CCB or slates."""
    context: dict[str, Any] = {"_multi": [], SLOTS: []}
    outcomes: list[dict[str, Any]] = []
    record: dict[str, Any] = {"c": context}
    for example in part:
        of, words = example.label[:2], example.label[2:]
        if len(of) < 2 or of[0] != kind or of[1] not in _TYPES:
            raise ValueError(f"line {example.line} begins {' '.join(of)!r}; expected {kind} shared, action or slot")
        if of[1] == "shared":
            if example is not part[0]:
                raise ValueError(f"line {example.line} begins another example; expected a blank line before it")
            context.update(example.features)
            if words:
                record["_label_cost"] = _number(words[0], example)
        elif of[1] == "action":
            if kind == "slates":
                example.features[SLOT_ID] = int(_number(words[0] if words else "", example))
            context["_multi"].append(example.features)
        else:
            outcome, included = _outcome(kind, words, example)
            outcomes.append(outcome)
            context[SLOTS].append({**example.features, **({} if included is None else {"_inc": included})})
    if any(outcomes):
        record[OUTCOMES] = outcomes
    return record


def _outcome(kind: str, words: list[str], example: _Example) -> tuple[dict[str, Any], list[int] | None]:
    """Return the outcome of a slot, empty without a label, and the list of its actions."""
    outcome: dict[str, Any] = {}
    included = None
    for word in words:
        if _WHOLE.fullmatch(word):
            included = [int(index) for index in word.split(",")]
            continue
        pairs = [pair.split(":") for pair in word.split(",")]
        if kind == "ccb" and len(pairs[0]) == 3:
            outcome["_label_cost"] = _number(pairs[0].pop(1), example)
        if any(len(pair) != 2 for pair in pairs):
            form = "action:cost:probability" if kind == "ccb" else "action:probability"
            raise ValueError(f"line {example.line}: label {word!r}; expected {form}, then action:probability")
        outcome["_a"] = [int(_number(action, example)) for action, _ in pairs]
        outcome["_p"] = [_number(chance, example) for _, chance in pairs]
    return outcome, included


def _number(text: str, example: _Example) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"line {example.line}: {text!r} in its label; expected a number") from None
