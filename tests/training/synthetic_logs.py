"""Logs of a planted linear world, with the contexts that belong to their users."""

import numpy as np

from recpolicy.data.bandit_log import BanditLog

USERS, FEATURES = 50, 4
ACTION_ITEMS = np.array([0, 2, 3, 5, 8, 11, 14], np.int32)


def contexts(seed: int = 0) -> np.ndarray:
    """[U, D] float32."""
    return np.random.default_rng([seed, 1]).normal(size=(USERS, FEATURES)).astype(np.float32)


def linear_log(number: int = 2_000, seed: int = 0) -> BanditLog:
    """Every item but the last, the less often the later it stands; rewards are linear in the context, plus noise."""
    rng = np.random.default_rng([seed, 2])
    weights = np.random.default_rng(99).normal(0, 0.3, (len(ACTION_ITEMS), FEATURES))
    share = np.append(1 / np.arange(1, len(ACTION_ITEMS)), 0)
    share /= share.sum()
    user = rng.integers(0, USERS, number).astype(np.int32)
    arm = rng.choice(len(ACTION_ITEMS), number, p=share)
    mean = 3 + (contexts()[user] * weights[arm]).sum(axis=1)
    reward = np.clip(mean + rng.normal(0, 0.3, number), 1, 5)
    return BanditLog(
        event_id=np.array([f"{seed}-{row}" for row in range(number)], object), time=np.arange(number), user=user,
        item=ACTION_ITEMS[arm], log_propensity=np.log(share[arm]), reward=reward,
        action_items=ACTION_ITEMS, scale=(1.0, 5.0), name=f"linear log {seed}",
        policy=np.full(number, "x", object), version=np.full(number, "1", object),
    )  # fmt: skip
