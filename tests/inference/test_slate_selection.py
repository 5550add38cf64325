"""What is shown: only what is allowed, the best of it or a draw, and propensities that are exact by enumeration."""

from collections import Counter
from dataclasses import replace
from itertools import permutations
from math import prod

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_policies import tiny_artifact

from recpolicy.core.errors import ConfigError, DataError, UnknownIdError
from recpolicy.inference.scorer import Scorer
from recpolicy.inference.slate_selection import (
    ExplorationConfig,
    _chances,
    allowed_rows,
    choose_slate,
    explain,
    greedy_slate,
    mixed_propensity,
)

GENRES = ["Drama", "Comedy|Drama", "", "Action", "Comedy", "Drama"]
YEARS = [1990, None, 1995, 1995, 2001, 1960]
EVERYTHING = np.ones(6, bool)


def slate_propensity(score, allowed, arms, pool, share):
    """The propensities [K] of any slate, drawn or not: those that choose_slate logs for its own."""
    return mixed_propensity(*_chances(score, allowed, arms, pool), share)


@pytest.fixture(scope="module")
def scorer():
    """Six items, 101 to 106, of which the catalog leaves out the third; user 2 rated the first and the last."""
    artifact = tiny_artifact(items=6)
    items = artifact.items.assign(genres=GENRES, year=pd.array(YEARS, dtype="Int64"))
    keep = np.array([5, 0, 1, 3, 4], np.int32)
    policy = {name: part[:5] if part.ndim else part for name, part in artifact.policy.items()}
    rated = {"rated_user": np.array([1, 1], np.int32), "rated_item": np.array([0, 5], np.int32)}
    return Scorer(replace(artifact, items=items, action_items=keep, policy=policy, **rated))


def shown(scorer, **words):
    arms = allowed_rows(scorer, words.pop("user", 1), **words)
    return [scorer.item_ids[row] for row in scorer.action_items[arms]]


def test_everything_in_the_catalog_is_allowed_to_who_has_rated_nothing(scorer):
    assert shown(scorer) == [106, 101, 102, 104, 105]


def test_rated_items_are_left_out_unless_asked_for(scorer):
    assert shown(scorer, user=2) == [102, 104, 105]
    assert shown(scorer, user=2, exclude_rated=False) == [106, 101, 102, 104, 105]
    assert shown(scorer, user="new", fold_in={"new": {104: 5.0}}) == [106, 101, 102, 105]


def test_filters_take_any_of_the_genres_and_both_ends_of_the_years(scorer):
    assert shown(scorer, genres=["Action", "Comedy"]) == [102, 104, 105]
    assert shown(scorer, years=(1990, 1995)) == [101, 104]
    assert shown(scorer, years=(1990, None)) == [101, 104, 105]  # 102 is of no known year
    assert shown(scorer, years=(None, 1990)) == [106, 101]
    assert shown(scorer, user=2, genres=["Drama"], exclude_items=[101]) == [102]
    assert shown(scorer, exclude_items=[103, 106]) == [101, 102, 104, 105]


def test_what_cannot_be_is_refused(scorer):
    with pytest.raises(ConfigError, match=r"no genre named 'Dramma'. Did you mean 'Drama'\? Known: Action, Comedy, Dr"):
        allowed_rows(scorer, 1, genres=["Comedy", "Dramma"])
    with pytest.raises(DataError, match="no item is left to recommend"):
        allowed_rows(scorer, 1, years=(2005, None))
    with pytest.raises(UnknownIdError, match="no item with id 7 in"):
        allowed_rows(scorer, 1, exclude_items=[7])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_the_greedy_slate_is_the_best_of_the_allowed_in_order(scores, data):
    score = np.array(scores, np.float64)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(score), max_size=len(score))))
    k = data.draw(st.integers(1, 14))
    arms = greedy_slate(score, allowed, k, np.random.default_rng(0))
    assert len(set(arms.tolist())) == len(arms) == min(k, allowed.sum())
    assert allowed[arms].all()
    assert score[arms].tolist() == np.sort(score[allowed])[::-1][:k].tolist()


def test_ties_are_drawn_by_the_lot_alone():
    score = np.array([1.0, 2.0, 2.0, 2.0, 0.0])
    lots = [greedy_slate(score, np.ones(5, bool), 2, np.random.default_rng(seed)) for seed in range(600)]
    first = Counter(int(arms[0]) for arms in lots)
    assert set(first) == {1, 2, 3}
    assert all(abs(count - 200) < 4.5 * np.sqrt(600 * 2 / 9) for count in first.values())
    again = greedy_slate(score, np.ones(5, bool), 2, np.random.default_rng(5))
    np.testing.assert_array_equal(again, lots[5])


