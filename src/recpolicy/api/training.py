"""One door for all agents: single rounds or sessions, by the agent's name."""

from pathlib import Path
from typing import Any

from recpolicy.core.extras import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.splits import Split
from recpolicy.serving.predictor import Policy


def train_any(agent: str, split: Split, out: str | Path, **options: Any) -> Policy:
    """Train the named agent by recpolicy.api.train.train or recpolicy.api.train_sessions.train_sessions."""
    require_extra("train", "training")
    silence_libraries()
    from recpolicy.agents.registry import SESSION_AGENTS
    from recpolicy.api.train import train
    from recpolicy.api.train_sessions import train_sessions

    chosen = train_sessions if agent in SESSION_AGENTS else train
    return chosen(agent, split, out, **options)
