"""Guardrails of a server: no list violates them, requests cannot loosen them, and the log says what was possible."""

import json
import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from client_helpers import ask, refusal
from sqlalchemy import select
from tiny_policies import tiny_artifact
from unlimited import UNLIMITED

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import IngestConfig, ingest
from recpolicy.data.log_parts import EVENTS, log_parts
from recpolicy.inference.artifact import write_arrays, write_manifest
from recpolicy.inference.guarded_lists import guarded_slates
from recpolicy.inference.guardrails import GuardrailConfig, bind, tighten
from recpolicy.inference.predictor import load_policy
from recpolicy.inference.slate_selection import ExplorationConfig, allowed_rows
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.computed_lists import list_key
from recpolicy.server.db.events import Event
from recpolicy.server.db.export import ExportOptions, LogPolicy, export
from recpolicy.server.db.guardrail_record import pack_list, unpack_list
from recpolicy.server.db.schema import events
from recpolicy.server.db.spool import Spool
from recpolicy.server.lifespan import open_state, stateless_state
from recpolicy.server.live_models import ModelManager, ReloadHooks
from recpolicy.server.recommend import choose
from recpolicy.server.rollout.background import compare_shadow
from recpolicy.server.rollout.counters import ShadowPair
from recpolicy.server.schemas.requests import RecommendRequest
from recpolicy.workflows.log_evaluation import compare_on_log

GENRES = ["Drama", "Comedy|Drama", "", "Action", "Comedy", "Drama", "Action|Comedy", "Drama", "", "Action", "Comedy"]
OF_ITEM = {101 + place: [name for name in text.split("|") if name] for place, text in enumerate(GENRES)}
RAILS = GuardrailConfig(
    max_per_category=2, category_caps={"Action": 1}, blocked=(103,), marked=(102, 105, 106), max_marked=1,
    min_rating=2.0, diversity=0.2, novelty=0.1,
)  # fmt: skip
ALWAYS = ExplorationConfig(share=1.0, top=6)


def write_policy(folder, seed=0, genres=GENRES):
    """Write a policy over eleven items with genres."""
    artifact = tiny_artifact(seed)
    items = artifact.items.assign(genres=genres, year=pd.array([2000] * 11, dtype="Int64"))
    artifact = replace(artifact, items=items)
    folder.mkdir(parents=True)
    write_arrays(artifact, folder)
    write_manifest(artifact, folder)
    return folder


@pytest.fixture
def registry(tmp_path):
    """A champion, a challenger, and a version whose items have no genres."""
    registry = Registry(tmp_path / "registry")
    for number, genres in ((0, GENRES), (1, GENRES), (2, [""] * 11)):
        registry.register(write_policy(tmp_path / f"policy{number}", number, genres), gate={"verdict": "pass"})
    registry.promote(1)
    return registry


def opened(registry, guardrails=RAILS, exploration=UNLIMITED.exploration):
    return open_state(registry.folder, None, replace(UNLIMITED, guardrails=guardrails, exploration=exploration))


def check_list(items, state, user, rails=RAILS):
    """Assert that the items of a list keep the guardrails."""
    taken = [name for item in items for name in OF_ITEM[item]]
    for name in set(taken):
        assert taken.count(name) <= rails.category_caps.get(name, rails.max_per_category), items
    assert not set(items) & set(rails.blocked)
    assert sum(item in rails.marked for item in items) <= rails.max_marked
    scorer = state.models.live.variant_for(str(user))[0].scorer
    rating = scorer.predict_one(user).rating
    assert all(rating[scorer.item_row(item)] >= rails.min_rating for item in items)


