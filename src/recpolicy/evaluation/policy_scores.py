"""What a policy must hand over to be evaluated: tables over U users and I items."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PolicyTables:
    """The answers of one policy for every user and item.

    Broadcast views (`np.broadcast_to(popularity, (U, I))`) are welcome: nothing writes to the tables.
    """

    score: NDArray[np.floating]
    """[U, I] what the policy exploits, higher is better, any scale; equal scores mean that it does not care."""
    rating: NDArray[np.floating] | None = None
    """[U, I] rating estimates on the scale of the data; None for a policy that estimates none."""
    probability: NDArray[np.floating] | None = None
    """[U, I] how often a stochastic policy that may choose among a user's candidates takes each, up to a factor per
    user; None chooses the best score. A Boltzmann policy can give its probabilities over the whole catalogue, because
    masking rescales them; an epsilon-greedy policy must be asked with the candidates as its mask."""
