"""Thompson sampling in batches: probabilities, rounding, propensities, entropy."""

import numpy as np
import pytest
from scipy.stats import norm

from recpolicy.coldstart.allocation import allocate, entropy, round_counts, thompson_probabilities
from recpolicy.coldstart.filter import Belief
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator


def exact(belief: Belief) -> np.ndarray:
    """Return the probabilities by Gauss-Legendre quadrature between fine steps in the standard deviations of all."""
    mean, std = belief.mean[:, np.newaxis], belief.std[:, np.newaxis]
    edges = np.unique(mean + std * np.linspace(-9, 9, 73))
    nodes, weights = np.polynomial.legendre.leggauss(6)
    half = np.diff(edges)[:, np.newaxis] / 2
    x = (edges[:-1, np.newaxis] + half + half * nodes).ravel()
    log_cdf = norm.logcdf(x, mean, std)
    density = np.exp(norm.logpdf(x, mean, std) + log_cdf.sum(axis=0) - log_cdf)
    return density @ (half * weights).ravel()


def test_two_items_have_the_closed_form() -> None:
    # P(X > Y) = Phi((1.5 - 1) / sqrt(.3^2 + .4^2)) = Phi(1) = .8413.
    probability = thompson_probabilities(Belief(np.array([1.5, 1.0]), np.array([0.09, 0.16])))
    np.testing.assert_allclose(probability, [norm.cdf(1), norm.cdf(-1)], atol=1e-4)
    same = thompson_probabilities(Belief(np.ones(5), np.full(5, 0.2)))
    np.testing.assert_allclose(same, 0.2, atol=1e-12)


@pytest.mark.parametrize(("decades", "error"), [(1, 5e-5), (2, 1e-4), (4, 5e-4)])
@pytest.mark.parametrize("seed", range(4))
def test_probabilities_are_those_of_the_integral(seed: int, decades: int, error: float) -> None:
    rng = generator(seed, "beliefs")
    # Items that are known well meet items that are hardly known.
    belief = Belief(rng.normal(size=12), np.square(10 ** rng.uniform(-decades, 0, 12)))
    probability, expected = thompson_probabilities(belief), exact(belief)
    assert expected.sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(probability, expected, atol=error)
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    assert (probability >= 0).all()


def test_narrow_beliefs_close_together_under_a_wide_one() -> None:
    belief = Belief(np.array([0.0, 0.01, -0.02]), np.square([3, 0.02, 0.05]))
    np.testing.assert_allclose(thompson_probabilities(belief), exact(belief), atol=2e-5)


def test_a_known_item_and_a_uniform_mix() -> None:
    sure = thompson_probabilities(Belief(np.array([2.0, 1.0, 1.0]), np.zeros(3)))
    np.testing.assert_allclose(sure, [1, 0, 0], atol=1e-12)
    mixed = thompson_probabilities(Belief(np.array([2.0, 1.0, 1.0]), np.zeros(3)), uniform_mix=0.3)
    np.testing.assert_allclose(mixed, [0.8, 0.1, 0.1], atol=1e-12)
    assert thompson_probabilities(Belief(np.ones(1), np.ones(1))) == pytest.approx([1.0])


def test_rounding_keeps_the_expected_counts() -> None:
    # Deterministic: the offset enters uniformly, so a fine grid of offsets gives the expectation.
    probability = np.array([0.305, 0.005, 0.19, 0.4, 0.1])

    class Offsets:
        def __init__(self, value: float) -> None:
            self.value = value

        def random(self, shape: tuple[int, ...]) -> np.ndarray:
            return np.full(shape, self.value)

    counts = np.array([round_counts(probability, 10, Offsets((k + 0.5) / 1_000)) for k in range(1_000)])
    np.testing.assert_allclose(counts.mean(axis=0), 10 * probability, atol=1.1e-3)
    assert (counts.sum(axis=1) == 10).all()
    assert (np.abs(counts - 10 * probability) < 1).all()
    assert len(np.unique(counts, axis=0)) > 1


def test_users_get_items_with_their_propensities() -> None:
    belief = Belief(np.array([1.0, 0.8, 0.2]), np.array([0.04, 0.09, 0.25]))
    rng = generator(0, "users")
    draws = [allocate(belief, 7, rng) for _ in range(4_000)]
    probability = draws[0].probability
    first = np.bincount([draw.item[0] for draw in draws], minlength=3) / len(draws)
    last = np.bincount([draw.item[-1] for draw in draws], minlength=3) / len(draws)
    error = np.sqrt(probability * (1 - probability) / len(draws))
    assert (np.abs(first - probability) < 4 * error).all()
    assert (np.abs(last - probability) < 4 * error).all()
    np.testing.assert_array_equal(draws[0].propensity, probability[draws[0].item])
    assert draws[0].count.sum() == 7
    assert len(allocate(belief, 0, rng).item) == 0


def test_entropy_is_a_share_of_that_of_uniform_choices() -> None:
    np.testing.assert_allclose(entropy(np.array([[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0]])), [1, 0, 0.5])


def test_faulty_input_is_one_line() -> None:
    belief = Belief(np.ones(2), np.ones(2))
    with pytest.raises(ConfigError, match=r"uniform_mix is 1\.5; expected 0 to 1"):
        thompson_probabilities(belief, 1.5)
    with pytest.raises(DataError, match="no item to choose from"):
        thompson_probabilities(Belief(np.empty(0), np.empty(0)))
    with pytest.raises(DataError, match="not finite"):
        thompson_probabilities(Belief(np.array([np.nan, 1]), np.ones(2)))
    with pytest.raises(ConfigError, match="-1 users; expected 0 or more"):
        round_counts(np.ones(1), -1, generator(0, "users"))
