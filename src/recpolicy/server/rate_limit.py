"""Rate limits: token buckets per caller, and the address that an unknown caller counts for.

A request costs one token, and a large one costs more: a token pays for ROWS_PER_TOKEN rows of its answer. Callers with
a working key have a bucket per key, all others one per address. The address is the peer of the connection. Only a proxy
that the settings trust may name another one (X-Forwarded-For), and only a valid address counts, so names stay short.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

ROWS_PER_TOKEN = 100
"""Rows of an answer (positions of a list, estimates) that one token pays for."""
MIN_ROWS = 10
"""Rows that each part of a batch counts for at least: a list, a user, a piece of feedback."""
MAX_FORWARDED = 20
"""Addresses of X-Forwarded-For that are read, from the last one."""


class TokenBuckets:
    """Token buckets, one per caller, full at first.

    There are at most `most` buckets: the least recently used one is dropped. By then it would most likely be full
    again.
    """

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic, most: int = 10_000
    ) -> None:
        self._rate, self._burst, self._clock, self._most = rate, float(burst), clock, most
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and the time of that count

    def take(self, name: str, tokens: float = 1.0) -> float:
        """Take tokens of the bucket `name`, at most as many as it can hold; return 0, or the seconds to wait."""
        if not self._rate:
            return 0.0
        now, needed = self._clock(), min(tokens, self._burst)
        held, since = self._held.pop(name, (self._burst, now))
        held = min(self._burst, held + (now - since) * self._rate)
        taken = held >= needed
        self._held[name] = (held - needed if taken else held, now)
        if len(self._held) > self._most:
            self._held.popitem(last=False)
        return 0.0 if taken else (needed - held) / self._rate

    def give_back(self, name: str) -> None:
        """Return a token that turned out to be another bucket's."""
        if name in self._held:
            held, since = self._held[name]
            self._held[name] = (min(self._burst, held + 1), since)

    def __len__(self) -> int:
        return len(self._held)


class ClientAddresses:
    """The address that a request counts for, behind proxies that are trusted to name it."""

    def __init__(self, trusted_proxies: Iterable[str] = ()) -> None:
        self._trusted = tuple(ip_network(network) for network in trusted_proxies)

    def trusts(self, address: str) -> bool:
        """Return True if the address belongs to a trusted proxy."""
        return bool(self._trusted) and _is_in(address, self._trusted)

    def client(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the last address of X-Forwarded-For that no trusted proxy has; without a trusted proxy, the peer.

        Args:
            peer: Address of the other end of the connection.
            headers: ASGI headers.
        """
        client = peer
        if not self.trusts(peer):
            return client
        forwarded = b",".join([value for name, value in headers if name == b"x-forwarded-for"])
        for text in reversed(forwarded.rsplit(b",", MAX_FORWARDED)[-MAX_FORWARDED:]):
            address = _address(text)
            if (
                address is None
            ):  # the proxy before this one sent no address: nobody vouches for what stands further left
                return client
            client = address
            if not self.trusts(client):
                return client
        return client


@lru_cache(4096)
def client_network(address: str) -> str:
    """Return the network that counts as one client: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        bits = 128 if IPv6Address(address).ipv4_mapped else 64
    except ValueError:
        return address
    return str(ip_network(f"{address.partition('%')[0]}/{bits}", strict=False))


def _address(text: bytes) -> str | None:
    """Return an address of X-Forwarded-For, which may have a port; None for any other text."""
    word = text.strip().decode("latin-1")
    if len(word) > 60:
        return None
    if word.startswith("["):
        word = word[1:].partition("]")[0]
    elif word.count(":") == 1:
        word = word.partition(":")[0]
    try:
        return str(ip_address(word))
    except ValueError:
        return None


@lru_cache(4096)
def _is_in(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return any((mapped or parsed) in network for network in networks)
