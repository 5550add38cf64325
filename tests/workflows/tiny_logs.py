"""Rounds logged beside a tiny policy: ratings drawn around its own estimates by a policy that explores a lot."""

import numpy as np
from tiny_policies import tiny_artifact

from recpolicy.data.bandit_log import BanditLog
from recpolicy.inference.action_distributions import softmax
from recpolicy.inference.predictor import Policy


def tiny_rounds(number: int = 4_000, seed: int = 0) -> tuple[BanditLog, np.ndarray]:
    """Rounds, and the expected rewards [U, A] that paid for them."""
    policy = Policy(tiny_artifact())
    score, rating = policy.scores()
    expected = np.clip(rating, 1, 5)
    probability = np.asarray(softmax(score.astype(np.float64), None))
    rng = np.random.default_rng([seed, 31])
    user = rng.integers(len(score), size=number).astype(np.int32)
    item = (rng.random((number, 1)) > probability[user].cumsum(axis=1)).sum(axis=1).clip(max=score.shape[1] - 1)
    reward = 1 + rng.binomial(4, (expected[user, item] - 1) / 4)
    rounds = BanditLog(
        event_id=np.array([f"e{row}" for row in range(number)], object),
        time=1_767_571_200_000 + 1_000 * np.arange(number), user=user, item=item.astype(np.int32),
        log_propensity=np.log(probability[user, item]), reward=reward.astype(np.float64),
        action_items=np.arange(score.shape[1], dtype=np.int32), scale=(1.0, 5.0), name="tiny log",
        policy=np.full(number, "soft", object), version=np.full(number, "aa", object),
    )  # fmt: skip
    return rounds, expected
