"""All parts of the attack, in the order in which they run."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from attack.auth import attack_auth
from attack.databases_down import (
    attack_full_disk,
    attack_hanging_database,
    attack_removed_database,
    attack_spool,
)
from attack.exhaustion import (
    attack_addresses,
    attack_descriptors,
    attack_large_answers,
    attack_log_pipe,
    attack_slowly,
)
from attack.fuzzing import attack_by_bytes, attack_by_json
from attack.memory import attack_memory
from attack.policies import attack_by_policies
from attack.processes_killed import attack_by_kills, attack_by_signals
from attack.registry import attack_registry
from attack.session import Session
from attack.sockets import attack_sockets
from attack.users import attack_users


@dataclass(frozen=True)
class Part:
    """A part of the attack."""

    name: str
    summary: str
    run: Callable[[Session], None]
    quick: bool = False
    """True: CI runs it, in a smaller size."""
    lacks: Callable[[], str | None] = lambda: None
    """Returns the reason why this machine cannot run it; None if it can."""


def lacks_root() -> str | None:
    """Return the reason why a part for root cannot run."""
    return None if os.getuid() == 0 else "it needs root"


_PARTS = (
    Part("auth", "admin operations with wrong and misplaced keys, other methods, tricks with paths", attack_auth, True),
    Part("bytes", "valid requests with changed bytes", attack_by_bytes, True),
    Part("json", "hostile JSON and queries to all routes", attack_by_json, True),
    Part("sockets", "smuggling, chunks, headers, other protocols, slow and broken bodies", attack_sockets, True),
    Part("addresses", "forged and long client addresses", attack_addresses, True),
    Part("slow-clients", "heads and bodies that never come, thousands at once", attack_slowly, True),
    Part("descriptors", "more connections than file descriptors", attack_descriptors, True),
    Part("large-answers", "40 of the largest answers to clients that do not read", attack_large_answers, True),
    Part("log-pipe", "a log that nobody reads", attack_log_pipe, True),
    Part("policies", "hostile policies from import to restart", attack_by_policies, True),
    Part("registry", "damaged files of the registry", attack_registry, True),
    Part("spool", "damaged files of the spool", attack_spool, True),
    Part("removed-database", "a database file that is removed or replaced", attack_removed_database, True),
    Part("hanging-database", "a database that does not answer", attack_hanging_database, True),
    Part("users", "users who learn: kills, erasure in the middle of requests, hostile ratings", attack_users, True),
    Part("full-disk", "a disk without space", attack_full_disk),
    Part("signals", "SIGTERM, SIGHUP and SIGINT under load; a killed parent", attack_by_signals),
    Part("kills", "kill -9 under load", attack_by_kills),
    Part("memory", "memory over 100,000 mixed requests", attack_memory),
)
PARTS: Mapping[str, Part] = {part.name: part for part in _PARTS}
