"""One seed, many streams: the same again, and nothing to do with each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import ConfigError
from recpolicy.core.seeds import generator, integer_seed, stateless_seed

seeds = st.integers(0, 2**63)
names = st.text(max_size=20)


@given(seeds, names)
def test_same_seed_and_stream_give_the_same_numbers(seed, stream):
    assert np.array_equal(generator(seed, stream).random(5), generator(seed, stream).random(5))
    assert stateless_seed(seed, stream) == stateless_seed(seed, stream)


@given(seeds, names)
def test_seeds_for_libraries_are_int32_and_not_negative(seed, stream):
    assert all(0 <= value < 2**31 for value in stateless_seed(seed, stream))
    assert integer_seed(seed, stream) == stateless_seed(seed, stream)[0]


def test_streams_and_seeds_are_independent():
    # 40 streams of 1,000 numbers: 780 correlations of standard deviation 1/sqrt(1000) = .032; none beyond 5 of them.
    draws = [generator(seed, name).normal(size=1000) for seed in range(8) for name in ("a", "b", "draw", "noise", "")]
    apart = np.abs(np.corrcoef(draws)[np.triu_indices(40, 1)])
    assert apart.max() < 5 / np.sqrt(1000)
    assert len({stateless_seed(seed, name) for seed in range(50) for name in ("draw", "noise")}) == 100


def test_numbers_stay_what_they_are():
    # Artifacts and committed results depend on them.
    assert stateless_seed(3, "policy") == (1152950745, 200691286)
    assert generator(3, "policy").integers(0, 1000, 3).tolist() == [457, 487, 882]


@pytest.mark.parametrize("make", [generator, stateless_seed, integer_seed])
def test_negative_seed_is_refused(make):
    with pytest.raises(ConfigError, match="seed -1: expected 0 or more"):
        make(-1, "policy")
