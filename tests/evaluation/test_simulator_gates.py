"""The figures of the validation card: by hand, by brute force, as laws, on generators that we planted."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recpolicy.core.errors import DataError
from recpolicy.evaluation.gate import Criterion
from recpolicy.evaluation.simulator_gates import (
    PolicyValue,
    SimulatorCard,
    ValidationData,
    auc,
    calibration_bins,
    calibration_error,
    genre_transitions,
    ks_critical_value,
    ks_statistic,
    log_loss,
    rank_agreement,
    total_variation,
)

RNG = np.random.default_rng(9)
labelled = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=25)


def pairs_won(outcome, score):
    """AUC by counting every pair of a like and a miss."""
    wins = [1.0 if one > other else 0.5 if one == other else 0.0
            for one, liked in zip(score, outcome, strict=True) if liked
            for other, too in zip(score, outcome, strict=True) if not too]  # fmt: skip
    return np.mean(wins)


@given(labelled)
def test_auc_counts_pairs_and_ties_half(rows):
    outcome, score = (np.array(column) for column in zip(*rows, strict=True))
    assume(outcome.any() and not outcome.all())
    quality = auc(outcome, score.astype(float))
    assert quality == pytest.approx(pairs_won(outcome, score))
    assert auc(outcome, np.exp(score) + 7.0) == pytest.approx(quality)  # order is all that counts
    assert auc(outcome, np.zeros(len(score))) == 0.5


@pytest.mark.parametrize("only", [True, False])
def test_auc_of_one_class_is_refused(only):
    with pytest.raises(DataError, match="expected both likes and non-likes"):
        auc(np.full(4, only), np.arange(4.0))


def test_distances_by_hand():
    assert ks_statistic(np.array([1, 2, 3, 4]), np.array([3, 4, 5, 6])) == 0.5
    assert ks_statistic(np.array([1, 2, 3]), np.array([1, 2, 3])) == 0
    assert ks_statistic(np.array([1, 1]), np.array([2, 2])) == 1
    assert ks_critical_value(100, 100) == pytest.approx(1.358 * np.sqrt(0.02))


def test_probabilities_that_are_right_are_calibrated_and_shifted_ones_are_not():
    odds = RNG.normal(0, 1.5, 20_000)
    probability = 1 / (1 + np.exp(-odds))
    outcome = RNG.random(len(odds)) < probability
    assert calibration_error(probability, outcome) < 0.015  # about sqrt(.25 / 2000) = .011 at most
    assert calibration_error(1 / (1 + np.exp(-odds - 1.5)), outcome) > 0.15
    assert log_loss(odds, outcome) < log_loss(odds + 1.5, outcome)


def test_calibration_by_hand():
    # .1 and .3 with no like, .7 and .9 with one: means .2 and .8, shares 0 and .5
    probability, outcome = np.array([0.9, 0.1, 0.3, 0.7]), np.array([True, False, False, False])
    said, was, size = calibration_bins(probability, outcome, bins=2)
    assert (said.tolist(), was.tolist(), size.tolist()) == (pytest.approx([0.2, 0.8]), [0, 0.5], [2, 2])
    assert calibration_error(probability, outcome, bins=2) == pytest.approx(0.25)
    assert log_loss(np.array([0.0, np.log(3)]), np.array([True, False])) == pytest.approx(np.log(2) / 2 + np.log(4) / 2)


def test_transitions_join_likes_across_misses_but_not_across_sessions():
    genres = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], float)
    item = np.array([[0, 1, 2], [1, 3, 0]])
    liked = np.array([[True, False, True], [True, True, True]])
    # session 1: item 0 -> 2, half to each genre; session 2: 1 -> 0, for item 3 has no genre
    np.testing.assert_allclose(genre_transitions(genres, item, liked), [[0.25, 0.25], [0.5, 0]])
    assert genre_transitions(genres, item, np.zeros((2, 3), bool)).sum() == 0
    assert genre_transitions(np.zeros((4, 0)), item, liked).shape == (0, 0)


def test_total_variation_is_half_the_summed_distance():
    assert total_variation(np.array([1.0, 0]), np.array([0, 1.0])) == 1
    assert total_variation(np.array([0.5, 0.5]), np.array([0.75, 0.25])) == 0.25


def test_rank_agreement_by_hand():
    worths = {name: PolicyValue(*pair) for name, pair in {"a": (1, 1), "b": (2, 3), "c": (3, 2)}.items()}
    assert rank_agreement(worths) == pytest.approx(1 / 3)  # two pairs agree, one does not


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        (Criterion("a", 0.79, 0.79, at_least=True), True),
        (Criterion("b", 0.789, 0.79, at_least=True), False),
        (Criterion("c", 0.03, 0.03, at_least=False), True),
        (Criterion("d", 0.031, 0.03, at_least=False), False),
        (Criterion("e", np.nan, 0.03, at_least=False), False),
    ],
)
def test_gates_hold_at_their_limit_and_fail_beyond(gate, passed):
    assert gate.passed is passed


def test_a_card_passes_with_all_its_gates_and_says_so():
    nothing = np.zeros(0)
    evidence = ValidationData(nothing, nothing.astype(bool), nothing, nothing, nothing, nothing)
    gates = (Criterion("one", 0.8, 0.79, at_least=True), Criterion("two", np.nan, 0.1, at_least=False))
    config, figures, policies = {"fatigue_genre": 4.0, "max_steps": 20}, {"mean": 1.0}, {"p": PolicyValue(1.0, 2.0)}
    card = SimulatorCard("world", "u1", "f", "t", 0, config, {}, gates, figures, policies, evidence)
    assert not card.passed
    assert card.table()["verdict"].tolist() == ["PASS", "FAIL"]
    assert card.as_dict()["gates"]["two"] == {"value": None, "limit": 0.1, "at_least": False, "passed": False}
    assert card.as_dict()["assumptions"] == {"fatigue_genre": 4.0}
    assert card.as_dict()["policies"] == {"p": {"simulated": 1.0, "held_out": 2.0}}
