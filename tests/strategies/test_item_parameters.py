"""Strategies as weights of lists of movies: numbers by hand, clipped, and lists that move as they should."""

import pytest

from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.strategies.config import StrategyConfig
from recpolicy.strategies.item_parameters import MAX_DIVERSITY, MAX_NOVELTY, MAX_TILT, ItemParameters, item_parameters


def weights(energy, diversity, novelty):
    config = StrategyConfig()
    strategy = {"energy": energy, "diversity": diversity, "novelty": novelty}
    return item_parameters(config.parameters[config.action_of(strategy)])


def test_the_weights_of_the_levels_by_hand():
    # energy .2, .5, .8 -> (e - .5) / 3; genres 2, 4, 8 -> (g - 2) / 40; popularity .8, .6, .3 -> (.8 - p) / 2.5
    assert weights("low", "focused", "familiar") == ItemParameters(0.0, 0.0, -0.1)
    assert weights("medium", "balanced", "mixed") == ItemParameters(0.05, 0.08, 0.0)
    assert weights("high", "diverse", "exploratory") == ItemParameters(0.15, 0.2, 0.1)


def test_weights_are_clipped_and_missing_parameters_have_no_effect():
    wild = {"min_energy": 5, "max_energy": 9, "genre_count": 99, "min_popularity": -9, "max_popularity": 0}
    assert item_parameters(wild) == ItemParameters(MAX_DIVERSITY, MAX_NOVELTY, MAX_TILT)
    tame = {"min_energy": -9, "max_energy": -9, "genre_count": 0, "min_popularity": 1, "max_popularity": 1}
    assert item_parameters(tame) == ItemParameters(0.0, 0.0, -MAX_TILT)
    assert item_parameters({}) == ItemParameters(0.0, 0.0, 0.0)
    assert item_parameters({"min_energy": 0.9}).energy_tilt == 0.0


def test_all_27_strategies_are_guardrails_and_the_neutral_one_changes_nothing():
    rails = [item_parameters(parameters).guardrails() for parameters in StrategyConfig().parameters]
    assert len({config.digest for config in rails}) == 27
    assert item_parameters({}).guardrails() == GuardrailConfig()
    assert not item_parameters({}).guardrails().active
    high = weights("high", "focused", "familiar").guardrails()
    assert high.category_tilt == pytest.approx({"Action": 0.1, "Thriller": 0.1})
    assert weights("low", "diverse", "mixed").as_dict() == {"diversity": 0.15, "novelty": 0.08, "energy_tilt": -0.1}
