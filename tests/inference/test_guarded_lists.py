"""Lists under guardrails: never a violation, exact propensities by enumeration, and no change without guardrails."""

from collections import Counter
from math import prod

import numpy as np
import pytest
from guardrail_cases import all_lists, guardrails, open_items
from hypothesis import event, given, settings
from hypothesis import strategies as st

from recpolicy.inference import guarded_lists, guarded_shortlists
from recpolicy.inference.guarded_draw import NEVER_CLOSED, static_scores
from recpolicy.inference.guarded_lists import guarded_sample, guarded_slates
from recpolicy.inference.slate_selection import ExplorationConfig, choose_slate

CATEGORY = [(0,), (0, 1), (1,), (2,), (0,), ()]
SCORE = np.array([5.0, 4.0, 3.5, 3.0, 2.0, 1.0])
TIED = np.array([3.0, 3.0, 2.0, 2.0, 2.0, 1.0])
RATING = np.array([4.5, 4.0, 3.0, 2.0, 3.5, 4.1])
EVERYTHING = np.ones(6, bool)

CASES = {
    "no guardrail": {},
    "one of each category": {"caps": {0: 1, 1: 1, 2: 1}},
    "a category with cap 0": {"caps": {0: 0}},
    "two of a category": {"caps": {0: 2}},
    "blocked items": {"blocked": [0, 3]},
    "at most one marked": {"marked": [0, 1, 4], "max_marked": 1},
    "no marked": {"marked": [0, 1], "max_marked": 0},
    "one place for marked items": {"marked": [4, 5], "min_marked": 1},
    "all places for marked items": {"marked": [4, 5], "min_marked": 3},
    "one or two marked": {"marked": [0, 1, 2], "min_marked": 1, "max_marked": 2},
    "a lowest rating": {"min_rating": 3.5},
    "diversity": {"diversity": 0.4},
    "diversity alone": {"diversity": 1.0},
    "novelty": {"novelty": 0.7},
    "a tilt": {"bonus": [0.0, 0.3, -0.5, 0.2, 0.0, 1.0]},
    "everything": {"caps": {0: 1, 1: 1}, "blocked": [2], "marked": [3, 5], "max_marked": 1, "min_rating": 2.0,
                   "diversity": 0.3, "novelty": 0.2, "bonus": [0.1, 0.0, 0.0, -0.2, 0.3, 0.0]},
}  # fmt: skip


def draw(rails, score, k=3, top=4, share=0.3, seed=0, explored=False, allowed=EVERYTHING, forced=None):
    """Return one list."""
    config = ExplorationConfig(share=share, top=top)
    return guarded_slates(
        score[np.newaxis], RATING[np.newaxis], allowed[np.newaxis], k, rails, config, np.random.default_rng(seed),
        np.array([explored]), None if forced is None else np.array([forced]),
    )[0]  # fmt: skip


def forced(rails, score, lists, top, share):
    """Return the given lists with their propensities."""
    arms = np.full((len(lists), 3), -1)
    for row, items in enumerate(lists):
        arms[row, : len(items)] = items
    many = (np.repeat(part[np.newaxis], len(lists), axis=0) for part in (score, RATING, EVERYTHING))
    config, rng = ExplorationConfig(share=share, top=top), np.random.default_rng(0)
    return guarded_slates(*many, 3, rails, config, rng, np.zeros(len(lists), bool), arms)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("score", [SCORE, TIED], ids=["no ties", "ties"])
