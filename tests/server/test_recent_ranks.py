"""The latest ranks with their rewards, as the console's page shows them."""

import json

import numpy as np
import pytest
from api_keys import bearing, key_for, listening
from browsers import Visit, chromium
from client_helpers import ask, refusal
from rank_events import rank_event
from ranking import REQUEST, ValuePolicy, ranking
from sqlalchemy import insert
from tiny_policies import write_tiny

from recpolicy.data.reward_signals import RewardConfig
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rank_events import insert_rank_events
from recpolicy.server.db.recent_ranks import list_recent, summarize_recent
from recpolicy.server.db.schema import rank_signals
from recpolicy.server.lifespan import open_state
from recpolicy.server.rank.service import LEARNING
from recpolicy.server.settings import Settings

REWARD = RewardConfig(weights={"reward": 1.0}, wait_seconds=600, min_reward=0.0, max_reward=1.0)


@pytest.fixture
def app(tmp_path):
    with ranking(tmp_path / "registry", ValuePolicy(), REWARD) as app:
        yield app


def engine(app):
    return app.state.server.store.engine


def add(app, events, rewards):
    """Store events, and a signal on each that has a reward."""
    signals = [
        {"event_id": event.id, "slot": event.slot, "signal_id": None, "type": "reward", "value": value,
         "time": event.time + 1, "late": False, "online": True}
        for event, value in zip(events, rewards, strict=True) if value is not None
    ]  # fmt: skip
    with transaction(engine(app)) as connection:
        insert_rank_events(connection, events)
        connection.execute(insert(rank_signals), signals)


def shown(app, count=50):
    answer = ask(app, "GET", f"/v1/admin/ranks?count={count}", headers=bearing(key_for(app, "reader")))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_latest_ranks_have_their_choice_and_a_reward_once_it_is_final(app):
    old, new = now_ms() - 700_000, now_ms() - 1_000
    half = np.array([0.25, 0.75]).tobytes()
    events = [
        rank_event(id="final", time=old, probabilities=half, ranking=np.array([1, 0], "<u2").tobytes()),
        rank_event(id="nothing", time=old), rank_event(id="deferred", time=old, activated_at=None),
        rank_event(id="waiting", time=new), rank_event(id="slots", time=old, slot_id="top"),
        rank_event(id="slots", time=old, slot=1, slot_id="side"), rank_event(id="strategy", time=old, task="strategy"),
    ]  # fmt: skip
    add(app, events, [0.5, None, 1.0, 1.0, None, 1.0, 1.0])
    body = shown(app)
    ranks = body["ranks"]
    assert [(each["event_id"], each["slot_id"]) for each in ranks] == [
        ("slots", "side"), ("slots", "top"), ("waiting", None), ("deferred", None), ("nothing", None), ("final", None)
    ]  # fmt: skip
    assert [each["state"] for each in ranks] == ["final", "final", "waiting", "inactive", "final", "final"]
    assert [each["reward"] for each in ranks] == [1.0, 0.0, None, None, 0.0, 0.5]  # 0 is the default
    assert (ranks[-1]["action"], ranks[-1]["propensity"], ranks[-1]["actions"]) == ("b", 0.75, 2)
    assert body["summary"]["events"] == 6
    assert body["summary"]["final"] == 4
    assert body["summary"]["mean"] == {"value": 0.375, "lo": None, "hi": None}
    assert [each["event_id"] for each in shown(app, 2)["ranks"]] == ["slots", "slots"]
    with engine(app).connect() as connection:
        ranks = list_recent(
            connection, RewardConfig(weights={"reward": 1.0}, default_reward=-1.0, wait_seconds=600), 50
        )
    assert [each["reward"] for each in ranks] == [1.0, -1.0, None, None, -1.0, 0.5]


