"""Policies that rank actions with features, as the server uses them.

`FeaturePolicy` (inference/feature_policy.py) is the trained one. A server without a trained policy serves
UniformPolicy: every action is equally likely, and its log is a fair start for training.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.inference.rank_request import Action, ActionId


@runtime_checkable
class Ranker(Protocol):
    """A policy that ranks the actions of a request."""

    @property
    def agent(self) -> str:
        """Name of the agent that was trained."""

    @property
    def policy_digest(self) -> str:
        """Digest of the learned parameters."""

    def probabilities(
        self, context: Mapping[str, Any], actions: Sequence[Action], excluded: Collection[ActionId] = (),
        *, strict: bool = True, keys: Sequence[bytes] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
        """Return the probability of each action [A] to be chosen, and its score [A].

        With `keys`, a digest of each action, a policy need not encode again what it has seen. Raises DataError for
        features that the policy does not know, unless `strict` is False, and for wrong types.
        """


@runtime_checkable
class UncertainRanker(Protocol):
    """A policy that knows how uncertain its expected rewards are."""

    def estimate_stds(
        self, context: Mapping[str, Any], actions: Sequence[Action], *, keys: Sequence[bytes] | None = None
    ) -> NDArray[np.float64] | None:
        """Return the standard deviation [A] of each action's expected reward; None if the model knows none."""


class UniformPolicy:
    """A policy that knows nothing: every action is equally likely, and no features are read."""

    agent, policy_digest = "uniform", "0" * 64

    def probabilities(
        self, context: Mapping[str, Any], actions: Sequence[Action], excluded: Collection[ActionId] = (),
        *, strict: bool = True, keys: Sequence[bytes] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
        """Return the same probability for all actions [A] that are not excluded, and scores of 0."""
        del context, strict, keys
        allowed = np.array([identity not in excluded for identity, _ in actions])
        if not allowed.any():
            raise DataError("every action is excluded; expected at least one that is not")
        return allowed / allowed.sum(), np.zeros(len(actions))
