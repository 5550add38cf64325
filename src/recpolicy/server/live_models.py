"""The live versions of a server: loaded, swapped as a whole, and split between users.

A request reads one reference (`live`), so it sees one state from start to end and a swap fails no request. The
registry's folder is the source of truth; every process checks its aliases file twice a second.
"""

import asyncio
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.lru import LRUCache
from recpolicy.inference.scorer import Scorer, load_scorer
from recpolicy.registry.model_registry import Registry

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
WATCH_SECONDS = 0.5
LIST_BYTES = 16 << 20
"""For cached lists of one version: about 4,000 lists of 10 items."""
CACHE_BYTES = 12 << 20
"""For other answers of a version: 300 users of 1,682 items."""


@dataclass(frozen=True)
class LoadedVersion:
    """One loaded version."""

    scorer: Scorer
    number: int | None
    """Number in the registry; None without one."""
    base: Scorer | None = None
    """The version as trained, if `scorer` has learned since; otherwise None."""
    lists: LRUCache[Any] = field(default_factory=lambda: LRUCache(LIST_BYTES), compare=False, repr=False)
    """Cache of its greedy lists (recommend.ComputedList); a version never changes, so they stay valid."""
    item_json: dict[int, str] = field(default_factory=dict, compare=False, repr=False)
    """Begin of the JSON of its items, by row; filled as lists show them."""

    @cached_property
    def policy_json(self) -> Mapping[str, str]:
        """The `policy` of a response as JSON, by variant."""
        return {role: json.dumps(self.describe(role)) for role in (CHAMPION, CHALLENGER)}

    def describe(self, variant: str) -> dict[str, Any]:
        """Return the `policy` of a response."""
        return {"version": self.number, "agent": self.agent, "policy_digest": self.policy_digest, "variant": variant}

    @property
    def trained(self) -> Scorer:
        """The version as trained."""
        return self.base or self.scorer

    @cached_property
    def agent(self) -> str:
        """The agent that was trained."""
        return str(self.scorer.metadata["agent"])

    @cached_property
    def policy_digest(self) -> str:
        """Digest of the learned parameters."""
        return str(self.scorer.metadata["policy_digest"])


@dataclass(frozen=True)
class LiveState:
    """The live versions and their traffic."""

    champion: LoadedVersion
    challenger: LoadedVersion | None = None
    traffic_fraction: float = 0.0
    """Fraction of the users that the challenger serves."""
    shadow: bool = False
    """The challenger serves nobody; its lists are only compared."""
    exploring: bool = True
    rollout: int | None = None
    """The running rollout."""

    def variant_for(self, user_key: str) -> tuple[LoadedVersion, str]:
        """Return the version that serves a user, and its variant: champion or challenger."""
        if (
            self.challenger is not None
            and not self.shadow
            and bucket(user_key, self.challenger.policy_digest) < self.traffic_fraction
        ):
            return self.challenger, CHALLENGER
        return self.champion, CHAMPION


def bucket(user_key: str, salt: str) -> float:
    """Return a user's position in [0, 1). It does not depend on the fraction, so a growing fraction keeps its users."""
    digest = hashlib.blake2b(f"{salt}/{user_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2.0**64


@dataclass(frozen=True)
class ReloadHooks:
    """Functions that add data from outside the registry to a live version."""

    rollout: Callable[[int], int | None] = lambda _: None
    """Returns the number of a challenger's running rollout."""
    learned: Callable[[Scorer], Scorer] = lambda scorer: scorer
    """Returns a trained version with its updates since."""
    watched: Callable[[Scorer], tuple[Path, ...]] = lambda _: ()
    """Returns the files that change when it has learned more."""


class ModelManager:
    """The live versions of a registry, or one fixed version."""

    def __init__(self, live: LiveState, registry: Registry | None = None, hooks: ReloadHooks | None = None):
        self.live = live
        self.registry = registry
        self._hooks = hooks or ReloadHooks()
        self._lock = threading.Lock()
        self._stamp = self._look()

    @classmethod
    def from_registry(cls, registry: Registry, hooks: ReloadHooks | None = None) -> "ModelManager":
        """Load the routing of the registry.

        Raises ConfigError for a registry without a champion, ArtifactError for a damaged one.
        """
        return cls(_load(registry, None, hooks or ReloadHooks()), registry, hooks)

    def refresh(self) -> bool:
        """Load the current routing of the registry; return True if anything changed.

        Raises ArtifactError or ConfigError if a version does not load; the live versions then stay live.
        """
        if self.registry is None:
            return False
        with self._lock:
            stamp = self._look()
            new = _load(self.registry, self.live, self._hooks)
            self._stamp, old, self.live = stamp, self.live, new
            return new != old

    async def watch(self) -> None:
        """Load the changes of other processes, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._look() == self._stamp:
                continue
            try:
                await asyncio.to_thread(self.refresh)
            except (ArtifactError, ConfigError, OSError) as error:
                self._stamp = self._look()  # logged once, not twice a second
                logger.error(
                    "the registry names a version that does not load; the previous version stays live: %s", error
                )

    def _look(self) -> tuple[Any, ...]:
        """Return a value that changes whenever the aliases or the champion's updates do."""
        if self.registry is None:
            return ()
        return _mark(self.registry.folder / "aliases.json"), *map(
            _mark, self._hooks.watched(self.live.champion.trained)
        )


def _load(registry: Registry, old: LiveState | None, hooks: ReloadHooks) -> LiveState:
    routing = registry.routing()
    if routing.champion is None:
        raise ConfigError(
            f"{registry.folder}: the registry has no champion; promote a version: recpolicy registry promote"
        )
    known = {served.number: served for served in ((old.champion, old.challenger) if old else ()) if served is not None}

    def trained(number: int) -> Scorer:
        return known[number].trained if number in known else load_scorer(registry.resolve(number), CACHE_BYTES)

    champion, number = trained(routing.champion), routing.challenger
    learned = hooks.learned(champion)
    return LiveState(
        LoadedVersion(learned, routing.champion, None if learned is champion else champion),
        None if number is None else LoadedVersion(trained(number), number),
        routing.traffic_fraction,
        routing.shadow,
        routing.exploration,
        None if number is None else hooks.rollout(number),
    )


def _mark(path: Path) -> tuple[int, int] | None:
    """Return a value that changes when a file is replaced; None without a file."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_ino
