"""The benchmark of the estimators: its world is enumerable, its counts are worked out, its advice follows a rule."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from benchmark_worlds import ACTIONS, CONFIG, SCALE, USERS, logged_world, planted_result, with_tables
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.plotting import to_svg
from recpolicy.ope.benchmark.logged_world import cluster_actions, draw_actions, draw_log, draw_rewards
from recpolicy.ope.benchmark.run_benchmark import BenchmarkConfig, run_benchmark, run_repetition, score_estimates
from recpolicy.ope.benchmark.score_plots import coverage_figure, error_figure
from recpolicy.ope.benchmark.scores import BIASED, Cell, Score
from recpolicy.ope.estimators import ESTIMATORS
from recpolicy.ope.results import INTERVALS


def test_truth_is_the_mean_over_users_of_what_the_target_earns():
    uniform = np.full((2, 2), 0.5)
    tables = {"logging_policies": {"u": uniform}, "q": uniform, "context": np.zeros((2, 1))}
    tables["action_clusters"] = np.zeros(2, int)
    world = with_tables(expected=np.array([[1.0, 5], [2, 4]]), target=np.array([[0.25, 0.75], [1, 0]]), **tables)
    assert world.true_value == 3.0  # (.25 * 1 + .75 * 5 + 2) / 2
    assert world.logged_value("u") == 3.0  # ((1 + 5) / 2 + (2 + 4) / 2) / 2
    assert world.max_weight("u") == 2.0


def test_a_log_holds_what_the_logging_policy_does_and_the_world_pays():
    """20,000 rounds: actions within 5 standard errors of their probability, rewards of their expectation."""
    log = draw_log(logged_world(), "near", 20_000, 5, np.random.default_rng(0))
    rounds = log.feedback
    assert np.bincount(rounds.user).tolist() == [5] * 4_000
    assert np.ptp(rounds.context.reshape(4_000, 5, -1), axis=1).max() == 0  # one visitor is one user throughout
    probs = rounds.logging_probs(slice(None))
    np.testing.assert_allclose(rounds.behavior_prob, probs[np.arange(len(rounds)), rounds.action], rtol=1e-6)
    share = np.bincount(rounds.action, minlength=ACTIONS) / len(rounds)
    error = np.sqrt(probs.var(axis=0) / 4_000 + 0.25 / len(rounds))
    assert (np.abs(share - logged_world().logging_policies["near"].mean(axis=0)) < 5 * error).all()
    expected = log.q(slice(None))[np.arange(len(rounds)), rounds.action] - 0.4
    honest = expected < 4.55  # where q is not cut at 5
    gap = rounds.reward[honest] - expected[honest]
    assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(honest.sum())
    assert set(np.unique(rounds.reward)) <= {1.0, 2.0, 3.0, 4.0, 5.0}


@given(st.integers(0, 2**32 - 1))
def test_an_action_of_probability_0_is_never_drawn(seed):
    rng = np.random.default_rng(seed)
    table = rng.random((7, 4)) * (rng.random((7, 4)) < 0.5)
    table[np.arange(7), rng.integers(4, size=7)] += 0.1
    table /= table.sum(axis=1, keepdims=True)
    cumulative = np.cumsum(table, axis=1)
    cumulative_probs = (cumulative / cumulative[:, -1:] + np.arange(7)[:, None]).ravel()
    row = rng.integers(7, size=300)
    assert (table[row, draw_actions(cumulative_probs, row, 4, rng)] > 0).all()


class Draws:
    """A generator whose draws are known."""

    def random(self, size):
        return np.array([0.0, 0.4999, 0.5, 0.0, 0.5, np.nextafter(1, 0)])


def test_actions_are_drawn_by_inversion_at_the_very_edges():
    """Probabilities 0, .5, .5 for user 0 and .5, .5, 0 for user 1: an edge belongs to the action that begins there."""
    cumulative_probs = np.array([0, 0.5, 1, 1.5, 2, 2])
    row = np.array([0, 0, 0, 1, 1, 1])
    assert draw_actions(cumulative_probs, row, 3, Draws()).tolist() == [1, 1, 2, 0, 1, 1]


def test_rewards_at_the_ends_of_the_scale_do_not_vary():
    ends = np.repeat(SCALE, 50)
    np.testing.assert_array_equal(draw_rewards(ends, SCALE, np.random.default_rng(0)), ends)


def test_like_actions_are_those_of_neighbouring_mean_scores():
    assert cluster_actions(np.array([[4.0, 1, 3, 2], [4, 1, 3, 2]]), 2).tolist() == [1, 0, 1, 0]
    assert cluster_actions(np.arange(3.0)[None], 9).tolist() == [0, 1, 2]


def test_a_score_is_counted_by_hand():
    """Estimates 2, 4, 6 of a truth of 5: off by -3, -1, 1; two intervals hold it, one of them at its end."""
    score = score_estimates(np.array([2.0, 4, 6]), {"t": np.array([[1.0, 3], [3, 5], [4, 8]])}, 5.0)
    assert score.bias == -1
    assert score.rmse == pytest.approx(np.sqrt(11 / 3))
    assert score.error == pytest.approx(1 / 3)
    assert score.coverage == {"t": 2 / 3}
    assert score.half_width == {"t": pytest.approx(4 / 3)}


def test_a_truth_of_0_has_no_relative_error():
    assert np.isnan(score_estimates(np.ones(2), {}, 0.0).error)


def test_every_estimator_is_on_the_card_and_replay_only_where_the_log_is_uniform():
    result = planted_result()
    assert set(result.cell("far", 200).scores) == set(ESTIMATORS)
    assert set(result.cell("near", 200).scores) == set(ESTIMATORS) - {"replay"}


def test_unbiased_estimators_find_the_truth_and_dm_does_not():
    """60 logs of 2,000 rounds: the mean is within 4 standard errors; dm is off by what its reward model is."""
    cell = planted_result().cell("near", 2_000)
    for name in ("ips", "snips", "beta_ips", "dr", "sndr", "mrdr"):
        score = cell.scores[name]
        assert abs(score.bias) < 4 * np.sqrt(score.rmse**2 - score.bias**2) / np.sqrt(60), name
    assert cell.scores["dm"].bias == pytest.approx(0.4, abs=0.05)
    assert cell.scores["dm"].coverage["t"] == 0


def test_intervals_cover_and_the_wider_kinds_cover_more():
    result = planted_result()
    for logging_policy in result.logging_policies:
        for name, score in result.cell(logging_policy, 2_000).scores.items():
            if name in BIASED:
                continue
            assert score.coverage["t"] > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 60), (logging_policy, name)
            assert score.half_width["sequence"] > score.half_width["t"]
            assert score.coverage["sequence"] >= score.coverage["t"]
            assert score.coverage.get("bernstein", 1) == 1


def test_errors_fall_as_logs_grow():
    result = planted_result()
    for name in ("ips", "snips", "dr"):
        small, large = (result.cell("near", size).scores[name].rmse for size in (200, 2_000))
        assert small / large == pytest.approx(np.sqrt(10), rel=0.4)


def test_a_repetition_depends_on_its_number_and_on_nothing_before_it():
    one, again, other = (run_repetition(logged_world(), "near", 200, number, CONFIG) for number in (3, 3, 4))
    assert one["dr"].as_dict() == again["dr"].as_dict()
    assert one["dr"].value != other["dr"].value


def test_a_repetition_is_made_as_the_card_says_and_bounds_are_known_beforehand():
    found = run_repetition(logged_world(), "far", 200, 0, replace(CONFIG, level=0.9, tuning="slope"))
    assert (found.config["resamples"], found.config["level"], found.config["tuning"]) == (100, 0.9, "slope")
    assert found.config["weight_bound"] == pytest.approx(ACTIONS * logged_world().target.max())
    assert "bernstein" in found["ips"].intervals


def test_the_number_of_workers_changes_nothing():
    few = replace(CONFIG, sizes=(200,), repetitions=4)
    one, two = (run_benchmark(logged_world(), few, workers=workers) for workers in (1, 2))
    assert one.as_dict() == two.as_dict()


def test_large_logs_are_repeated_less_often():
    config = BenchmarkConfig(repetitions=200, repetitions_large=10)
    assert [config.get_repetitions(size) for size in (1_000, 100_000, 100_001)] == [200, 200, 10]


def hand_cell(effective=500.0, repetitions=200, **scores):
    """A cell of scores given as (rmse, coverage of the bootstrap)."""
    made = {
        name: Score(0.0, rmse, rmse, {"bootstrap": coverage}, {"bootstrap": 2 * rmse})
        for name, (rmse, coverage) in scores.items()
    }
    return Cell("near", 1_000, repetitions, effective, made)


def test_recommended_is_the_least_error_among_those_that_cover():
    advice = hand_cell(dm=(0.01, 0.1), dr=(0.05, 0.95), snips=(0.0505, 0.94), ips=(0.2, 0.95)).recommend()
    assert advice.estimator == "dr"
    assert "smallest rmse (0.0500) of the 3 of 4" in advice.reason
    assert "4.0 times smaller than ips" in advice.reason
    assert "within 5 % of it: snips" in advice.reason
    assert "does not cover: dm" in advice.reason


def test_a_coverage_that_chance_explains_counts():
    """Two standard errors below 93 % of 200 are 89.4 %, of 20 they are 81.6 %."""
    assert not hand_cell(dr=(1, 0.89)).covers("dr")
    assert hand_cell(dr=(1, 0.90)).covers("dr")
    assert hand_cell(repetitions=20, dr=(1, 0.82)).covers("dr")


def test_none_is_recommended_where_effective_rounds_are_few():
    advice = hand_cell(effective=49.9, dr=(0.05, 0.95)).recommend()
    assert advice.estimator is None
    assert str(advice).startswith("none: effective sample size 50 in 1,000 rounds, below 50")


def test_dr_is_left_where_no_interval_covers():
    advice = hand_cell(ips=(0.05, 0.5), dr=(0.06, 0.6)).recommend()
    assert advice.estimator == "dr"
    assert "no bootstrap interval covers" in advice.reason
    assert hand_cell(ips=(0.05, 0.5)).recommend().estimator is None


def test_pooled_coverage_leaves_out_the_biased_and_tells_the_lowest():
    result = replace(planted_result(), cells=(hand_cell(dm=(1, 0.0), mips=(1, 0.0), dr=(1, 0.9), snips=(1, 1.0)),))
    assert result.coverage("bootstrap", 1_000) == pytest.approx(0.95)
    assert result.coverage("bootstrap", 1_000, lowest=True) == 0.9
    with pytest.raises(DataError, match="no bernstein intervals at 1,000"):
        result.coverage("bernstein", 1_000)


def test_tables_hold_what_the_scores_say():
    result = planted_result()
    score = result.cell("far", 2_000).scores["dr"]
    assert result.error_table("far").loc["dr", "2,000"] == f"{100 * score.error:.2f}"
    row = result.coverage_table("far", 2_000).loc["dr"]
    assert row["t"] == f"{100 * score.coverage['t']:.1f} ± {score.half_width['t']:.3f}"
    assert result.coverage_table("far", 2_000).loc["snips", "bernstein"] == "–"
    rows = result.rows().set_index(["logging_policy", "rounds", "estimator"])
    assert rows.loc[("far", 2_000, "dr"), "rmse"] == score.rmse
    assert len(rows) == 2 * (2 * len(ESTIMATORS) - 1)
    assert result.recommendations().shape == (4, 3)


def test_a_log_that_was_not_drawn_is_named():
    with pytest.raises(DataError, match="no logs of 5 rounds by 'near'; there are: near 200, near 2,000"):
        planted_result().cell("near", 5)


def test_figures_show_every_estimator_and_every_kind():
    result = planted_result()
    errors = error_figure(result, "far")
    assert {text.get_text() for text in errors.axes[0].get_legend().get_texts()} == set(ESTIMATORS)
    line = next(line for line in errors.axes[0].lines if line.get_label() == "dr")
    assert line.get_ydata()[1] == pytest.approx(100 * result.cell("far", 2_000).scores["dr"].error)
    coverage = coverage_figure(result, "far", 2_000)
    assert [text.get_text() for text in coverage.axes[0].get_legend().get_texts()] == list(INTERVALS)
    for figure in (errors, coverage):
        ElementTree.fromstring(to_svg(figure).replace("xlink:href", "href"))


UNIFORM = np.full((USERS, ACTIONS), 1 / ACTIONS)
NOWHERE = np.tile(np.eye(ACTIONS)[0], (USERS, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": np.ones((USERS, 2))}, r"q \(40, 2\); expected \(40, 6\)"),
        ({"expected": np.full((USERS, ACTIONS), 6.0)}, r"must lie within 1\.0\.\.5\.0"),
        ({"target": UNIFORM * 0.9}, "target is not a distribution"),
        ({"logging_policies": {"one": NOWHERE}}, "one never takes an action that the target takes"),
    ],
)
def test_a_world_that_is_none_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        with_tables(**changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repetitions": 1}, r"repetitions is 1: expected greater than or equal to 2"),
        ({"resamples": 0}, r"resamples is 0: expected greater than or equal to 1"),
        ({"sizes": (15,)}, r"sizes is \[15\]: expected different log sizes"),
        ({"sizes": ()}, r"sizes is \[\]"),
        ({"sizes": (100, 100)}, r"sizes is \[100, 100\]"),
        ({"level": 1.0}, r"level is 1\.0"),
        ({"tuning": "guess"}, "tuning is .guess.: expected .slope. or .bound."),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        BenchmarkConfig(**settings)


def test_a_log_of_nobody_or_by_a_stranger_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'near'"):
        draw_log(logged_world(), "nea", 100, 5, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="expected two users or more"):
        draw_log(logged_world(), "near", 9, 5, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="workers is 0"):
        run_benchmark(logged_world(), CONFIG, workers=0)
