"""The live versions of a server: loaded, swapped as a whole, and split between users.

A request reads one reference (`live`), so it sees one state from start to end and a swap fails no request. The
registry's folder is the source of truth; every process checks its aliases file twice a second.

A version that does not load changes nothing for users: the last good one serves, also after a restart, and `fault`
says so. It is tried again every half minute, and any other change of the registry is followed at once.
"""

import asyncio
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from recpolicy.core.errors import ArtifactError, ConfigError, DataError, WrongPolicyKindError
from recpolicy.core.lru import LRUCache
from recpolicy.inference.feature_artifact import is_feature_policy, read_feature_policy
from recpolicy.inference.guardrails import GuardrailConfig, Guardrails, bind, unknown_ids_notice
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.new_item_slot import NewItemSlot
from recpolicy.inference.rank_guardrails import RankGuardrails
from recpolicy.inference.scorer import LIST_SIZE, Scorer
from recpolicy.inference.tuned_scorer import TunedScorer
from recpolicy.inference.weight_exploration import TuningConfig, WeightExploration
from recpolicy.registry.aliases import STATE, Routing
from recpolicy.registry.model_registry import Registry
from recpolicy.server.json_output import exception_location
from recpolicy.server.rank.ranker import Ranker, UniformPolicy

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
WATCH_SECONDS = 0.5
RETRY_SECONDS = 30.0
"""Time until a version that did not load is tried again; the reason may pass, such as a lack of memory."""
LIST_BYTES = 8 << 20
"""For cached lists of one version: about 2,000 lists of 10 items."""
_FORMULAS = 4
"""Policies whose formulas are kept: champion, challenger, and those before them."""
CACHE_BYTES = 4 << 20
"""For other answers of a version: 100 users of 1,682 items."""


Policy = Scorer | Ranker
BoundGuardrails = Guardrails | RankGuardrails | None
RANKS_FEATURES = "the champion ranks actions with features; send POST /v1/rank in place of this request"
RANKS_ITEMS = "the champion recommends items of a ratings table; send POST /v1/recommend in place of a rank"


