import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from off_policy_worlds import simplexes, vectors

from recpolicy.evaluation.off_policy.catalogue import ESTIMATORS, Evidence

A = 4
BRACKETED = [name for name, recipe in ESTIMATORS.items() if recipe.bracket]
SPAN = (-1.0, 2.0)


@pytest.mark.parametrize("name", BRACKETED)
@given(mu=simplexes(A), pi=simplexes(A), reward=vectors(A, *SPAN), q=vectors(A, *SPAN), pick=st.integers(0, 10))
def test_a_bracket_holds_the_truth_by_enumeration_and_its_terms_stay_within_its_width(name, mu, pi, reward, q, pick):
    recipe, weight = ESTIMATORS[name], pi / mu
    modelled = recipe.source in ("model", "mrdr")
    direct, predicted = (np.full(A, pi @ q), q) if modelled else (np.zeros(A), np.zeros(A))
    evidence, used, largest = Evidence(weight, reward, direct, predicted), weight, float(weight.max())
    if recipe.taming is not None:
        setting = recipe.taming.candidates[pick % len(recipe.taming.candidates)]
        used = recipe.taming.tame(weight, setting)
        largest = min(largest, recipe.taming.largest(setting))
    bracket = recipe.bracket(evidence, used, SPAN, largest)
    truth = pi @ reward
    assert mu @ bracket.lower <= truth + 1e-9
    assert mu @ bracket.upper >= truth - 1e-9
    for side in (bracket.lower, bracket.upper):
        assert np.ptp(side) <= bracket.width + 1e-9
    if np.array_equal(used, weight):
        assert mu @ bracket.lower == pytest.approx(truth, abs=1e-9)