@pytest.mark.parametrize("exploration", [ExplorationConfig(share=0.0), ALWAYS], ids=["greedy", "explored"])
def test_every_route_keeps_the_operators_guardrails(registry, exploration):
    with opened(registry, exploration=exploration) as state:
        app = make_app(state)
        digest = RAILS.digest
        for user in range(1, 8):
            answer = ask(app, "POST", "/v1/recommend", {"user": user, "k": 6}).json()
            items = [item["item_id"] for item in answer["items"]]
            check_list(items, state, user)
            assert answer["guardrails"]["digest"] == digest
            if len(items) < 6:
                assert answer["guardrails"]["reason"].startswith(f"{len(items)} of 6 places are filled: ")
            else:
                assert answer["guardrails"]["reason"] is None
        batch = ask(app, "POST", "/v1/recommend/batch", {"requests": [{"user": user, "k": 4} for user in range(1, 8)]})
        for user, answer in enumerate(batch.json()["answers"], 1):
            check_list([item["item_id"] for item in answer["items"]], state, user)
            assert answer["guardrails"]["digest"] == digest
        instances = {"instances": [{"user": user, "k": 3} for user in range(1, 8)]}
        answers = ask(app, "POST", "/v1/models/recpolicy:predict", instances).json()["predictions"]
        for user, answer in enumerate(answers, 1):
            check_list([item["item_id"] for item in answer["items"]], state, user)
        tensors = [{"name": "user", "datatype": "INT64", "shape": [7], "data": list(range(1, 8))},
                   {"name": "k", "datatype": "INT64", "shape": [1], "data": [2]}]  # fmt: skip
        output = ask(app, "POST", "/v2/models/recpolicy/infer", {"inputs": tensors}).json()["outputs"][0]
        for user in range(1, 8):
            check_list(output["data"][2 * (user - 1) : 2 * user], state, user)
        with state.store.engine.connect() as connection:
            stored = connection.execute(select(events)).all()
        assert len(stored) == 28
        for row in stored:
            check_list(json.loads(row.item_ids), state, json.loads(row.user_key))
            assert unpack_list(row.guardrails, 11)[0] == digest
            assert row.explored == (exploration is ALWAYS)


def test_a_request_makes_lists_stricter_and_cannot_loosen_them(registry):
    with opened(registry) as state:
        app = make_app(state)
        loose = {"max_per_category": 6, "category_caps": {"Action": 6}, "max_marked": 6, "min_rating": 1.0}
        for user in range(1, 8):
            answer = ask(app, "POST", "/v1/recommend", {"user": user, "k": 6, "guardrails": loose}).json()
            check_list([item["item_id"] for item in answer["items"]], state, user)
            assert answer["guardrails"]["digest"] != RAILS.digest
            strict = {"max_per_category": 1, "blocked_categories": ["Comedy"]}
            body = {"user": user, "k": 4, "guardrails": strict}
            items = [item["item_id"] for item in ask(app, "POST", "/v1/recommend", body).json()["items"]]
            check_list(items, state, user)
            taken = [name for item in items for name in OF_ITEM[item]]
            assert len(taken) == len(set(taken))
            assert "Comedy" not in taken


@pytest.mark.parametrize(
    ("rails", "code", "message"),
    [
        ({"category_caps": {"Dramma": 1}}, "invalid_value", "no category named 'Dramma'. Did you mean 'Drama'?"),
        ({"max_per_category": 4}, "invalid_value", "max_per_category is 4, but the list has 3 places"),
        ({"category_caps": {"Drama": 4}}, "invalid_value", "category_caps.Drama is 4, but the list has 3 places"),
        ({"min_marked": 2}, "invalid_value", "at least 2 marked items contradict at most 1"),
        ({"min_rating": 5.5}, "invalid_value", "min_rating is 5.5; expected a rating on the scale, 1 to 5"),
        (
            {"min_rating": 5.0, "max_marked": 0},
            "invalid_value",
            "no item is left under the guardrails: 0 of 3 places are filled",
        ),
        ({"diversity": 1.5}, "invalid_request", "body.guardrails.diversity"),
        ({"novelty": -0.5}, "invalid_request", "body.guardrails.novelty"),
        ({"max_marked": -1}, "invalid_request", "body.guardrails.max_marked"),
        ({"max_per_category": 0}, "invalid_request", "body.guardrails.max_per_category"),
        ({"category_tilt": {"Drama": 2}}, "invalid_request", "body.guardrails.category_tilt.Drama"),
        ({"marked": [101]}, "invalid_request", "body.guardrails.marked"),
        ({"min_marked": 1, "max_marked": 0}, "invalid_value", "min_marked is 1 and max_marked is 0"),
    ],
)
def test_requests_that_cannot_be_get_one_line(registry, rails, code, message):
    with opened(registry) as state:
        app = make_app(state)
        body = {"user": 3, "k": 3, "guardrails": rails}
        said = refusal(ask(app, "POST", "/v1/recommend", body), 422, code)
        assert message in said
        assert "\n" not in said
        if code == "invalid_value":
            (answer,) = ask(app, "POST", "/v1/recommend/batch", {"requests": [body]}).json()["answers"]
            assert message in answer["error"]["message"]


