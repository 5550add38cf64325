"""murmur3 and the mapping of features to weights, compared with scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction import FeatureHasher
from sklearn.utils import murmurhash3_32

from recpolicy.data.features import hashing
from recpolicy.data.features.hashing import hashed_names, murmur3, pair_indices


def test_a_published_value():
    assert murmur3(["", "hello"]).tolist() == [0, 0x248BFA47]  # reference implementation of MurmurHash3_x86_32, seed 0


@given(st.lists(st.text(max_size=40), max_size=30), st.integers(0, 2**32 - 1))
def test_equals_the_hash_of_scikit_learn(texts, seed):
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    expected = [murmurhash3_32(text.encode(), seed, positive=True) for text in texts]
    assert murmur3(texts, seed).tolist() == expected


def test_long_and_short_texts_are_hashed_in_blocks(monkeypatch):
    texts = ["x" * length for length in (3, 1000, 0, 4, 64, 9, 5, 1)]
    whole = murmur3(texts)
    monkeypatch.setattr(hashing, "_WORDS_AT_ONCE", 20)
    assert murmur3(texts).tolist() == whole.tolist()


@given(st.dictionaries(st.text("abcxyz=. 0189é", min_size=1, max_size=12), st.floats(-5, 5), max_size=12))
def test_index_and_sign_equal_those_of_feature_hasher(features):
    bits = 10
    index, sign = hashed_names(list(features))
    row = np.zeros(2**bits)
    np.add.at(row, index % 2**bits, sign * np.array(list(features.values())))
    expected = FeatureHasher(n_features=2**bits).transform([features]).toarray()[0]
    assert row == pytest.approx(expected, abs=1e-6)


def test_the_share_of_collisions_is_the_expected_one():
    names = [f"context.f{number}" for number in range(10_000)]
    slot = hashed_names(names)[0] % 2**18
    _, place, count = np.unique(slot, return_inverse=True, return_counts=True)
    share = float((count[place] > 1).mean())
    expected = 1 - (1 - 2**-18) ** (10_000 - 1)  # .0374
    assert expected == pytest.approx(0.0374, abs=5e-5)
    assert share == pytest.approx(expected, abs=4 * (2 * expected / 10_000) ** 0.5)  # pairs collide together


def test_pairs_collide_as_rarely_as_random_numbers():
    first, second = (
        hashed_names([f"context.{i}" for i in range(60)])[0],
        hashed_names([f"action.{i}" for i in range(60)])[0],
    )
    pairs = pair_indices(first[:, np.newaxis], second).ravel()
    slots = len(np.unique(pairs % 2**18))
    expected = 2**18 * (1 - (1 - 2**-18) ** 3600)  # different slots of 3,600 random numbers
    assert slots == pytest.approx(expected, abs=4 * (3600**2 / 2**19) ** 0.5)
    assert (pair_indices(second, first) != pairs[:60]).any()
