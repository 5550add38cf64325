"""The place for new items: every list has exactly the logged probability, and nothing forbidden is shown."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from guardrail_cases import all_lists, guardrails, open_items

from recpolicy.inference.new_item_slot import NewItemSlot, add_new_item, choose_with_slot, guard_with_slot
from recpolicy.inference.slate_selection import ExplorationConfig, Slate, choose_slate

SCORE = np.array([5.0, 4.0, 4.0, 3.0, 2.0, 9.0, 1.0])
NEW = np.array([0, 0, 0, 0, 0, 0.6, 0.4])
EXPLORING = ExplorationConfig(share=0.3, top=4)


def policy_law(score, arms, k, exploration):
    """Return the probability of each list of the policy without a place for new items, by enumeration."""
    order = np.argsort(-score[arms], kind="stable")
    falling, law = arms[order], Counter()
    size = min(max(exploration.top, k), len(arms)) if exploration.top else len(arms)
    greedy = [list_ for list_ in permutations(falling, min(k, len(arms)))
              if np.array_equal(score[list(list_)], score[falling][: len(list_)])]  # fmt: skip
    pool = list(permutations(falling[:size], min(k, size)))  # no tie at the edge of the pool in these cases
    for list_ in greedy:
        law[tuple(map(int, list_))] += (1 - exploration.share) / len(greedy)
    for list_ in pool:
        law[tuple(map(int, list_))] += exploration.share / len(pool)
    return law


def mixed_law(slot, allowed, k, exploration):
    """Return the probability of each list with a place for new items, by enumeration."""
    others, new = np.flatnonzero(allowed & (NEW == 0)), np.flatnonzero(allowed & (NEW > 0))
    if len(others) < k or not len(new):
        return policy_law(SCORE, np.flatnonzero(allowed), k, exploration)
    law = Counter()
    for list_, probability in policy_law(SCORE, others, k, exploration).items():
        law[list_] += (1 - slot.share) * probability
        at = min(k - 1 if slot.place == 0 else slot.place - 1, k - 1, len(list_))
        for arm in new:
            with_new = [*list_[: k - 1][:at], int(arm), *list_[: k - 1][at:]]
            law[tuple(with_new)] += slot.share * probability * NEW[arm] / NEW[new].sum()
    return law


def begins(law, arms):
    """Return the probability of lists that begin with these items: an end has no propensity."""
    return sum(chance for list_, chance in law.items() if list_[: len(arms)] == tuple(arms))


def draw(slot, allowed, k, exploration, rng):
    explored, show = rng.random() < exploration.share, rng.random() < slot.share
    return choose_with_slot(SCORE, allowed, k, slot, exploration, explored, show, rng)


CASES = {
    "last place": (0, 3, [True] * 7),
    "first place": (1, 3, [True] * 7),
    "second of four": (2, 4, [True] * 7),
    "beyond the list": (9, 2, [True] * 7),
    "one place": (0, 1, [True] * 7),
    "one new item is not allowed": (0, 3, [True] * 6 + [False]),
    "no new item is allowed": (0, 3, [True] * 5 + [False] * 2),
    "only new items are allowed": (0, 2, [False] * 5 + [True] * 2),
    "just enough others": (0, 4, [True] * 4 + [False, True, True]),
    "fewer items than places": (0, 4, [True, False, True, False, False, True, True]),
    "fewer items, an early place": (1, 4, [True, False, True, False, False, True, True]),
}


@pytest.mark.parametrize("exploration", [ExplorationConfig(share=0.0), EXPLORING], ids=["greedy", "mixed"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_product_of_propensities_is_the_probability_of_the_list(case, exploration):
    place, k, allowed = case[0], case[1], np.array(case[2])
    slot, rng = NewItemSlot(NEW, 0.25, place), np.random.default_rng(3)
    law = mixed_law(slot, allowed, k, exploration)
    assert sum(law.values()) == pytest.approx(1.0, abs=1e-12)
    drawn, draws = Counter(), 1_000
    for _ in range(draws):
        slate = draw(slot, allowed, k, exploration, rng)
        arms = tuple(slate.arms.tolist())
        drawn[arms] += 1
        assert allowed[slate.arms].all()
        assert np.prod(slate.propensity) == pytest.approx(begins(law, arms), abs=1e-12)
    # Total variation to the exact law: the expected one of a sample plus five standard deviations.
    distance = 0.5 * sum(abs(drawn[list_] / draws - chance) for list_, chance in law.items())
    expected = 0.5 * sum(np.sqrt(chance * (1 - chance) / draws) for chance in law.values())
    assert distance < expected + 5 / np.sqrt(draws) / 2


def test_new_items_appear_in_no_other_place_and_in_the_share_of_lists():
    slot, rng = NewItemSlot(NEW, 0.25), np.random.default_rng(1)
    slates = [draw(slot, np.ones(7, bool), 3, EXPLORING, rng) for _ in range(1_000)]
    shown = np.array([NEW[slate.arms] > 0 for slate in slates])
    assert not shown[:, :2].any()  # the policy alone would show arm 5 first in every greedy list
    assert shown[:, 2].mean() == pytest.approx(0.25, abs=0.07)
    assert all(slate.explored for slate, new in zip(slates, shown[:, 2], strict=True) if new)


def test_without_a_chance_the_list_is_the_policys_own():
    slate, slot, rng = Slate(np.array([0, 1]), np.array([1.0, 0.5]), False), NewItemSlot(NEW, 0.25), None
    assert add_new_item(slate, np.zeros(7), slot, 2, True, rng) is slate


CATEGORY = [[0], [0], [1], [1], [2], [0], [1, 2]]
RATING = np.array([4.0, 4.0, 3.0, 3.0, 3.0, 5.0, 2.0])
RAILS = {
    "caps": guardrails(CATEGORY, caps={0: 1, 1: 1}),
    "a blocked new item": guardrails(CATEGORY, blocked=(6,)),
    "a lowest rating": guardrails(CATEGORY, min_rating=2.5),
    "marked": guardrails(CATEGORY, marked=(1, 5), max_marked=1),
    "reserved": guardrails(CATEGORY, marked=(1, 6), min_marked=1),
    "diverse": guardrails(CATEGORY, caps={0: 2}, diversity=0.4, novelty=0.2),
    "a short list": guardrails(CATEGORY, marked=(1, 2, 3, 4), max_marked=1, caps={1: 1}, blocked=(0,)),
    "no new item": guardrails(CATEGORY, blocked=(5, 6)),
    "two other items": guardrails(CATEGORY, blocked=(0, 1, 2)),
    "only a new item is marked": guardrails(CATEGORY, marked=(6,), min_marked=1),
}


def guarded_law(rails, slot, k, exploration):
    """Return the probability of each list under guardrails with a place for new items, by enumeration."""
    everything = np.ones(7, bool)
    first = set(open_items(rails, RATING, everything, (), 10**6))
    new = [arm for arm in sorted(first) if NEW[arm] > 0]
    rest = [arm for arm in first if NEW[arm] == 0]
    if len(rest) < k or sum(rails.marked[rest]) < min(rails.min_marked, k):
        new = []
    law, others = Counter(), everything & (NEW == 0) if new else everything
    lists = all_lists(rails, SCORE, RATING, others, k, exploration.top, exploration.share)
    for list_, conditional in lists.items():
        probability, prefix = float(np.prod(conditional)), list_[: k - 1]
        free = [arm for arm in open_items(rails, RATING, everything, prefix, k) if NEW[arm] > 0] if new else []
        law[list_] += probability * (1 - slot.share if free else 1.0)
        for arm in free:
            law[(*prefix, arm)] += probability * slot.share * NEW[arm] / NEW[free].sum()
    return law


@pytest.mark.parametrize("exploration", [ExplorationConfig(share=0.0), EXPLORING], ids=["greedy", "mixed"])
@pytest.mark.parametrize("rails", RAILS.values(), ids=RAILS)
def test_under_guardrails_the_product_of_propensities_is_the_probability_of_the_list(rails, exploration):
    slot, k, rng, draws = NewItemSlot(NEW, 0.25, place=1), 3, np.random.default_rng(2), 300
    law = guarded_law(rails, slot, k, exploration)
    assert sum(law.values()) == pytest.approx(1.0, abs=1e-12)
    seen = Counter()
    for _ in range(draws):
        explored, show = rng.random() < exploration.share, rng.random() < slot.share
        slate = guard_with_slot(SCORE, RATING, np.ones(7, bool), k, rails, slot, exploration, explored, show, rng)
        arms = slate.arms.tolist()
        seen[tuple(arms)] += 1
        assert np.prod(slate.propensity) == pytest.approx(begins(law, arms), abs=1e-12)
        for place in range(len(arms)):
            items = set(open_items(rails, RATING, np.ones(7, bool), arms[:place], k))
            open_here = set(np.flatnonzero(slate.allowed & (slate.closed_at > place)).tolist()) - set(arms[:place])
            assert open_here == items, "the log says what was open"
        assert (slate.reason is None) == (len(arms) == k)
    distance = 0.5 * sum(abs(seen[list_] / draws - chance) for list_, chance in law.items())
    assert distance < 0.5 * sum(np.sqrt(chance / draws) for chance in law.values()) + 0.15


def test_the_policys_slates_are_unchanged_without_a_place():
    rng, same = np.random.default_rng(5), np.random.default_rng(5)
    slot, allowed = NewItemSlot(NEW, 0.25), np.array([True] * 5 + [False] * 2)
    one = choose_with_slot(SCORE, allowed, 3, slot, EXPLORING, False, True, rng)
    other = choose_slate(SCORE, allowed, 3, EXPLORING, same, False)
    assert one.arms.tolist() == other.arms.tolist()
    assert one.propensity.tolist() == other.propensity.tolist()


def test_a_list_is_as_long_as_without_a_place_for_new_items():
    slot, rng = NewItemSlot(NEW, 0.25), np.random.default_rng(4)
    few = np.array([True, True, False, False, False, True, True])  # two others and two new ones
    assert {len(draw(slot, few, 4, EXPLORING, rng).arms) for _ in range(100)} == {4}
    for rails in (RAILS["two other items"], RAILS["only a new item is marked"]):
        for show in (True, False):
            slate = guard_with_slot(SCORE, RATING, np.ones(7, bool), 3, rails, slot, EXPLORING, False, show, rng)
            assert (len(slate.arms), slate.reason) == (3, None)


def test_a_short_list_says_how_many_places_are_filled():
    slot, rng = NewItemSlot(NEW, 0.25), np.random.default_rng(4)
    rails = guardrails([[0], [0], [1], [1], [2], [0], [2]], caps={0: 1, 1: 1})
    allowed = np.array([True, True, True, True, False, True, True])
    for show, count in ((False, 2), (True, 3)):
        slate = guard_with_slot(SCORE, RATING, allowed, 4, rails, slot, EXPLORING, False, show, rng)
        assert len(slate.arms) == count
        assert slate.reason.startswith(f"{count} of 4 places are filled: these categories are full")
