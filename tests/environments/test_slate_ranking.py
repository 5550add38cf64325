"""The ranking formula in TensorFlow equals the one in NumPy: utilities, reserve, ties, and places without an item."""

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.environments.slate_ranking import best_items, utility
from recpolicy.models import ranking_formula


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_slates_are_those_of_numpy(seed, compiled):
    rng = np.random.default_rng(seed)
    # Quarters are exact in single precision, so that equal utilities are equal in both forms.
    heads, weights = rng.integers(0, 5, (200, 30, 3)) / 4, rng.integers(0, 5, (200, 3)) / 4
    base, reserve = rng.integers(0, 5, (200, 30)) / 4, rng.integers(0, 7, (200, 1)) / 4
    heads, weights, base = (part.astype(np.float32) for part in (heads, weights, base))
    eligible = base >= reserve
    assert not eligible.any(axis=1).all()  # some requests have no eligible item
    score = ranking_formula.utility(heads, weights, base, eligible)

    def slates(heads, weights, base, eligible):
        value = utility(heads, weights, base, eligible)
        return value, best_items(value, 4)

    run = tf.function(slates, jit_compile=True) if compiled else slates
    value, slate = run(*(tf.constant(part) for part in (heads.transpose(0, 2, 1), weights, base, eligible)))
    np.testing.assert_array_equal(value, score)
    np.testing.assert_array_equal(slate, ranking_formula.best_items(score, 4))
    assert (slate.numpy() == -1).any()


def test_of_equal_scores_the_first_items_are_shown():
    assert best_items(tf.constant([[1.0, 3.0, 3.0, 2.0]]), 3).numpy().tolist() == [[1, 2, 3]]
    plain = utility(tf.constant([[[1.0, 0.5]]]), tf.constant([[2.0]]))
    assert plain.numpy().tolist() == [[2.0, 1.0]]
