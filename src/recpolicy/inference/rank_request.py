"""A request to rank A actions: the check of its parts, and the draw of the first action."""

import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array
from recpolicy.data.feature_columns import check_action_id

ActionId = str | int
Action = tuple[ActionId, Mapping[str, Any]]

MAX_ACTIONS = 1_000
"""Largest number of actions of a request."""


def check_request(
    context: Mapping[str, Any], actions: Sequence[Action], excluded: Collection[ActionId]
) -> NDArray[np.bool_]:
    """Return the mask [A] of actions that may come first; raise DataError for a request that is none."""
    if not isinstance(context, Mapping):
        raise DataError(f"context: found {type(context).__name__}; expected an object of features")
    if not 1 <= len(actions) <= MAX_ACTIONS:
        raise DataError(f"actions: found {len(actions):,}; expected 1 to {MAX_ACTIONS:,}")
    ids = [check_action_id(identifier) for identifier, _ in actions]
    if len(set(ids)) < len(ids):
        twice = next(identifier for place, identifier in enumerate(ids) if identifier in ids[:place])
        raise DataError(f"actions: the id {twice!r} occurs twice; expected each id once")
    if {type(features) for _, features in actions} != {dict}:
        for identifier, features in actions:
            if not isinstance(features, Mapping):
                raise DataError(
                    f"actions: the features of {identifier!r} are {type(features).__name__}; expected an object"
                )
    if not excluded:
        return np.ones(len(actions), bool)
    allowed = np.array([identifier not in excluded for identifier, _ in actions])
    if not allowed.any():
        raise DataError(f"actions: all {len(actions)} are excluded; expected at least one that is not")
    return allowed


def draw(probability: Array, seed: int | str | None) -> int:
    """Return a position drawn from probabilities [A]; a position of probability 0 is never drawn."""
    if seed is None:
        point = secrets.randbits(53) / 2**53
    else:
        point = int.from_bytes(hashlib.blake2b(str(seed).encode("utf-8", "surrogatepass"), digest_size=8).digest())
        point = (point >> 11) / 2**53
    possible = np.flatnonzero(probability > 0)
    below = np.cumsum(probability[possible])
    return int(possible[min(np.searchsorted(below, point * below[-1], side="right"), len(possible) - 1)])
