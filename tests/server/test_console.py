"""The console without a browser: what the pages hold, what they may load, and what their scripts can ask."""

import json
import re
from html.parser import HTMLParser

import pytest
from api_keys import bearing, key_for
from client_helpers import ask, refusal
from sqlalchemy import func, select
from unlimited import UNLIMITED
from xss_policies import GENRE, TITLE, USER, write_hostile

from recpolicy.inference.load_scorer import load_scorer
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.console import pages, queries
from recpolicy.server.console.queries import ScorerCache, read_card
from recpolicy.server.db.schema import events
from recpolicy.server.lifespan import open_state, stateless_state
from recpolicy.server.live_models import LiveState, LoadedVersion
from recpolicy.server.schemas import console
from recpolicy.server.settings import ConsoleConfig, Settings

PAGES = ("/", "/compare", "/ranks", "/operations")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Two versions; the first one is the champion. The second one has users and items that the first one lacks."""
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(folder / "registry")
    registry.register(write_hostile(folder / "one"), gate={"verdict": "pass"})
    registry.register(write_hostile(folder / "two", seed=1, users=21, items=32))
    registry.promote(1)
    return registry


@pytest.fixture(scope="module")
def app(registry):
    with open_state(registry.folder, None, UNLIMITED) as state:
        yield make_app(state)


@pytest.fixture(scope="module")
def reader(app):
    return bearing(key_for(app, "reader"))


class Tags(HTMLParser):
    """All tags of a page with their attributes, and the text in its scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inline, self._inside = [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside in ("script", "style"):
            self.inline += data.strip()


# ---------------------------------------------------------------- pages and files


@pytest.mark.parametrize("path", PAGES)
def test_a_page_forbids_what_it_does_not_need(app, path):
    answer = ask(app, "GET", path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    allowed = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert allowed["default-src"] == "'none'"
    assert {allowed[kind] for kind in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert {allowed[kind] for kind in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert allowed["require-trusted-types-for"] == "'script'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_nothing_inline_and_loads_only_files_that_are_there(app, path):
    found = Tags(ask(app, "GET", path).text)
    assert found.inline == ""
    loaded = []
    for tag, words in found.tags:
        assert not [word for word in words if word.startswith("on") or word == "style"], (tag, words)
        assert tag != "style"
        assert tag != "script" or "src" in words
        loaded += [words[word] for word in ("src", "href") if word in words]
    assert len(loaded) > 8
    places = {address for address in loaded if address.startswith("#")}
    assert {place[1:] for place in places} <= {words.get("id") for _, words in found.tags}
    for address in set(loaded) - places:
        assert re.fullmatch(r"/[a-z./]*", address), address
        assert ask(app, "GET", address).status_code == 200, address


@pytest.mark.parametrize("name", sorted(pages.assets()))
def test_no_file_names_another_place_or_writes_html(name):
    text = pages.assets()[name].body.decode().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|url\(|@import", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|srcdoc", text)
    assert not re.search(r"window\.confirm|\bconfirm\(|alert\(|document\.cookie", text)
    assert not re.search(r"localStorage\.setItem\((?!THEME)", text)  # the key stays in the tab
    imported = re.findall(r'from "([^"]*)"', text)
    assert all(one.startswith("./") and one[2:] in pages.assets() for one in imported), imported


def test_names_from_the_data_are_text_in_the_page(app):
    text = ask(app, "GET", "/").text
    assert GENRE not in text
    assert [words["value"] for tag, words in Tags(text).tags if words.get("name") == "genre"] == sorted(
        ["Comedy", GENRE]
    )
    assert TITLE not in text


def test_every_control_has_a_label(app):
    for path in PAGES:
        tags = Tags(ask(app, "GET", path).text).tags
        labelled = {words["for"] for tag, words in tags if tag == "label" and "for" in words}
        wanted = {
            words["id"]
            for tag, words in tags
            if tag in ("input", "select") and words.get("type") not in ("radio", "checkbox")
        }
        assert wanted - labelled == set()


def test_a_file_is_not_sent_again_while_it_is_the_same(app):
    first = ask(app, "GET", "/console/console.css")
    assert first.headers["content-type"] == "text/css; charset=utf-8"
    again = ask(app, "GET", "/console/console.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = ask(app, "GET", "/console/console.css", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize("path", ["%2e%2e%2fpages.py", "../pages.py", "pages.py", "../templates/base.html.j2", ""])
def test_only_the_files_of_the_console_are_served(app, path):
    assert ask(app, "GET", f"/console/{path}").status_code == 404


def test_a_server_without_store_and_registry_has_the_pages_too(app, registry):
    kept = 'data-learns="true" data-learns-keyless="false" data-stores="true"'
    assert kept in ask(app, "GET", "/").text
    bare = make_app(stateless_state(registry.resolve(1), Settings()))
    assert [ask(bare, "GET", path).status_code for path in PAGES] == [200] * len(PAGES)
    text = ask(bare, "GET", "/").text
    assert "what the policy (linucb) recommends" in text
    assert kept.replace("true", "false") in text


def test_text_stands_out_from_its_ground_in_both_themes():
    css = pages.assets()["console.css"].body.decode()
    pairs = dict(re.findall(r"--([a-z-]+): light-dark\((#\w{6}, #\w{6})\)", css))
    grounds = {"ink": ("card", "paper", "tint", "warm", "alarm", "pale"), "muted": ("card", "paper", "tint")}
    grounds |= dict.fromkeys(("blue", "green", "red", "gold"), ("card", "paper", "tint")) | {"on-blue": ("blue",)}
    for theme in (0, 1):
        shade = {name: pair.split(", ")[theme] for name, pair in pairs.items()}
        low = [
            (text, ground)
            for text, several in grounds.items()
            for ground in several
            if contrast(shade[text], shade[ground]) < 4.5
        ]
        assert low == []
        assert contrast(shade["edge"], shade["card"]) >= 3  # borders of controls, and stars


def contrast(one, other):
    """The contrast ratio of WCAG 2."""

    def light(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)


# ---------------------------------------------------------------- finding


def test_users_are_found_by_their_whole_id_then_its_beginning_then_a_part(app):
    reader = bearing(key_for(app, "reader"))

    def find(**request):
        return ask(app, "POST", "/v1/console/users", request, headers=reader).json()

    answer = find(text="2", count=3)
    console.UserMatches.model_validate(answer)
    assert answer == {"users": [2, 20, 12], "total": 20}
    assert find()["users"] == list(range(1, 13))
    for text in ("02", "²", "<b>", "9" * 200, "--5", "-"):
        assert find(text=text)["users"] == []


def test_an_id_that_is_typed_whole_comes_first_also_where_many_begin_with_it():
    class Known:
        user_ids = [120, 121, 122, 12, "12"]  # noqa: RUF012

        def knows(self, user):
            return user in self.user_ids

    assert queries.find_users(Known(), " 12 ", 3) == ["12", 12, 120]


@pytest.mark.parametrize("listed", [True, False])
def test_users_are_listed_for_readers_unless_the_operator_lists_them_for_all(registry, tmp_path, listed):
    with open_state(registry.folder, tmp_path, Settings(console=ConsoleConfig(list_users=listed))) as state:
        app = make_app(state)
        answer = ask(app, "POST", "/v1/console/users", {})
        if listed:
            assert answer.json()["total"] == 20
        else:
            assert "needs the role reader: [console] list_users is off" in refusal(answer, 401, "unauthorized")
        client = bearing(key_for(app, "client"))
        assert ask(app, "POST", "/v1/console/users", {}, headers=client).status_code == (200 if listed else 403)


@pytest.mark.parametrize("listed", [True, False])
def test_users_with_names_are_listed_for_readers_only(tmp_path, listed):
    settings = Settings(console=ConsoleConfig(list_users=listed))
    with open_state(write_hostile(tmp_path / "named", text=True), tmp_path / "state", settings) as state:
        app = make_app(state)
        refusal(ask(app, "POST", "/v1/console/users", {}), 401, "unauthorized")
        client, reader = (bearing(key_for(app, role)) for role in ("client", "reader"))
        refusal(ask(app, "POST", "/v1/console/users", {}, headers=client), 403, "forbidden")
        found = ask(app, "POST", "/v1/console/users", {"text": "<svg"}, headers=reader)
        assert found.json()["users"] == [USER]
        assert USER not in ask(app, "GET", "/").text


def test_items_are_found_by_words_the_most_often_rated_first(app):
    scorer = app.state.server.models.live.champion.scorer
    found = ask(app, "POST", "/v1/console/items", {"text": "", "count": 30}).json()
    console.ItemMatches.model_validate(found)
    times = [(scorer.artifact.rated_item == scorer.item_row(item["item_id"])).sum() for item in found["items"]]
    assert times == sorted(times, reverse=True)
    (only,) = ask(app, "POST", "/v1/console/items", {"text": " (1983) ITEM "}).json()["items"]
    assert only == {"item_id": 104, "title": f"{TITLE} 3 (1983)", "genres": [GENRE]}


def test_a_server_that_asks_for_keys_asks_here_too_and_shows_its_pages(registry, tmp_path):
    limits = type(Settings().limits)(require_key=True)
    with open_state(registry.folder, tmp_path, Settings(limits=limits)) as state:
        app = make_app(state)
        for path in ("users", "items", "estimates"):
            refusal(ask(app, "POST", f"/v1/console/{path}", {}), 401, "unauthorized")
        assert [ask(app, "GET", path).status_code for path in PAGES] == [200] * len(PAGES)


# ---------------------------------------------------------------- looking


def shown(app):
    with app.state.server.store.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(events))


def test_estimates_are_those_of_the_list_and_write_no_event(app):
    asked = {"user": 3, "k": 5, "genres": ["Comedy"], "years": [1985, 2005]}
    lists = (ask(app, "POST", "/v1/recommend", asked).json() for _ in range(20))
    listed = next(one for one in lists if not one["explored"])  # one in 200 is drawn at random
    before = shown(app)
    ids = [item["item_id"] for item in listed["items"]]
    answer = ask(app, "POST", "/v1/console/estimates", {**asked, "items": [*ids, 102, 999]}).json()
    console.EstimatesResponse.model_validate(answer)
    *told, hidden = answer["items"]  # 999 is not there
    assert [(one["item_id"], one["rank"]) for one in told] == [(item, place + 1) for place, item in enumerate(ids)]
    assert [(one["rating"], one["std"]) for one in told] == [(one["rating"], one["std"]) for one in listed["items"]]
    assert (hidden["item_id"], hidden["rank"]) == (102, None)  # of another genre
    assert answer["policy"] == listed["policy"]
    assert shown(app) == before


def test_two_versions_are_told_of_the_same_items(app, reader):
    before = shown(app)
    asked = {"user": 3, "k": 4, "versions": [None, 2]}
    answer = ask(app, "POST", "/v1/admin/compare", asked, headers=reader).json()
    console.Comparison.model_validate(answer)
    now, other = answer["sides"]
    assert (now["version"], other["version"]) == (None, 2)
    lists = [{one["item_id"] for one in side["items"] if one["rank"] and one["rank"] <= 4} for side in (now, other)]
    assert [len(one) for one in lists] == [4, 4]
    assert {one["item_id"] for one in other["items"]} == lists[0] | lists[1]
    listed = ask(app, "POST", "/v1/recommend", {"user": 3, "k": 4}).json()
    assert {item["item_id"] for item in listed["items"]} == lists[0]
    assert shown(app) == before + 1


def test_a_version_that_does_not_know_the_user_shows_what_it_would_recommend(app, reader):
    asked = {"user": 21, "k": 3, "versions": [1, 2]}
    first, second = ask(app, "POST", "/v1/admin/compare", asked, headers=reader).json()["sides"]
    assert min(len(first["items"]), len(second["items"])) >= 3
    assert not {"error"} & {*first, *second}


def test_a_version_of_other_ids_says_so_beside_the_other(app, reader):
    asked = {"user": "21", "k": 3, "versions": [1, 2]}
    first, second = ask(app, "POST", "/v1/admin/compare", asked, headers=reader).json()["sides"]
    assert second["error"]["code"] == "unknown_id"
    assert second["items"] == []
    assert len(first["items"]) == 3
    assert "error" not in first


def test_versions_that_are_not_there_are_refused(app, reader):
    asked = {"user": 3, "versions": [1, 7]}
    message = refusal(ask(app, "POST", "/v1/admin/compare", asked, headers=reader), 404, "not_found")
    assert "no version 7" in message
    for versions in ([1], [1, 2, 1], ["1", 2], [0, 1], ["../1", 1]):
        asked = {"user": 3, "versions": versions}
        refusal(ask(app, "POST", "/v1/admin/compare", asked, headers=reader), 422, "invalid_request")


def test_no_more_versions_are_held_than_fit_the_shelf(tmp_path):
    registry = Registry(tmp_path / "registry")
    for seed in range(4):
        registry.register(write_hostile(tmp_path / str(seed), seed), gate={"verdict": "pass"})
    registry.promote(1)
    loaded = []

    def load(folder, cache_bytes):
        loaded.append(int(folder.parent.name))
        return load_scorer(folder, cache_bytes)

    champion = load_scorer(registry.resolve(1))
    size = queries._size(champion)
    live, scorer_cache = LiveState(LoadedVersion(champion, 1)), ScorerCache(2 * size, load)
    assert scorer_cache.version(registry, live, 1) is champion
    for number in (2, 3, 2, 4, 2, 3):
        assert (
            scorer_cache.version(registry, live, number).metadata["policy_digest"]
            == registry.version(number).policy_digest
        )
        assert len(scorer_cache) <= 2
    assert loaded == [2, 3, 4, 3]


# ---------------------------------------------------------------- the simulator's card


def test_the_card_of_the_simulator_is_shown_where_there_is_one(app, registry, reader):
    assert ask(app, "GET", "/v1/admin/simulator", headers=reader).json() == {"card": None}
    card = registry.folder / "simulator" / "card.json"
    card.parent.mkdir()
    gate = {"value": 0.8, "limit": 0.79, "at_least": True, "passed": True}
    card.write_text(json.dumps({"passed": True, "world": "svd", "gates": {"like AUC": gate}, "config": {"a": 1}}))
    found = ask(app, "GET", "/v1/admin/simulator", headers=reader).json()
    assert found == {"card": {"passed": True, "world": "svd", "gates": {"like AUC": gate}}}


@pytest.mark.parametrize("text", ["{", "[]", '{"gates": 3}', "\udcff"])
def test_a_card_that_is_none_is_not_shown(tmp_path, text):
    (tmp_path / "simulator").mkdir()
    (tmp_path / "simulator" / "card.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_card(tmp_path) is None
