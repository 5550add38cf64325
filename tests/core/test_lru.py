"""The cache keeps what was used last, never more than its bound, and never mixes answers up."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.lru import LRUCache


def test_the_least_recently_used_goes_first():
    cache = LRUCache(3)
    for key in "abc":
        cache.put(key, key.upper(), 1)
    assert cache.get("a") == "A"
    cache.put("d", "D", 1)
    assert [cache.get(key) for key in "abcd"] == ["A", None, "C", "D"]


def test_a_large_one_takes_the_place_of_several_and_a_larger_one_is_not_kept():
    cache = LRUCache(3)
    for key in "abc":
        cache.put(key, key, 1)
    cache.put("d", "d", 2)
    assert [cache.get(key) for key in "abcd"] == [None, None, "c", "d"]
    cache.put("e", "e", 4)
    assert (cache.get("e"), len(cache), cache.size) == (None, 2, 3)


def test_the_same_key_again_is_counted_once():
    cache = LRUCache(3)
    cache.put("a", 1, 2)
    cache.put("a", 2, 3)
    assert (cache.get("a"), len(cache), cache.size) == (2, 1, 3)


def test_a_cleared_cache_is_empty_and_usable():
    cache = LRUCache(3)
    cache.put("a", 1, 2)
    cache.clear()
    assert (cache.get("a"), len(cache), cache.size) == (None, 0, 0)
    cache.put("b", 2, 3)
    assert cache.get("b") == 2


@given(st.integers(0, 8), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_no_sequence_of_answers_exceeds_the_bound(most, puts):
    cache = LRUCache(most)
    for key, size in puts:
        cache.put(key, (key, size), size)
        assert cache.size <= most
        held = [cache.get(key) for key in range(6)]
        assert cache.size == sum(one[1] for one in held if one is not None)
        assert all(one is None or one[0] == key for key, one in enumerate(held))


def test_threads_do_not_disturb_each_other():
    cache = LRUCache(50)

    def use(seed):
        for step in range(2000):
            key = (seed * 7919 + step * 31) % 40
            found = cache.get(key)
            assert found in (None, key)
            cache.put(key, key, key % 7)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert cache.size <= 50
    assert cache.size == sum(key % 7 for key in range(40) if cache.get(key) is not None)
