"""What the handlers of one server process share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from recpolicy.core.errors import StoreError
from recpolicy.server.db.feedback import DAY_MS, RewardRules
from recpolicy.server.live_models import ModelManager
from recpolicy.server.metrics import Metrics
from recpolicy.server.rollout.rollout_counters import RolloutCounters
from recpolicy.server.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from recpolicy.server.db.writer import GroupCommitWriter


@dataclass(frozen=True)
class Store:
    """The open store of a process."""

    engine: "Engine"
    writer: "GroupCommitWriter"


@dataclass(frozen=True)
class AppState:
    """One server process."""

    policies: ModelManager
    store: Store | None
    """None: nothing is kept (--no-store)."""
    settings: Settings
    metrics: Metrics
    folder: Path | None = None
    """Where this server keeps its files; None for one that keeps nothing."""
    rollout_counters: RolloutCounters = field(default_factory=RolloutCounters)
    """What is counted while a challenger is tried."""

    def require_store(self) -> Store:
        """The store; raises StoreError for a server that keeps nothing."""
        if self.store is None:
            raise StoreError("this server keeps no events and takes no feedback (--no-store)")
        return self.store

    def rules(self) -> RewardRules:
        """How feedback becomes a reward now."""
        window = int(self.settings.feedback.window_days * DAY_MS)
        return RewardRules(self.policies.live.champion.scorer.scale, window)


async def get_state(request: Request) -> AppState:
    """The state of the app that a request came to."""
    state: AppState = request.app.state.server
    return state


StateDep = Annotated[AppState, Depends(get_state)]
