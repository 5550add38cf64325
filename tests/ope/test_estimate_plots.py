from xml.etree import ElementTree

import numpy as np
import pytest
from benchmark_worlds import planted_result
from synthetic_rounds import WORLD

from recpolicy.core.palette import MUTED, SERIES
from recpolicy.core.plotting import to_svg
from recpolicy.core.statistics import Interval
from recpolicy.ope.benchmark.score_plots import coverage_figure, error_figure
from recpolicy.ope.config import OffPolicyConfig
from recpolicy.ope.engine import estimate
from recpolicy.ope.inputs import logged_predictions
from recpolicy.ope.plots import estimators_figure, overlap_figure, reward_calibration_figure, weights_figure
from recpolicy.ope.results import INTERVALS, NO_VERDICT

ROUNDS = WORLD.log(400, 0)
TARGET = WORLD.target_in(ROUNDS)
RESULTS = estimate(ROUNDS, TARGET, ["ips", "snips", "dr"], OffPolicyConfig(resamples=50)).results
PREDICTED = logged_predictions(ROUNDS, WORLD.q_in(ROUNDS))

FIGURES = {
    "overlap": lambda: overlap_figure(TARGET.prob, ROUNDS.behavior_prob),
    "weights": lambda: weights_figure(TARGET.prob, ROUNDS.behavior_prob),
    "estimators": lambda: estimators_figure(RESULTS, logged=Interval(0.4, 0.3, 0.5), truth=WORLD.value),
    "calibration": lambda: reward_calibration_figure(PREDICTED, ROUNDS.reward),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_renders_and_names_its_axes(name):
    figure = FIGURES[name]()
    ElementTree.fromstring(to_svg(figure).replace("xlink:href", "href"))
    (axes,) = figure.axes
    assert axes.get_xlabel()
    assert axes.get_ylabel() or [label.get_text() for label in axes.get_yticklabels()] == ["dr", "snips", "ips"]


def test_overlap_shares_add_up_and_actions_never_taken_are_in_the_legend():
    prob = np.where(np.arange(400) < 100, 0, TARGET.prob)
    axes = overlap_figure(prob, ROUNDS.behavior_prob).axes[0]
    logged, wanted = (patch.get_data().values.sum() for patch in axes.patches)
    assert (logged, wanted) == pytest.approx((100, 75))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["logging policy", "target, 25 % at 0"]


def test_weights_of_the_logging_policy_lie_on_the_line_of_equal_weights():
    axes = weights_figure(ROUNDS.behavior_prob, ROUNDS.behavior_prob).axes[0]
    at, held = axes.lines[1].get_data()
    np.testing.assert_allclose(at, held)
    assert "effective rounds 400" in axes.get_legend().get_texts()[1].get_text()


def test_estimates_are_shown(capsys):
    few = WORLD.log(40, 0)
    estimates = estimate(few, WORLD.target_in(few), ["ips", "snips"], OffPolicyConfig(resamples=50))
    estimates.show()
    assert {"ips", "snips"} < set(capsys.readouterr().out.split())


def test_estimates_stand_at_their_values_and_are_grey_without_a_verdict():
    axes = estimators_figure(RESULTS, "t").axes[0]
    bar, dot = axes.lines[0], axes.lines[1]  # the lowest row is the last estimator
    assert bar.get_xdata() == pytest.approx([RESULTS["dr"].intervals["t"].lo, RESULTS["dr"].intervals["t"].hi])
    assert dot.get_xdata() == pytest.approx([RESULTS["dr"].value])
    assert dot.get_color() == SERIES[0].light
    small = WORLD.log(40, 0)
    few = estimate(small, WORLD.target_in(small), ["ips"], OffPolicyConfig(resamples=50)).results
    figure = estimators_figure(few, logged=Interval(0.4, 0.3, 0.5))
    assert figure.axes[0].lines[1].get_color() == MUTED.light
    assert legend_of(figure) == [NO_VERDICT, "logging policy 0.400"]
    assert legend_of(FIGURES["estimators"]()) == ["logging policy 0.400", f"truth {WORLD.value:.3f}"]


def legend_of(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


@pytest.mark.parametrize("draw", [FIGURES["estimators"], lambda: error_figure(planted_result(), "far")])
def test_a_legend_above_the_plot_covers_none_of_it(draw):
    figure = draw()
    figure.canvas.draw()
    (axes,) = figure.axes
    assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1
    assert axes.get_legend().get_window_extent().y1 <= figure.bbox.y1


@pytest.mark.parametrize("logging_policy", ["near", "far"])
def test_errors_within_less_than_a_decade_still_have_an_axis_to_read(logging_policy):
    axes = error_figure(planted_result(), logging_policy).axes[0]
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 3


def test_coverage_that_is_cut_off_says_so_and_no_marker_hides_another():
    result = planted_result()
    figure = coverage_figure(result, "far", 2_000)
    figure.canvas.draw()
    (axes,) = figure.axes
    ticks = dict(zip(axes.get_xticks(), [label.get_text() for label in axes.get_xticklabels()], strict=True))
    assert ticks[80] == "≤ 80"
    assert ticks[95] == "95"
    points = np.concatenate([axes.transData.transform(line.get_xydata()) for line in axes.lines[: len(INTERVALS)]])
    apart = np.linalg.norm(points[:, None] - points, axis=2)[~np.eye(len(points), dtype=bool)]
    assert apart.min() > 0.8 * figure.dpi / 72 * axes.lines[0].get_markersize()


def test_calibration_of_the_true_chances_is_about_right():
    line = reward_calibration_figure(PREDICTED, ROUNDS.reward, 4).axes[0].containers[0].lines[0]
    said, was = line.get_data()
    assert len(said) == 4
    assert was == pytest.approx(said, abs=0.2)  # 4 standard errors of at most .05