@dataclass(frozen=True, eq=False)
class LoadedVersion:
    """One loaded version: a policy of ratings (`scorer`) or of features (`ranker`).

    Two are equal if they are the same loaded policies; nobody compares their arrays.
    """

    policy: Policy
    number: int | None
    """Number in the registry; None without one."""
    base: Policy | None = None
    """The version as trained, if `policy` has learned since; otherwise None."""
    lists: LRUCache[Any] = field(default_factory=lambda: LRUCache(LIST_BYTES), compare=False, repr=False)
    """Cache of its greedy lists (recommend.ComputedList); a version never changes, so they stay valid."""
    guardrails: BoundGuardrails = field(default=None, compare=False, repr=False)
    """The operator's guardrails over its catalog, or of its ranks; None: there are none."""
    new_items: NewItemSlot | None = field(default=None, compare=False, repr=False)
    """The place for new items; None: lists have none."""
    weights: WeightExploration | None = field(default=None, compare=False, repr=False)
    """The formula whose weights are drawn on a share of the requests; None: there is none."""
    candidates: int = 0
    """Number of items that its lists are ranked from, see CandidatesConfig; 0: all items."""
    item_json: dict[int, str] = field(default_factory=dict, compare=False, repr=False)
    """Begin of the JSON of its items, by row; filled as lists show them."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LoadedVersion):
            return NotImplemented
        return self.policy is other.policy and self.number == other.number and self.base is other.base

    def __hash__(self) -> int:
        return hash((id(self.policy), self.number))

    @cached_property
    def policy_json(self) -> Mapping[str, str]:
        """The `policy` of a response as JSON, by variant."""
        return {role: json.dumps(self.describe(role)) for role in (CHAMPION, CHALLENGER)}

    def describe(self, variant: str) -> dict[str, Any]:
        """Return the `policy` of a response."""
        return {"version": self.number, "agent": self.agent, "policy_digest": self.policy_digest, "variant": variant}

    @property
    def scorer(self) -> Scorer:
        """The policy of ratings; raises WrongPolicyKindError for another kind."""
        if self.ranks:
            raise WrongPolicyKindError(RANKS_FEATURES)
        return cast(Scorer, self.policy)

    @property
    def ranker(self) -> Ranker:
        """The policy of features; raises WrongPolicyKindError for another kind."""
        if not self.ranks:
            raise WrongPolicyKindError(RANKS_ITEMS)
        return cast(Ranker, self.policy)

    @cached_property
    def ranks(self) -> bool:
        """True for a policy of features."""
        return isinstance(self.policy, Ranker)

    @property
    def trained(self) -> Scorer:
        """The policy of ratings as trained; raises WrongPolicyKindError for another kind."""
        return cast(Scorer, self.base) if self.base is not None else self.scorer

    @property
    def trained_policy(self) -> Policy:
        """The version as trained."""
        return self.base or self.policy

    @cached_property
    def list_size(self) -> int:
        """Number of items of a list whose request names none."""
        return LIST_SIZE if self.ranks else self.scorer.list_size

    @cached_property
    def agent(self) -> str:
        """The agent that was trained."""
        return self.ranker.agent if self.ranks else str(self.scorer.metadata["agent"])

    @cached_property
    def policy_digest(self) -> str:
        """Digest of the learned parameters."""
        return self.ranker.policy_digest if self.ranks else str(self.scorer.metadata["policy_digest"])


def load_policy(folder: Path, cache_bytes: int = CACHE_BYTES) -> Policy:
    """Load a policy of either kind; raises ArtifactError for one that is damaged, foreign or cannot answer."""
    return read_feature_policy(folder) if is_feature_policy(folder) else load_scorer(folder, cache_bytes)


class WeightExplorations:
    """The formulas whose weights are explored, by the digest of the policy as trained; a formula is fitted once."""

    def __init__(self, config: TuningConfig):
        self.config = config
        self._known: LRUCache[WeightExploration | None] = LRUCache(_FORMULAS)

    def __call__(self, policy: Policy) -> WeightExploration | None:
        """Return the formula of a policy; None if its weights are not explored, as those of an unfit policy."""
        if isinstance(policy, Ranker) or self.config.explore_share == 0:
            return None
        digest = str(policy.metadata["policy_digest"])
        if digest not in self._known:
            try:
                found = WeightExploration.of(policy, self.config)
                if found is None:
                    logger.warning(
                        "[tuning] explore_share has no effect on policy %s, which has no layer: name heads", digest[:12]
                    )
            except (ConfigError, DataError) as error:
                logger.error("[tuning] the weights of policy %s are not explored: %s", digest[:12], error)
                found = None
            self._known.put(digest, found, 1)
        return self._known.get(digest)


def with_guardrails(version: LoadedVersion, config: GuardrailConfig) -> LoadedVersion:
    """Return a version that keeps the operator's guardrails; raises ConfigError if it cannot."""
    if not config.active:
        return version
    if version.ranks:
        return replace(version, guardrails=RankGuardrails.for_policy(config, version.policy))
    return replace(version, guardrails=bind(config, version.scorer))


@dataclass(frozen=True)
class LiveState:
    """The live versions and their traffic."""

    champion: LoadedVersion
    challenger: LoadedVersion | None = None
    traffic_fraction: float = 0.0
    """Fraction of the users, and of the events without one, that the challenger serves."""
    shadow: bool = False
    """The challenger serves nobody; its lists are only compared."""
    exploring: bool = True
    rollout: int | None = None
    """The running rollout."""

    def variant_for(self, user_key: str) -> tuple[LoadedVersion, str]:
        """Return the version that serves a user (or an event without one), and its variant: champion or challenger."""
        if (
            self.challenger is not None
            and not self.shadow
            and bucket(user_key, self.challenger.policy_digest) < self.traffic_fraction
        ):
            return self.challenger, CHALLENGER
        return self.champion, CHAMPION


def without_challenger(live: LiveState) -> LiveState:
    """Return the live versions as if there were no challenger and no rollout."""
    return replace(live, challenger=None, rollout=None)


