"""API keys: generation, checks, look-up, and the first operator key of a server.

A key is `rp_` and 256 random bits. The store holds only its SHA-256. Passwords need a slow, salted hash because people
choose them. Nobody can try 2^256 keys, however fast the hash: NIST SP 800-63B section 5.1.2.2 asks for a salt and a
slow hash only below 112 bits of entropy. Keys that an operator chose must pass `key_problem` for the same reason.

Each process caches the digests of all working keys for a second. It finds a key by the first digits of its digest and
compares the whole digest in constant time. Timing can only leak the digest of the guess, which does not help an
attacker.

The first operator key comes from the environment, or is generated and printed once. There is no default key.
"""

import asyncio
import hashlib
import hmac
import itertools
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recpolicy.core.errors import ConfigError, StoreError
from recpolicy.server.db import admin
from recpolicy.server.db.engine import transaction
from recpolicy.server.deps import Store

if TYPE_CHECKING:
    from sqlalchemy import Engine

logger = logging.getLogger(__name__)

ROLES = ("client", "reader", "operator")
"""Each role may do everything that the roles before it may do."""
ADMIN_KEY = "RECPOLICY_ADMIN_KEY"
ENVIRONMENT_KEY, GENERATED_KEY = "environment", "operator"
"""Names of the key from the environment and of the generated key."""
LONGEST = 200
FRESH_SECONDS = 1.0
KEPT_SECONDS = 60.0
"""Time for which cached keys still work while the database does not answer."""
_SHORTEST, _DIFFERENT, _RUN = 32, 12, 6
_FIRST = 16
_WAIT_SECONDS, _REST_SECONDS = 2.0, 1.0
_COMMON = re.compile(
    "password|passw0rd|passwd|change|secret|letmein|qwert|recpolicy|default|example|sample|admin|operator|dummy|token"
    "|apikey|production|staging|develop|local|public|private|insecure|unsafe|placeholder|replace|insert|welcome|master"
)
_WORDS = re.compile(
    "[a-z]+([^A-Za-z0-9]+[a-z]+)*|[A-Z]+([^A-Za-z0-9]+[A-Z]+)*|([A-Z]?[a-z]+[^A-Za-z0-9]+)+[A-Z]?[a-z]+"
)
"""A key of words: nobody who draws characters at random gets one."""
_SHORT_WORDS = frozenset(
    {"key", "api", "dev", "prod", "test", "tests", "demo", "root", "your", "my", "the", "foo", "bar", "temp", "todo"}
)
"""Words of which a key may have one between separators: random characters contain short words."""


@dataclass(frozen=True)
class Caller:
    """The caller of a request: the name of the key, and its role."""

    name: str
    role: str

    def has_role(self, role: str) -> bool:
        """Return True if the caller's role is `role` or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)


def new_key() -> str:
    """Return a new key of 256 random bits."""
    return f"rp_{secrets.token_urlsafe(32)}"


def key_digest(key: str) -> str:
    """Return the SHA-256 of a key, 64 hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def unauthorized(key: str | None) -> tuple[int, str, str, dict[str, str]]:
    """Return status, code, message and headers for a caller without a working key."""
    message = "the API key is unknown or revoked" if key else "an API key is required: Authorization: Bearer KEY"
    return 401, "unauthorized", message, {"www-authenticate": 'Bearer realm="recpolicy"'}


