"""The names in the Host header to which the server answers."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


def default_hosts(listening_on: str) -> Sequence[str]:
    """Return the allowed names of a server without a setting: those of loopback, or () for any on other addresses."""
    try:
        loopback = ip_address(listening_on).is_loopback
    except ValueError:
        loopback = listening_on == "localhost"
    return (*LOOPBACK_HOSTS, listening_on) if loopback else ()


class AllowedHosts:
    """The names in the Host header that are answered, with any port; without names, all.

    A browser sends the name that it looked up. A page of another site that points its own name at this server (DNS
    rebinding) is therefore refused.
    """

    def __init__(self, names: Sequence[str]) -> None:
        lower = [name.lower() for name in names]
        self._any = not lower or "*" in lower
        self._names = frozenset(lower)
        self._suffixes = tuple(name[1:] for name in lower if name.startswith("*."))
        self._is_allowed = lru_cache(64)(self._check)

    def allow(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return True if the Host header of a request has an allowed name."""
        if self._any:
            return True
        for name, value in headers:
            if name == b"host":
                return len(value) < 300 and self._is_allowed(value)
        return False

    def _check(self, host: bytes) -> bool:
        text = host.decode("latin-1").strip().lower()
        end = text.find("]") + 1 if text.startswith("[") else text.find(":")
        name = text[:end] if end > 0 else text
        return name.rstrip(".") in self._names or name.endswith(self._suffixes or ("\0",))
