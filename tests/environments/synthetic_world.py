"""A world small enough to see through: 40 users, 12 items, expected ratings linear in a context of 4 numbers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.models.world import World

USERS, ITEMS, RANK = 40, 12, 4
SCALE = (1.0, 5.0)


@dataclass(frozen=True)
class Planted:
    """expected = offset + user . item, everywhere within the scale; a tenth of the cells is known to be 4 exactly."""

    world: World
    user: NDArray[np.float32]  # [U, D]
    item: NDArray[np.float32]  # [I, D]
    offset: NDArray[np.float32]  # [I]


def planted(seed: int = 0, known: float = 0.1) -> Planted:
    rng = np.random.default_rng([seed, 17])
    user = (rng.choice([-1, 1], (USERS, RANK)) * rng.uniform(0.6, 1, (USERS, RANK))).astype(np.float32)
    item = rng.uniform(-0.45, 0.45, (ITEMS, RANK)).astype(np.float32)  # |user . item| <= 1.8
    offset = rng.uniform(2.8, 3.2, ITEMS).astype(np.float32)
    expected = offset + user @ item.T
    real = rng.random(expected.shape) < known
    expected[real] = 4.0
    return Planted(World(expected, real, SCALE, "planted"), user, item, offset)
