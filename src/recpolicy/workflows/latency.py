"""How long a policy takes to answer for one user, measured in this process, on this machine, as it is now loaded."""

import time
from dataclasses import dataclass

import numpy as np

from recpolicy.inference.predictor import Policy


@dataclass(frozen=True)
class Latency:
    """Milliseconds of `predict` for one user and all items; no network and no queue in it."""

    median_ms: float
    p99_ms: float
    calls: int


def measure_latency(policy: Policy, calls: int = 200, seconds: float = 2.0) -> Latency:
    """Ask the policy for one user after the other, up to `calls` times or until `seconds` are over.

    One more call before them warms caches up and is not counted.
    """
    users = policy.artifact.users["user_id"].tolist()
    policy.predict(users[0])
    took: list[float] = []
    began = time.perf_counter()
    while not took or (len(took) < calls and time.perf_counter() - began < seconds):
        user = users[len(took) % len(users)]
        start = time.perf_counter()
        policy.predict(user)
        took.append(1_000 * (time.perf_counter() - start))
    median, p99 = np.quantile(took, [0.5, 0.99])
    return Latency(float(median), float(p99), len(took))
