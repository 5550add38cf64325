import dataclasses
import json

import numpy as np
import pytest
from small_cases import model_of, planted_split, ratings_of, split_of

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.evaluation.evaluate_tables import evaluate_tables
from recpolicy.evaluation.policy_scores import PolicyTables, baseline_tables

NUMBERS = ["rmse", "mae", "ndcg", "held_out_choice", "normalized_choice", "coverage", "novelty"]


@pytest.fixture(scope="module")
def planted():
    """A split, its true expectations and the evaluation of the baselines, a knowing and an ignorant policy."""
    split, truth = planted_split()
    tables = baseline_tables(split.train, model_of(split.train, truth))
    tables["shuffled"] = PolicyTables(np.random.default_rng(1).permuted(truth, axis=1))
    return split, truth, evaluate_tables(split, tables, seed=3)


def test_every_number_of_a_small_split():
    # 2 users, 4 items. Fit: item 0 rated by both. Test: u0 rates items 1, 2 with 5, 2; u1 items 2, 3 with 3, 4.
    split = split_of([(0, 0, 4), (1, 0, 2)], [(0, 1, 5), (0, 2, 2), (1, 2, 3), (1, 3, 4)], users=2, items=4)
    score = np.array([[9, 3, 2, 1], [9, 1, 3, 2]], float)
    found = evaluate_tables(split, {"policy": PolicyTables(score, rating=score)}, seed=0, k=1)
    result = found.policies["policy"]
    # errors: 3-5, 2-2, 3-3, 2-4
    assert result.rmse == pytest.approx(np.sqrt(8 / 4))
    assert result.mae == 1
    # u0 chooses 5 (right), u1 chooses 3 (gain 7 of 15)
    assert result.held_out_choice.value == 4
    assert (found.random.value, found.oracle.value) == (3.5, 4.5)
    assert result.normalized_choice.value == 0.5
    assert result.ndcg.value == pytest.approx((1 + 7 / 15) / 2)
    # best items unrated in fit: 1 and 2, 2 of 4 items; each has 0 raters among 2 users: -log2(1/3)
    assert result.coverage == 0.5
    assert result.novelty == pytest.approx(np.log2(3))
    assert (found.users, found.test_ratings, found.k) == (2, 4, 1)


def test_random_baseline_is_the_analytic_random_choice(planted):
    _, _, evaluation = planted
    assert evaluation.policies["random"].held_out_choice == evaluation.random
    assert evaluation.policies["random"].normalized_choice.value == 0


def test_a_policy_that_knows_the_truth_beats_all_baselines(planted):
    _, _, evaluation = planted
    knowing = evaluation.policies["rating_model"]
    for name in ("random", "most_popular", "highest_mean"):
        assert knowing.held_out_choice.lo > evaluation.policies[name].held_out_choice.hi
        assert evaluation.difference("rating_model", name).lo > 0
    # noise of 0.5 and rounding (variance about 1/12) bound the error from below: sqrt(.25 + .083) = .577; clipping adds
    assert 0.5 < knowing.rmse < 0.65
    assert knowing.rmse < evaluation.policies["highest_mean"].rmse


def test_shuffled_scores_are_worth_nothing(planted):
    _, _, evaluation = planted
    place = evaluation.policies["shuffled"].normalized_choice
    assert place.lo < 0 < place.hi


def test_ratings_as_scores_reach_the_oracle(planted):
    split, _, _ = planted
    score = np.where(np.isnan(split.test.matrix()), 0, split.test.matrix())
    result = evaluate_tables(split, {"seer": PolicyTables(score)}, seed=3)
    assert result.policies["seer"].held_out_choice == result.oracle
    assert result.policies["seer"].normalized_choice.value == 1
    assert result.policies["seer"].ndcg.value == pytest.approx(1)


def test_numbers_do_not_depend_on_the_other_policies_or_on_the_order_of_rows(planted):
    split, truth, evaluation = planted
    rng = np.random.default_rng(0)
    shuffled = dataclasses.replace(split, test=split.test.take(rng.permutation(len(split.test))))
    alone = evaluate_tables(shuffled, {"rating_model": PolicyTables(truth.astype(np.float32))}, seed=3)
    assert alone.policies["rating_model"].held_out_choice == evaluation.policies["rating_model"].held_out_choice
    assert alone.policies["rating_model"].normalized_choice == evaluation.policies["rating_model"].normalized_choice
    assert alone.policies["rating_model"].ndcg == evaluation.policies["rating_model"].ndcg


