"""Pages: a policy fills them, readers like what they like, and logs of them are judged by every estimator of slates.

W people of world A, An items, K slots, N pages. `all` and `cascade` are the ways to read of `recpolicy log simulate`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from counting import Asked, Truth
from numpy.typing import NDArray

from recpolicy.data.slate_log import open_to
from recpolicy.environments.session_slate import SlateConfig, SlateEnvironment
from recpolicy.inference.action_distributions import greedy, softmax, with_uniform_mix
from recpolicy.models.session_world import SessionWorld
from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.engine import slate_value_differences
from recpolicy.ope.feedback import SlateFeedback
from recpolicy.ope.fqe import FQEConfig, StepModel, by_position, linear_model
from recpolicy.training.rollout_slates import (
    SLATES_PER_BLOCK,
    SlateRollout,
    cascade_clicks,
    independent_clicks,
    rollout_slates,
)
from recpolicy.workflows.policy_feedback import SLATE_RIDGE

Array = NDArray[np.float64]
Chance = Callable[[NDArray[np.int32], NDArray[np.intp], NDArray[np.bool_] | None], Array]
"""(users [n], arms [M], mask [n, M] or None) -> probabilities [n, M]."""

SLOTS, PATIENCE = 5, 0.8
EACH = 10
"""Pages of a user."""
_AT_ONCE = 16_384


def exploring(score: NDArray[np.floating], temperature: float, floor: float) -> Chance:
    """The softmax over a score table [U, A], mixed with a share of uniform choices."""

    def chance(user: NDArray[np.int32], arms: NDArray[np.intp], mask: NDArray[np.bool_] | None) -> Array:
        among = score[np.ix_(user, arms)].astype(np.float64) / temperature
        return np.asarray(with_uniform_mix(softmax(among, mask), floor, mask), np.float64)

    return chance


def best(score: NDArray[np.floating]) -> Chance:
    """The best-scored item of a table [U, A], ties sharing alike: how `recpolicy ope estimate` judges a policy."""

    def chance(user: NDArray[np.int32], arms: NDArray[np.intp], mask: NDArray[np.bool_] | None) -> Array:
        return np.asarray(greedy(score[np.ix_(user, arms)], mask), np.float64)

    return chance


@dataclass(frozen=True)
class Shop:
    """Where pages are shown: the world, the catalog, how pages are laid out and read."""

    world: SessionWorld
    action_items: NDArray[np.int32]  # [A]
    shelves: NDArray[np.int16] | None  # [A]
    reading: str

    def play(self, chance: Chance, pages: int, seed: int) -> SlateRollout:
        """Let a policy fill pages for people drawn evenly from the world."""
        readers = self._readers(seed)
        shape = (pages, SLOTS)
        return rollout_slates(self.world, chance, readers, self.shelves, shape, len(self.action_items), seed, False)

    def _readers(self, seed: int) -> Any:
        if self.reading == "all":
            return independent_clicks(self.world, self.action_items, seed)
        config = SlateConfig(
            slate_size=SLOTS, continuation_probability=PATIENCE, batch_size=SLATES_PER_BLOCK, max_episode_steps=1
        )
        users, items = int(self.world.users.max()) + 1, self.world.like.shape[1]
        blind = np.zeros((users, 1), np.float32), np.zeros((items, 1), np.float32)
        return cascade_clicks(SlateEnvironment(self.world, *blind, self.action_items, config, seed))

    def truth(self, chance: Chance, pages: int, seed: int) -> Truth:
        """What a policy earns per page: enumerated where slots earn by themselves on shelves of their own, else played.

        Where the whole page is read, what is averaged is the expected reward of the pages, not the drawn one.
        """
        if self.reading == "cascade":
            return Truth.of(self.play(chance, pages, seed).liked.sum(axis=1))
        likes = 1 / (1 + np.exp(-self.world.like[:, self.action_items].astype(np.float64)))  # [W, A]
        if self.shelves is None:
            place = np.full(int(self.world.users.max()) + 1, -1)
            place[self.world.users] = np.arange(len(self.world.users))
            played = self.play(chance, pages, seed)
            return Truth.of(likes[place[played.user][:, None], played.arm].sum(axis=1))
        shelves = [np.flatnonzero(self.shelves == slot) for slot in range(SLOTS)]
        earned = [(chance(self.world.users, arms, None) * likes[:, arms]).sum(axis=1) for arms in shelves]
        return Truth(float(np.sum(earned, axis=0).mean()))

    def largest(self, target: Chance, logger: Chance) -> tuple[float, float]:
        """The largest possible weight of a whole page, and the largest G; shelves only."""
        assert self.shelves is not None, "weights of pages without repeats are not bounded slot by slot"
        ratio = np.empty((len(self.world.users), SLOTS))
        for slot in range(SLOTS):
            arms = np.flatnonzero(self.shelves == slot)
            ratio[:, slot] = (target(self.world.users, arms, None) / logger(self.world.users, arms, None)).max(axis=1)
        return float(ratio.prod(axis=1).max()), float((1 + (ratio - 1).sum(axis=1)).max())


@dataclass(frozen=True)
class Seen:
    """N played pages as estimators read them under one target."""

    slates: SlateFeedback
    shown: Array  # [N, K], rating estimates of the items shown
    wanted: Array  # [N, K], of what the target would show below the items that were shown


def seen(shop: Shop, played: SlateRollout, target: Chance, rating: NDArray[np.floating]) -> Seen:
    """Return the slates under a target with rating estimates [U, A], as workflows/policy_feedback.py does."""
    prob, shown, wanted = (np.empty(played.arm.shape) for _ in range(3))
    for first in range(0, len(played.user), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        user, arm = played.user[part], played.arm[part]
        for slot in range(SLOTS):
            among, fresh = open_to(slot, arm, shop.shelves, len(shop.action_items))
            chance, rated = target(user, among, fresh), rating[np.ix_(user, among)]  # [n, M]
            here = np.searchsorted(among, arm[:, slot])[:, None]
            prob[part, slot] = np.take_along_axis(chance, here, axis=1)[:, 0]
            shown[part, slot] = np.take_along_axis(rated, here, axis=1)[:, 0]
            wanted[part, slot] = np.einsum("nm,nm->n", chance, rated)
    liked = played.liked.astype(np.float64)
    slates = SlateFeedback(
        np.exp(played.log_propensity), np.minimum(prob, 1), liked.sum(axis=1), played.user, slot_reward=liked,
        independent=shop.shelves is not None,
    )  # fmt: skip
    return Seen(slates, shown, wanted)


def log_of(pages: Seen, rows: NDArray[np.intp], user: NDArray[np.integer]) -> Seen:
    """The pages of one log [n], each a page of the user [n]."""
    columns = ("behavior_prob", "target_prob", "reward", "slot_reward")
    kept = {name: getattr(pages.slates, name)[rows] for name in columns}
    return Seen(replace(pages.slates, user=user, **kept), pages.shown[rows], pages.wanted[rows])


def model_of(log: Seen, config: MultiStepConfig) -> StepModel:
    """What `recpolicy ope estimate` gives to cascade_dr."""
    features, expected = (by_position(np.stack([np.ones_like(one), one], axis=2)) for one in (log.shown, log.wanted))
    return linear_model(log.slates.trajectories(), features, expected, config, FQEConfig(ridge=SLATE_RIDGE))


def asked(log: Seen, config: MultiStepConfig, largest_g: float | None = None) -> Asked:
    """What every estimator says of one log; `pi` with its own bound of the weights, where one is known."""
    found = dict(slate_value_differences(log.slates, None, None, config, model=model_of(log, config)))
    if largest_g is not None:
        found |= slate_value_differences(log.slates, None, ["pi"], replace(config, weight_bound=largest_g))
    return found


def shuffled(log: Seen, rng: np.random.Generator) -> Seen:
    """The same pages with the propensities of other pages of the log."""
    mixed = log.slates.behavior_prob[rng.permutation(len(log.slates))]
    return Seen(replace(log.slates, behavior_prob=mixed), log.shown, log.wanted)
