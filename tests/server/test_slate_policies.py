"""Policies that learned from slates, served: the size of their lists, drawn slates, and their chances.

A slate is drawn as a whole with the share of exploration, and is the best one otherwise. So with the chance of its
first j items under both, share * drawn + (1 - share) * best, the propensity of place j is a ratio of two of them.
"""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from client_helpers import ask, refusal
from sqlalchemy import select
from tiny_session_policies import write_tiny_sessions
from unlimited import UNLIMITED

from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.server.app import make_app
from recpolicy.server.db.schema import events
from recpolicy.server.lifespan import open_state

SIZE, SHARE, POOL = 3, 0.8, 4
OF_SLATES = {"config": {"train": {"slate_size": SIZE}, "agent": {}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_sessions(tmp_path_factory.mktemp("slates") / "policy", metadata=OF_SLATES)


@pytest.fixture
def app(folder, tmp_path):
    settings = replace(UNLIMITED, exploration=ExplorationConfig(share=SHARE, top=POOL))
    with open_state(folder, tmp_path / "state", settings) as state:
        yield make_app(state)


def size(answer):
    assert answer.status_code == 200, answer.text
    return len(answer.json()["items"])


def stored(app):
    with app.state.server.store.engine.connect() as connection:
        return connection.execute(select(events).order_by("seq")).all()


def test_a_list_has_the_slate_size_unless_the_request_names_another(app):
    assert size(ask(app, "POST", "/v1/recommend", {"user": 3})) == SIZE
    assert size(ask(app, "POST", "/v1/recommend", {"user": 3, "k": 5})) == 5
    assert size(ask(app, "POST", "/v1/recommend", {"user": 3, "exclude": [101]})) == SIZE  # not from the cache
    assert [len(json.loads(event.item_ids)) for event in stored(app)] == [SIZE, 5, SIZE]
    refusal(ask(app, "POST", "/v1/recommend", {"user": 3, "k": 0}), 422, "invalid_request")


def test_every_route_of_lists_has_the_slate_size(app):
    batch = ask(app, "POST", "/v1/recommend/batch", {"requests": [{"user": 3}, {"user": 4, "k": 2}]}).json()
    assert [len(each["items"]) for each in batch["answers"]] == [SIZE, 2]
    body = {"instances": [{"user": 3}, {"user": 4, "k": 2.0}]}
    predictions = ask(app, "POST", "/v1/models/recpolicy:predict", body).json()["predictions"]
    assert [len(each["items"]) for each in predictions] == [SIZE, 2]
    users = {"name": "user", "shape": [2], "datatype": "INT64", "data": [3, 4]}
    outputs = ask(app, "POST", "/v2/models/recpolicy/infer", {"inputs": [users]}).json()["outputs"]
    assert {tuple(each["shape"]) for each in outputs if each["name"] != "event_id"} == {(2, SIZE)}


def test_the_api_page_says_so(app):
    schemas = ask(app, "GET", "/openapi.json").json()["components"]["schemas"]
    for name in ("RecommendRequest", "Instance"):
        described = schemas[name]["properties"]["k"]
        assert "slate size" in described["description"]
        assert "10" in described["description"]
        assert {"type": "integer", "minimum": 1, "maximum": 100} in described["anyOf"]


def test_other_policies_list_ten_items(tmp_path):
    with open_state(write_tiny_sessions(tmp_path / "policy", items=20), tmp_path / "state", UNLIMITED) as state:
        assert size(ask(make_app(state), "POST", "/v1/recommend", {"user": 3})) == 10


def test_drawn_slates_have_the_chances_of_the_policy(app, folder):
    """All slates of the pool come, and the products of their propensities add up to 1."""
    scorer = load_scorer(folder)
    score = scorer.predict_one(3).score
    rated = np.isin(scorer.action_items, scorer.rated(3))
    best = [int(arm) for arm in np.argsort(-np.where(rated, -np.inf, score))[:POOL]]

    def chance(slate):
        """Of a slate that begins so."""
        drawn = np.prod([1 / (POOL - place) for place in range(len(slate))])
        return SHARE * drawn + (1 - SHARE) * (list(slate) == best[: len(slate)])

    assert sum(chance(slate) for slate in permutations(best, 2)) == pytest.approx(1)
    slates = {}
    for _ in range(200):  # one of the 12 slates stays away with a probability of 2e-5
        answer = ask(app, "POST", "/v1/recommend", {"user": 3, "k": 2}).json()
        arms = [scorer.arm(item["item_id"]) for item in answer["items"]]
        expected = [chance(arms[: place + 1]) / chance(arms[:place]) for place in range(2)]
        assert [item["propensity"] for item in answer["items"]] == pytest.approx(expected)
        slates[tuple(arms)] = np.prod(expected)
    assert len(slates) == 12
    assert sum(slates.values()) == pytest.approx(1)
    for event in stored(app):
        arms = [scorer.arm(item) for item in json.loads(event.item_ids)]
        assert np.prod(json.loads(event.propensities)) == pytest.approx(slates[tuple(arms)])
