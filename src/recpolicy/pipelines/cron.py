"""Cron expressions in the dialects of the two schedulers, checked before any request is made.

Kubeflow Pipelines reads six fields, seconds first (robfig/cron v1); Vertex AI reads the five of Unix. Both count
weekdays from Sunday = 0 to Saturday = 6.
"""

import re

from recpolicy.core.errors import ConfigError

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
# Name, lowest, highest, words; in the order of Unix.
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("weekday", 0, 6, _DAYS),
)
_SECOND = ("second", 0, 59, ())
_PART = re.compile(r"(?:[*?]|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>\d+))?")


def kubeflow_cron(text: str) -> str:
    """Six fields; five get the second 0. Raises ConfigError that names the field."""
    return " ".join(_six(text))


def vertex_cron(text: str) -> str:
    """Five fields; of six the first must be 0. Raises ConfigError that names the field."""
    second, *fields = _six(text)
    if second != "0":
        raise ConfigError(f"cron {text!r}: Vertex AI starts runs at full minutes; leave the field of seconds out")
    return " ".join(fields)


def _six(text: str) -> list[str]:
    fields = text.split()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise ConfigError(
            f"cron {text!r} has {len(fields)} fields; expected 5 (minute hour day month weekday), or 6 with seconds"
            ' first, such as "0 1 * * 1" for Mondays at 01:00'
        )
    for field, (name, lowest, highest, words) in zip(fields, (_SECOND, *_FIELDS), strict=True):
        for part in field.split(","):
            if not _makes_sense(part, lowest, highest, words):
                raise ConfigError(
                    f"cron {text!r}: {part!r} is no {name}; expected {lowest} to {highest}, a range such as"
                    f" {lowest}-{highest}, a step such as */2, or *"
                )
    return fields


def _makes_sense(part: str, lowest: int, highest: int, words: tuple[str, ...]) -> bool:
    found = _PART.fullmatch(part)
    if found is None or (found["step"] is not None and int(found["step"]) == 0):
        return False
    if found["low"] is None:
        return True
    numbers = [_number(end, lowest, words) for end in (found["low"], found["high"] or found["low"])]
    return lowest <= numbers[0] <= numbers[1] <= highest


def _number(text: str, lowest: int, words: tuple[str, ...]) -> int:
    if text.upper() in words:
        return words.index(text.upper()) + lowest
    return int(text) if text.isascii() and text.isdigit() else -1