@pytest.mark.parametrize("words", [{"share": -0.1}, {"share": 1.1}, {"share": np.nan}, {"top": -1}, {"top": 2.5}])
def test_exploration_that_cannot_be_is_refused(words):
    with pytest.raises(ConfigError, match=f"ExplorationConfig: {next(iter(words))} is"):
        ExplorationConfig(**words)


def test_a_slate_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="k is 0"):
        choose_slate(np.zeros(3), np.ones(3, bool), 0, ExplorationConfig(), np.random.default_rng(0))


def probability_by_hand(score, allowed, slate, pool, share):
    """P(slate): every order of the ties alike, the pool its first `pool` arms, and a uniform draw from that."""
    every = permutations([int(arm) for arm in np.flatnonzero(allowed)])
    orders = [order for order in every if (np.diff(score[list(order)]) <= 0).all()]
    greedy = np.mean([order[: len(slate)] == slate for order in orders])
    one = prod(1 / (pool - place) for place in range(len(slate)))
    drawn = np.mean([one if set(slate) <= set(order[:pool]) else 0.0 for order in orders])
    return share * drawn + (1 - share) * greedy


WORLDS = {
    "no ties": ([3.0, 1.0, 2.0, 5.0, 4.0], [1, 1, 1, 1, 1], 2, 3, 0.2),
    "ties inside": ([3.0, 3.0, 2.0, 5.0, 3.0], [1, 1, 1, 1, 1], 3, 4, 0.3),
    "ties at the edge of the pool": ([3.0, 1.0, 3.0, 5.0, 3.0], [1, 1, 1, 1, 1], 2, 3, 0.5),
    "all tie": ([1.0, 1.0, 1.0, 1.0, 1.0], [1, 1, 0, 1, 1], 2, 3, 0.4),
    "all are drawn from": ([3.0, 1.0, 2.0, 2.0, 4.0], [1, 1, 1, 1, 0], 3, 0, 0.1),
    "always explored": ([3.0, 1.0, 2.0, 2.0, 4.0], [1, 1, 1, 1, 1], 2, 3, 1.0),
    "never explored": ([3.0, 1.0, 2.0, 2.0, 4.0], [1, 1, 1, 1, 1], 3, 3, 0.0),
    "a slate longer than the pool": ([3.0, 1.0, 2.0, 5.0, 4.0], [1, 1, 1, 1, 1], 3, 1, 0.5),
    "fewer than asked": ([3.0, 1.0, 2.0, 5.0, 4.0], [1, 0, 0, 0, 1], 4, 50, 0.5),
}


@pytest.mark.parametrize("world", WORLDS)
def test_propensities_are_exact_by_enumeration_and_by_simulation(world):
    scores, flags, k, top, share = WORLDS[world]
    score, allowed, config = np.array(scores), np.array(flags, bool), ExplorationConfig(share=share, top=top)
    left = int(allowed.sum())
    pool, k_left = min(max(top, k), left) if top else left, min(k, left)
    claimed = {}
    for slate in permutations([int(arm) for arm in np.flatnonzero(allowed)], k_left):
        by_hand = probability_by_hand(score, allowed, slate, pool, share)
        if by_hand > 0:
            claimed[slate] = prod(slate_propensity(score, allowed, np.array(slate), pool, share))
            assert claimed[slate] == pytest.approx(by_hand)
    assert sum(claimed.values()) == pytest.approx(1)
    rng, draws = np.random.default_rng(3), 4_000
    count = Counter()
    for _ in range(draws):
        slate = choose_slate(score, allowed, k, config, rng)
        key = tuple(slate.arms.tolist())
        assert prod(slate.propensity) == pytest.approx(claimed[key])
        count[key] += 1
    for key, p in claimed.items():
        assert abs(count[key] / draws - p) < 4.5 * np.sqrt(p * (1 - p) / draws) + 1e-12


@settings(max_examples=200)
@given(
    score=st.lists(st.integers(0, 6) | st.floats(-5, 5), min_size=1, max_size=20),
    k=st.integers(1, 25), top=st.integers(0, 25), share=st.sampled_from([0.0, 0.005, 0.5, 1.0]),
    seed=st.integers(0, 99), data=st.data(),
)  # fmt: skip
def test_every_propensity_is_a_probability_and_prefixes_share_theirs(score, k, top, share, seed, data):
    score = np.array(score, np.float64)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(score), max_size=len(score))))
    allowed[data.draw(st.integers(0, len(score) - 1))] = True
    slate = choose_slate(score, allowed, k, ExplorationConfig(share=share, top=top), np.random.default_rng(seed))
    assert len(slate.arms) == min(k, allowed.sum()) == len(slate.propensity)
    assert slate.propensity.dtype == np.float64
    assert ((slate.propensity > 0) & (slate.propensity <= 1 + 1e-12)).all()
    if share == 0 and len(set(score.tolist())) == len(score):
        assert (slate.propensity == 1).all()
        assert not slate.explored


