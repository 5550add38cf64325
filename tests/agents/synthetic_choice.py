"""A planted choice with an obviously best arm per context, a mask, and tables of the arms that mislead.

40 users in 4 groups, 6 arms. A user's context is the unit vector of his group; arm g pays group g 5 stars and everybody
else 1 or 2; half of the users are of group 0, so that agents without context can do better than chance, too. Every user
lacks one arm, never his best. The rating model in the arms' tables says the opposite of the truth: it expects the
lowest rating of the best arm, so an agent that starts as the rating model must learn to do better.
"""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from recpolicy.agents import AGENTS
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent
from recpolicy.data.ratings import Ratings
from recpolicy.environments.base import Round
from recpolicy.environments.held_out_choice import HeldOutChoice, HeldOutChoiceConfig
from recpolicy.environments.user_bandit import UserPosteriors
from recpolicy.models.user_posterior import RatedItems, UserPosterior, pack

USERS, ARMS, GROUPS = 40, 6, 4
GROUP = np.repeat([0, 0, 1, 2, 3], USERS // 5)  # [U]
BATCH = 8

SETTINGS: dict[str, dict[str, Any]] = {
    "linucb": {"alpha": 2.0, "precision": 1.0},
    "lints": {"precision": 1.0},
    "linucb_shared": {"precision": 0.05},
    "linucb_hybrid": {"shared_precision": 0.05, "arm_precision": 1.0},
    "linucb_user": {"exploration": "thompson"},
    "eps_greedy": {"layers": (16,), "learning_rate": 0.02, "epsilon": 0.2},
    "boltzmann": {"layers": (16,), "learning_rate": 0.02, "temperature": 1.0},
    "squarecb": {"precision": 0.05, "gamma_scale": 20.0},
    "neural_linucb": {
        "layers": (16,),
        "encoding_dim": 6,
        "encoder_batches": 120,
        "precision": 1.0,
        "learning_rate": 0.02,
    },
}
"""Where a small world asks for other settings than the defaults, which are meant for MovieLens."""


def contexts() -> np.ndarray:
    """[U, D], unit vectors."""
    return np.eye(GROUPS, dtype=np.float32)[GROUP]


def ratings() -> Ratings:
    """Of every user all arms but one, which is not his best."""
    user, item = np.divmod(np.arange(USERS * ARMS), ARMS)
    lacks = (GROUP + 1 + np.arange(USERS) % (ARMS - 1)) % ARMS  # [U]
    keep = item != lacks[user]
    user, item = user[keep], item[keep]
    rating = np.where(item == GROUP[user], 5, 1 + (user + item) % 2)
    years = pd.array([1990] * ARMS, "Int64")
    items = pd.DataFrame({"item_id": np.arange(ARMS), "title": "", "year": years, "genres": ""})
    return Ratings(
        user.astype(np.int32), item.astype(np.int32), rating.astype(np.float32), None,
        pd.DataFrame({"user_id": np.arange(USERS)}), items, "planted choice",
    )  # fmt: skip


def misleading_arms() -> ItemFeatures:
    """Tables that say 2.5 for the best arm and 3 for the others: wrong about the order, and hopeful."""
    embedding = np.zeros((ARMS, GROUPS), np.float32)
    embedding[:GROUPS] = -0.5 * np.eye(GROUPS)
    return ItemFeatures(
        embedding, np.full(ARMS, 3, np.float32), np.arange(ARMS, dtype=np.float32),
        np.linspace(2, 3, ARMS, dtype=np.float32), (1.0, 5.0),
    )  # fmt: skip


def environment(seed: int = 0) -> HeldOutChoice:
    return HeldOutChoice(ratings(), contexts(), HeldOutChoiceConfig(batch_size=BATCH), seed)


class PosteriorChoice(HeldOutChoice):
    """The planted choice for agents that see posteriors of users' vectors, which begin at the groups' and are wide."""

    def __init__(self, seed: int = 0):
        super().__init__(ratings(), contexts(), HeldOutChoiceConfig(batch_size=BATCH), seed)
        wide = UserPosterior(contexts().astype(float), np.repeat(30 * np.eye(GROUPS)[np.newaxis], USERS, axis=0))
        arms, ones = misleading_arms(), np.ones(ARMS)
        items = RatedItems(arms.embedding.astype(float), arms.offset.astype(float), ones, 0 * ones, arms.scale)
        self.posteriors = UserPosteriors(pack(wide).astype(np.float32), items, np.arange(ARMS, dtype=np.int32))

    def observation(self, draw: Round) -> dict[str, tf.Tensor]:
        return {**super().observation(draw), "global": self.posteriors.observation(draw.user)}

    def record(self, draw: Round, action: tf.Tensor, reward: tf.Tensor) -> None:
        self.posteriors.record(draw.user, action, reward)


@cache
def specs() -> tuple[Any, Any]:
    one = environment()
    return one.time_step_spec(), one.action_spec()


def make(name: str, seed: int = 0, **settings: Any) -> BanditAgent:
    entry = AGENTS[name]
    return entry.make(*specs(), entry.config(**(settings or SETTINGS.get(name, {}))), misleading_arms(), seed)
