import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.plotting import to_svg
from recpolicy.core.statistics import Interval
from recpolicy.evaluation.plots import held_out_choice_figure, recommendations_figure
from recpolicy.evaluation.report_page import ReportContent, render_report, write_report

VOID = {"meta", "link", "br", "img", "input", "hr"}
SVG = to_svg(held_out_choice_figure({"LinUCB": Interval(4, 3.9, 4.1)}, Interval(3.5, 3.4, 3.6), Interval(5, 5, 5)))


class Tags(HTMLParser):
    """Collects tags, attributes and text, and fails on a tag that is closed out of order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.append(data.strip())


def content(**changes):
    table = pd.DataFrame(
        {"RMSE": [0.88123, np.nan], "items": [3, 4]}, index=pd.Index(["LinUCB", "random"], name="policy")
    )
    values = {
        "title": "LinUCB on u1",
        "summary": [("seed", "3"), ("split", "u1")],
        "tables": [("Comparison", table)],
        "figures": [("Held-out choice", SVG)],
        "notes": ["Intervals are over users."],
    }
    return ReportContent(**{**values, **changes})


def parsed(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_the_page_holds_everything_it_was_given():
    text = parsed(render_report(content())).text
    for part in ("LinUCB on u1", "seed", "3", "Comparison", "policy", "RMSE", "0.881", "–", "4", "Held-out choice"):
        assert part in text
    assert "Intervals are over users." in text


def test_the_page_begins_with_its_answer_and_marks_its_own_rows_and_what_was_kept():
    table = pd.DataFrame({"result": ["kept", "NOT KEPT"]}, index=pd.Index(["gain", "users"], name="criterion"))
    page = render_report(content(answer="LinUCB is ahead.", own="gain", tables=[("Gate", table)]))
    assert page.index("LinUCB is ahead.") < page.index("<dl>")
    assert '<tr class="own"><th scope="row">gain</th><td class="kept">✓ kept</td>' in page
    assert '<tr><th scope="row">users</th><td class="broken">✗ NOT KEPT</td>' in page


def test_the_page_needs_nothing_but_itself():
    page = render_report(content())
    tags = parsed(page)
    assert {tag for tag, _ in tags.seen}.isdisjoint({"script", "link", "img", "iframe", "object"})
    for _, attributes in tags.seen:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert re.search(r"@import|url\((?!#)", page) is None
    assert "default-src 'none'" in page


def test_the_page_has_light_and_dark_colours_and_fits_a_phone():
    page = render_report(content())
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport" content="width=device-width' in page
    assert page.count("--series-1:") == 2


def test_text_is_escaped_everywhere():
    evil = "<script>alert('&')</script>"
    table = pd.DataFrame({evil: [evil]})
    figure = to_svg(recommendations_figure([evil], np.array([4.0]), np.array([0.1])))
    page = render_report(
        content(title=evil, summary=[(evil, evil)], tables=[(evil, table)], figures=[(evil, figure)], notes=[evil])
    )
    assert "<script" not in page
    assert evil in parsed(page).text


def test_only_columns_of_numbers_are_set_as_numbers():
    figures = {
        "place": "0.310 [0.290, 0.330]", "rating": 4.25, "bounds": "[-0.1, 4.575]", "coverage": "95.0 ± 0.372",
        "share": "93 %", "gain": "+0.0356", "count": "1,682", "missing": None,
    }  # fmt: skip
    words = {"title": "2001: A Space Odyssey", "rounds": "307 of 10,000", "limit": "> 0", "bracket": "[none, 4]"}
    frame = pd.DataFrame({name: [value] for name, value in (words | figures).items()})
    page = render_report(content(tables=[("Top", frame)]))
    heads = re.findall(r'<th scope="col"( class="number")?>(\w+)</th>', page)
    assert [name for _, name in heads] == [*words, *figures]
    assert {name for number, name in heads if number} == set(figures)


def test_long_cells_are_broken_into_lines_and_short_ones_and_numbers_are_not():
    """On a phone the first column, which stays in sight, must leave room for the others."""
    long, short = "gain of the worst group on held-out ratings", "effective rounds"
    frame = pd.DataFrame(
        {"figure": ["0.806 [0.794, 0.818]"] * 2, "why": [short, long]}, index=pd.Index([long, short], name="criterion")
    )
    page = render_report(content(tables=[("Gate", frame)]))
    assert re.findall(r'<t[hd](?: scope="row")?( class="\w+")?>', page.split("<tbody>")[1]) == [
        ' class="prose"', ' class="number"', "", "", ' class="number"', ' class="prose"',
    ]  # fmt: skip
    assert ".prose { white-space: normal;" in page


@pytest.mark.parametrize(("path", "message"), [("", "is a folder; a page is a file"), ("file/page.html", "is a file")])
def test_a_page_that_cannot_be_written_is_one_line(tmp_path, path, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=message):
        write_report(tmp_path / path, content())
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_sections_without_content_are_left_out():
    page = render_report(ReportContent("Empty"))
    assert parsed(page).text[-1] == "Empty"
    assert "<h2>" not in page


@pytest.mark.parametrize("figure", ["<img src=x>", "<svg><script>alert(1)</script></svg>", ""])
def test_figures_that_are_not_plots_are_refused(figure):
    with pytest.raises(DataError, match="'Plot' is not an <svg> element"):
        render_report(content(figures=[("Plot", figure)]))


def test_the_page_is_written_whole(tmp_path):
    path = tmp_path / "new" / "report.html"
    write_report(path, content())
    assert path.read_text(encoding="utf-8") == render_report(content())
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