def key_problem(key: str) -> str | None:
    """Return the reason why a chosen key is easy to guess or cannot be sent, without the key; None for a good one."""
    if not (key.isascii() and key.isprintable()) or " " in key:
        return "it has characters that an HTTP header cannot contain; expected printable ASCII without spaces"
    if not _SHORTEST <= len(key) <= LONGEST:
        return f"it has {len(key)} characters; expected {_SHORTEST} to {LONGEST}"
    if len(set(key)) < _DIFFERENT:
        return f"it has {len(set(key))} different characters; expected at least {_DIFFERENT}"
    if _WORDS.fullmatch(key):
        return "it is made of words"
    if _COMMON.search(key.lower()) or len(_SHORT_WORDS & set(re.split("[^a-z0-9]+", key.lower()))) > 1:
        return "it contains a word that attackers try first"
    if any(key[:-period] == key[period:] for period in range(1, len(key) // 2 + 1)):
        return "it repeats itself"
    if _longest_run(key) >= _RUN:
        return "it contains a run such as abcdef, 987654 or aaaaaa"
    return None


def _longest_run(key: str) -> int:
    """Return the length of the longest run of characters whose codes all rise by one, fall by one or stay equal."""
    steps = (ord(after) - ord(before) for before, after in itertools.pairwise(key))
    runs = (len(list(run)) + 1 for step, run in itertools.groupby(steps) if abs(step) <= 1)
    return max(runs, default=1)


def load_keys(engine: "Engine | None") -> "KeyCache":
    """Return the keys of a store; without a store, no key works."""

    def load() -> dict[str, Caller]:
        if engine is None:
            return {}
        with engine.connect() as connection:
            return {digest: Caller(name, role) for digest, name, role in admin.active_keys(connection)}

    return KeyCache(load)


class KeyCache:
    """A cache of the working keys of one process; for one event loop."""

    def __init__(self, load: Callable[[], Mapping[str, Caller]], clock: Callable[[], float] = time.monotonic):
        self._load, self._clock = load, clock
        self._callers: Mapping[str, tuple[str, Caller]] = {}  # by the first digits of the digest
        self._as_of = self._changed = self._rest_until = float("-inf")
        self._failing = False
        self._turn = asyncio.Lock()
        self._loading: asyncio.Future[Mapping[str, Caller]] | None = None
        self._began = 0.0

    async def caller(self, key: str) -> Caller | None:
        """Return the caller with this key; None for an unknown key, or a second after a key is revoked in another
        process.

        Raises StoreError if the database does not answer and the key is not in the cache, or the cache is older than
        KEPT_SECONDS.
        """
        digest, now = key_digest(key), self._clock()
        needed = max(now - FRESH_SECONDS, self._changed) if self._find(digest) else now  # the cache may be a moment old
        if self._as_of < needed:
            await self._reload(needed)
        known = self._find(digest)
        if self._failing and (known is None or self._clock() - self._as_of > KEPT_SECONDS):
            raise StoreError("the server cannot check API keys now: the database does not answer")
        return known

    def recent(self, key: str) -> Caller | None:
        """Return the caller that this key had at the last look-up, without one now; None for an unknown key."""
        return self._find(key_digest(key))

    def forget(self) -> None:
        """Reload the keys at the next request, because this process changed a key."""
        self._changed = self._clock()

    def _find(self, digest: str) -> Caller | None:
        known, caller = self._callers.get(digest[:_FIRST], ("", None))
        return caller if hmac.compare_digest(known, digest) else None

    async def _reload(self, since: float) -> None:
        """Reload the keys unless they were loaded at `since` or later.

        There is one load at a time. Nobody waits longer for one that takes too long; it counts when it ends.
        """
        async with self._turn:
            if self._as_of >= since or self._clock() < self._rest_until:
                return
            late = self._loading is not None
            if self._loading is None:
                self._loading, self._began = asyncio.ensure_future(asyncio.to_thread(self._load)), self._clock()
            await asyncio.wait([self._loading], timeout=0.0 if late else _WAIT_SECONDS)
            if not self._loading.done():
                self._failing = True
                return
            loading, self._loading = self._loading, None
            try:
                callers = loading.result()
            except Exception as error:
                if not self._failing:
                    logger.error("the API keys could not be read: %s", type(error).__name__)
                self._failing, self._rest_until = True, self._clock() + _REST_SECONDS
            else:
                self._callers = {digest[:_FIRST]: (digest, caller) for digest, caller in callers.items()}
                self._failing, self._as_of = False, self._began
        if late and self._as_of < since:
            await self._reload(since)


def ensure_operator_key(store: Store | None) -> str | None:
    """Ensure that an operator key exists; return the key if it was generated now, because it cannot be shown again.

    From now on the key in RECPOLICY_ADMIN_KEY works as `environment`; it replaces the earlier key of that name. Raises
    ConfigError if the key is weak, or if it already exists with a lower role or is revoked.
    """
    key = os.environ.get(ADMIN_KEY) or None  # an empty variable counts as unset
    if key is not None:
        problem = key_problem(key)
        if problem is not None:
            raise ConfigError(f"{ADMIN_KEY} is too weak: {problem}; generate a key: openssl rand -base64 32")
    if store is None:
        return None
    if key is not None:
        _accept_key(store, key)
        return None
    return _generate_key(store)


def _generate_key(store: Store) -> str | None:
    with transaction(store.engine) as connection:
        if admin.operator_names(connection):
            return None
        key, name, count = new_key(), GENERATED_KEY, 1
        while admin.get_key(connection, name) is not None:
            count += 1
            name = f"{GENERATED_KEY}-{count}"
        admin.add_key(connection, name, "operator", key_digest(key))
        admin.write_audit(connection, admin.SERVER, "create_key", {"name": name, "role": "operator"})
    return key


def _accept_key(store: Store, key: str) -> None:
    digest = key_digest(key)
    with transaction(store.engine) as connection:
        known = admin.get_key_by_digest(connection, digest)
        if known is not None and known["role"] == "operator" and known["revoked_at"] is None:
            return
        if known is not None and known["name"] != ENVIRONMENT_KEY:
            state = "is revoked" if known["revoked_at"] is not None else f"has the role {known['role']}"
            raise ConfigError(f"{ADMIN_KEY} is the key {known['name']!r}, which {state}; choose another key")
        if admin.get_key(connection, ENVIRONMENT_KEY) is None:
            admin.add_key(connection, ENVIRONMENT_KEY, "operator", digest)
        else:
            admin.replace_digest(connection, ENVIRONMENT_KEY, digest)
        admin.write_audit(connection, admin.SERVER, "take_key", {"name": ENVIRONMENT_KEY, "role": "operator"})
