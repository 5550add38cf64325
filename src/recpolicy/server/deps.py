"""The state of one server process, and the dependency that gives it to handlers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from recpolicy.core.errors import DataError, StoreError
from recpolicy.registry.model_registry import Registry
from recpolicy.server.background import BackgroundTasks
from recpolicy.server.db.feedback import DAY_MS, RewardRules
from recpolicy.server.db.keyless_feedback import KeylessBound
from recpolicy.server.db.rank_events import ONLINE
from recpolicy.server.db.rank_signals import RankSignal, check_worth
from recpolicy.server.db.rollouts import ConflictError
from recpolicy.server.db.schema import RANK, STRATEGY
from recpolicy.server.live_models import LiveState, LoadedVersion, ModelManager, with_guardrails, without_challenger
from recpolicy.server.metrics import Metrics
from recpolicy.server.rank.action_rows import ActionRows
from recpolicy.server.rank.ranker import UniformPolicy
from recpolicy.server.rank.service import RankSettings
from recpolicy.server.rollout.counters import RolloutCounters
from recpolicy.server.sessions import SessionService
from recpolicy.server.settings import Settings
from recpolicy.server.users.service import LEARN, UserService

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from recpolicy.server.db.writer import GroupCommitWriter
    from recpolicy.server.strategies.service import StrategyService
    from recpolicy.server.users.reader import UserReader


@dataclass(frozen=True)
class Store:
    """The open database of a process."""

    engine: "Engine"
    writer: "GroupCommitWriter"


@dataclass(frozen=True)
class AppState:
    """The state of one server process."""

    models: ModelManager
    store: Store | None
    """None: the server stores nothing (--no-store)."""
    settings: Settings
    metrics: Metrics
    folder: Path | None = None
    """The state folder; None for a server that stores nothing."""
    keyless: KeylessBound = field(default_factory=lambda: KeylessBound(0))
    """The bound of online learning from feedback without a key."""
    rollout_counters: RolloutCounters = field(default_factory=RolloutCounters)
    """Counts and shadow comparisons of the rollout."""
    background: BackgroundTasks = field(default_factory=BackgroundTasks)
    """The background tasks of the process."""
    strategies: "StrategyService | None" = None
    """The strategy engine; None: the server serves no strategies."""
    action_rows: ActionRows = field(default_factory=ActionRows)
    """The rows of the actions of earlier ranks."""
    user_reader: "UserReader | None" = None
    """Reads the ratings of users who learn; None: nobody does."""
    users: UserService = field(init=False, compare=False)
    """The users of requests, as far as a posterior describes them."""
    sessions: SessionService = field(init=False, compare=False)
    """The sessions of requests."""
    rank: RankSettings = field(init=False, compare=False)
    """The settings of ranks and rewards in effect."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", RankSettings(self.settings))
        object.__setattr__(self, "users", UserService(self.settings.users.mode, self.user_reader))
        object.__setattr__(self, "sessions", SessionService(self.store, self.settings.sessions.gap_minutes))

    def ranking_state(self) -> LiveState:
        """Return the live versions as ranks use them; raises WrongPolicyKindError if the champion is one of ratings.

        A champion that an operator has reset ranks at random, without a challenger. In other modes than online, the
        baseline is chosen, so there is nothing to compare.
        """
        live, service = self.models.live, self.rank.current
        assert live.champion.ranker is not None  # raises for another kind
        if service.reset_version is not None and service.reset_version == live.champion.number:
            return LiveState(with_guardrails(LoadedVersion(UniformPolicy(), None), self.settings.guardrails))
        return live if live.challenger is None or service.mode == ONLINE else without_challenger(live)

    def ranking_version(self) -> LoadedVersion:
        """Return the champion as ranks use it; raises WrongPolicyKindError if it is a policy of ratings."""
        return self.ranking_state().champion

    def require_store(self) -> Store:
        """Return the store; raises StoreError for a server that stores nothing."""
        if self.store is None:
            raise StoreError("this server has no database (--no-store)")
        return self.store

    def require_registry(self) -> Registry:
        """Return the registry; raises ConflictError for a server without one."""
        if self.models.registry is None:
            raise ConflictError("this server has no registry; start it with a registry, or without --no-store")
        return self.models.registry

    def reward_rules(self) -> RewardRules:
        """Return the rules that turn feedback and signals into rewards at this time."""
        window, champion = int(self.settings.feedback.window_days * DAY_MS), self.models.live.champion
        scale = (0.0, 1.0) if champion.ranks else champion.scorer.scale  # a policy of features has no ratings
        rewards = {RANK: self.rank.current.reward}
        rewards = {} if self.strategies is None else rewards | {STRATEGY: self.strategies.config.reward}
        users = self.settings.users
        signals = frozenset[str]() if users.mode != LEARN or champion.ranks else frozenset(users.signals)
        return RewardRules(scale, window, self.keyless, self.rank.current.reward.wait_ms, signals, rewards)

    def check_signals(self, signals: Sequence[RankSignal]) -> None:
        """Raise DataError for a signal that the reward of no task can use."""
        for signal in signals:
            try:
                check_worth(signal, self.rank.current.reward)
            except DataError:
                if self.strategies is None:
                    raise
                check_worth(signal, self.strategies.config.reward)


async def get_state(request: Request) -> AppState:
    """Return the state of the app that handles the request."""
    state: AppState = request.app.state.server
    return state


StateDep = Annotated[AppState, Depends(get_state)]
