"""The console in a real browser: picking, rating, comparing, operating, and how bad states look."""

import json
import re
from contextlib import contextmanager
from dataclasses import replace

import pytest
from api_keys import key_for, listening
from browsers import Visit, chromium
from playwright.sync_api import expect
from sqlalchemy import func, select
from unlimited import UNLIMITED
from xss_policies import TITLE, write_hostile

from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.db.schema import events, feedback
from recpolicy.server.lifespan import open_state
from recpolicy.server.settings import ConsoleConfig, OnlineConfig

EAGER = replace(
    UNLIMITED,
    online=OnlineConfig(seconds=0.2, grace_seconds=0.0, keyless_per_hour=10**6),
    exploration=ExplorationConfig(share=0.0),
    console=ConsoleConfig(list_users=True),
)


CRITERION = {"name": "coverage", "value": 0.002, "limit": 0.01, "at_least": True, "strict": False, "passed": False}
GATE = {"verdict": "fail", "reasons": ["too <b>narrow</b>"], "criteria": [CRITERION]}


HEALTH = {"requests": 1546, "failures": 0, "slow": 1, "mean_ms": 4.7}
FIGURES = {
    "hours": 0.1, "shadow": None, "health": {"champion": HEALTH, "challenger": HEALTH},
    "champion": {"users": 976, "rewards": 976, "mean": {"value": 3.79, "lo": 3.69, "hi": 3.88}},
    "challenger": {"users": 0, "rewards": 0, "mean": {"value": None, "lo": None, "hi": None}},
    "difference": {"value": 0.1, "lo": -0.07, "hi": None},
}  # fmt: skip
ROLLOUT = {
    "rollout": {"champion": 1, "challenger": 2, "stage": 0, "traffic_fraction": 0.3, "plan": {"stages": [0.3, 1.0]}},
    "metrics": FIGURES, "next": "wait", "reason": "too few users",
}  # fmt: skip


@contextmanager
def running(folder):
    registry = Registry(folder / "registry")
    registry.register(write_hostile(folder / "one"), gate={"verdict": "pass"})
    registry.register(write_hostile(folder / "two", seed=1), gate=GATE)
    registry.promote(1)
    with open_state(registry.folder, None, EAGER) as state:
        app = make_app(state)
        with listening(app) as (host, port):
            yield app, f"http://{host}:{port}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("console")) as (app, origin):
        yield app, origin


@pytest.fixture(scope="module")
def app(server):
    return server[0]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser, server):
    one = Visit(browser, server[1], viewport={"width": 1280, "height": 900})
    yield one
    one.close()


@pytest.fixture(scope="module")
def operator(app):
    return key_for(app, "operator")


def pick(page, user):
    """Type an id and press Enter."""
    page.locator("#user-input").fill(str(user))
    page.keyboard.press("Enter")
    expect(page.locator("#result-title")).to_have_text(f"For user {user}")
    expect(page.locator("#list li.item")).to_have_count(10)


def rows(app, table):
    with app.state.server.store.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(table))


# ---------------------------------------------------------------- recommending


def test_a_user_is_picked_and_a_item_rated_by_the_keyboard_alone(visit, app):
    page = visit.open("/")
    page.locator("#who-known").focus()
    page.keyboard.press("Tab")
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    first = page.locator("#list li.item").first
    expect(first.locator(".facts, h3")).to_contain_text("Item")
    assert TITLE in first.locator("h3").inner_text()
    assert page.title() == "Recommend · recpolicy"
    title, given = first.get_attribute("data-title"), rows(app, feedback)
    first.locator("input").first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")  # one star
    expect(page.locator("#list .said").first).to_have_text("1 ★ accepted, reward 1.0")
    moved = page.locator("#moved tr.mine")
    expect(moved).to_contain_text(title)
    before, after = map(float, re.findall(r"\d\.\d{3}", moved.locator("td").nth(1).inner_text()))
    assert after < before
    assert moved.locator("td").nth(2).inner_text() == f"−{before - after:.3f}" or before - after < 0.002
    expect(page.locator("#status")).to_contain_text("The policy learned from it")
    assert rows(app, feedback) == given + 1
    assert page.evaluate("document.querySelector('#result').contains(document.activeElement)")