def test_a_request_may_have_guardrails_without_an_operators(registry):
    with opened(registry, GuardrailConfig(), ExplorationConfig(share=0.0)) as state:
        app = make_app(state)
        plain = ask(app, "POST", "/v1/recommend", {"user": 3, "k": 4}).json()
        assert "guardrails" not in plain
        rails = {"max_per_category": 1}
        answer = ask(app, "POST", "/v1/recommend", {"user": 3, "k": 4, "guardrails": rails}).json()
        taken = [name for item in answer["items"] for name in OF_ITEM[item["item_id"]]]
        assert len(taken) == len(set(taken))
        assert answer["guardrails"]["digest"] == GuardrailConfig(max_per_category=1).digest
        same = ask(app, "POST", "/v1/recommend", {"user": 3, "k": 4, "guardrails": {}}).json()
        assert [item["item_id"] for item in same["items"]] == [item["item_id"] for item in plain["items"]]
        with state.store.engine.connect() as connection:
            stored = connection.execute(select(events.c.guardrails).order_by(events.c.seq)).scalars().all()
        assert [part is None for part in stored] == [True, False, True]


def test_lists_under_guardrails_are_cached(registry):
    with opened(registry, exploration=ExplorationConfig(share=0.0)) as state:
        app, champion = make_app(state), state.models.live.champion
        first = ask(app, "POST", "/v1/recommend", {"user": 3, "k": 4}).json()
        cached = champion.lists.get(list_key(champion, RecommendRequest(user=3, k=4), state.settings.exploration))
        assert cached is not None
        assert ask(app, "POST", "/v1/recommend", {"user": 3, "k": 4}).json()["items"] == first["items"]


def test_lists_equal_those_of_python(registry):
    with opened(registry, exploration=ExplorationConfig(share=0.0)) as state:
        app, policy = make_app(state), load_policy(registry.resolve(1))
        for user in range(1, 8):
            answer = ask(app, "POST", "/v1/recommend", {"user": user, "k": 5}).json()
            expected = policy.recommend(user, 5, guardrails=RAILS)
            assert [item["item_id"] for item in answer["items"]] == expected["item_id"].tolist()
            assert [item["propensity"] for item in answer["items"]] == [1.0] * len(expected)


def test_all_variants_of_a_rollout_and_the_shadow_keep_them(registry):
    registry.set_challenger(2, 0.5)
    with opened(registry, exploration=ALWAYS) as state:
        live, variants = state.models.live, set()
        for user in range(1, 8):
            served = choose(live, RecommendRequest(user=user, k=6), ALWAYS)
            variants.add(served.event.variant)
            check_list(served.item_ids, state, user)
        assert len(variants) == 2
        shadow = replace(live, champion=live.challenger, challenger=None)
        for user in range(1, 8):
            served = choose(shadow, RecommendRequest(user=user, k=6), ExplorationConfig(share=0.0))
            rating = live.challenger.scorer.predict_one(user).rating
            assert all(rating[live.challenger.scorer.item_row(item)] >= 2.0 for item in served.item_ids)
            taken = [name for item in served.item_ids for name in OF_ITEM[item]]
            assert all(taken.count(name) <= (1 if name == "Action" else 2) for name in taken)
        only = replace(live, traffic_fraction=0.0)
        request = RecommendRequest(user=3, k=4)
        pair = ShadowPair(only, request, choose(only, request, ExplorationConfig(share=0.0)))
        assert compare_shadow(pair, 25.0).failures == 0