def bucket(user_key: str, salt: str) -> float:
    """Return a user's position in [0, 1). It does not depend on the fraction, so a growing fraction keeps its users."""
    digest = hashlib.blake2b(f"{salt}/{user_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2.0**64


@dataclass(frozen=True)
class ReloadHooks:
    """Functions that add data from outside the registry to a live version."""

    rollout: Callable[[int], int | None] = lambda _: None
    """Returns the number of a challenger's running rollout."""
    learned: Callable[[Policy], Policy] = lambda policy: policy
    """Returns a trained version with its updates since."""
    watched: Callable[[Policy], tuple[Path, ...]] = lambda _: ()
    """Returns the files that change when it has learned more."""
    uniform_first: bool = False
    """A registry without a champion serves UniformPolicy."""
    guardrails: GuardrailConfig = field(default_factory=GuardrailConfig)
    """The operator's guardrails; a version that cannot keep them is not served."""
    candidates: int = 0
    """Number of items that lists are ranked from; 0: all items."""
    new_items: Callable[[Policy], NewItemSlot | None] = lambda _: None
    """Returns the place for new items in the lists of a version."""
    weights: Callable[[Policy], WeightExploration | None] = lambda _: None
    """Returns the formula whose weights are explored."""
    timeout: float = TuningConfig().timeout_ms / 1e3
    """Seconds that a tuned layer may take for its weights."""
    state: Callable[[], object] = lambda: None
    """Returns a value that changes when the versions are to be loaded again."""


class ModelManager:
    """The live versions of a registry, or one fixed version."""

    def __init__(
        self,
        live: LiveState,
        registry: Registry | None = None,
        hooks: ReloadHooks | None = None,
        fault: str | None = None,
    ):
        self.live = live
        self.registry = registry
        self.on_fault: Callable[[str], object] = lambda _: None
        """Called with each new fault."""
        self.fault = fault
        """The version of the registry's routing that does not load, and the reason; None if all do."""
        self._hooks = hooks or ReloadHooks()
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._failed: tuple[Any, ...] | None = None
        """The stamp of a state of the registry that did not load."""
        self._retry_at = 0.0

    @classmethod
    def from_registry(cls, registry: Registry, hooks: ReloadHooks | None = None) -> "ModelManager":
        """Load the routing of the registry; a champion that does not load is replaced by the last one that does.

        Raises ConfigError for a registry without a champion, ArtifactError for a damaged one, or where no former
        champion loads either.
        """
        live, fault = _load_first(registry, hooks or ReloadHooks())
        if fault is not None:
            logger.error("%s", fault)
        return cls(live, registry, hooks, fault)

    def refresh(self) -> bool:
        """Load the current routing of the registry; return True if anything changed.

        A version that does not load is left out: the champion before it stays, or the champion serves the challenger's
        users; `fault` has the reason. Raises ArtifactError or ConfigError if the registry cannot be read.
        """
        if self.registry is None:
            return False
        with self._lock:
            stamp = self._look()
            new, fault = _load(self.registry, self.live, self._hooks)
            old, self.live = self.live, new
            known, self.fault = self.fault, fault
            self._stamp = (*stamp[:-1], self._tries())
        if fault is not None and fault != known:
            logger.error("%s", fault)
            self.on_fault(fault)
        return new != old

    async def follow_registry(self) -> None:
        """Load the changes of other processes; one that does not load is logged once, and tried again later."""
        stamp, now = self._look(), time.monotonic()
        if stamp == self._stamp or (stamp == self._failed and now < self._retry_at):
            return
        known, self._failed = stamp == self._failed, None
        try:
            await asyncio.to_thread(self.refresh)
        except Exception as error:
            self._failed, self._retry_at = stamp, time.monotonic() + RETRY_SECONDS
            if known:
                return
            reason = str(error) if isinstance(error, (ArtifactError, ConfigError)) else type(error).__name__
            logger.error(
                "the registry names a version that does not load; the previous version stays live: %s", reason,
                extra={"fields": exception_location(error)},
            )  # fmt: skip

    def _look(self) -> tuple[Any, ...]:
        """Return a value that changes whenever the aliases or the champion's updates do; a fault changes it in time."""
        if self.registry is None:
            return ()
        marks = map(_mark, self._hooks.watched(self.live.champion.trained_policy))
        return _mark(self.registry.folder / STATE), *marks, self._hooks.state(), self._tries()

    def _tries(self) -> int:
        """Return a number that changes when it is time to try again; 0 without a fault."""
        return 0 if self.fault is None else 1 + int(time.monotonic() / RETRY_SECONDS)


def _load(registry: Registry, old: LiveState, hooks: ReloadHooks) -> tuple[LiveState, str | None]:
    """Return the routing of the registry with the versions that load, and the fault of those that do not."""
    routing = registry.routing()
    if routing.champion is None:
        return _without_champion(registry, hooks)
    known = {served.number: served.trained_policy for served in (old.champion, old.challenger) if served is not None}
    instead = f"version {old.champion.number} still serves"
    champion, fault = _try_load(registry, routing.champion, known, instead, hooks.guardrails)
    number = old.champion.number if champion is None else routing.champion
    return _combine(registry, routing, champion or old.champion.trained_policy, number, fault, hooks, known)


def _load_first(registry: Registry, hooks: ReloadHooks) -> tuple[LiveState, str | None]:
    """Return what `_load` does, at the start: in place of a champion that does not load, the last one that does."""
    routing = registry.routing()
    if routing.champion is None:
        return _without_champion(registry, hooks)
    champion, fault = _try_load(registry, routing.champion, {}, "", hooks.guardrails)
    if champion is not None:
        return _combine(registry, routing, champion, routing.champion, None, hooks, {})
    for number in _former_champions(registry):
        champion, _ = _try_load(registry, number, {}, "", hooks.guardrails)
        if champion is not None:
            fault = f"{fault}; version {number}, a former champion, serves instead"
            return _combine(registry, routing, champion, number, fault, hooks, {})
    raise ArtifactError(f"{fault}; no former champion loads either: promote a version that does")


def _combine(
    registry: Registry, routing: Routing, champion: Policy, number: int | None, fault: str | None, hooks: ReloadHooks,
    known: Mapping[int | None, Policy],
) -> tuple[LiveState, str | None]:  # fmt: skip
    """Return the live state of a loaded champion, with the challenger if it loads."""
    challenger, rival = routing.challenger, None
    if challenger is not None and challenger != number:
        rival, why = _try_load(registry, challenger, known, "the champion serves its users", hooks.guardrails)
        fault = fault or why
    learned = hooks.learned(champion)
    if learned is not champion and not isinstance(champion, Ranker):
        champion.forget_predictions()
    base = None if learned is champion else champion
    count = hooks.candidates
    slots = [hooks.new_items(each) if routing.exploration and each is not None else None for each in (learned, rival)]
    live = LiveState(
        _served(LoadedVersion(learned, number, base, new_items=slots[0], candidates=count), hooks),
        None
        if rival is None
        else _served(LoadedVersion(rival, challenger, new_items=slots[1], candidates=count), hooks),
        0.0 if rival is None else routing.traffic_fraction,
        rival is not None and routing.shadow,
        routing.exploration,
        None if rival is None or challenger is None else hooks.rollout(challenger),
    )
    return live, fault


def _served(version: LoadedVersion, hooks: ReloadHooks) -> LoadedVersion:
    """Return a version as the settings serve it: with guardrails, exploration of weights, and the time for a layer."""
    policy = version.policy
    if isinstance(policy, TunedScorer):
        policy.max_seconds = hooks.timeout
    return replace(with_guardrails(version, hooks.guardrails), weights=hooks.weights(version.trained_policy))


def _try_load(
    registry: Registry, number: int, known: Mapping[int | None, Policy], instead: str, guardrails: GuardrailConfig
) -> tuple[Policy | None, str | None]:
    """Return a version, or None with the fault, whatever is wrong with it."""
    if number in known:
        return known[number], None
    try:
        policy = load_policy(registry.resolve(number))
        bound = with_guardrails(LoadedVersion(policy, number), guardrails).guardrails  # raises what it cannot keep
        if isinstance(bound, Guardrails) and (notice := unknown_ids_notice(bound.unknown)) is not None:
            logger.warning("version %s: %s", number, notice)
        return policy, None
    except Exception as error:  # also of the disk or for lack of memory
        reason = str(error).replace(f"{registry.folder}/", "") or type(error).__name__
        return None, f"version {number} of the registry does not load{instead and f', {instead}'}: {reason}"


def _former_champions(registry: Registry) -> list[int]:
    """Return the numbers of the champions before the present one, the latest first."""
    try:
        aliases, lines = registry.aliases(), registry.audit()
    except ArtifactError:
        return []
    promoted = [line.get("number") for line in reversed(lines) if line.get("change") in ("promote", "roll_back")]
    numbers = dict.fromkeys([aliases["previous"], *promoted])
    return [number for number in numbers if type(number) is int and number != aliases["champion"]]


def _without_champion(registry: Registry, hooks: ReloadHooks) -> tuple[LiveState, str | None]:
    """Return the live state of a registry without a champion; raises ConfigError unless the settings allow for it."""
    if hooks.uniform_first:
        return LiveState(with_guardrails(LoadedVersion(UniformPolicy(), None), hooks.guardrails)), None
    raise ConfigError(
        f"{registry.folder}: the registry has no champion; promote a version: recpolicy registry promote. Or set"
        " start_uniform = true in the table [rank] of the settings: ranks are then drawn at random until a version is"
        " promoted"
    )


def _mark(path: Path) -> tuple[int, int] | None:
    """Return a value that changes when a file is replaced; None without a file."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_ino
