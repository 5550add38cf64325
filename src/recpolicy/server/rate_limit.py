"""What one caller, and all of them together, may ask of a process."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_network

from recpolicy.core.errors import ConfigError

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """Bounds of every server process by itself."""

    body_bytes: int = MIB
    """Of one request; 100 users with ratings of some hundred items each fit."""
    header_bytes: int = MIB >> 4
    """Of a request line and headers that do not come in one piece (of at most 256 KiB)."""
    import_bytes: int = 256 * MIB
    """Of one version that is imported."""
    rate: float = 200.0
    """Requests a second of one key, or of one address that brings none; 0: as many as they like."""
    burst: int = 400
    """Requests that may come at once, after a pause."""
    in_flight: int = 256
    """Requests that are worked on at once."""
    receiving: int = 1024
    """Requests whose bodies are still on their way."""
    seconds: float = 10.0
    """Until the headers are there; then until the body is there and the answer begins; twice as long again until the
    client has taken the answer."""
    require_key: bool = False
    """Whether predictions, recommendations and feedback need a key of any role, as administration always does."""

    def __post_init__(self) -> None:
        for name in ("body_bytes", "header_bytes", "import_bytes", "burst", "in_flight", "receiving", "seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected more than 0")
        if not self.rate >= 0:
            raise ConfigError(f"rate is {self.rate}; expected 0 (no limit) or more")


class TokenBuckets:
    """A bucket of tokens for each caller, full at first; a request takes one.

    At most `most` are held: the one that was not asked for longest is given up, and would be full again most likely.
    """

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic, most: int = 10_000
    ) -> None:
        self._rate, self._burst, self._clock, self._most = rate, float(burst), clock, most
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when that was

    def take(self, who: str) -> float:
        """Take a token: 0, or in how many seconds there will be one."""
        if not self._rate:
            return 0.0
        now = self._clock()
        tokens, since = self._held.pop(who, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        taken = tokens >= 1
        self._held[who] = (tokens - taken, now)
        if len(self._held) > self._most:
            self._held.popitem(last=False)
        return 0.0 if taken else (1 - tokens) / self._rate

    def __len__(self) -> int:
        return len(self._held)


@lru_cache(4096)
def client_network(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 that every holder of an IPv6 address has."""
    try:
        bits = 128 if IPv6Address(address).ipv4_mapped else 64
    except ValueError:
        return address
    return str(ip_network(f"{address.partition('%')[0]}/{bits}", strict=False))