def test_a_version_that_has_learned_keeps_them(registry):
    def learned(policy):
        return policy.with_policy({**policy.artifact.policy, "theta": -policy.artifact.policy["theta"]},
                                  {**policy.metadata, "policy_digest": "e" * 64})  # fmt: skip

    manager = ModelManager.from_registry(registry, ReloadHooks(learned=learned, guardrails=RAILS))
    champion = manager.live.champion
    assert champion.base is not None
    assert champion.guardrails.digest == RAILS.digest
    assert champion.guardrails.catalog is champion.base.catalog_features  # the tables are the same, and bound once


def test_a_version_that_cannot_keep_them_is_not_served(registry, caplog):
    manager = ModelManager.from_registry(registry, ReloadHooks(guardrails=RAILS))
    registry.promote(3)
    manager.refresh()
    assert manager.live.champion.number == 1
    assert (
        "version 3 of the registry does not load, version 1 still serves: guardrails: no category named 'Action'"
        in (manager.fault)
    )
    fresh = Registry(registry.folder.parent / "other")
    fresh.register(registry.resolve(3), gate={"verdict": "pass"})
    fresh.promote(1)
    with pytest.raises(ArtifactError, match="no category named 'Action'"):
        ModelManager.from_registry(fresh, ReloadHooks(guardrails=RAILS))
    with pytest.raises(ConfigError, match="no category named 'Action'"):
        stateless_state(registry.resolve(3), replace(UNLIMITED, guardrails=RAILS))


def test_a_server_without_a_store_keeps_them(registry):
    for source in (registry.folder, registry.resolve(1)):
        state = stateless_state(source, replace(UNLIMITED, guardrails=RAILS))
        for user in range(1, 8):
            answer = ask(make_app(state), "POST", "/v1/recommend", {"user": user, "k": 6}).json()
            check_list([item["item_id"] for item in answer["items"]], state, user)


def test_blocked_ids_that_the_catalog_lacks_are_warned_of_once(registry, caplog):
    with caplog.at_level(logging.WARNING):
        manager = ModelManager.from_registry(registry, ReloadHooks(guardrails=GuardrailConfig(blocked=(103, 7))))
        manager.refresh()
    lines = [record.getMessage() for record in caplog.records if "guardrails" in record.getMessage()]
    assert lines == ["version 1: guardrails: no item with id 7 in this policy's catalog; such ids have no effect"]


def test_the_preview_of_the_console_keeps_them(registry):
    with opened(registry, exploration=ExplorationConfig(share=0.0)) as state:
        app = make_app(state)
        for rails in ({}, {"max_per_category": 1}):
            request = {"user": 3, "k": 4, "guardrails": rails}
            listed = ask(app, "POST", "/v1/recommend", request).json()["items"]
            rows = ask(app, "POST", "/v1/console/estimates", {**request, "items": list(range(101, 112))})
            ranks = {row["item_id"]: row["rank"] for row in rows.json()["items"]}
            assert ranks[103] is None
            assert [item for item, rank in sorted(ranks.items(), key=lambda pair: pair[1] or 99)][: len(listed)] == [
                item["item_id"] for item in listed
            ]


