import numpy as np
import pytest
from synthetic_ratings import rank_two, table

from recpolicy.models.residual_noise import held_out_noise


def test_noise_and_model_uncertainty_share_the_squared_error():
    """A model that always says 3 with variance 3 noise^2: errors of 1 are noise^2 (1 + 3), so noise is .5."""
    fit, _ = rank_two(seed=0, noise=0.1, users=20, items=20)
    errors_of_one = table(fit.user, fit.item, np.full(len(fit), 4.0), fit.shape)
    seen = []

    def predict(ratings):
        seen.append(len(ratings))
        return np.full(fit.shape, 3.0), np.full(fit.shape, 3.0)

    assert held_out_noise(errors_of_one, predict, seed=0) == pytest.approx(0.5)
    assert seen == [len(fit) - round(len(fit) / 10)]


def test_a_table_too_small_to_split_gets_a_quarter_of_the_scale():
    few = table(np.array([0]), np.array([0]), np.array([3.0]), (1, 1))
    assert held_out_noise(few, lambda ratings: pytest.fail("must not be fitted"), seed=0) == 1.0