def test_a_click_on_a_star_rates(visit):
    page = visit.open("/")
    pick(page, 4)
    page.locator("#list li.item").nth(1).locator("form.stars label").nth(3).click()
    expect(page.locator("#list .said")).to_have_text("4 ★ accepted, reward 4.0")
    expect(page.locator("#status")).to_contain_text("The policy learned from it")


def test_two_ratings_in_a_row_are_both_learnt(visit):
    page = visit.open("/")
    pick(page, 7)
    titles = []
    for place, value in ((0, 0), (1, 0)):
        item = page.locator("#list li.item").nth(place)
        titles.append(item.get_attribute("data-title"))
        item.locator("form.stars label").nth(value).click()
    expect(page.locator("#list .said")).to_have_text(["1 ★ accepted, reward 1.0"] * 2)
    expect(page.locator("#status")).to_contain_text("The policy learned from it")
    expect(page.locator("#moved tr.mine")).to_have_count(2)
    assert sorted(page.locator("#moved tr.mine th").all_inner_texts()) == sorted(titles)


def test_somebody_new_is_described_by_ratings_and_the_list_follows(visit):
    page = visit.open("/")
    page.locator("#who-new").check()
    page.locator("#item-input").fill("1985")
    expect(page.locator("#item-found li")).to_have_count(1)
    page.locator("#item-found form.stars input").nth(4).focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expect(page.locator("#item-given .mark")).to_have_text("5 ★")
    expect(page.locator("#list li.item")).to_have_count(10)
    second = page.locator("#list li.item").nth(1)
    title = second.get_attribute("data-title")
    second.locator("form.stars label").first.click()
    expect(page.locator("#item-given .mark")).to_have_text(["5 ★", "1 ★"])
    expect(page.locator("#moved table")).to_be_visible()
    expect(page.locator("#moved tr.mine")).to_contain_text("2 → out")
    assert title not in page.locator("#list li.item h3").all_inner_texts()
    page.goto("/compare")  # the person is kept in this tab
    expect(page.locator("#item-given .mark")).to_have_text(["5 ★", "1 ★"])


def test_filters_narrow_the_list(visit):
    page = visit.open("/")
    pick(page, 5)
    page.get_by_label("Comedy").check()
    page.locator("#from-input").fill("1990")
    page.locator("#k-input").fill("4")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#list li.item")).to_have_count(4)
    years = [int(re.findall(r"\((\d{4})\)", text)[0]) for text in page.locator("#list li.item h3").all_inner_texts()]
    assert all(year >= 1990 and year % 2 == 0 for year in years)


# ---------------------------------------------------------------- comparing and operating


def test_versions_are_compared_with_a_key_that_stays_in_the_tab(visit, app, operator):
    page = visit.open("/compare")
    page.locator("#give-key").click()
    page.get_by_label("Key", exact=True).fill(operator)
    page.keyboard.press("Enter")
    expect(page.locator("#left-input option")).to_have_count(3)
    page.locator("#left-input").select_option("1")
    before = rows(app, events)
    page.locator("#user-input").fill("3")
    page.keyboard.press("Enter")
    expect(page.locator("#list ol")).to_have_count(2)
    expect(page.locator("#list ol").first.locator("li")).to_have_count(10)
    both = int(page.locator("#status").inner_text().split()[0])
    only = page.locator("#list ol").first.locator("li", has_text="only here").count()
    assert both == 10 - only < 10
    assert page.locator("#list tbody tr").count() == 20 - both
    assert rows(app, events) == before
    assert operator not in page.url
    assert page.evaluate("[document.cookie, JSON.stringify(localStorage)]") == ["", '{"recpolicy-theme":"system"}']
    assert visit.context.cookies() == []


