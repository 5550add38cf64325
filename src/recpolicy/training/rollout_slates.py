"""Rollouts of slates: a fixed policy fills slates for simulated users, and a click model says which items they like.

N slates of K slots, A action items, W users of the world. The policy fills the slots in order. Actions are drawn from
float64 probabilities, and the logged propensity is the probability of the draw. Every slate is the first of its
session, so history has no effect. Two click models:

- independent: the user evaluates every item independently, so a slate can have several likes;
- cascade: the user reads from the top until the first like or until they stop (environments/session_slate.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.core.progress import progress
from recpolicy.core.seeds import generator
from recpolicy.data.slate_log import open_to
from recpolicy.environments.session import Session
from recpolicy.environments.session_slate import SlateEnvironment
from recpolicy.models.session_world import LIKE_LEVEL, SessionWorld

Probabilities = Callable[[NDArray[np.int32], NDArray[np.intp], NDArray[np.bool_] | None], NDArray[np.float64]]
"""(user rows [n], arms [M], mask [n, M]) -> probabilities [n, M], 0 where not allowed, rows sum to 1."""
BrowsingModel = Callable[[NDArray[np.int64], NDArray[np.int32], int], NDArray[np.bool_]]
"""(users of the world [n], actions [n, K], block number) -> likes [n, K]."""

SLATES_PER_BLOCK = 1024
_BELOW_ONE = np.nextafter(1.0, 0.0)


class SlateRollout(NamedTuple):
    """The record of N slates."""

    user: NDArray[np.int32]  # [N], rows of the user table
    arm: NDArray[np.int32]  # [N, K]
    log_propensity: NDArray[np.float64]  # [N, K], of each slot given those before it
    liked: NDArray[np.bool_]  # [N, K]


def rollout_slates(
    world: SessionWorld,
    probabilities: Probabilities,
    browsing_model: BrowsingModel,
    shelves: NDArray[np.int16] | None,
    shape: tuple[int, int],
    actions: int,
    seed: int,
    show_progress: bool | None = None,
) -> SlateRollout:
    """Fill `shape` = (N, K) pages for users drawn evenly from the world; shelves [A] as in SlateLog."""
    pages, slots = shape
    rng, parts = generator(seed, "logging/slates"), []
    with progress("logging", pages, unit="pages", show=show_progress) as bar:
        for number, first in enumerate(range(0, pages, SLATES_PER_BLOCK)):
            count = min(SLATES_PER_BLOCK, pages - first)
            person = rng.integers(len(world.users), size=count)
            user = world.users[person]
            arm, log_propensity = np.zeros((count, slots), np.int32), np.zeros((count, slots))
            for slot in range(slots):
                among, fresh = open_to(slot, arm, shelves, actions)
                place, log_propensity[:, slot] = draw(probabilities(user, among, fresh), rng.random(count))
                arm[:, slot] = among[place]
            parts.append((user, arm, log_propensity, browsing_model(person, arm, number)))
            bar.advance(count)
    return SlateRollout(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def draw(probability: NDArray[np.float64], point: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Draw arms [n] from probabilities [n, A] at points [n] in [0, 1); return them and their log-probabilities [n].

    Uses inversion; an arm of probability 0 is never drawn. Rows are normalized by their sum.
    """
    cumulative = np.cumsum(probability, axis=1)
    total = cumulative[:, -1]
    target = np.minimum(point * total, total * _BELOW_ONE)
    arm = (cumulative > target[:, np.newaxis]).argmax(axis=1)
    return arm, np.log(np.take_along_axis(probability, arm[:, np.newaxis], axis=1)[:, 0] / total)


def independent_clicks(world: SessionWorld, action_items: NDArray[np.int32], seed: int) -> BrowsingModel:
    """Return a click model of independent likes: by each item's probability, or by a known rating."""
    chance = 1 / (1 + np.exp(-world.like[:, action_items].astype(np.float64)))  # [W, A]
    if world.known is not None:
        known = world.known[:, action_items]
        chance = np.where(known >= 0, known >= LIKE_LEVEL, chance)
    rng = generator(seed, "logging/slates/likes")

    def read(person: NDArray[np.int64], arm: NDArray[np.int32], _: int) -> NDArray[np.bool_]:
        return np.asarray(rng.random(arm.shape) < chance[person[:, np.newaxis], arm])

    return read


def cascade_clicks(environment: SlateEnvironment) -> BrowsingModel:
    """Return the cascade model of an environment, whose batch size must be SLATES_PER_BLOCK."""
    people, batch = len(environment.world.users), environment.batch_size

    @tf.function(jit_compile=True, autograph=False)
    def respond(point: tf.Tensor, arm: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        noise = environment.noise(number)
        fresh: Session = environment.restart(None, None, tf.concat([point[:, tf.newaxis], noise[:, 1:]], axis=1))
        return environment.transition(fresh, arm, noise).response.liked

    def read(person: NDArray[np.int64], arm: NDArray[np.int32], number: int) -> NDArray[np.bool_]:
        count = len(person)
        point, shown = np.zeros(batch, np.float32), np.zeros((batch, arm.shape[1]), np.int32)
        point[:count], shown[:count] = (person + 0.5) / people, arm
        liked = respond(tf.constant(point), tf.constant(shown), tf.constant(number, tf.int64)).numpy()
        return np.asarray(liked[:count], bool)

    return read
