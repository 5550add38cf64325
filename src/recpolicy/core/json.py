"""Values that JSON can hold: plain Python types, no NaN, no infinity."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def to_plain(value: Any, *, keep_infinity: bool = False) -> Any:
    """Return the value as dicts, lists, numbers and text.

    Args:
        value: Mappings, lists, tuples, NumPy arrays and scalars, nested to any depth.
        keep_infinity: Write infinities as "inf" and "-inf"; otherwise they become None, as NaN always does.
    """
    if isinstance(value, Mapping):
        return {str(key): to_plain(part, keep_infinity=keep_infinity) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist(), keep_infinity=keep_infinity)
    if isinstance(value, list | tuple):
        return [to_plain(part, keep_infinity=keep_infinity) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return ("inf" if value > 0 else "-inf") if keep_infinity and math.isinf(value) else None
    return value
