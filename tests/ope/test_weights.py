import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_rounds import ACTION, DIRECT, REWARD, WEIGHT, Q, simplexes, vectors

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.statistics import effective_sample_size
from recpolicy.ope.terms import dr_terms
from recpolicy.ope.tuning import clipped, harmonic, shrunk, switched
from recpolicy.ope.weights import importance_weights, tail_index

WEIGHTS = vectors(12, 0, 100)
SETTINGS = st.floats(0, 1e4)


@given(mu=simplexes(6), pi=simplexes(6))
def test_weights_are_one_on_average(mu, pi):
    assert mu @ importance_weights(pi, mu) == pytest.approx(1)


def test_an_action_that_cannot_have_been_logged_is_refused_by_row():
    with pytest.raises(DataError, match=r"row 2: behavior_prob 0\.0; expected above 0"):
        importance_weights(np.full(3, 0.5), np.array([0.5, 0.5, 0.0]))


@given(weight=WEIGHTS, setting=SETTINGS)
def test_clipping_switching_and_shrinking_only_take_away(weight, setting):
    for tame in (clipped, switched, shrunk):
        used = tame(weight, setting)
        assert (used >= 0).all()
        assert (used <= weight * (1 + 1e-12)).all()
    assert clipped(weight, setting).max() <= setting
    assert switched(weight, setting).max() <= setting
    assert shrunk(weight, setting).max() <= np.sqrt(setting) / 2 * (1 + 1e-9)


@given(weight=WEIGHTS, strength=st.floats(0.001, 1))
def test_the_harmonic_correction_draws_weights_towards_one(weight, strength):
    used = harmonic(weight, strength)
    assert (used <= 1 / strength * (1 + 1e-9)).all()
    assert (used <= np.maximum(weight, 1) * (1 + 1e-9)).all()
    assert (used >= np.minimum(weight, 1) * (1 - 1e-9)).all()


@given(weight=WEIGHTS)
def test_at_the_end_of_their_setting_weights_are_left_alone(weight):
    for untamed in (clipped(weight, np.inf), switched(weight, np.inf), shrunk(weight, np.inf), harmonic(weight, 0)):
        assert (untamed == weight).all()


def test_shrinking_weights_of_zero_gives_zero_at_both_ends():
    assert (shrunk(np.array([0.0, 2.0]), 0) == 0).all()  # not 0 / 0
    assert (shrunk(np.array([0.0, 2.0]), np.inf) == [0, 2]).all()
    assert (harmonic(np.array([0.0, 2.0]), 1) == [0, 1]).all()


@pytest.mark.parametrize("tame", [switched, shrunk])
def test_switch_and_shrinkage_run_from_the_direct_method_to_dr(tame):
    def value(setting):
        return dr_terms(DIRECT, tame(WEIGHT, setting), REWARD, Q[ACTION]).mean()

    assert value(0) == pytest.approx(0.54)
    assert value(np.inf) == pytest.approx(0.646667, abs=1e-6)
    assert value(1e-9) == pytest.approx(0.54, abs=1e-6)
    assert value(1e9) == pytest.approx(0.646667, abs=1e-6)


def test_a_weight_of_just_tau_is_kept():
    assert switched(np.array([1.0, 1.5]), 1).tolist() == [1, 0]


@given(weight=vectors(12, 0.015625, 100))
def test_effective_size_lies_between_one_and_all_and_knows_no_scale(weight):
    size = effective_sample_size(weight)
    assert 1 - 1e-9 <= size <= 12 + 1e-9
    assert effective_sample_size(7 * weight) == pytest.approx(size)


def test_effective_size_of_no_weight_at_all_is_zero():
    assert effective_sample_size(np.zeros(3)) == 0


@pytest.mark.parametrize(("tame", "setting"), [(clipped, -1), (switched, np.nan), (shrunk, -0.1), (harmonic, 1.5)])
def test_settings_out_of_range_are_refused(tame, setting):
    with pytest.raises(ConfigError, match=r"(clip|tau|lambda) is .*expected 0\.\."):
        tame(WEIGHT, setting)


def test_the_tail_index_of_a_pareto_tail_is_its_shape():
    """Shape .9 (no variance) is told from .2 in 2,000 weights, 50 logs each; a bound has none."""
    draws = np.random.default_rng(0).random((2, 50, 2_000))
    heavy, light = (
        [tail_index(((1 - u) ** -k - 1) / k) for u in draw] for k, draw in zip((0.9, 0.2), draws, strict=True)
    )
    assert np.mean(heavy) == pytest.approx(0.9, abs=0.1)
    assert np.mean(light) == pytest.approx(0.2, abs=0.1)
    assert tail_index(10.0 * (draws[0, 0] < 0.1)) == 0
    assert tail_index(np.ones(1_000)) == 0
    assert tail_index(np.arange(10.0)) == 0  # too few
