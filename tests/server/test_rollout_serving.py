"""What clients see while a challenger is tried: never a failure that the champion would not give."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
from client_helpers import ask
from rollout_fixtures import QUICK, rolling
from sqlalchemy import select
from waiting import PATIENCE, wait_until

from recpolicy.core.errors import UnknownIdError
from recpolicy.server.app import make_app
from recpolicy.server.db import rollouts
from recpolicy.server.db.events import id_key
from recpolicy.server.db.schema import events
from recpolicy.server.live_models import CHALLENGER, CHAMPION, WATCH_SECONDS, LiveState, bucket
from recpolicy.server.recommend import NO_EXPLORATION, choose
from recpolicy.server.rollout import background, controller
from recpolicy.server.rollout.background import compare_shadow
from recpolicy.server.rollout.counters import MAX_WAITING, ShadowPair
from recpolicy.server.rollout.stage_metrics import VariantHealth
from recpolicy.server.schemas.requests import RecommendRequest

USERS = range(1, 8)


@pytest.fixture
def state(tmp_path):
    with rolling(tmp_path, replace(QUICK, shadow_sample=1.0)) as state:
        yield state


def recommend(state, user=1, **words):
    return ask(make_app(state), "POST", "/v1/recommend", {"user": user, "k": 3} | words)


def health(state):
    background.flush(state)
    with state.store.engine.connect() as connection:
        return rollouts.health(connection, 1)


def broken(state, monkeypatch, error):
    """Let the challenger fail."""

    def fail(*_, **__):
        raise error

    for method in ("predict_one", "score_batches"):
        monkeypatch.setattr(state.models.live.challenger.scorer, method, fail)


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), UnknownIdError("no such user"), MemoryError()])
def test_what_the_challenger_fails_to_answer_the_champion_answers(state, monkeypatch, error):
    before = recommend(state).json()["items"]
    controller.start(state, 2, "ann", {"stages": [1.0]})
    broken(state, monkeypatch, error)
    answer = recommend(state)
    assert answer.status_code == 200
    assert answer.json()["items"] == before
    assert answer.json()["policy"]["variant"] == CHAMPION
    with state.store.engine.connect() as connection:
        shown = connection.execute(select(events).order_by(events.c.seq.desc())).mappings().first()
    assert (shown["version"], shown["rollout"]) == (1, None)  # no part of the comparison
    found = health(state)[CHALLENGER]
    assert (found.requests, found.failures) == (1, 1)
    assert 'recpolicy_choose_failures_total{variant="challenger"} 1.0' in ask(make_app(state), "GET", "/metrics").text


def test_what_is_the_callers_fault_counts_against_nobody(state):
    controller.start(state, 2, "ann", {"stages": [1.0]})
    assert recommend(state, user="1").status_code == 404
    assert health(state) == {}


def test_batches_and_prediction_servers_are_answered_as_well(state, monkeypatch):
    controller.start(state, 2, "ann", {"stages": [1.0]})
    broken(state, monkeypatch, ZeroDivisionError())
    body = {"requests": [{"user": 1, "k": 2}, {"user": "1", "k": 2}, {"user": 2, "k": 2}]}
    answers = ask(make_app(state), "POST", "/v1/recommend/batch", body).json()["answers"]
    assert ["items" in one for one in answers] == [True, False, True]
    body = {"instances": [{"user": 1}]}
    (one,) = ask(make_app(state), "POST", "/v1/models/recpolicy:predict", body).json()["predictions"]
    assert one["policy"]["variant"] == CHAMPION
    assert health(state)[CHALLENGER].failures == 3


def test_both_variants_are_counted_and_events_name_the_rollout(state):
    controller.start(state, 2, "ann", {"stages": [0.5]})
    content = state.models.live.challenger.policy_digest
    theirs = {user for user in USERS if bucket(id_key(user), content) < 0.5}
    assert 0 < len(theirs) < len(USERS)
    for user in USERS:
        variant = recommend(state, user).json()["policy"]["variant"]
        assert variant == (CHALLENGER if user in theirs else CHAMPION)
    found = health(state)
    assert {name: one.requests for name, one in found.items()} == {
        CHALLENGER: len(theirs), CHAMPION: len(USERS) - len(theirs)
    }  # fmt: skip
    assert all(one.seconds > 0 for one in found.values())
    with state.store.engine.connect() as connection:
        assert set(connection.scalars(select(events.c.rollout))) == {1}


def test_a_shadow_changes_no_answer_and_is_compared(state):
    before = [recommend(state, user, k=6).json()["items"] for user in USERS]
    controller.start(state, 2, "ann", {"shadow": True, "stages": [1.0]})
    for user, items in zip(USERS, before, strict=True):
        answer = recommend(state, user, k=6).json()
        assert (answer["items"], answer["policy"]["version"]) == (items, 1)
    assert health(state)[CHAMPION].requests == len(USERS)
    while background.compare_next(state):
        pass
    found, champion = health(state)[CHALLENGER], state.models.live.champion
    challenger, agreement, gap = state.models.live.challenger, 0.0, 0.0
    for user, items in zip(USERS, before, strict=True):
        asked = RecommendRequest(user=user, k=6)
        alone = choose(LiveState(challenger), asked, NO_EXPLORATION).item_ids
        shown = [item["item_id"] for item in items]
        agreement += len(set(alone) & set(shown)) / 6
        rows = champion.scorer.item_rows(shown)
        gap += (
            challenger.scorer.predict_one(user).rating[rows] - champion.scorer.predict_one(user).rating[rows]
        ).mean()
    assert (found.requests, found.failures, found.agreement) == (len(USERS), 0, pytest.approx(agreement))
    assert found.rating_difference == pytest.approx(gap, abs=1e-5)
    assert abs(gap) > 0.1
    assert 0 < agreement < len(USERS)
    text = ask(make_app(state), "GET", "/metrics").text
    assert f"recpolicy_shadow_agreement_count {len(USERS):.1f}" in text


def test_a_shadow_that_fails_fails_nobody(state, monkeypatch):
    controller.start(state, 2, "ann", {"shadow": True})
    broken(state, monkeypatch, ZeroDivisionError())
    assert recommend(state).status_code == 200
    assert background.compare_next(state)
    assert health(state)[CHALLENGER].failures == 1


def test_more_comparisons_than_may_wait_are_dropped_and_counted(state):
    controller.start(state, 2, "ann", {"shadow": True})
    for _ in range(MAX_WAITING + 3):
        assert recommend(state).status_code == 200
    assert health(state)[CHALLENGER] == VariantHealth(dropped=3)


def test_lists_that_were_drawn_to_explore_are_not_compared(state):
    controller.start(state, 2, "ann", {"shadow": True})
    live, asked = state.models.live, RecommendRequest(user=1, k=3)
    chosen = choose(live, asked, NO_EXPLORATION)
    drawn = replace(chosen, event=chosen.event._replace(explored=True))
    for one, waits in ((drawn, False), (chosen, True)):
        state.rollout_counters.shadow.offer(live, asked, one, 1.0)
        assert (state.rollout_counters.shadow.next() is not None) == waits
    state.rollout_counters.shadow.offer(live, asked, chosen, 0.0)
    assert state.rollout_counters.shadow.next() is None


def test_the_same_policy_as_shadow_agrees_wholly(state):
    served = state.models.live.champion
    live, asked = LiveState(served, served, shadow=True), RecommendRequest(user=1, k=3)
    found = compare_shadow(ShadowPair(live, asked, choose(live, asked, NO_EXPLORATION)), 25.0)
    assert (found.agreement, found.rating_difference) == (1.0, pytest.approx(0.0))


@asynccontextmanager
async def running(app):
    """The app with what runs beside it, and a client."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client,
    ):
        yield client