def test_the_reward_rate_has_an_interval_over_users(app):
    """50 users of two events each, half of the users rewarded: the events of a user are one unit."""
    time = now_ms() - 700_000
    events = [rank_event(user=user, id=f"{user}-{turn}", time=time) for user in range(50) for turn in range(2)]
    add(app, events, [1.0 if number < 50 else 0.0 for number in range(100)])
    with engine(app).connect() as connection:
        summary = summarize_recent(connection, REWARD)
    # sum (x - r n)^2 = 50 (1)^2, / (sum n)^2 = 10^4, * U / (U - 1) = 50 / 49: standard error .07143
    half = 1.959964 * np.sqrt(50 / 1e4 * 50 / 49)
    assert (summary.events, summary.final, summary.positive.value) == (100, 100, 0.5)
    assert summary.positive.hi - 0.5 >= half
    assert summary.positive.hi - 0.5 == pytest.approx(half, rel=0.2)  # and something for whole steps


def test_an_overview_names_the_model_and_no_person(app):
    ask(app, "POST", "/v1/rank", REQUEST | {"user": "ann@example.org", "context": {"secret": "pregnant"}})
    state = app.state.server
    state.rank.store(state.store.engine, LEARNING, {"name": "mine", "arguments": "--agent lints"})
    body = shown(app)
    assert body["policy"] == {"version": 1, "agent": "squarecb", "policy_digest": ValuePolicy.policy_digest}
    assert (body["mode"], body["exploration"], body["learning"]["name"]) == ("online", 0.0, "mine")
    assert len(body["ranks"]) == 1
    assert not {"ann@example.org", "pregnant", "secret"} & set(json.dumps(body).replace('"', " ").split())


def test_a_server_without_ranks_shows_an_empty_overview(tmp_path):
    with ranking(tmp_path / "registry") as app:
        body = shown(app)
    assert (body["policy"]["version"], body["policy"]["agent"]) == (None, "uniform")
    assert body["summary"] == {
        "events": 0, "since": None, "final": 0, "mean": {"value": None, "lo": None, "hi": None},
        "positive": {"value": None, "lo": None, "hi": None},
    }  # fmt: skip


def test_the_overview_needs_a_reader_and_a_policy_that_ranks(app, tmp_path):
    refusal(ask(app, "GET", "/v1/admin/ranks"), 401, "unauthorized")
    refusal(ask(app, "GET", "/v1/admin/ranks", headers=bearing(key_for(app, "client"))), 403, "forbidden")
    headers = bearing(key_for(app, "reader"))
    refusal(ask(app, "GET", "/v1/admin/ranks?count=501", headers=headers), 422, "invalid_request")
    registry = Registry(tmp_path / "ratings")
    registry.register(write_tiny(tmp_path / "policy", 0))
    registry.promote(1, ungated=True)
    with open_state(registry.folder, None, Settings()) as state:
        ratings = make_app(state)
        headers = bearing(key_for(ratings, "reader"))
        refusal(ask(ratings, "GET", "/v1/admin/ranks", headers=headers), 409, "wrong_policy_kind")


def test_the_page_shows_model_rewards_and_ranks(app):
    time = now_ms() - 700_000
    events = [rank_event(user=user, id=f"<b>{user}</b>", time=time) for user in range(40)]
    add(app, events, [float(number % 2) for number in range(40)])
    with listening(app) as (host, port), chromium() as browser:
        from playwright.sync_api import expect

        visit = Visit(browser, f"http://{host}:{port}", viewport={"width": 360, "height": 740})
        page = visit.open("/ranks")
        expect(page.locator("#ranks")).to_contain_text("This needs a key")
        page.get_by_role("button", name="Enter a key").click()
        page.locator("#key-input").fill(key_for(app, "reader"))
        page.keyboard.press("Enter")
        expect(page.locator("#ranks tbody tr")).to_have_count(40)
        expect(page.locator("#ranks tbody tr").first).to_contain_text("<b>39</b>")
        expect(page.locator("#summary")).to_contain_text("50.0 %")
        expect(page.locator("#model")).to_contain_text("squarecb")
        expect(page.locator("nav [aria-current=page]")).to_have_text("Ranks")
        assert page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [360, 360]
        visit.close()
