"""Which versions answer now: loaded, swapped whole, and split between users.

Requests read one reference (`live`), so that a request sees one state from beginning to end and a swap fails none. The
registry's folder is the truth; its aliases file is looked at twice a second, in every process.
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
"""For answers of a version beside its ready lists: 300 users of 1,682 items."""


@dataclass(frozen=True)
class LoadedVersion:
    """One loaded version."""

    scorer: Scorer
    number: int | None
    """Number in the registry; None without one."""
    base: Scorer | None = None
    """The version as it was trained, where `scorer` has learnt since; None where it has not."""
    lists: LRUCache[Any] = field(default_factory=lambda: LRUCache(LIST_BYTES), compare=False, repr=False)
    """Greedy lists that it computed (recommend.ComputedList); a version never changes, so they stay valid."""

    @cached_property
    def policy_json(self) -> Mapping[str, str]:
        """Who it is, as JSON, in each role."""
        return {role: json.dumps(self.describe(role)) for role in (CHAMPION, CHALLENGER)}

    def describe(self, variant: str) -> dict[str, Any]:
        """The `policy` of an answer."""
        return {"version": self.number, "agent": self.agent, "policy_digest": self.policy_digest, "variant": variant}

    @property
    def trained(self) -> Scorer:
        """The version as it was trained."""
        return self.base or self.scorer

    @cached_property
    def agent(self) -> str:
        """The agent that was trained."""
        return str(self.scorer.metadata["agent"])

    @cached_property
    def policy_digest(self) -> str:
        """Digest of what it learnt."""
        return str(self.scorer.metadata["content"])


@dataclass(frozen=True)
class LiveState:
    """Who answers whom."""

    champion: LoadedVersion
    challenger: LoadedVersion | None = None
    traffic_fraction: float = 0.0
    """Of the users, how many the challenger answers."""
    shadow: bool = False
    """The challenger answers nobody; what it would have said is compared."""
    exploring: bool = True
    rollout: int | None = None
    """The rollout under way."""

    def variant_for(self, user_key: str) -> tuple[LoadedVersion, str]:
        """The version that answers a user, and whether it is the champion or the challenger."""
        if (
            self.challenger is not None
            and not self.shadow
            and bucket(user_key, self.challenger.policy_digest) < self.traffic_fraction
        ):
            return self.challenger, CHALLENGER
        return self.champion, CHAMPION


def bucket(user_key: str, salt: str) -> float:
    """Where a user stands in [0, 1), whatever the share: a growing share keeps the users that it had."""
    digest = hashlib.blake2b(f"{salt}/{user_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2.0**64


@dataclass(frozen=True)
class ReloadHooks:
    """What a live version is made of beside its registry."""

    rollout: Callable[[int], int | None] = lambda _: None
    """The number of the rollout under way of a challenger."""
    learnt: Callable[[Scorer], Scorer] = lambda scorer: scorer
    """A trained version with what it has learnt since."""
    watched: Callable[[Scorer], tuple[Path, ...]] = lambda _: ()
    """Files that change when it has learnt more."""


class ModelManager:
    """The live versions of a registry, or one that never changes."""

    def __init__(self, live: LiveState, registry: Registry | None = None, beside: ReloadHooks | None = None):
        self.live = live
        self.registry = registry
        self._beside = beside or ReloadHooks()
        self._lock = threading.Lock()
        self._stamp = self._look()

    @classmethod
    def from_registry(cls, registry: Registry, beside: ReloadHooks | None = None) -> "ModelManager":
        """Load what the registry says.

        Raises ConfigError for one without a champion, ArtifactError for a damaged one.
        """
        return cls(_load(registry, None, beside or ReloadHooks()), registry, beside)

    def refresh(self) -> bool:
        """Load what the registry says now; returns whether anything changed. A version that does not load is not taken.

        Raises ArtifactError or ConfigError then; what was live stays live.
        """
        if self.registry is None:
            return False
        with self._lock:
            stamp = self._look()
            new = _load(self.registry, self.live, self._beside)
            self._stamp, old, self.live = stamp, self.live, new
            return new != old

    async def watch(self) -> None:
        """Take over changes that other processes made, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._look() == self._stamp:
                continue
            try:
                await asyncio.to_thread(self.refresh)
            except (ArtifactError, ConfigError, OSError) as error:
                self._stamp = self._look()  # said once, not twice a second
                logger.error("the registry names a version that cannot be served; the old one stays: %s", error)

    def _look(self) -> tuple[Any, ...]:
        """What changes whenever the aliases do, or what the champion has learnt."""
        if self.registry is None:
            return ()
        return _mark(self.registry.folder / "aliases.json"), *map(
            _mark, self._beside.watched(self.live.champion.trained)
        )


def _load(registry: Registry, old: LiveState | None, beside: ReloadHooks) -> LiveState:
    routing = registry.routing()
    if routing.champion is None:
        raise ConfigError(f"{registry.folder}: no champion yet; promote a version: recpolicy registry promote")
    known = {served.number: served for served in ((old.champion, old.challenger) if old else ()) if served is not None}

    def trained(number: int) -> Scorer:
        return known[number].trained if number in known else load_scorer(registry.resolve(number), CACHE_BYTES)

    champion, number = trained(routing.champion), routing.challenger
    learnt = beside.learnt(champion)
    return LiveState(
        LoadedVersion(learnt, routing.champion, None if learnt is champion else champion),
        None if number is None else LoadedVersion(trained(number), number),
        routing.share, routing.shadow, routing.exploration, None if number is None else beside.rollout(number),
    )  # fmt: skip


def _mark(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_ino