@pytest.mark.parametrize("case", CASES)
def test_conditional_propensities_equal_enumeration(case, score, share):
    rails = guardrails(CATEGORY, **CASES[case])
    for top in (4, 0):
        every = all_lists(rails, score, RATING, EVERYTHING, 3, top, share)
        assert sum(prod(law) for law in every.values()) == pytest.approx(1, abs=1e-12)
        for slate, law in zip(forced(rails, score, list(every), top, share), every.values(), strict=True):
            np.testing.assert_allclose(slate.propensity, law, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_drawn_lists_have_the_propensities_and_frequencies_of_their_law(case):
    rails, share, draws = guardrails(CATEGORY, **CASES[case]), 0.5, 1_000
    every = all_lists(rails, TIED, RATING, EVERYTHING, 3, 4, share)
    rng, config = np.random.default_rng(1), ExplorationConfig(share=share, top=4)
    many = (np.repeat(part[np.newaxis], draws, axis=0) for part in (TIED, RATING, EVERYTHING))
    slates = guarded_slates(*many, 3, rails, config, rng, rng.random(draws) < share)
    count = Counter(tuple(slate.arms.tolist()) for slate in slates)
    for slate in slates:
        np.testing.assert_allclose(slate.propensity, every[tuple(slate.arms.tolist())], rtol=0, atol=1e-12)
    for items, law in every.items():
        p = prod(law)
        assert abs(count[items] / draws - p) < 4.5 * np.sqrt(p * (1 - p) / draws) + 1e-12


@pytest.mark.parametrize("case", CASES)
def test_samples_of_the_probabilities_equal_enumeration(case):
    rails = guardrails(CATEGORY, **CASES[case])
    probability = np.array([0.4, 0.3, 0.2, 0.05, 0.05, 0.0])
    allowed = np.array([True, True, True, True, True, False])
    rng, count = np.random.default_rng(2), Counter()
    for _ in range(200):
        slate = guarded_sample(probability, RATING, EVERYTHING, 3, rails, rng)
        law, chosen = [], []
        for arm in slate.arms.tolist():
            items = open_items(rails, RATING, allowed, chosen, 3)
            weight = {item: probability[item] * factor(rails, item, chosen) for item in items}
            law.append(weight[arm] / sum(weight.values()))
            chosen.append(arm)
        np.testing.assert_allclose(slate.propensity, law, rtol=0, atol=1e-12)
        count[tuple(chosen)] += 1
        if len(chosen) < 3:
            assert not open_items(rails, RATING, allowed, chosen, 3)
            assert slate.reason.startswith(f"{len(chosen)} of 3 places are filled: ")
    first = Counter()
    for items, times in count.items():
        first[items[:1]] += times
    items = open_items(rails, RATING, allowed, [], 3)
    weight = {item: probability[item] * factor(rails, item, []) for item in items}
    for item in items:
        p = weight[item] / sum(weight.values())
        assert abs(first[(item,)] / 200 - p) < 4.5 * np.sqrt(p * (1 - p) / 200) + 1e-12


def factor(rails, item, chosen):
    """The factor of an item's probability, by its definition."""
    if not rails.tilts:
        return 1.0
    direction = rails.catalog.direction
    near = max([0.0, *(min(1.0, float(direction[item] @ direction[other])) for other in chosen)])
    bonus = 0.0 if rails.bonus is None else rails.bonus[item]
    popular = 1 - rails.novelty * rails.catalog.popularity[item]
    return max((1 - rails.diversity * near) * popular * (1 + bonus), 1e-3)


def test_the_propensities_of_a_place_add_up_to_1():
    rails = guardrails(CATEGORY, **CASES["everything"])
    slate = draw(rails, TIED, explored=True, seed=5)
    for place in range(len(slate.arms)):
        before = slate.arms[:place].tolist()
        total = 0.0
        for item in open_items(rails, RATING, EVERYTHING, before, 3):
            total += draw(rails, TIED, forced=[*before, item]).propensity[place]
        assert total == pytest.approx(1, abs=1e-12)


@settings(max_examples=150)
@given(
    st.lists(st.lists(st.integers(0, 2), max_size=3, unique=True), min_size=3, max_size=12),
    st.data(),
)
def test_no_list_violates_a_guardrail(category, data):
    arms = len(category)
    mask = st.lists(st.integers(0, arms - 1), max_size=4)
    low = data.draw(st.integers(0, 3))
    rails = guardrails(
        category, caps=data.draw(st.dictionaries(st.integers(0, 2), st.integers(0, 3))), blocked=data.draw(mask),
        marked=data.draw(mask), max_marked=data.draw(st.integers(low, 4)), min_marked=low,
        min_rating=data.draw(st.none() | st.floats(1, 5)), diversity=data.draw(st.sampled_from([0.0, 0.5])),
        novelty=data.draw(st.sampled_from([0.0, 0.5])),
    )  # fmt: skip
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    k, rating = data.draw(st.integers(1, 6)), rng.uniform(1, 5, (4, arms))
    score, allowed = rng.integers(0, 5, (4, arms)).astype(float), rng.random((4, arms)) < 0.8
    explored = np.array([True, False, True, False])
    config = ExplorationConfig(share=0.5, top=data.draw(st.integers(0, 8)))
    slates = guarded_slates(score, rating, allowed, k, rails, config, rng, explored)
    for row, slate in enumerate(slates):
        chosen = []
        for place, arm in enumerate(slate.arms.tolist()):
            items = open_items(rails, rating[row], allowed[row], chosen, k)
            assert arm in items
            open_now = slate.allowed & (slate.closed_at > place)
            open_now[chosen] = False
            assert np.flatnonzero(open_now).tolist() == items  # the event says what was possible
            chosen.append(arm)
        assert (slate.propensity > 0).all()
        assert (slate.propensity <= 1 + 1e-12).all()
        if len(chosen) < k:
            assert not open_items(rails, rating[row], allowed[row], chosen, k)
            assert slate.reason
        else:
            assert slate.reason is None


@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 12), st.floats(0, 1), st.booleans(), st.integers(0, 50))
def test_without_guardrails_the_law_is_that_of_plain_lists(arms, k, top, share, explored, seed):
    rng = np.random.default_rng(seed)
    score, allowed = rng.permutation(arms).astype(float), rng.random(arms) < 0.8
    allowed[rng.integers(arms)] = True
    config = ExplorationConfig(share=share, top=top)
    plain = choose_slate(score, allowed, k, config, rng, explored)
    guarded = guarded_slates(
        score[np.newaxis], np.full((1, arms), 3.0), allowed[np.newaxis], k, guardrails([()] * arms), config, rng,
        np.array([explored]), plain.arms[np.newaxis],
    )[0]  # fmt: skip
    np.testing.assert_allclose(guarded.propensity, plain.propensity, rtol=1e-12, atol=1e-12)
    if not explored:
        free = guarded_slates(
            score[np.newaxis], np.full((1, arms), 3.0), allowed[np.newaxis], k, guardrails([()] * arms), config, rng,
            np.array([False]),
        )[0]  # fmt: skip
        np.testing.assert_array_equal(free.arms, plain.arms)


