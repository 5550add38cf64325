"""Exact outcomes of the first slate of a session: probabilities of a like and of going on, without sampling.

n slates of K items, W users of the world, I items. It is the model of environments/session_slate.py in NumPy. A user
reads from the top to the first like, and reads on after an item without a like with probability c. Until the first like
the state is known, so both probabilities are sums over the place where reading ends.
"""

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array
from recpolicy.models.session_world import LIKE_LEVEL, MISSES, SessionWorld


def first_slate_outcomes(
    world: SessionWorld, person: NDArray[np.integer], slate: NDArray[np.integer], continuation_probability: float
) -> tuple[Array, Array]:
    """Return P(a like) [n] and P(the session goes on) [n].

    Args:
        world: The session world.
        person: [n], rows of the world's users, 0..W-1.
        slate: [n, K], item rows, no item twice.
        continuation_probability: c, of reading on after an item without a like.
    """
    count, slots = slate.shape
    reading, likes, stays = np.ones(count), np.zeros(count), np.zeros(count)
    seen = np.zeros((count, world.genres.shape[1]))  # decaying sum of the genres of items above
    base = world.stay[person, 0].astype(np.float64)
    for k in range(slots):
        item = slate[:, k]
        genres = world.genres[item]
        repeat = (1.0 - world.genre_decay) * (seen * genres).sum(axis=1)
        missed = min(k / MISSES, 1.0)
        odds = world.like[person, item] + world.like_history[0] * repeat + world.like_history[1] * missed
        like = _sigmoid(odds)
        if world.known is not None:
            known = world.known[person, item]
            like = np.where(known >= 0, known >= LIKE_LEVEL, like)
        after_like = _sigmoid(base + world.stay_history[0] * repeat)
        after_miss = _sigmoid(
            base + world.stay_history[0] * repeat + world.stay_history[1] * min(missed + 1 / MISSES, 1)
        )
        ends = 1.0 if k == slots - 1 else 1.0 - continuation_probability
        likes += reading * like
        stays += reading * (like * after_like + (1 - like) * ends * after_miss)
        reading = reading * (1 - like) * continuation_probability
        seen = world.genre_decay * seen + genres
    return likes, stays


def _sigmoid(x: NDArray[np.floating]) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x.astype(np.float64), -500, 500))))
