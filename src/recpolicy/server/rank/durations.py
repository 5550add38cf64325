"""Durations as ISO 8601 writes them, such as PT10M."""

import re
from typing import Any

_DURATION = re.compile(
    r"P(?:(?P<days>\d{1,6})D)?(?:T(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,8})M)?(?:(?P<seconds>\d{1,9}(?:\.\d{1,6})?)S)?)?"
)
_CLOCK = re.compile(r"(?:(?P<days>\d{1,6})[. ])?(?P<hours>\d{1,2}):(?P<minutes>\d{2}):(?P<seconds>\d{2}(?:\.\d{1,7})?)")
_UNITS = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}


def parse_duration(text: Any) -> float:
    """Return the seconds of PT10M, P1DT2H or 00:10:00; raises ValueError for anything else."""
    match = (_DURATION.fullmatch(text) or _CLOCK.fullmatch(text)) if isinstance(text, str) else None
    if match is None or not any(match.groupdict().values()):
        raise ValueError("expected a duration such as PT10M")
    return sum(_UNITS[unit] * float(value) for unit, value in match.groupdict().items() if value)


def format_duration(seconds: float) -> str:
    """Return seconds as a duration, such as PT10M."""
    whole = int(seconds)
    rest = round(seconds - whole, 6)
    parts = {"D": whole // 86_400, "H": whole // 3_600 % 24, "M": whole // 60 % 60, "S": whole % 60 + rest}
    days, times = parts.pop("D"), "".join(f"{value:g}{unit}" for unit, value in parts.items() if value)
    text = (f"{days}D" if days else "") + (f"T{times}" if times else "")
    return f"P{text}" if text else "PT0S"
