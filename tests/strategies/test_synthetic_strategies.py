"""Synthetic personalities: a stated matrix plus noise; reactions that grow with the fit."""

import numpy as np
import pytest
from strategy_worlds import CONFIG

from recpolicy.core.seeds import generator
from recpolicy.strategies.config import DIMENSIONS, TRAITS
from recpolicy.strategies.synthetic import (
    GENRE_TRAITS,
    NAME_TENDENCY,
    TRAIT_TENDENCY,
    fit_of_actions,
    made_up_shares,
    reactions,
    synthetic_profiles,
    tendencies,
)


def test_the_matrices_have_a_number_for_each_trait_and_dimension():
    assert {len(row) for row in GENRE_TRAITS.values()} == {len(TRAITS)}
    assert tuple(TRAIT_TENDENCY) == TRAITS
    assert {len(row) for row in (*TRAIT_TENDENCY.values(), *NAME_TENDENCY.values())} == {len(DIMENSIONS)}


def test_traits_follow_the_matrix_and_stay_in_range():
    shares, genres = made_up_shares(4_000, generator(0, "test"))
    profile = synthetic_profiles(shares, genres, generator(1, "test"))
    assert profile.min() >= 0
    assert profile.max() <= 100
    raw = shares @ np.array([GENRE_TRAITS[name] for name in genres])
    for trait in range(5):  # 15 explained and 10 not: correlation 15 / sqrt(325)
        assert np.corrcoef(raw[:, trait], profile[:, trait])[0, 1] == pytest.approx(15 / np.sqrt(325), abs=0.03)
    assert profile.mean(axis=0) == pytest.approx(50, abs=1)


def test_a_tendency_by_hand():
    profile = np.array([[100.0, 50, 50, 50, 50]])
    situation = np.array([[0, 2, 3]])  # music, calm, night
    assert tendencies(profile, situation, CONFIG)[0] == pytest.approx([-0.7, 0.5, 0.9])
    fit = fit_of_actions(profile, situation, CONFIG)[0]
    assert fit[9 * 0 + 3 * 2 + 2] == pytest.approx(0.7 + 0.5 + 0.9) == fit.max()
    assert fit[13] == 0


def test_reactions_are_within_their_ranges_and_grow_with_the_fit():
    signals = {fit: reactions(np.full(4_000, fit), generator(0, "test")) for fit in (-1.5, 1.5)}
    ranges = CONFIG.reward
    for values in signals.values():
        assert set(values) == set(ranges.weights)
        assert np.nanmax(values["watch_fraction"]) <= 1
        assert np.nanmax(np.abs(values["mood_change"])) <= 0.5
    rates = {fit: np.mean(~np.isnan(values["like"])) for fit, values in signals.items()}
    assert rates[1.5] > rates[-1.5] + 0.3
