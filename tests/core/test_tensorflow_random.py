"""Numbers must not depend on how they are computed; seeds of every sign, because folding in makes all of them."""

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.core import tensorflow_random as own

SEEDS = tf.constant([[3, 7], [5, -7], [-2_000_000_000, 7]])


def draws() -> list[tf.Tensor]:
    everything = []
    for seed in tf.unstack(SEEDS):
        folded = own.fold_in(seed, tf.constant(2**33 + 5, tf.int64))
        everything += [folded, *own.split(seed, 3), own.integers([9], folded, 2, 57), own.uniform([3, 5], folded)]
    return everything


def test_eager_graph_and_xla_draw_the_same_numbers():
    eager, graph, compiled = draws(), tf.function(draws)(), tf.function(draws, jit_compile=True)()
    tf.nest.map_structure(np.testing.assert_array_equal, eager, graph)
    tf.nest.map_structure(np.testing.assert_array_equal, eager, compiled)


def test_uniform_floats_are_in_the_half_open_interval_with_the_moments_of_the_uniform():
    """n = 400,000; mean and variance within 4.5 standard errors (std of u is sqrt(1/12), of its square sqrt(1/180))."""
    drawn = own.uniform([400, 1000], SEEDS[2]).numpy().astype(np.float64)
    assert 0 <= drawn.min() < drawn.max() < 1
    assert drawn.mean() == pytest.approx(1 / 2, abs=4.5 * np.sqrt(1 / 12 / drawn.size))
    assert np.mean((drawn - 1 / 2) ** 2) == pytest.approx(1 / 12, abs=4.5 * np.sqrt(1 / 180 / drawn.size))


def test_integers_keep_their_bounds():
    assert set(own.integers([1000], SEEDS[0], 2, 5).numpy()) == {2, 3, 4}


def test_members_of_a_family_differ():
    seeds = {tuple(own.fold_in(SEEDS[0], tf.constant(number)).numpy()) for number in range(100)}
    assert len(seeds) == 100