def test_swaps_under_load_fail_no_request(state):
    """Four clients ask while champion and challenger change places, come and go; each swap is under load."""
    registry, done, found = state.models.registry, threading.Event(), []

    def swap():
        try:
            for turn in range(12):
                if turn % 3 == 0:
                    registry.set_challenger(2 if registry.routing().champion == 1 else 1, 0.5, shadow=turn % 2 == 0)
                elif turn % 3 == 1:
                    registry.promote(2 if registry.routing().champion == 1 else 1)
                else:
                    registry.roll_back()
                state.models.refresh()
                answered = len(found)
                wait_until(lambda answered=answered: len(found) >= answered + 10, "ten answers")
        finally:
            done.set()

    async def ask_on(client, user):
        while not done.is_set():
            answer = await client.post("/v1/recommend", json={"user": user, "k": 3})
            found.append((answer.status_code, (answer.json().get("policy") or {}).get("version")))

    async def load():
        async with running(make_app(state)) as client:
            swapping = asyncio.create_task(asyncio.to_thread(swap))
            await asyncio.gather(*(ask_on(client, user) for user in (1, 2, 3, 4)))
            await swapping

    asyncio.run(load())
    assert {status for status, _ in found} == {200}
    assert {version for _, version in found} == {1, 2}


def test_another_process_follows_a_stop_within_a_second(tmp_path):
    assert WATCH_SECONDS < 1  # the pause between two looks; the rest takes as long as the machine takes
    with rolling(tmp_path) as one, rolling(tmp_path) as other:

        async def stopped(client):
            controller.start(one, 2, "ann", {"stages": [1.0]})
            await until(client, 2)
            await asyncio.to_thread(controller.stop, one, "ann")
            await until(client, 1)

        async def twice():
            async with running(make_app(other)) as client:
                for _ in range(2):
                    await stopped(client)

        async def until(client, version):
            while (await client.post("/v1/recommend", json={"user": 1})).json()["policy"]["version"] != version:
                await asyncio.sleep(0.02)

        asyncio.run(asyncio.wait_for(twice(), PATIENCE))


def test_what_runs_beside_the_requests_compares_and_writes(state):
    async def beside():
        controller.start(state, 2, "ann", {"shadow": True})
        async with running(make_app(state)) as client:
            assert (await client.post("/v1/recommend", json={"user": 1})).is_success
            while not state.metrics.registry.get_sample_value("recpolicy_shadow_agreement_count"):
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(beside(), PATIENCE))
    with state.store.engine.connect() as connection:  # what was counted last is written at the end
        assert rollouts.health(connection, 1)[CHALLENGER].requests == 1


def test_a_rollout_that_the_database_did_not_tell_is_asked_for_again(state):
    controller.start(state, 2, "ann")
    state.models.live = replace(state.models.live, rollout=None)
    background.flush(state)
    assert state.models.live.rollout == 1


def test_nothing_is_kept_of_who_asked(state, caplog, monkeypatch):
    controller.start(state, 2, "ann", {"stages": [1.0]})
    broken(state, monkeypatch, UnknownIdError("user 7"))
    recommend(state, user=7)
    (record,) = [one for one in caplog.records if "challenger failed" in one.message]
    assert "user 7" not in json.dumps(record.fields)
    assert np.isfinite(health(state)[CHALLENGER].seconds)