@given(st.integers(2, 7), st.integers(1, 7), st.integers(0, 7), st.floats(0, 1), st.integers(0, 9))
def test_at_each_place_the_propensities_of_all_items_sum_to_one(arms, k, top, share, seed):
    rng = np.random.default_rng(seed)
    score, allowed, k = rng.integers(0, 4, arms).astype(float), np.ones(arms, bool), min(k, arms)
    pool = min(max(top, k), arms) if top else arms
    slate = choose_slate(score, allowed, k, ExplorationConfig(share=share, top=top), rng)
    for place in range(k):
        before = slate.arms[:place]
        others = [arm for arm in range(arms) if arm not in before]
        each = [slate_propensity(score, allowed, np.array([*before, arm]), pool, share)[place] for arm in others]
        assert sum(each) == pytest.approx(1)


def test_an_arm_that_could_not_be_shown_has_no_probability():
    score = np.array([3.0, 2.0, 1.0, 0.0])
    np.testing.assert_array_equal(slate_propensity(score, np.ones(4, bool), np.array([0, 3]), 2, 0.5), [0.75, 0])
    np.testing.assert_array_equal(slate_propensity(score, np.ones(4, bool), np.array([3, 2, 0]), 3, 0.5)[1:], [0, 0])


def test_long_slates_do_not_underflow():
    score = np.arange(1500.0)
    slate = choose_slate(
        score, np.ones(1500, bool), 400, ExplorationConfig(share=1e-9, top=0), np.random.default_rng(0)
    )
    assert (slate.propensity > 1 - 1e-8).all()
    drawn = choose_slate(score, np.ones(1500, bool), 400, ExplorationConfig(share=1.0, top=0), np.random.default_rng(0))
    rare = slate_propensity(score, np.ones(1500, bool), drawn.arms, 1500, 1e-9)
    assert drawn.explored
    assert rare[0] == pytest.approx(1e-9 / 1500)
    np.testing.assert_allclose(rare[1:], 1 / (1500 - np.arange(1, 400)))  # no greedy slate begins so


def test_exploration_stays_among_the_best():
    score, rng = np.arange(100.0), np.random.default_rng(0)
    slates = [choose_slate(score, np.ones(100, bool), 5, ExplorationConfig(share=1.0, top=10), rng) for _ in range(200)]
    assert {int(arm) for slate in slates for arm in slate.arms} == set(range(90, 100))
    assert all(slate.explored for slate in slates)


def nearest_by_hand(scorer, row, rated, count):
    item = scorer.artifact.item.astype(float)
    unit = item / np.linalg.norm(item, axis=1, keepdims=True)
    cosine = {other: unit[other] @ unit[row] for other in rated if other != row}
    return sorted(cosine, key=lambda r: -cosine[r])[:count]


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_items_are_explained_by_the_nearest_rated_ones(count):
    artifact = tiny_artifact(items=12)
    rated = np.array([3, 7, 1, 11, 0], np.int32)
    scorer = Scorer(replace(artifact, rated_user=np.full(5, 2, np.int32), rated_item=rated))
    rows = [4, 7, 2, 0]
    wanted = [nearest_by_hand(scorer, row, rated.tolist(), count) for row in rows]
    assert explain(scorer, 3, rows, count=count) == wanted
    assert explain(scorer, 3, np.array(rows, np.int32), count=count) == wanted


def test_newcomers_are_told_of_what_they_liked(scorer):
    fold_in = {"new": {101: 5.0, 102: 3.0, 105: 3.5}}
    assert explain(scorer, "new", [3], fold_in, count=5) == [nearest_by_hand(scorer, 3, [0, 4], 5)]
    assert explain(scorer, "new", [3, 5], {"new": {101: 1.0}}) == [[], []]


def test_nothing_is_explained_to_who_is_not_known_or_rated_nothing(scorer):
    assert explain(scorer, None, [0, 1]) == [[], []]
    assert explain(scorer, 1, [0]) == [[]]
    assert explain(scorer, 2, []) == []


@pytest.mark.parametrize(("score", "tied"), [([3.0, 2.0, 2.0, 1.0], True), ([3.0, 2.0, 1.0, 1.0], False)])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_greedy_slate_says_whether_a_lot_decided_it(score, tied, share):
    rng = np.random.default_rng(0)
    everything = np.ones(4, bool)
    slate = choose_slate(np.array(score), everything, 2, ExplorationConfig(share=share, top=4), rng, explored=False)
    assert slate.tied == tied
    assert not choose_slate(np.array(score), everything, 2, ExplorationConfig(share=1.0), rng, explored=True).tied
