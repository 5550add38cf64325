import numpy as np
import pytest
from synthetic_rounds import ACTION, MU, PI, five_rounds, five_targets

from recpolicy.core.errors import DataError
from recpolicy.ope import feedback as feedback_module
from recpolicy.ope.feedback import Clusters, TargetPolicy, check_support


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"behavior_prob": np.array([0.4, 0.6, 0.0, 0.4, 0.4])}, r"row 2: behavior_prob 0\.0; expected above 0"),
        ({"behavior_prob": np.array([0.4, np.nan, 1, 0, 1])}, r"row 1: behavior_prob nan \(and 1 more such rows\)"),
        ({"behavior_prob": np.array([0.4, 0.6, 1.2, 1, 1])}, r"row 2: behavior_prob 1\.2; expected .* at most 1"),
        ({"action": np.array([0, 1, 2, 0, 0])}, r"row 2: action 2; expected 0\.\.1"),
        ({"action": np.array([0, 1, -1, 0, 0])}, r"row 2: action -1; expected 0\.\.1"),
        ({"action": np.zeros(5)}, "action is float64; expected whole numbers"),
        ({"reward": np.array([0, 1, 0, np.inf, 1])}, "row 3: reward inf; expected a finite number"),
        ({"user": np.arange(4)}, r"user \(4,\); expected \(5,\)"),
        ({"context": np.zeros((4, 2))}, r"context \(4, 2\); expected \(5, D\)"),
        ({"context": np.array([[0.0], [0], [np.nan], [0], [0]])}, "row 2: context"),
        ({"action": np.array([], int)}, "no rounds"),
    ],
)
def test_a_bad_row_is_named_with_what_was_expected(changes, message):
    with pytest.raises(DataError, match=message):
        five_rounds(**changes)


def test_missing_support_is_refused_where_the_log_can_tell():
    logging = np.tile(MU, (5, 1))
    logging[3] = [1, 0]
    rounds = five_rounds(behavior_prob=logging[np.arange(5), ACTION], logging_probs=logging)
    with pytest.raises(DataError, match=r"round 3: the target takes action 1 with probability 0\.2, .* never"):
        TargetPolicy.from_table(rounds, np.tile(PI, (5, 1)))


def test_without_the_logging_policys_probabilities_support_is_not_judged():
    check_support(five_rounds(logging_probs=None), five_targets())


def test_logged_probability_must_be_that_of_the_table():
    with pytest.raises(DataError, match=r"round 0: behavior_prob is 0\.5 but logging_probs says 0\.4"):
        TargetPolicy.from_table(five_rounds(behavior_prob=np.full(5, 0.5)), np.tile(PI, (5, 1)))


@pytest.mark.parametrize("row", [[0.8, 0.1], [1.2, -0.2], [np.nan, 1]])
def test_target_probabilities_must_be_distributions(row):
    table = np.tile(PI, (5, 1))
    table[2] = row
    with pytest.raises(DataError, match="target probabilities: round 2 sums to"):
        TargetPolicy.from_table(five_rounds(), table)


def test_a_target_is_read_from_an_array_or_block_by_block_from_a_function(monkeypatch):
    monkeypatch.setattr(feedback_module, "_CELLS", 4)  # two rounds of two actions
    table = np.stack([np.linspace(0.1, 0.9, 5), np.linspace(0.9, 0.1, 5)], axis=1)
    asked = []

    def rows(part):
        asked.append((part.start, part.stop))
        return table[part].astype(np.float32)

    rounds = five_rounds(logging_probs=None)
    np.testing.assert_allclose(TargetPolicy.from_table(rounds, rows).prob, table[np.arange(5), ACTION], rtol=1e-6)
    assert asked == [(0, 2), (2, 4), (4, 5)]
    np.testing.assert_array_equal(TargetPolicy.from_table(rounds, table).prob, table[np.arange(5), ACTION])


@pytest.mark.parametrize("table", [np.ones((4, 2)), np.ones((5, 3)), lambda part: np.ones((1, 2))])
def test_a_table_of_another_shape_is_refused(table):
    with pytest.raises(DataError, match="expected"):
        TargetPolicy.from_table(five_rounds(), table)


def test_target_probabilities_lie_in_zero_to_one():
    with pytest.raises(DataError, match=r"row 1: target probability 1\.5; expected in 0\.\.1"):
        TargetPolicy(np.array([0.5, 1.5]))


@pytest.mark.parametrize("user", [[7, 3, 7, 9], [-5, 10**12, -5, 3]])
def test_clusters_add_up_the_rounds_of_each_user(user):
    clusters = Clusters.from_users(np.array(user))
    assert sorted(clusters.size.tolist()) == [1, 1, 2]
    totals = clusters.sums(np.array([1.0, 10, 2, 100]))
    assert sorted(totals.tolist()) == [3, 10, 100]
    assert totals[clusters.index].tolist() == [3, 10, 3, 100]
