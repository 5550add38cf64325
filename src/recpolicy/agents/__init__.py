"""One file per agent; tables.py has them by name, and imports TensorFlow at their first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recpolicy.agents.tables import (
        AGENTS,
        BASELINES,
        SESSION_AGENTS,
        AgentEntry,
        MakeAgent,
        MakeSessionAgent,
        SessionAgentEntry,
        agent_entry,
    )

__all__ = [
    "AGENTS",
    "BASELINES",
    "SESSION_AGENTS",
    "AgentEntry",
    "MakeAgent",
    "MakeSessionAgent",
    "SessionAgentEntry",
    "agent_entry",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: utility tuning needs no TensorFlow.

    Raises:
        AttributeError: There is no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.tables"), name)
    globals()[name] = value
    return value
