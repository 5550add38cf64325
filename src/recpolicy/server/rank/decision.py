"""The decision between the actions of one request: probabilities, a draw, and the order.

A actions that are not excluded, in the order of the request. The probability of an action is exactly that with which
the draw chooses it, and an event is drawn from its id: the same id, policy and request give the same choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.inference.rank_request import Action, draw
from recpolicy.server.db.rank_events import ONLINE
from recpolicy.server.rank.ranker import Ranker


@dataclass(frozen=True)
class Decision:
    """The order of A actions, and their probabilities to be first."""

    order: NDArray[np.intp]  # [A] positions in the request, the chosen one first, the others by score
    probability: NDArray[np.float64]  # [A] in the order of the request; the sum is 1
    score: NDArray[np.float64]  # [A] expected rewards
    imitated: bool | None = None
    """True if the policy prefers the baseline, which was chosen; None in the mode online."""


def decide(
    policy: Ranker, context: Mapping[str, Any], offers: Sequence[Action], seed: str, mode: str, exploration: float,
    *, strict: bool = True, keys: Sequence[bytes] | None = None,
) -> Decision:  # fmt: skip
    """Choose an action.

    Args:
        policy: The policy.
        context: Features of the context.
        offers: The actions [A].
        seed: The draw depends on it.
        mode: In another mode than online, the first action (the baseline) is chosen with probability 1.
        exploration: Share of the draws from all actions alike, in place of the policy.
        strict: Reject features that the policy does not know; False ignores them.

    Raises:
        DataError: The policy does not accept the features.
    """
    probability, score = policy.probabilities(context, offers, strict=strict, keys=keys)
    if mode != ONLINE:
        preferred = int(np.argmax(probability))
        order = _ordered(0, score)
        return Decision(order, (np.arange(len(offers)) == 0).astype(np.float64), score, preferred == 0)
    probability = (1 - exploration) * probability + exploration / len(offers)
    probability = probability / probability.sum()
    return Decision(_ordered(draw(probability, seed), score), probability, score)


def _ordered(chosen: int, score: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the positions [A], the chosen one first and the others by falling score; equal scores as requested."""
    order = np.argsort(-score, kind="stable")
    ordered: NDArray[np.intp] = np.concatenate([[chosen], order[order != chosen]]).astype(np.intp)
    return ordered
