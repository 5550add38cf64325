"""Encoded actions are cached by the caller's keys: same answers, same refusals, bounded."""

import numpy as np
import pytest
from tiny_feature_log import CASES, tiny_actions, trained_case

from recpolicy.core.errors import DataError
from recpolicy.inference.recurring_actions import RecurringActions

CONTEXTS = [{"hour": hour, "device": device} for hour, device in ((0.4, "mobile"), (0.9, "desktop"), (0.1, None))]


def keys_of(actions):
    return [repr(action).encode() for action in actions]


@pytest.mark.parametrize("case", CASES)
def test_answers_with_keys_are_those_without(case):
    policy, actions = trained_case(case), tiny_actions()
    offers = [actions[:2], actions, actions[1:], actions[::-1]]
    for context in CONTEXTS:
        for offered in offers:
            plain = policy.probabilities(context, offered)
            keyed = policy.probabilities(context, offered, keys=keys_of(offered))
            np.testing.assert_array_equal(plain, keyed)


def test_actions_of_earlier_requests_are_not_encoded_again():
    cache, encoded = RecurringActions(), []

    def encode(places):
        encoded.append([names[place] for place in places])
        return np.array([[len(names[place])] for place in places], np.float32)

    for names in (["a", "bb"], ["ccc", "bb"], ["bb", "a", "ccc"], ["a", "bb"]):
        keys = [name.encode() for name in names]
        assert cache.rows(keys, encode).ravel().tolist() == [len(name) for name in names]
    assert encoded == [["a", "bb"], ["ccc"]]


def test_the_cache_is_bounded():
    cache = RecurringActions(max_bytes=1_000)
    for number in range(100):
        cache.rows([bytes([number])], lambda places: np.zeros((1, 10), np.float32))
    assert 0 < cache._cache.size <= 1_000
    assert 0 < cache._lists.size <= 1_000


def test_a_feature_that_was_ignored_before_is_still_refused():
    policy, (identifier, features) = trained_case("squarecb"), tiny_actions()[0]
    actions, keys = [(identifier, {**features, "unheard_of": 1.0})], [b"the action"]
    policy.probabilities(CONTEXTS[0], actions, strict=False, keys=keys)
    for _ in range(2):
        with pytest.raises(DataError, match="no action feature named 'unheard_of'"):
            policy.probabilities(CONTEXTS[0], actions, keys=keys)
