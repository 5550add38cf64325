"""A command and the example that its --help shows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """One entry of the command line."""

    function: Callable[..., Any]
    example: str
