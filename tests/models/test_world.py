import numpy as np
import pytest
from synthetic_ratings import rank_two

from recpolicy.core.errors import DataError
from recpolicy.models.bias import BiasConfig, fit_bias
from recpolicy.models.world import World, world_from_model

SCALE = (1.0, 5.0)


def plain() -> World:
    fit, _ = rank_two(seed=0, noise=0.3)
    return world_from_model(fit_bias(fit, BiasConfig(), seed=0))


def test_a_models_expectations_are_the_truth_of_its_world():
    fit, _ = rank_two(seed=0, noise=0.3)
    model = fit_bias(fit, BiasConfig(), seed=0)
    world = world_from_model(model)
    np.testing.assert_array_equal(world.expected, model.mean)
    assert world.name == model.name
    assert not world.known.any()


def test_real_ratings_are_paid_where_they_exist_and_nowhere_else():
    _, test = rank_two(seed=0, noise=0.3)
    before = plain()
    after = before.paying(test)
    real = np.isfinite(test.matrix())
    np.testing.assert_array_equal(after.known, real)
    np.testing.assert_array_equal(after.expected[real], test.matrix()[real])
    np.testing.assert_array_equal(after.expected[~real], before.expected[~real])
    assert not before.known.any()  # the world that was asked is left as it was
    assert "real ratings of planted paid" in after.name


def test_paying_more_ratings_keeps_those_already_known():
    fit, test = rank_two(seed=0, noise=0.3)
    both = plain().paying(fit).paying(test)
    assert both.known.sum() == len(fit) + len(test)


def test_the_digest_is_of_what_it_pays():
    _, test = rank_two(seed=0, noise=0.3)
    assert plain().digest == plain().digest
    assert plain().paying(test).digest != plain().digest


@pytest.mark.parametrize("outside", [0.99, 5.01, np.nan, np.inf])
def test_expected_rewards_off_the_scale_are_refused(outside):
    expected = np.full((2, 3), 3.0, np.float32)
    expected[1, 1] = outside
    with pytest.raises(DataError, match=r"within 1\.0\.\.5\.0"):
        World(expected, np.zeros((2, 3), bool), SCALE, "broken")
