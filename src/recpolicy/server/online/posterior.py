"""The posterior of a linear policy that learns online, and limits on contexts.

A arms, D features. The posterior is one linear model per arm, updated reward by reward in float64. P [D, D] is an arm's
posterior covariance over the noise variance. One reward r of an arm at features x is the step of
agents/linear_posterior.py: P <- f P + (1 - f) I / precision, if f < 1; then g = P x / (1 + x'Px);
theta += g (r - x.theta); P <- P - g (Px)'. Rewards are learned one at a time, in their order, so batches do not change
a bit of the result.

The features of neural_linucb are outputs of its network, which stays as it was trained; it learns once the network is
frozen.

A reward changes its own arm only. So a posterior holds the arms that have learned, and the trained policy holds the
others: memory and files grow with the arms that get rewards, not with the catalog.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.arrays import find_implausible
from recpolicy.core.errors import ConfigError, DivergedError
from recpolicy.core.types import Array
from recpolicy.inference.artifact import PolicyParts
from recpolicy.inference.reward_estimators import encoded_context, pack_symmetric, unpack_symmetric

_MAX_NORM_RATIO = 2.0
"""Longest accepted context, as a multiple of the longest one of the policy's training."""


@dataclass(frozen=True, eq=False)
class ArmPosterior:
    """The posterior of one arm."""

    theta: Array  # [D]
    covariance: Array  # [D, D]

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all bits."""
        return hashlib.sha256(self.theta.tobytes() + self.covariance.tobytes()).digest()


@dataclass(frozen=True, eq=False)
class Posterior:
    """The posterior of a linear policy: as trained, except for the arms that have learned since."""

    trained: PolicyParts
    learned: Mapping[int, ArmPosterior] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the trained policy's digest and of all bits that have changed since."""
        digest = hashlib.sha256(str(self.trained.metadata["policy_digest"]).encode())
        for arm in sorted(self.learned):
            digest.update(arm.to_bytes(8, "little") + self.learned[arm].digest)
        return digest.hexdigest()

    def arm(self, arm: int) -> ArmPosterior:
        """Return the posterior of an arm."""
        return self.learned.get(arm) or trained_arm(self.trained, arm)


def can_learn(artifact: PolicyParts) -> bool:
    """Return True if the policy is one linear model per arm, over contexts or over features of a frozen network."""
    frozen = artifact.estimator == "encoded_linear" and artifact.head == "upper_confidence"
    return artifact.estimator == "linear" or frozen


def initial_posterior(artifact: PolicyParts) -> Posterior:
    """Return the posterior of a policy after training; raises ConfigError for a policy that is not linear per arm."""
    if not can_learn(artifact):
        raise ConfigError(
            f"{artifact.agent} cannot learn online; linucb, lints and neural_linucb with a frozen network can"
        )
    return Posterior(artifact)


def trained_arm(artifact: PolicyParts, arm: int) -> ArmPosterior:
    """Return the posterior of an arm after training."""
    theta = np.asarray(artifact.policy["theta"][arm], np.float64)
    packed = np.asarray(artifact.policy["covariance"][arm : arm + 1], np.float64)
    return ArmPosterior(theta, unpack_symmetric(packed, len(theta))[0])


def get_forgetting(metadata: Mapping[str, Any]) -> tuple[float, float]:
    """Return the forgetting factor and the prior precision of the policy's training; 1 and 1 if it does not forget."""
    settings = metadata.get("config", {}).get("agent", {})
    forgetting = float(settings.get("forgetting", 1.0))
    return (forgetting, float(settings["precision"])) if forgetting < 1 else (1.0, 1.0)


def make_regressors(artifact: PolicyParts, context: NDArray[np.floating]) -> Array:
    """Return the regressors [D] of a context [C]."""
    if artifact.estimator == "encoded_linear":
        return np.asarray(encoded_context(artifact.policy, np.asarray(context, np.float32)[np.newaxis])[0], np.float64)
    x = np.asarray(context, np.float64)
    return np.append(x, 1.0) if bool(artifact.policy["bias"]) else x


def learn(
    posterior: Posterior, arm: NDArray[np.integer], features: Array, reward: Array, forgetting: float, precision: float
) -> Posterior:
    """Learn from N rewards [N] of arms [N] at features [N, D], in their order; raises DivergedError."""
    learned, prior = dict(posterior.learned), np.eye(features.shape[1]) / precision  # [D, D]
    for a, x, r in zip(arm.tolist(), features, reward.tolist(), strict=True):
        before = learned.get(a) or trained_arm(posterior.trained, a)
        covariance = before.covariance if forgetting == 1 else forgetting * before.covariance + (1 - forgetting) * prior
        direction = covariance @ x
        gain = direction / (1.0 + x @ direction)
        theta = before.theta + gain * (r - x @ before.theta)
        learned[a] = ArmPosterior(theta, covariance - np.outer(gain, direction))
    touched = [learned[a] for a in set(arm.tolist())]
    fault = find_fault(np.array([each.theta for each in touched]), np.array([each.covariance for each in touched]))
    if fault:
        raise DivergedError(f"learning from {len(arm)} rewards diverged: {fault}; the posterior before stays")
    return Posterior(posterior.trained, learned)


def find_fault(theta: Array, covariance: Array) -> str:
    """Return the fault of posteriors theta [M, D] and covariance [M, D, D]; an empty text if there is none."""
    fault = find_implausible({"theta": theta, "covariance": covariance})
    if not fault and theta.size and not (np.diagonal(covariance, axis1=1, axis2=2) >= 0).all():
        fault = "covariance holds negative variances"
    return fault


def as_policy_rows(theta: Array, covariance: Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return theta [M, D] and covariance [M, D, D] in the format of an artifact: float32, packed [M, D (D + 1) / 2]."""
    return theta.astype(np.float32), pack_symmetric(covariance.astype(np.float32))


def max_context_norm(contexts: NDArray[np.floating]) -> float:
    """Return the greatest accepted length of a vector, for a policy trained with contexts [U, C].

    Clients may send any vector, and a very long one would outweigh all others in learning.
    """
    return _MAX_NORM_RATIO * float(np.linalg.norm(contexts.astype(np.float64), axis=1).max())


def is_plausible_context(vector: NDArray[np.floating], width: int, longest: float) -> bool:
    """Return True if a vector has `width` numbers, all finite, and is no longer than `longest`."""
    return vector.shape == (width,) and bool(are_plausible_contexts(vector[np.newaxis], longest)[0])


def are_plausible_contexts(vectors: NDArray[np.floating], longest: float) -> NDArray[np.bool_]:
    """Return a mask [n] of the vectors [n, D] that are finite and no longer than `longest`."""
    return np.asarray(np.linalg.norm(vectors.astype(np.float64), axis=1) <= longest)  # false for NaN