def test_an_operator_promotes_and_rolls_back_after_being_asked(visit, app, operator):
    page = visit.open("/operations", operator)
    champion = page.locator("#versions article", has=page.locator(".tag.champion"))
    expect(champion).to_contain_text("Version 1")
    page.get_by_role("button", name="Promote").click()
    dialog = page.locator("#confirm-dialog")
    expect(dialog).to_contain_text("Promote version 2?")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert app.state.server.models.live.champion.number == 1
    page.get_by_role("button", name="Promote").click()
    dialog.get_by_role("button", name="Promote").click()
    expect(champion).to_contain_text("Version 2")
    page.get_by_role("button", name="Roll back").click()
    dialog.get_by_role("button", name="Roll back").click()
    expect(champion).to_contain_text("Version 1")
    expect(page.locator("#audit tbody tr").first).to_contain_text("roll back")
    page.get_by_role("button", name="Pause exploration").click()
    page.get_by_role("button", name="Resume exploration").click()
    expect(page.get_by_role("button", name="Pause exploration")).to_be_visible()


def test_a_refresh_keeps_what_is_open_focused_and_typed(visit, operator):
    visit.page.clock.install()
    page = visit.open("/operations", operator)
    page.locator("#gate-2").click()
    expect(page.locator("#versions td", has_text="failed")).to_be_visible()
    expect(page.locator("#versions li")).to_have_text("too <b>narrow</b>")
    page.locator("#share-2").fill("25")
    page.evaluate("scrollTo(0, 240); document.getElementById('fresh').textContent = 'before'")
    page.clock.fast_forward(4_500)
    expect(page.locator("#fresh")).to_have_text(re.compile(r"as of .*(UTC|GMT|[A-Z]{3,4})$"))
    assert page.evaluate("document.activeElement.id") == "share-2"
    assert page.locator("#share-2").input_value() == "25"
    expect(page.locator("#versions td", has_text="failed")).to_be_visible()
    assert page.evaluate("scrollY") == 240
    expect(page.locator("#metrics")).to_contain_text("Requests / s")
    expect(page.locator("#jobs article").first).to_contain_text("Next:")


def test_a_long_list_of_the_lineage_is_counted(visit, operator):
    """A lineage names, for example, the number of rounds of each of thousands of items."""
    lineage = {"pulls": list(range(1_682)), "items": [7, 8]}

    def extended(route):
        answer = route.fetch()
        body = answer.json()
        body["lineage"] |= lineage
        route.fulfill(response=answer, json=body)

    visit.page.route("**/v1/admin/versions/2", extended)
    page = visit.open("/operations", operator)
    page.locator("#gate-2").click()
    text = page.locator("pre[aria-label=Lineage]").text_content()
    assert '"pulls": "1,682 values"' in text
    assert "1681" not in text
    assert json.loads(text)["items"] == [7, 8]


COUNTERS = """# HELP recpolicy_requests_total Requests.
recpolicy_requests_total{method="POST",route="/v1/recommend",status="200"} 30.0
recpolicy_requests_total{method="GET",route="/a \\"quoted\\" {one}",status="500"} 2e0
recpolicy_writes_waiting 0.0
"""


def test_counters_are_read_and_quantiles_found(visit):
    page = visit.open("/operations")
    ask = "([path, call, args]) => import(path).then(found => found[call](...args))"
    rows = page.evaluate(ask, ["/console/counters.js", "parse", [COUNTERS]])
    assert [row["value"] for row in rows] == [30, 2, 0]
    assert rows[0]["labels"] == {"method": "POST", "route": "/v1/recommend", "status": "200"}
    assert rows[1]["labels"]["status"] == "500"
    buckets = [{"edge": 0.1, "count": 50}, {"edge": 0.2, "count": 90}, {"edge": 1, "count": 90}]
    for share, value in ((0.25, 0.045), (0.5, 0.09), (0.75, 0.14375), (1, 0.2)):
        found = page.evaluate(ask, ["/console/counters.js", "quantile", [buckets, share]])
        assert found == pytest.approx(value)
    assert page.evaluate(ask, ["/console/counters.js", "quantile", [[], 0.5]]) is None


