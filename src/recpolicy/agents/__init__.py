"""One file per agent; tables.py has them by name, and imports TensorFlow at their first use."""

from typing import TYPE_CHECKING, Any

from recpolicy.core.public_names import load_public_name

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
    return load_public_name(globals(), name, dict.fromkeys(__all__, f"{__name__}.tables"))