@settings(max_examples=300)
@given(st.data())
def test_lists_from_a_shortlist_are_those_from_all_items(data):
    """Lists of the shortlist are those of the whole catalog, with the same propensities and records."""
    arms, users = data.draw(st.integers(9, 40)), 3
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    category = [sorted(rng.choice(3, rng.integers(0, 3), replace=False).tolist()) for _ in range(arms)]
    low = data.draw(st.integers(0, 2))
    rails = guardrails(
        category, caps=data.draw(st.dictionaries(st.integers(0, 2), st.integers(0, 3))),
        blocked=rng.choice(arms, 2).tolist(), marked=rng.choice(arms, 5).tolist(),
        max_marked=data.draw(st.integers(low, 4)), min_marked=low, min_rating=data.draw(st.sampled_from([None, 2.0])),
        diversity=data.draw(st.sampled_from([0.0, 0.1, 0.6])), novelty=data.draw(st.sampled_from([0.0, 0.2])),
    )  # fmt: skip
    integers = data.draw(st.booleans())
    score = rng.integers(0, 9, (users, arms)).astype(float) if integers else rng.normal(size=(users, arms))
    rating, allowed = rng.uniform(1, 5, (users, arms)), rng.random((users, arms)) < 0.8
    k, config = data.draw(st.integers(1, 6)), ExplorationConfig(share=0.3, top=data.draw(st.sampled_from([0, 3, 20])))
    nobody, base = np.zeros(users, bool), rails.base_mask(allowed, rating)
    part = static_scores(score, base, rails), base, rating, allowed, k, rails, config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guarded_shortlists, "SHORTLIST", 4)
        short = guarded_shortlists.lists_from_shortlists(*part)
    whole = guarded_lists._from_catalog(*part, rng, nobody, None)
    for one, other in zip(short, whole, strict=True):
        if other.tied:
            assert one is None
        elif rails.diversity:
            assert one is not None
        if one is not None:
            event(f"a list of {len(one.arms)}")
            np.testing.assert_array_equal(one.arms, other.arms)
            np.testing.assert_allclose(one.propensity, other.propensity, rtol=1e-12)
            np.testing.assert_array_equal(one.closed_at, other.closed_at)
            assert (one.reason, one.explored, one.tied) == (other.reason, other.explored, other.tied)


