"""Hashes of texts: fixed values, no influence of the neighbors, few collisions; and the file of a set of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import ArtifactError
from recpolicy.core.hashes import count_matches, read_hashes, text_hashes, write_hashes


def hashes(*texts):
    return text_hashes(np.array(texts, object))


def splitmix(state, word):
    """One step in Python's integers."""
    mask = 2**64 - 1
    z = ((state + 0x9E3779B97F4A7C15) & mask) ^ word
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def by_hand(text):
    data = text.encode()
    state = splitmix(0, len(data))
    for first in range(0, len(data), 8):
        state = splitmix(state, int.from_bytes(data[first : first + 8], "little"))
    return state


@given(st.lists(st.text(max_size=30), max_size=8))
def test_hash_is_that_of_the_text_alone(texts):
    assert hashes(*texts).tolist() == [by_hand(text) for text in texts]


def test_values_stay_the_same_because_artifacts_keep_them():
    assert [f"{value:016x}" for value in hashes("", "e1", "0123456789-äß")] == VALUES


VALUES = ["e220a8397b1dcdaf", "8b63fd87f624f7b6", "a694ab3dca44d195"]


def test_a_million_ids_have_no_two_hashes_alike():
    texts = np.array([f"5f3a9c21-{number:09d}" for number in range(1_000_000)], object)
    assert len(np.unique(text_hashes(texts))) == 1_000_000
    bits = np.unpackbits(text_hashes(texts[:10_000]).view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
    assert abs(bits - 0.5).max() < 6 * 0.5 / 100  # six standard errors of a fair bit


def test_matches_are_those_of_both_sets():
    rng = np.random.default_rng(0)
    pool = np.unique(rng.integers(0, 2**63, 5_000).astype(np.uint64))
    one, other = np.sort(rng.permutation(pool)[:3_000]), np.sort(rng.permutation(pool)[:2_500])
    assert count_matches(one, other) == count_matches(other, one) == len(set(one.tolist()) & set(other.tolist()))
    assert count_matches(one, one[:0]) == count_matches(one[:0], one) == 0


def test_file_returns_what_was_written(tmp_path):
    written = np.unique(hashes("a", "b", "c"))
    write_hashes(tmp_path / "h.npy", written)
    read = read_hashes(tmp_path / "h.npy")
    assert read.dtype == np.uint64
    assert read.tolist() == written.tolist()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([2, 1], np.uint64), "not sorted"),
        (np.array([1, 1], np.uint64), "not sorted"),
        (np.array([1, 2], np.int64), "expected 64-bit unsigned"),
        (np.array([[1, 2]], np.uint64), "in one row"),
        (np.array(["a"], object), "not an array of hashes"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, message):
    np.save(tmp_path / "h.npy", array, allow_pickle=True)
    with pytest.raises(ArtifactError, match=message):
        read_hashes(tmp_path / "h.npy")


def test_file_that_is_cut_or_too_large_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "h.npy"
    write_hashes(path, np.unique(hashes(*map(str, range(100)))))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match="not an array of hashes"):
        read_hashes(path)
    path.write_bytes(b"")
    with pytest.raises(ArtifactError, match="not an array of hashes"):
        read_hashes(path)
    monkeypatch.setattr("recpolicy.core.hashes.MAX_HASHES", 10)
    write_hashes(path, np.arange(1_000, dtype=np.uint64))
    with pytest.raises(ArtifactError, match="expected at most 10 hashes"):
        read_hashes(path)
