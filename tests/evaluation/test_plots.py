from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from recpolicy.core.errors import DataError
from recpolicy.core.plotting import to_png, to_svg
from recpolicy.core.statistics import Interval
from recpolicy.evaluation.plots import (
    Curve,
    calibration_figure,
    held_out_choice_figure,
    pulls_figure,
    recommendations_figure,
    regret_figure,
    reward_figure,
)

ROUNDS = np.arange(1, 6) * 100
CURVES = {
    "LinUCB": Curve(ROUNDS, np.array([[1.0, 2, 3, 4, 5], [3.0, 4, 5, 6, 7]])),
    "random": Curve(ROUNDS, np.array([[2.0, 4, 6, 8, 10]])),
}
POLICIES = {"most popular": Interval(3.7, 3.6, 3.8), "rating model": Interval(4.2, 4.1, 4.3)}
RANDOM, ORACLE = Interval(3.5, 3.4, 3.6), Interval(4.9, 4.85, 4.95)
RATINGS = np.random.default_rng(0).uniform(1, 5, 240)


FIGURES = {
    "regret": lambda: regret_figure(CURVES),
    "reward": lambda: reward_figure(CURVES),
    "held-out choice": lambda: held_out_choice_figure(POLICIES, RANDOM, ORACLE),
    "calibration": lambda: calibration_figure(RATINGS, np.rint(RATINGS)),
    "pulls": lambda: pulls_figure({"LinUCB": np.array([5, 0, 95]), "random": np.array([30, 40, 30])}),
    "recommendations": lambda: recommendations_figure(["Heat & <Dust>"], np.array([4.5]), np.array([0.2])),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_renders_and_names_its_axes_with_units(name):
    figure = FIGURES[name]()
    svg = to_svg(figure)
    ElementTree.fromstring(svg.replace("xlink:href", "href"))  # well-formed
    assert to_png(figure, dpi=40).startswith(b"\x89PNG")
    labels = [axes.get_xlabel() for axes in figure.axes] + [axes.get_ylabel() for axes in figure.axes]
    assert any(unit in label for label in labels for unit in ("stars", "rating points", "%", "interactions"))
    assert figure.axes[-1].get_xlabel() in svg.replace("&lt;", "<")


def test_same_figure_gives_the_same_bytes_and_leaves_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    assert to_svg(regret_figure(CURVES)) == to_svg(regret_figure(CURVES))
    assert dict(matplotlib.rcParams) == before
    assert isinstance(regret_figure(CURVES).canvas, FigureCanvasAgg)


def test_plots_on_one_page_share_no_names_of_groups():
    assert "<g id=" not in to_svg(regret_figure(CURVES))


def test_themed_colours_are_variables_and_plain_ones_are_not():
    figure = regret_figure(CURVES)
    assert "var(--series-1, #0072b2)" in to_svg(figure)
    assert "var(" not in to_svg(figure, themed=False)


def test_curves_show_the_mean_and_the_range_of_seeds():
    axes = regret_figure(CURVES).axes[0]
    assert axes.lines[0].get_ydata().tolist() == [2, 3, 4, 5, 6]
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (1, 7)
    assert len(axes.collections) == 1  # one seed has no band
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["LinUCB", "random"]
    assert "mean of 2 seeds" in axes.get_xlabel()


def test_many_curves_differ_in_colour_or_dash():
    curves = {f"agent {n}": Curve(ROUNDS, np.full((1, 5), float(n))) for n in range(12)}
    lines = regret_figure(curves).axes[0].lines
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines}) == 12


def test_choice_bars_start_at_random_with_the_first_policy_on_top():
    axes = held_out_choice_figure(POLICIES, RANDOM, ORACLE).axes[0]
    assert [bar.get_x() for bar in axes.patches] == [3.5, 3.5]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.7, 0.2])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rating model", "most popular"]
    assert axes.get_xlim()[1] > 4.9


def test_perfect_predictions_lie_on_the_diagonal():
    points = calibration_figure(RATINGS, RATINGS, bins=6).axes[0].lines[1]
    assert len(points.get_xdata()) == 6
    np.testing.assert_allclose(points.get_xdata(), points.get_ydata())


def test_bins_hold_equal_counts():
    # 1, 1 | 3, 5 predicted, 2, 2 | 4, 4 given
    points = calibration_figure(np.array([5.0, 1, 3, 1]), np.array([4.0, 2, 4, 2]), bins=2).axes[0].lines[1]
    assert points.get_xydata().tolist() == [[1, 2], [4, 4]]


def test_pulls_are_shares_in_falling_order_without_arms_never_pulled():
    axes = pulls_figure({"LinUCB": np.array([5, 0, 95])}).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[1, 95], [2, 5]]
    assert axes.get_legend().get_texts()[0].get_text() == "LinUCB: 2 of 3 arms"


def test_recommendations_show_titles_whole_or_shortened_best_on_top():
    axes = recommendations_figure(["A" * 50, "Short"], np.array([4.5, 4.0]), np.array([0.1, 0.2])).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A" * 35 + "…", "Short"]
    assert axes.lines[0].get_ydata().tolist() == [1, 0]


def test_bars_of_recommendations_end_at_the_scale():
    axes = recommendations_figure(["One", "Two"], np.array([4.9, 3.0]), np.array([0.5, 0.25])).axes[0]
    bars = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]
    np.testing.assert_allclose(bars, [[4.4, 5], [2.75, 3.25]])


def test_a_curve_needs_one_row_per_seed():
    with pytest.raises(DataError, match="one row per seed"):
        Curve(ROUNDS, np.zeros(5))
