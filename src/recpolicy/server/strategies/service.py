"""The strategy policy of one process: the champion of a registry in the state folder, which every process follows.

Before the first training an untrained policy serves: it prefers the static strategy and explores, so that its log is a
fair start. The settings' config takes effect at once if it numbers states and actions like the trained one.
"""

import asyncio
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.lru import LRUCache
from recpolicy.registry.aliases import STATE
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.rank_events import row_digest
from recpolicy.server.json_output import encode
from recpolicy.server.settings import StrategiesConfig
from recpolicy.server.strategies.chances import Chances, chances_without_profile, state_chances
from recpolicy.strategies.artifact import AGENT, read_strategy_policy
from recpolicy.strategies.config import DIMENSIONS, StrategyConfig, read_strategy_config, same_schema, schema_difference
from recpolicy.strategies.item_parameters import item_parameters
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.strategies.state import StrategyRequest, request_state

logger = logging.getLogger(__name__)

FOLDER = "strategies"
"""Folder of the registry in the state folder."""
FOLLOW_SECONDS = 1.0
_STATES, _STATE_BYTES = 4_000, 1_600


@dataclass(frozen=True, eq=False)
class LiveStrategies:
    """A strategy policy that serves."""

    policy: StrategyPolicy
    number: int
    """Number in the registry of strategies; 0: untrained."""
    known: LRUCache[Chances] = field(default_factory=lambda: LRUCache(_STATES * _STATE_BYTES), repr=False)
    """Chances of recent states."""

    def chances(self, request: StrategyRequest) -> Chances:
        """Return the chances of a request; raise DataError for a profile or situation that is wrong."""
        number = request_state(request, self.policy.config)
        chances = self.known.get(number)
        if chances is None:
            chances = state_chances(self.policy, number)
            self.known.put(number, chances, _STATE_BYTES)
        return chances

    @cached_property
    def without_profile(self) -> Chances:
        """The chances of requests without a profile."""
        return chances_without_profile(self.policy)

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """The 27 actions as JSON, as events store them: their levels, parameters and weights of items."""
        config = self.policy.config
        return tuple(
            encode(
                {
                    "id": "-".join(strategy[part] for part in DIMENSIONS),
                    "features": {**parameters, **_logged_weights(parameters), **strategy},
                }
            )
            for strategy, parameters in zip(config.strategies, config.parameters, strict=True)
        )

    @cached_property
    def item_weights(self) -> tuple[Mapping[str, float], ...]:
        """The weights of items of each action, as responses have them."""
        return tuple(item_parameters(parameters).as_dict() for parameters in self.policy.config.parameters)

    @cached_property
    def offers(self) -> bytes:
        """The digests of the 27 actions."""
        return b"".join(map(row_digest, self.rows))

    def describe(self) -> dict[str, Any]:
        """Return the `policy` of a response."""
        return {"version": self.number or None, "agent": AGENT, "policy_digest": self.policy.policy_digest}


def _logged_weights(parameters: Mapping[str, float]) -> dict[str, float]:
    """Return the weights of items for parameters, by the names that a log has."""
    return {f"item_{name}": value for name, value in item_parameters(parameters).as_dict().items()}


class StrategyService:
    """The strategy policy of one process, and the registry that it follows."""

    def __init__(self, settings: StrategiesConfig, folder: Path):
        """Load the policy; raise ConfigError for a config that does not fit it, ArtifactError for a damaged one."""
        self.config = read_strategy_config(settings.config)
        self.registry = Registry(folder / FOLDER)
        self.registry.create()
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._failed: tuple[int, int] | None = (0, 0)
        self.live = LiveStrategies(StrategyPolicy(self.config), 0)
        self.refresh()

    def refresh(self) -> None:
        """Load the champion of the registry; raise ArtifactError or ConfigError."""
        with self._lock:
            stamp = self._look()
            number = self.registry.routing().champion
            if number is None:
                self.live = LiveStrategies(StrategyPolicy(self.config), 0)
            elif number != self.live.number:
                policy = read_strategy_policy(self.registry.resolve(number))
                self.live = LiveStrategies(with_config(policy, self.config), number)
            self._stamp = stamp

    async def follow(self) -> None:
        """Load a version that another process, such as the weekly job, made the champion."""
        stamp = self._look()
        if stamp in (self._stamp, self._failed):
            return
        try:
            await asyncio.to_thread(self.refresh)
        except (ArtifactError, ConfigError) as error:
            self._failed = stamp
            logger.error(
                "the registry of strategies names a version that does not load; the last one serves: %s", error
            )

    def _look(self) -> tuple[int, int] | None:
        """Return a value that changes with the registry's routing."""
        try:
            state = (self.registry.folder / STATE).stat()
        except OSError:
            return None
        return state.st_mtime_ns, state.st_ino


def with_config(policy: StrategyPolicy, config: StrategyConfig) -> StrategyPolicy:
    """Return the policy with the settings' config; raise ConfigError if its table has another meaning."""
    if not same_schema(config, policy.config):
        difference = schema_difference(config, policy.config)
        raise ConfigError(
            f"the trained strategies have another schema than the config of the settings: {difference}. Go back to that"
            f" config, or move the folder {FOLDER} of the state folder away to begin again"
        )
    return replace(policy, config=config)


def strategy_statistics(live: LiveStrategies) -> Mapping[str, Any]:
    """Return the statistics of the serving table, with its version."""
    return {"policy": live.describe(), **live.policy.stats()}
