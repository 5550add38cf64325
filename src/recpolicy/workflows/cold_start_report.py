"""The page of new items: what past items taught, what is believed about each new one, and its share."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from recpolicy.coldstart.allocation import entropy, thompson_probabilities
from recpolicy.coldstart.attributes import read_items
from recpolicy.coldstart.filter import Array, ItemStatistics
from recpolicy.coldstart.forecast import forecast
from recpolicy.core.optional_deps import require_extra
from recpolicy.workflows.cold_start import NewItems

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 30
_TRACES = (10, 100, 1_000)
_NOTES = (
    "Stickiness is the expected number of days within the horizon on which a user is active after the item was shown."
    " Its 95 % interval is that of the item; one user varies more (user_std).",
    "explained is the share of the prior variance that the traces removed. The share of users is the probability that"
    " Thompson sampling gives the item to a user.",
    "Beliefs hold if new items come from the same population as the past ones. The model is Gaussian: it is a rough one"
    " for items on whose days nearly nobody, or nearly everybody, is active.",
)


def write_cold_start_page(new_items: NewItems, page: Path, items: Path | None = None) -> None:
    """Write the beliefs about new items as an HTML page.

    Args:
        new_items: The beliefs.
        page: File to write.
        items: Table of the items' attributes, if the prior reads any.

    Raises:
        MissingExtraError: The extra `report`, which draws the plots, is not installed.
    """
    require_extra("report", "the page of new items")
    from recpolicy.core.plotting import to_svg
    from recpolicy.evaluation.report_page import ReportContent, write_report

    share = thompson_probabilities(new_items.forecast.belief)
    table = new_items.table()
    by_item = dict(zip(map(str, new_items.items), share, strict=True))
    table["share"] = [by_item[str(item)] for item in table["item"]]
    facts = new_items.model.metadata
    known, days = new_items.traces, new_items.model.prior.days
    best = table.iloc[int(table["share"].argmax())]
    summary = [
        ("prior", f"{facts.get('items', 0):,} items, {facts.get('traces', 0):,} traces"),
        ("prior knows the days until", str(facts.get("until", "–"))),
        ("prior digest", new_items.model.digest[:12]), ("horizon", f"{days} days"),
        ("new items", f"{len(table):,}"),
        ("known until", "–" if known is None else known.format_day(known.until)),
        ("entropy of the shares", f"{float(entropy(share)):.2f} of that of uniform choices"),
    ]  # fmt: skip
    figures = [
        (f"Active days within {days} days, with 95 % intervals, and shares", to_svg(_beliefs_figure(table))),
        ("Share of the prior variance that the first days of 10, 100 and 1,000 traces remove", to_svg(_explained_figure(
            new_items
        ))),
    ]  # fmt: skip
    if known is not None:
        figures.append(("Beliefs about the items with the largest shares, day by day", to_svg(_history_figure(
            new_items, share, items
        ))))  # fmt: skip
    content = ReportContent(
        title="New items", summary=summary, tables=[("New items, the stickiest first", table.set_index("item"))],
        answer=(
            f"{best['item']} has the largest share, {best['share']:.0%} of the users: {best['stickiness']:.2f} active"
            f" days within {days} days [{best['lo']:.2f}, {best['hi']:.2f}]."
        ),
        figures=figures, notes=_NOTES,
    )  # fmt: skip
    write_report(page, content)


def _beliefs_figure(table: pd.DataFrame) -> "Figure":
    from recpolicy.core.palette import SERIES
    from recpolicy.core.plotting import new_figure, style_axes

    shown = table.head(_SHOWN).iloc[::-1]
    figure = new_figure(7.2, 1.2 + 0.22 * len(shown))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    place = np.arange(len(shown))
    for axes in (left, right):
        style_axes(axes)
    width = np.stack([shown["stickiness"] - shown["lo"], shown["hi"] - shown["stickiness"]])
    left.errorbar(shown["stickiness"], place, xerr=width, fmt="o", ms=4, color=SERIES[0].light, elinewidth=1.4)
    left.set_yticks(place, [str(item)[:24] for item in shown["item"]])
    left.set_xlabel("active days")
    right.barh(place, shown["share"], color=SERIES[1].light)
    right.set_xlabel("share of users")
    return figure


def _explained_figure(new_items: NewItems) -> "Figure":
    from recpolicy.core.palette import DASHES, SERIES
    from recpolicy.core.plotting import draw_legend, new_axes

    prior = new_items.model.prior
    figure, axes = new_axes()
    seen = np.arange(prior.days + 1)
    for number, traces in enumerate(_TRACES):
        count = np.where(np.arange(prior.days) < seen[:, np.newaxis], float(traces), 0.0)
        belief = prior.filter().belief(prior.coefficients[0], ItemStatistics(count, np.zeros_like(count)))
        share = 1 - belief.variance / prior.item_covariance.sum()
        axes.plot(seen, share, color=SERIES[number].light, ls=DASHES[0], label=f"{traces:,} traces")
    axes.set_xlabel("observed days")
    axes.set_ylabel("explained share")
    axes.set_ylim(0, 1)
    draw_legend(axes, "lower right")
    return figure


def _history_figure(new_items: NewItems, share: Array, items: Path | None) -> "Figure":
    from recpolicy.core.palette import SERIES
    from recpolicy.core.plotting import draw_legend, new_axes

    known = new_items.traces
    assert known is not None
    model = new_items.model
    means = model.means(new_items.items.tolist(), None if items is None else read_items(items))
    top = np.argsort(-share, kind="stable")[: len(SERIES)]
    days = np.arange(max(int(known.start.min()), known.until - 2 * model.prior.days), known.until + 1)
    whitening = model.prior.filter().whitening
    beliefs = [
        forecast(model.prior, means, known.as_of(int(day)).statistics(whitening, new_items.items.tolist())).belief
        for day in days
    ]
    mean, std = np.stack([belief.mean for belief in beliefs]), np.stack([belief.std for belief in beliefs])
    figure, axes = new_axes(7.2, 3.6)
    at = days.astype("datetime64[D]") if known.dated else days
    for number, row in enumerate(top):
        color = SERIES[number].light
        axes.plot(at, mean[:, row], color=color, label=str(new_items.items[row])[:24])
        axes.fill_between(at, mean[:, row] - std[:, row], mean[:, row] + std[:, row], color=color, alpha=0.12, lw=0)
    axes.set_ylabel("active days (± 1 std)")
    axes.set_xlabel("day")
    axes.tick_params(axis="x", rotation=20)
    draw_legend(axes)
    return figure
