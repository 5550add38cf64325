"""Fields of events of any kind in a line of the spool."""

import base64
from types import NoneType
from typing import Any


def typed_field(name: str, value: Any, kinds: tuple[type, ...]) -> Any:
    """Return the value of a field, bytes from their base64; raises ValueError for a value of another type."""
    if bytes in kinds and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    if type(value) not in kinds:
        expected = " or ".join(kind.__name__ for kind in kinds if kind is not NoneType)
        raise ValueError(f"{name} is of type {type(value).__name__}; expected {expected}")
    return value