def test_renumbering_users_changes_no_value(planted):
    split, truth, evaluation = planted
    order = np.random.default_rng(0).permutation(len(truth))  # new user n was order[n]
    place = np.argsort(order).astype(np.int32)
    fit, test = (dataclasses.replace(part, user=place[part.user]) for part in (split.train, split.test))
    tables = {"rating_model": PolicyTables(truth[order].astype(np.float32), truth[order].astype(np.float32))}
    found = evaluate_tables(dataclasses.replace(split, train=fit, test=test), tables, seed=3).rows()[NUMBERS]
    expected = evaluation.rows()[NUMBERS].loc["rating_model"]
    np.testing.assert_allclose(found.loc["rating_model"], expected, rtol=1e-9)


def test_probabilities_decide_the_choice_when_given(planted):
    split, truth, evaluation = planted
    uniform = PolicyTables(truth, probability=np.full(truth.shape, 1 / truth.shape[1]))
    sharp = PolicyTables(truth, probability=np.exp(2 * truth))
    found = evaluate_tables(split, {"uniform": uniform, "sharp": sharp}, seed=3).policies
    assert found["uniform"].held_out_choice.value == pytest.approx(evaluation.random.value)
    assert (
        evaluation.random.hi
        < found["sharp"].held_out_choice.value
        < evaluation.policies["rating_model"].held_out_choice.value
    )


def test_same_seed_same_evaluation(planted):
    split, truth, _ = planted
    tables = {"policy": PolicyTables(truth)}
    first, again, other = (evaluate_tables(split, tables, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.policies["policy"].ndcg.value == other.policies["policy"].ndcg.value
    assert first.policies["policy"].ndcg.lo != other.policies["policy"].ndcg.lo


def test_dictionary_is_json_without_nan_and_rows_hold_the_same_numbers(planted):
    _, _, evaluation = planted
    plain = json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))
    rows = evaluation.rows()
    assert list(rows.index) == [*evaluation.policies, "oracle"]
    assert plain["policies"]["random"]["rmse"] is None
    assert np.isnan(rows.loc["random", "rmse"])
    for name in evaluation.policies:
        assert plain["policies"][name]["held_out_choice"]["hi"] == rows.loc[name, "held_out_choice_hi"]
        assert plain["policies"][name]["coverage"] == rows.loc[name, "coverage"]
    assert plain["oracle"]["value"] == rows.loc["oracle", "held_out_choice"]
    assert rows.loc["oracle", "normalized_choice"] == 1


def test_table_is_text_with_dashes_for_what_is_missing(planted):
    _, _, evaluation = planted
    table = evaluation.table()
    assert table.loc["random", "RMSE"] == "–"
    assert table.loc["rating_model", "held-out choice"] == str(evaluation.policies["rating_model"].held_out_choice)
    assert "nDCG@10" in table.columns


def test_users_who_rate_everything_alike_leave_no_place():
    split = split_of([(0, 0, 4)], [(0, 1, 3), (0, 2, 3)], users=1, items=3)
    found = evaluate_tables(split, {"policy": PolicyTables(np.zeros((1, 3)))}, seed=0)
    assert found.policies["policy"].normalized_choice is None
    assert found.table()["normalized"].tolist() == ["–", "–"]
    assert found.rows()["normalized_choice"].isna().all()
    json.dumps(found.as_dict(), allow_nan=False)
    assert found.k == 3  # a catalog smaller than the list


def test_scales_with_negative_ratings_are_ranked():
    triples = [(0, 1, -9.0), (0, 2, 8.0)]
    split = split_of([(0, 0, 4)], [], users=1, items=3)
    wide = dataclasses.replace(split, test=ratings_of(triples, 1, 3, scale=(-10, 10)))
    found = evaluate_tables(wide, {"policy": PolicyTables(np.array([[0.0, 1, 2]]))}, seed=0)
    assert found.policies["policy"].ndcg.value == 1


