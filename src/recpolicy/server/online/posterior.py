"""One linear model per arm, updated reward by reward in float64: the state of a linear policy that learns online.

A arms, D features. P [A, D, D] is the posterior covariance over the noise variance. One reward r of arm a at features x
is the step of agents/linear_posterior.py: g = P x / (f + x'Px); theta += g (r - x.theta); P <- (P - g (Px)') / f.
Rewards are learnt one at a time, in their order, so batches do not change a bit of the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError
from recpolicy.core.files import content_digest
from recpolicy.core.types import Array
from recpolicy.inference.artifact import PolicyParts
from recpolicy.inference.reward_estimators import pack_symmetric


@dataclass(frozen=True)
class Posterior:
    """The posterior of a linear policy."""

    theta: Array  # [A, D]
    covariance: Array  # [A, D, D]

    @property
    def digest(self) -> str:
        """SHA-256 of all bits."""
        return content_digest(self.theta, self.covariance)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays of the policy in the format of its artifact."""
        covariance = pack_symmetric(self.covariance.astype(np.float32))
        return {"theta": self.theta.astype(np.float32), "covariance": covariance}


def can_learn(artifact: PolicyParts) -> bool:
    """Return True if the policy is one linear model per arm."""
    return artifact.estimator == "linear"


def initial_posterior(artifact: PolicyParts) -> Posterior:
    """Return the posterior of a policy after training; raises ConfigError for a policy that is not linear per arm."""
    if not can_learn(artifact):
        raise ConfigError(f"{artifact.agent} cannot learn while it serves; linucb and lints can")
    theta = np.asarray(artifact.policy["theta"], np.float64)
    return Posterior(theta, unpack_symmetric(np.asarray(artifact.policy["covariance"], np.float64), theta.shape[1]))


def get_forgetting(metadata: Mapping[str, Any]) -> float:
    """Return the forgetting factor of the policy's training."""
    return float(metadata.get("config", {}).get("agent", {}).get("forgetting", 1.0))


def make_regressors(artifact: PolicyParts, context: NDArray[np.floating]) -> Array:
    """Return the regressors [D] of a context [C]."""
    x = np.asarray(context, np.float64)
    return np.append(x, 1.0) if bool(artifact.policy["bias"]) else x


def learn(beliefs: Posterior, arm: NDArray[np.integer], features: Array, reward: Array, forgetting: float) -> Posterior:
    """Learn from N rewards [N] of arms [N] at features [N, D], in their order."""
    theta, covariance = beliefs.theta.copy(), beliefs.covariance.copy()
    for a, x, r in zip(arm.tolist(), features, reward.tolist(), strict=True):
        direction = covariance[a] @ x
        gain = direction / (forgetting + x @ direction)
        theta[a] += gain * (r - x @ theta[a])
        covariance[a] = (covariance[a] - np.outer(gain, direction)) / forgetting
    return Posterior(theta, covariance)


def unpack_symmetric(packed: Array, size: int) -> Array:
    """Return the matrices [A, D, D] of triangles [A, D (D + 1) / 2] whose off-diagonals are doubled."""
    rows, columns = np.triu_indices(size)
    matrices = np.empty((len(packed), size, size), packed.dtype)
    matrices[:, rows, columns] = matrices[:, columns, rows] = packed / np.where(rows == columns, 1.0, 2.0)
    return matrices
