"""Worlds with known mean rewards: N profiles, K = 5 traits, D = 3 dimensions, A = 27 actions.

x [N, K] are traits on -1..1, l [A, D] levels on -1, 0, 1. Traits are uniform and independent.

linear       mean(x, a) = sum_k sum_d B[k, d] x_k l_d(a), B normal
situations   the same, plus an effect of each name of the situation with each dimension, C[name, d] l_d(a), C normal
interaction  linear, plus sum_d G[d] x_i x_j l_d(a) with the same variance and another pair (i, j) of traits for each
             dimension: no sum of parts of single traits can express that

Each world is scaled so that the standard deviation of the mean reward over profiles and actions is EFFECT.
"""

from dataclasses import dataclass

import numpy as np

from recpolicy.core.seeds import generator
from recpolicy.strategies.config import ACTIONS, SITUATION, StrategyConfig, strategy_config
from recpolicy.strategies.factored import ACTION_LEVELS
from recpolicy.strategies.rounds import StrategyRounds

LEVELS = ACTION_LEVELS - 1.0  # [A, D]
EFFECT, NOISE = 0.5, 0.5
"""Standard deviations of the mean reward and of the noise of a round."""
JUDGED = 50_000
"""Profiles on which values are computed."""
WORLDS = ("linear", "situations", "interaction")


@dataclass(frozen=True)
class World:
    """A world of one seed."""

    name: str
    slope: np.ndarray  # [K, D]
    product: np.ndarray  # [D], sizes of the interactions; zeros in other worlds
    names: np.ndarray  # [S, D], effects of names of the situation; S of all parts
    pairs: np.ndarray  # [D, 2]
    config: StrategyConfig

    def tendency(self, profile: np.ndarray, situation: np.ndarray) -> np.ndarray:
        """Return the effect [N, D] of one level more of each dimension."""
        x = profile / 50 - 1
        products = self.product * x[:, self.pairs[:, 0]] * x[:, self.pairs[:, 1]]
        offsets = np.concatenate([[0], np.cumsum([len(self.config.situation.names(part)) for part in SITUATION])[:-1]])
        return x @ self.slope + products + self.names[situation + offsets].sum(axis=1)

    def means(self, profile: np.ndarray, situation: np.ndarray) -> np.ndarray:
        """Return the mean reward [N, A] of every action."""
        return self.tendency(profile, situation) @ LEVELS.T


def make_world(name: str, seed: int, effect: float = EFFECT) -> World:
    """Return a world; worlds other than `situations` have one name for each part of the situation.

    Args:
        name: One of WORLDS.
        seed: Seed of its effects.
        effect: Standard deviation of the mean reward over profiles and actions.
    """
    rng = generator(seed, f"strategies world {name}")
    tables = {}
    if name != "situations":
        tables["situation"] = {"content_type": ["music"], "mood": ["neutral"], "time_of_day": ["evening"]}
    config = strategy_config(tables)
    count = sum(len(config.situation.names(part)) for part in SITUATION)
    names = rng.normal(size=(count, 3)) * (0.4 if name == "situations" else 0.0)
    pairs = np.stack([rng.choice(5, 2, replace=False) for _ in range(3)])
    slope = rng.normal(size=(5, 3))
    # x_k has variance 1 / 3 and x_i x_j 1 / 9
    product = np.sqrt(3 * (slope**2).sum(axis=0)) * rng.choice([-1.0, 1.0], 3) if name == "interaction" else np.zeros(3)
    world = World(name, slope, product, names, pairs, config)
    scale = effect / world.means(*draw_contexts(world, JUDGED, seed, "scale")).std()
    return World(name, slope * scale, product * scale, names * scale, pairs, config)


def draw_contexts(world: World, count: int, seed: int, stream: str) -> tuple[np.ndarray, np.ndarray]:
    """Return profiles [N, 5] and situations [N, 3]."""
    rng = generator(seed, f"strategies contexts {stream}")
    sizes = [len(world.config.situation.names(part)) for part in SITUATION]
    return rng.uniform(0, 100, (count, 5)), np.stack([rng.integers(size, size=count) for size in sizes], axis=1)


def rounds_of(
    profile: np.ndarray, situation: np.ndarray, action: np.ndarray, propensity: np.ndarray, reward: np.ndarray,
    first: int,
) -> StrategyRounds:  # fmt: skip
    """Return rounds with ids and times from `first`."""
    number = np.arange(first, first + len(action))
    return StrategyRounds(
        event_id=np.char.add("e", number.astype(str)).astype(object), time=number,
        user=np.full(len(number), "u", object), profile=profile, situation=situation, action=action,
        log_propensity=np.log(propensity), reward=reward,
    )  # fmt: skip


def value(world: World, probability: np.ndarray, contexts: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the true value of probabilities [N, A], on a scale where 0 is a random choice and 1 the best one."""
    means = world.means(*contexts)
    random, best = means.mean(), means.max(axis=1).mean()
    return float(((probability * means).sum(axis=1).mean() - random) / (best - random))


def draw_actions(probability: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an action [N] drawn from each row of probabilities [N, A]."""
    point = rng.random((len(probability), 1))
    return np.minimum((np.cumsum(probability, axis=1) < point).sum(axis=1), ACTIONS - 1)
