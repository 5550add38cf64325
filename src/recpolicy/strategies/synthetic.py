"""Synthetic personalities and reactions: for examples, tests and benchmarks. No number here describes real people.

U users, G genres, K = 5 traits, D = 3 dimensions, N rounds. No public ratings table has personalities. A synthetic one
is a function of the genres that a user rates, through a matrix that we state, plus noise:

    trait_k = 50 + 15 standardized(sum_g share_g GENRE_TRAITS[g, k]) + 10 noise, within 0..100

Reactions depend on the fit of a strategy: the sum over dimensions of level (-1, 0, 1) times tendency. The tendency of a
dimension is linear in the traits (TRAIT_TENDENCY) and in the situation (NAME_TENDENCY).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array
from recpolicy.strategies.config import DIMENSIONS, SITUATION, TRAITS, StrategyConfig
from recpolicy.strategies.factored import ACTION_LEVELS

GENRE_TRAITS: Mapping[str, tuple[float, float, float, float, float]] = {
    # openness, conscientiousness, extraversion, agreeableness, neuroticism
    "Action": (-0.2, 0.0, 0.5, -0.2, -0.2),
    "Adventure": (0.1, 0.0, 0.4, 0.0, -0.2),
    "Animation": (0.2, -0.1, 0.0, 0.3, 0.1),
    "Children's": (-0.2, 0.1, 0.0, 0.5, 0.0),
    "Comedy": (-0.1, -0.2, 0.4, 0.2, -0.1),
    "Crime": (0.1, 0.1, 0.0, -0.3, 0.1),
    "Documentary": (0.6, 0.3, -0.2, 0.0, 0.0),
    "Drama": (0.3, 0.1, -0.2, 0.2, 0.3),
    "Fantasy": (0.4, -0.2, 0.0, 0.1, 0.1),
    "Film-Noir": (0.6, 0.0, -0.3, -0.1, 0.2),
    "Horror": (0.0, -0.3, 0.1, -0.4, 0.4),
    "Musical": (0.2, 0.0, 0.2, 0.4, 0.1),
    "Mystery": (0.3, 0.2, -0.2, 0.0, 0.2),
    "Romance": (-0.1, 0.1, 0.1, 0.5, 0.3),
    "Sci-Fi": (0.5, 0.0, -0.1, -0.1, 0.0),
    "Thriller": (0.0, 0.0, 0.2, -0.3, 0.1),
    "War": (0.1, 0.3, 0.0, -0.2, 0.0),
    "Western": (-0.3, 0.3, 0.0, -0.1, -0.1),
}
"""Assumed weights of genres for the traits; made up for the examples."""
TRAIT_TENDENCY: Mapping[str, tuple[float, float, float]] = {
    # energy, diversity, novelty
    "openness": (0.0, 0.5, 0.8),
    "conscientiousness": (-0.2, -0.3, -0.4),
    "extraversion": (0.9, 0.2, 0.0),
    "agreeableness": (0.0, 0.3, -0.1),
    "neuroticism": (-0.6, -0.1, -0.4),
}
"""Assumed effect of a trait, from -1 at 0 to 1 at 100, on the fit of one level more of each dimension."""
NAME_TENDENCY: Mapping[str, tuple[float, float, float]] = {
    "energetic": (0.6, 0.0, 0.2), "happy": (0.3, 0.1, 0.2), "calm": (-0.4, 0.0, 0.0), "sad": (-0.4, -0.1, -0.2),
    "stressed": (-0.5, -0.2, -0.3), "morning": (0.2, 0.0, 0.0), "night": (-0.3, 0.0, 0.1), "video": (0.0, 0.2, 0.0),
    "game": (0.3, 0.0, -0.1),
}  # fmt: skip
"""The same for names of the situation; other names have no effect."""
SPREAD, NOISE = 15.0, 10.0
"""Standard deviations of the part of a trait that genres explain, and of the rest."""
GENERIC_GENRES = 0.3
"""Concentration of made-up genre profiles: users without a ratings table like some genres much more than others."""


def synthetic_profiles(shares: Array, genres: Sequence[str], rng: np.random.Generator) -> Array:
    """Return synthetic traits [U, K] of users with these shares [U, G] of their ratings for each genre.

    Genres that GENRE_TRAITS lacks have no effect.
    """
    matrix = np.array([GENRE_TRAITS.get(name, (0.0,) * len(TRAITS)) for name in genres])  # [G, K]
    raw = shares @ matrix
    std = raw.std(axis=0)
    explained = (raw - raw.mean(axis=0)) / np.where(std > 0, std, 1.0)
    return np.clip(50 + SPREAD * explained + NOISE * rng.normal(size=explained.shape), 0.0, 100.0)


def made_up_shares(users: int, rng: np.random.Generator) -> tuple[Array, list[str]]:
    """Return genre shares [U, G] of users who do not exist, and the names of the genres."""
    genres = list(GENRE_TRAITS)
    return rng.dirichlet(np.full(len(genres), GENERIC_GENRES), size=users), genres


def tendencies(profile: Array, situation: NDArray[np.int64], config: StrategyConfig) -> Array:
    """Return the tendency [N, D] of profiles [N, K] and situations [N, 3]; unknown traits and names have no effect."""
    slopes = np.array([TRAIT_TENDENCY.get(name, (0.0,) * len(DIMENSIONS)) for name in config.profile.traits])
    total = (profile / 50 - 1) @ slopes
    for place, part in enumerate(SITUATION):
        effects = np.array([NAME_TENDENCY.get(name, (0.0,) * len(DIMENSIONS)) for name in config.situation.names(part)])
        total = total + effects[situation[:, place]]
    return np.asarray(total)


def fit_of_actions(profile: Array, situation: NDArray[np.int64], config: StrategyConfig) -> Array:
    """Return the fit [N, A] of each strategy."""
    return tendencies(profile, situation, config) @ (ACTION_LEVELS - 1.0).T


def reactions(fit: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Return the values [N] of each signal of rounds with these fits [N]; NaN where a round has no such signal."""
    count = len(fit)
    like = rng.random(count) < _sigmoid(1.5 * fit - 0.8)
    dislike = ~like & (rng.random(count) < _sigmoid(-1.5 * fit - 1.8))
    watched = np.clip(_sigmoid(1.2 * fit + 0.5) + 0.25 * rng.normal(size=count), 0.0, 1.0)
    complete, skip = watched > 0.95, watched < 0.25
    share = like & (rng.random(count) < 0.15)
    mood = np.clip(0.15 * fit + 0.15 * rng.normal(size=count), -0.5, 0.5)
    has_mood = rng.random(count) < 0.5  # half of the rounds ask for the mood afterwards
    ones = {"like": like, "dislike": dislike, "complete": complete, "skip": skip, "share": share}
    signals = {name: np.where(mask, 1.0, np.nan) for name, mask in ones.items()}
    return signals | {"watch_fraction": watched, "mood_change": np.where(has_mood, mood, np.nan)}


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))