def test_operations_without_a_key_show_the_counters_and_ask_for_one(visit):
    page = visit.open("/operations")
    expect(page.locator("#metrics dd").first).to_be_visible()
    expect(page.locator("#versions")).to_have_text("This needs a key with the role reader or operator.")
    page.get_by_role("button", name="Enter a key").click()
    expect(page.locator("#key-dialog")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "key-input"


def test_a_reader_is_told_what_needs_an_operator(visit, app):
    page = visit.open("/operations", key_for(app, "reader"))
    page.get_by_role("button", name="Pause exploration").click()
    expect(page.locator("#status")).to_contain_text("Not allowed: this request needs the role operator")
    visit.refused.remove(403)


# ---------------------------------------------------------------- how it looks


@pytest.mark.parametrize("path", ["/", "/compare", "/operations"])
def test_a_phone_needs_no_scrolling_sideways(browser, server, operator, path):
    visit = Visit(browser, server[1], viewport={"width": 360, "height": 740}, has_touch=True)
    visit.page.route("**/v1/admin/rollouts/current", lambda route: route.fulfill(json=ROLLOUT))
    page = visit.open(path, operator)
    if path == "/operations":
        expect(page.locator("#versions article")).to_have_count(2)
        expect(page.locator("#rollout")).to_contain_text("Version 2 against 1 30 % of the users")
        expect(page.get_by_role("img", name="difference: 0.10 (-0.07 to open)")).to_be_visible()
    else:
        page.locator("#user-input").fill("3")
        page.keyboard.press("Enter")
        expect(page.locator("#list li").first).to_be_visible()
    assert page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [360, 360]
    visit.close()


def test_dark_and_light_follow_the_system_until_one_is_chosen(browser, server):
    visit = Visit(browser, server[1], color_scheme="dark")
    page = visit.open("/")

    def ground():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert ground() == "rgb(18, 22, 26)"
    theme = page.locator("#theme-button")
    theme.click()
    expect(theme).to_have_text("Theme: light")
    assert ground() == "rgb(244, 246, 248)"
    page.reload()
    assert ground() == "rgb(244, 246, 248)"
    theme.click()
    assert ground() == "rgb(18, 22, 26)"
    visit.close()


# ---------------------------------------------------------------- bad states


def refuse(page, path, status, code, **headers):
    """Answer a path as the server would in bad times."""
    body = {"error": {"code": code, "message": f"it is {code}"}}
    page.route(f"**{path}", lambda route: route.fulfill(status=status, json=body, headers=headers))


def test_a_user_who_is_not_known_gets_the_list_of_the_prior(visit):
    page = visit.open("/")
    page.locator("#user-input").fill("<b>nobody")
    page.keyboard.press("Enter")
    expect(page.locator("#list li.item")).to_have_count(10)


def test_a_server_that_is_gone_is_one_line_and_can_be_asked_again(visit):
    page = visit.open("/")
    pick(page, 3)
    visit.context.set_offline(True)
    page.get_by_role("button", name="Apply").click()
    banner = page.get_by_role("alert")
    expect(banner).to_contain_text("The server does not answer.")
    visit.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(banner).to_be_hidden()
    expect(page.locator("#list li.item")).to_have_count(10)


def test_too_much_at_once_says_when_to_come_back(visit):
    page = visit.open("/")
    refuse(page, "/v1/recommend", 429, "rate_limited", **{"retry-after": "7"})
    page.locator("#user-input").fill("3")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Too many requests; try again in 7 s.")
    visit.refused.remove(429)


def test_a_rating_that_the_database_does_not_take_can_be_sent_again(visit):
    page = visit.open("/")
    pick(page, 6)
    refuse(page, "/v1/feedback", 503, "database_unavailable", **{"retry-after": "5"})
    star = page.locator("#list li.item").first.locator("form.stars label").nth(4)
    star.click()
    expect(page.locator("#list .said.bad")).to_contain_text("The database does not answer.")
    page.unroute("**/v1/feedback")
    star.click()
    expect(page.locator("#list .said")).to_have_text("5 ★ accepted, reward 5.0")
    visit.refused.remove(503)


def test_what_the_server_does_not_offer_is_said_quietly(visit, operator):
    page = visit.open("/operations", operator)
    refuse(page, "/v1/admin/drift", 404, "not_found")
    refuse(page, "/v1/admin/audit?count=20", 503, "database_unavailable")
    expect(page.locator("#drift")).to_have_text("This server does not have it.")
    expect(page.locator("#audit")).to_contain_text("The database does not answer.")
    expect(page.locator("#versions article")).to_have_count(2)
    expect(page.get_by_role("alert")).to_be_hidden()
    assert {404, 503} == set(visit.refused)
    visit.refused.clear()
