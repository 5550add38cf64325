"""Propensities of a drawn list: each item given the items before it."""

import itertools

import numpy as np
import pytest

from recpolicy.inference.predictions import conditional_propensities, drawn_arms


def test_each_propensity_is_of_the_draw_given_those_before():
    """p = (.5, .3, .2): item 0 first with .5, then item 2 with .2 / .5, then the rest with 1."""
    p = np.array([0.5, 0.3, 0.2], np.float32)
    np.testing.assert_allclose(conditional_propensities(p, np.array([0, 2, 1])), [0.5, 0.4, 1.0], rtol=1e-6)


def test_the_product_is_the_probability_of_the_list():
    p = np.array([0.1, 0.2, 0.3, 0.4])
    lists = {
        drawn: conditional_propensities(p, np.array(drawn)).prod() for drawn in itertools.permutations(range(4), 2)
    }
    assert sum(lists.values()) == pytest.approx(1)
    rng = np.random.default_rng(0)
    drawn = [tuple(drawn_arms(p, 2, rng)) for _ in range(4_000)]
    for pair, probability in lists.items():
        share = np.mean([other == pair for other in drawn])
        assert abs(share - probability) < 4.5 * np.sqrt(probability * (1 - probability) / 4_000)


def test_rounding_never_makes_a_propensity_exceed_1():
    p = np.full(1_000, 1e-3, np.float32)
    p[0] = 1.0 - 0.999
    propensity = conditional_propensities(p, np.random.default_rng(0).permutation(1_000))
    assert propensity.max() <= 1
    assert propensity[-1] == 1