@pytest.mark.parametrize(
    "rails",
    [
        RAILS,
        GuardrailConfig(marked=(102, 105), min_marked=2),
        GuardrailConfig(min_marked=4, marked=(101, 103, 105, 107)),
    ],
)
def test_exported_rounds_have_the_candidates_and_propensities_of_the_draw(registry, tmp_path, rails):
    exploration, k = ExplorationConfig(share=0.5, top=6), 4
    with opened(registry, rails, exploration) as state:
        app = make_app(state)
        for turn in range(3):
            for user in range(1, 8):
                request = {"user": user, "k": k, **({"guardrails": {"category_caps": {"Drama": 1}}} if turn else {})}
                assert ask(app, "POST", "/v1/recommend", request).status_code == 200
        scorer = state.models.live.champion.scorer
        bound = bind(rails, scorer)
        strict = tighten(bound, GuardrailConfig(category_caps={"Drama": 1}), scorer)
        done = export(state.store.engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
        assert done.left_out == {}
        shown = {}
        for row in pq.read_table(log_parts(tmp_path / "log", EVENTS)[0]).to_pylist():
            shown.setdefault(row["event_id"].partition(":")[0], []).append(row)
        assert len(shown) == 21
        for number, lines in enumerate(shown.values()):
            user = lines[0]["user_id"]
            answer = next(scorer.score_batches([user])).of_user(0)
            arms = np.array([row["item_id"] - 101 for row in lines])
            slate = guarded_slates(
                answer.score[None], answer.rating[None], allowed_rows(scorer, user)[None], k,
                strict if number >= 7 else bound,
                exploration, np.random.default_rng(0), np.array([False]), arms[None],
            )[0]  # fmt: skip
            np.testing.assert_allclose(np.exp([row["log_propensity"] for row in lines]), slate.propensity, rtol=1e-12)
            for place, row in enumerate(lines):
                packed = row["candidates"]
                bits = np.ones(11) if packed is None else np.unpackbits(np.frombuffer(packed, np.uint8))[:11]
                possible = {101 + arm for arm in np.flatnonzero(bits)} - set(row["excluded"])
                expected = slate.allowed & (slate.closed_at > place)
                assert possible == {101 + arm for arm in np.flatnonzero(expected)} - set(arms[:place] + 101)


def test_the_record_of_a_list_survives_packing_and_the_spool(tmp_path):
    closed_at = np.array([2, 9, 1, 2, 1, 2**31 - 1, 0, 3, 3, 3, 3], np.int32)
    packed = pack_list("ab" * 16, closed_at, 3)
    digest, closings = unpack_list(packed, 11)
    assert digest == "ab" * 16
    masks = {place: np.unpackbits(bits, count=11).astype(bool) for place, bits in closings}
    assert {place: np.flatnonzero(mask).tolist() for place, mask in masks.items()} == {0: [6], 1: [2, 4], 2: [0, 3]}
    assert unpack_list(pack_list("cd" * 16, np.full(11, 2**31 - 1, np.int32), 3), 11) == ("cd" * 16, [])
    with pytest.raises(ValueError, match="does not fit 12000 items"):
        unpack_list(packed, 12_000)
    event = Event("a" * 32, 1, "3", 1, "d", "linucb", "champion", None, False, "[1]", "[1.0]", "[3.0]", None, None,
                  None, packed)  # fmt: skip
    spool = Spool(tmp_path / "spool")
    spool.append([event])
    replayed = []
    spool.replay(lambda part: replayed.extend(part) or [])
    assert replayed == [event]


def test_an_exported_log_evaluates_to_itself_under_its_guardrails(registry, tmp_path):
    """The served lists are the choices of their policy under the guardrails; without them some are not."""
    rails = replace(RAILS, diversity=0.6)
    with opened(registry, rails, ExplorationConfig(share=0.0)) as state:
        app = make_app(state)
        for user in range(1, 8):
            assert ask(app, "POST", "/v1/recommend", {"user": user, "k": 6}).status_code == 200
        export(state.store.engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
    policy = load_policy(registry.resolve(1))
    config = IngestConfig(wait_hours=0.0, default_reward=3.0, evaluation_share=0.0)
    later, _, _ = ingest(tmp_path / "log", IdVocabulary.from_policy(policy), config)
    assert set(later.guardrails.tolist()) == {rails.digest}
    under = compare_on_log(policy, None, later, guardrails=rails)
    assert under.notes == ()
    everything = slice(0, len(later))
    np.testing.assert_array_equal(under.candidate.table(everything)[np.arange(len(later)), later.arm()], 1.0)
    without = compare_on_log(policy, None, later)
    assert without.notes
    assert not without.candidate.table(everything)[np.arange(len(later)), later.arm()].all()