def test_a_catalog_is_served_from_shortlists_and_what_they_cannot_decide_from_all_items(monkeypatch):
    rng, arms = np.random.default_rng(3), 60
    monkeypatch.setattr(guarded_shortlists, "SHORTLIST", 8)
    rails = guardrails([[number % 3] for number in range(arms)], caps={0: 1, 1: 1, 2: 1}, diversity=0.2)
    score, allowed = rng.normal(size=(5, arms)), np.ones((5, arms), bool)
    score[4] = 1.0  # all tie
    found = guarded_slates(score, score, allowed, 3, rails, ExplorationConfig(), rng, np.zeros(5, bool))
    assert [len(slate.arms) for slate in found] == [3] * 5
    assert [slate.tied for slate in found] == [False] * 4 + [True]


def test_weights_of_zero_change_no_list_and_no_propensity():
    none = draw(guardrails(CATEGORY), SCORE)
    zero = draw(guardrails(CATEGORY, diversity=0.0, novelty=0.0), SCORE)
    np.testing.assert_array_equal(none.arms, zero.arms)
    np.testing.assert_array_equal(none.propensity, zero.propensity)
    assert none.arms.tolist() == [0, 1, 2]


def test_a_short_list_names_what_closed_the_other_items():
    rails = guardrails(CATEGORY, caps={0: 1, 1: 1}, blocked=[3], min_rating=4.0)
    slate = draw(rails, SCORE, k=4)
    assert slate.arms.tolist() == [0, 5]
    assert slate.reason == (
        "2 of 4 places are filled: 1 item is blocked; 2 are predicted below min_rating 4; these categories are"
        " full: Action"
    )
    assert slate.closed_at.tolist() == [NEVER_CLOSED, 1, NEVER_CLOSED, NEVER_CLOSED, NEVER_CLOSED, NEVER_CLOSED]
    paid = draw(guardrails(CATEGORY, marked=[0, 1, 2, 3, 4, 5], max_marked=2), SCORE)
    assert paid.reason == "2 of 3 places are filled: max_marked 2 is used"
    reserved = draw(guardrails(CATEGORY, marked=[5], min_marked=2), SCORE)
    assert reserved.arms.tolist() == [0, 5]
    assert reserved.reason == ("2 of 3 places are filled: the other places are for marked items (min_marked 2)")
    assert draw(guardrails(CATEGORY), SCORE, k=9).reason == "6 of 9 places are filled: the filters allow no more"


def best_two(rails, score):
    config, rng = ExplorationConfig(share=0.0), np.random.default_rng(0)
    allowed = np.ones((1, 3), bool)
    slates = guarded_slates(score[None], RATING[None, :3], allowed, 2, rails, config, rng, np.array([False]))
    return slates[0].arms.tolist()


def test_diversity_takes_the_dissimilar_item_and_novelty_the_rare_one():
    rails = guardrails([(), (), ()], diversity=0.5)
    rails.catalog.direction[:] = [[1, 0], [1, 0], [0, 1]]
    score = np.array([1.0, 0.9, 0.0])  # .5 * .9 - .5 * 1 = -.05 < .5 * 0 - .5 * 0 = 0
    assert best_two(rails, score) == [0, 2]
    rails = guardrails([(), (), ()], novelty=0.5)
    rails.catalog.popularity[:] = [1.0, 0.2, 0.0]  # 1 - .5, .9 - .1, 0
    assert best_two(rails, score) == [1, 0]