def test_a_rating_in_both_parts_is_refused_and_named():
    split = split_of([(0, 0, 4), (1, 2, 3)], [(0, 1, 3), (1, 2, 5)], users=2, items=3)
    with pytest.raises(DataError, match=r"1 ratings of the test part .* user u1, item m2"):
        evaluate_tables(split, {}, seed=0)


@pytest.mark.parametrize("field", ["score", "rating", "probability"])
@pytest.mark.parametrize(
    ("bad", "message"), [(np.zeros((3, 2)), "expected .1, 3."), (np.full((1, 3), np.nan), "finite")]
)
def test_tables_must_fit_the_split_and_be_finite(field, bad, message):
    split = split_of([(0, 0, 4)], [(0, 1, 3), (0, 2, 3)], users=1, items=3)
    table = dataclasses.replace(PolicyTables(np.zeros((1, 3))), **{field: bad})
    with pytest.raises(DataError, match=f"'odd'.*{field}.*{message}"):
        evaluate_tables(split, {"odd": table}, seed=0)


def test_comparing_with_an_unknown_policy_names_the_nearest(planted):
    _, _, evaluation = planted
    with pytest.raises(ConfigError, match="Did you mean 'random'"):
        evaluation.difference("rating_model", "randm")


def test_lists_are_described_by_genres_and_by_embeddings_where_there_are_any(planted):
    split, truth, without = planted
    assert without.policies["rating_model"].embedding_diversity is None
    assert without.lists_table().loc["rating_model", "embedding diversity"] == "–"
    # even items along one direction, odd ones along another: lists of even items only are all alike
    embedding = np.eye(2)[np.arange(truth.shape[1]) % 2]
    even = PolicyTables(truth - 10.0 * (np.arange(truth.shape[1]) % 2))
    found = evaluate_tables(split, {"even": even, "all": PolicyTables(truth)}, seed=3, embedding=embedding).policies
    assert found["even"].embedding_diversity == pytest.approx(0)
    assert 0.3 < found["all"].embedding_diversity < 0.7
    assert found["all"].genre_diversity is None  # hand-made items have no genres


def test_random_lists_are_shown_equally_and_popular_ones_are_not(planted):
    _, _, evaluation = planted
    gini = evaluation.rows()["gini"]
    assert gini["random"] < 0.1 < gini["rating_model"] < gini["most_popular"] < 1


@pytest.mark.parametrize("embedding", [np.ones((59, 2)), np.ones(60), np.full((60, 2), np.nan)])
def test_embeddings_of_other_items_are_refused(planted, embedding):
    split, truth, _ = planted
    with pytest.raises(DataError, match=r"expected \(60, D\) finite"):
        evaluate_tables(split, {"policy": PolicyTables(truth)}, seed=3, embedding=embedding)


def test_groups_part_the_users_and_their_differences_are_paired(planted):
    split, truth, _ = planted
    gender = np.where(np.arange(len(truth)) % 3 == 0, "F", "M")
    fit = dataclasses.replace(split.train, users=split.train.users.assign(gender=gender))
    tables = baseline_tables(fit, model_of(fit, truth))
    found = evaluate_tables(dataclasses.replace(split, train=fit), tables, seed=3)
    groups = found.policies["rating_model"].groups
    assert {"gender F", "gender M"} <= set(groups)
    women, men = groups["gender F"], groups["gender M"]
    assert women.users + men.users == found.users
    mean = (women.interval.value * women.users + men.interval.value * men.users) / found.users
    assert mean == pytest.approx(found.policies["rating_model"].held_out_choice.value)
    gains = found.group_difference("rating_model", "random")
    assert gains["gender F"].interval.value == pytest.approx(
        women.interval.value - found.policies["random"].groups["gender F"].interval.value
    )
    itself = found.group_difference("rating_model", "rating_model")["gender F"].interval
    assert itself.value == 0
    assert itself.hi == -itself.lo > 0  # the next user may choose differently
    table = found.group_table()
    assert table.loc["gender F", "rating_model"] == str(women.interval)
    assert table.loc["gender F", "users"] == women.users
    with pytest.raises(ConfigError, match="Did you mean 'random'"):
        found.group_difference("rating_model", "randon")
    json.dumps(found.as_dict(), allow_nan=False)
