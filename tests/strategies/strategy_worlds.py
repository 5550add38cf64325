"""Small rounds of strategies for tests."""

import numpy as np

from recpolicy.strategies.config import ACTIONS, SITUATION, StrategyConfig
from recpolicy.strategies.rounds import StrategyRounds
from recpolicy.strategies.state import StrategyRequest

CONFIG = StrategyConfig()
PROFILE = {"openness": 85, "conscientiousness": 20, "extraversion": 50, "agreeableness": 100, "neuroticism": 0}


def request(**changes) -> StrategyRequest:
    """Return a valid request with some values changed."""
    traits = {name: changes.pop(name) for name in list(changes) if name in PROFILE}
    words = {"content_type": "music", "mood": "calm", "time_of_day": "evening", **changes}
    return StrategyRequest(profile={**PROFILE, **traits}, **words)


def random_rounds(count: int, seed: int = 0, *, session_length: int = 0, users: int = 20) -> StrategyRounds:
    """Return rounds with uniform profiles, situations and actions; rewards depend on the first trait and on energy."""
    rng = np.random.default_rng(seed)
    profile = rng.uniform(0, 100, (count, len(CONFIG.profile.traits)))
    sizes = [len(CONFIG.situation.names(part)) for part in SITUATION]
    action = rng.integers(ACTIONS, size=count)
    reward = (profile[:, 0] / 50 - 1) * (action // 9 - 1) + rng.normal(0, 0.3, count)
    session = None
    if session_length:
        session = np.array([f"s{seed}-{number // session_length}" for number in range(count)], object)
    return StrategyRounds(
        event_id=np.array([f"e{seed}-{number}" for number in range(count)], object),
        time=1_000 * np.arange(count), user=np.array([f"u{number % users}" for number in range(count)], object),
        profile=profile, situation=np.stack([rng.integers(size, size=count) for size in sizes], axis=1), action=action,
        log_propensity=np.full(count, -np.log(ACTIONS)), reward=reward, session=session,
    )  # fmt: skip
