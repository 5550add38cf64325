"""A utility over a tiny policy: heads by hand, slates, the reserve, own files and one-line errors."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny_policies import tiny_artifact

from recpolicy.core.errors import ConfigError, DataError, UnknownIdError
from recpolicy.inference.ranking_utility import HEADS, RankingUtility, read_own_heads
from recpolicy.inference.scorer import Scorer
from recpolicy.models.ranking_formula import HeadScaling

GENRES = ["Drama", "Comedy|Drama", "Action", "Action", "Comedy", "Drama"]


@pytest.fixture(scope="module")
def scorer():
    """Six items, 101 to 106; user 2 rated the first (Drama) and third (Action), user 1 the first."""
    artifact = tiny_artifact(items=6)
    items = artifact.items.assign(genres=GENRES, year=pd.array([1990, None, 1992, 1994, 1996, 1998], dtype="Int64"))
    rated = {"rated_user": np.array([1, 1, 0], np.int32), "rated_item": np.array([0, 2, 0], np.int32)}
    return Scorer(replace(artifact, items=items, **rated))


def test_every_head_has_a_value_and_scaled_ones_reach_from_0_to_1(scorer):
    utility = RankingUtility(scorer, HEADS)
    scaled = utility.heads(list(scorer.user_ids))
    assert scaled.shape == (7, 6, len(HEADS))
    assert scaled.min(axis=(0, 1)).tolist() == [0] * len(HEADS)
    assert scaled.max(axis=(0, 1)).tolist() == [1] * len(HEADS)


def test_heads_by_hand(scorer):
    raw = RankingUtility(scorer, ["popularity", "novelty", "genre_match", "recency"]).raw_heads([2])[0]
    assert raw[:, 0].tolist() == [1, 0, 0.5, 0, 0, 0]  # two, none, one rating of two at most
    assert raw[:3, 1] == pytest.approx(-np.log2([3 / 8, 1 / 8, 2 / 8]))
    # Profile of user 2: Drama and Action in equal parts, so the cosine with Drama is 1 / sqrt 2, with Comedy|Drama 1/2.
    assert raw[:, 2] == pytest.approx([0.5**0.5, 0.5, 0.5**0.5, 0.5**0.5, 0, 0.5**0.5], abs=1e-6)
    assert raw[:, 3].tolist() == [1990, 1994, 1992, 1994, 1996, 1998]  # the unknown year is the mean one


def test_probabilities_without_levels_come_from_the_rating_and_its_spread(scorer):
    from scipy.stats import norm

    raw = RankingUtility(scorer, ["rating", "like", "top", "no_dislike"]).raw_heads([3])[0].T
    spread = np.sqrt(scorer.artifact.rating_std[2] ** 2 + 0.25)
    assert raw[1] == pytest.approx(norm.cdf((raw[0] - 3.5) / spread), abs=1e-4)
    assert raw[2] == pytest.approx(norm.cdf((raw[0] - 4.5) / spread), abs=1e-4)
    assert raw[3] == pytest.approx(norm.cdf((raw[0] - 2.5) / spread), abs=1e-4)


def test_the_policy_s_own_score_alone_gives_its_own_list(scorer):
    utility = RankingUtility(scorer, ["score", "novelty"])
    slates = utility.slates([1, 4], np.array([1.0, 0.0]), 6, exclude_rated=False)
    assert np.array_equal(slates.arms, np.argsort(-scorer.predict([1, 4]).score, axis=1))
    assert not slates.fallback.any()


def test_weights_of_each_user_and_rated_items(scorer):
    utility = RankingUtility(scorer, ["recency", "popularity"])
    slates = utility.slates([2, 1], np.array([[1.0, 0.0], [-1.0, 0.0]]), 3)
    assert slates.arms.tolist() == [[5, 4, 1], [2, 1, 3]]  # newest without 101 and 103; oldest without 101


def test_a_reserve_that_leaves_nothing_falls_back_to_the_static_weights(scorer):
    utility = RankingUtility(scorer, ["recency", "popularity"], reserve_head="popularity")
    slates = utility.slates([2, 1], np.array([1.0, 0.0]), 3, reserve=0.5, static=np.array([-1.0, 0.0]))
    # User 2 rated the only two popular items; user 1 has not rated item 103, whose popularity is 0.5.
    assert slates.fallback.tolist() == [True, False]
    assert slates.arms.tolist() == [[1, 3, 4], [2, -1, -1]]


def test_heads_do_not_depend_on_who_else_is_served(scorer):
    utility = RankingUtility(scorer, ["like", "recency"])
    assert utility.heads([5])[0] == pytest.approx(utility.heads([1, 5, 7])[1], abs=1e-6)


def test_a_new_user_is_described_by_ratings(scorer):
    utility = RankingUtility(scorer, ["like", "genre_match"])
    slates = utility.slates(["new"], np.array([0.0, 1.0]), 2, fold_in={"new": {103: 5.0}})
    assert slates.arms[0, 0] == 3  # the other action film


def test_own_heads_of_pairs_and_of_items(scorer, tmp_path):
    pairs = pd.DataFrame([(u, i, u * 100.0 + i) for u in scorer.user_ids for i in scorer.item_ids])
    pairs.columns = ["user_id", "item_id", "margin"]
    pairs.to_parquet(tmp_path / "pairs.parquet")
    pd.DataFrame({"item_id": scorer.item_ids, "price": [3, 1, 2, 5, 4, 6], "note": "x"}).to_csv(
        tmp_path / "items.csv", index=False
    )
    own = read_own_heads(scorer, tmp_path / "pairs.parquet", tmp_path / "items.csv")
    raw = RankingUtility(scorer, ["margin", "price"], own).raw_heads([3])[0]
    assert raw[:, 0].tolist() == [401, 402, 403, 404, 405, 406]
    assert raw[:, 1].tolist() == [3, 1, 2, 5, 4, 6]


def test_bad_heads_are_errors_of_one_line(scorer, tmp_path):
    with pytest.raises(
        ConfigError, match=r"no head named 'novlty'\. Did you mean 'novelty'\? Known: genre_match, like"
    ):
        RankingUtility(scorer, ["like", "novlty"])
    with pytest.raises(DataError, match=r"head 'recency' is 0 for every user and item"):
        RankingUtility(Scorer(tiny_artifact()), ["recency"])
    pd.DataFrame({"item_id": [101, 102], "price": [3.0, 4.0]}).to_parquet(tmp_path / "items.parquet")
    own = read_own_heads(scorer, items=tmp_path / "items.parquet")
    with pytest.raises(DataError, match="head 'price': 28 of 42 values are not finite"):
        RankingUtility(scorer, ["price"], own)
    bounds = HeadScaling(("price",), np.array([0.0]), np.array([5.0]))
    with pytest.raises(DataError, match="head 'price' has no value for user 1 and item 103"):
        RankingUtility(scorer, ["price"], own, bounds).heads([1])
    with pytest.raises(ConfigError, match="a reserve needs a reserve head"):
        RankingUtility(scorer, ["like"]).slates([1], np.array([1.0]), 1, reserve=0.1)
    with pytest.raises(UnknownIdError, match="no user with id 99"):
        RankingUtility(scorer, ["like"]).slates([99], np.array([1.0]), 1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"item_id": [101, 101], "price": [1, 2]}, "item_id 101 occurs twice"),
        ({"item": [101], "price": [1]}, "no column 'item_id'"),
        ({"item_id": [101], "note": ["x"]}, "no column of numbers"),
        ({"item_id": [101], "novelty": [1.0]}, "own head 'novelty': the name is taken"),
    ],
)
def test_bad_tables_of_heads(scorer, tmp_path, table, message):
    pd.DataFrame(table).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        read_own_heads(scorer, items=tmp_path / "t.parquet")
