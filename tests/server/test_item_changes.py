"""POST /v1/admin/items: a new version with another catalog, which learns from feedback; and what it refuses."""

import numpy as np
import pytest
from api_keys import bearing, key_for
from client_helpers import ask, refusal
from event_factory import event
from tiny_policies import write_tiny

from recpolicy.inference.artifact import read_artifact
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events
from recpolicy.server.db.feedback import FeedbackItem, RewardRules, apply_feedback
from recpolicy.server.lifespan import open_state
from recpolicy.server.online.learner import OnlineLearner
from recpolicy.server.routes import admin_versions
from recpolicy.server.settings import OnlineConfig, Settings

ITEMS = "/v1/admin/items"
NEW = {"add": [{"item": 901, "title": "New", "year": 2026}, {"item": 902}], "retire": [103]}


@pytest.fixture
def world(tmp_path):
    """An app over a champion, its registry, and an operator's headers."""
    registry = Registry(tmp_path / "registry")
    registry.register(write_tiny(tmp_path / "tiny"), gate={"verdict": "pass"})
    registry.promote(1)
    with open_state(registry.folder, tmp_path / "state", Settings()) as state:
        app = make_app(state)
        headers = bearing(key_for(app, "operator", "olga"))
        yield registry, state, lambda method, path, body=None: ask(app, method, path, body, headers=headers)


def test_a_change_is_a_new_version_that_serves_once_it_is_promoted(world):
    registry, _, send = world
    answer = send("POST", ITEMS, NEW)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["number"], body["verdict"], body["aliases"], body["note"]) == (2, None, [], {"by": "olga"})
    assert body["lineage"]["catalog_change"]["added"] == [901, 902]
    assert body["lineage"]["changed_from"] == 1
    assert registry.routing().champion == 1
    assert send("GET", "/v1/admin/versions").json()["versions"][1]["lineage"]["catalog_change"]["retired"] == [103]
    line = send("GET", "/v1/admin/audit").json()["audit"][0]
    assert (line["actor"], line["action"]) == ("olga", "items")
    assert line["detail"] == {"number": 2, "from": 1, "added": 2, "retired": 1, "restored": 0}
    assert send("POST", "/v1/admin/versions/2/promote?ungated=true").status_code == 200
    rated = send("POST", "/v1/recommend", {"user": 3, "k": 12, "exclude_rated": False}).json()["items"]
    assert {item["item_id"] for item in rated} == ({*range(101, 112), 901, 902} - {103})
    assert send("POST", "/v1/predict", {"users": [3], "items": [901, 103]}).status_code == 200
    assert send("POST", ITEMS, {"version": 1, **NEW}).json()["number"] == 2  # the same change, the same version


@pytest.fixture
def in_this_process(monkeypatch):
    """Changes run here: a process of its own takes seconds to start."""
    monkeypatch.setattr(admin_versions, "run_in_process", lambda function, *args: function(*args))


@pytest.mark.usefixtures("in_this_process")
def test_feedback_moves_a_new_item_online_from_its_own_prior(world):
    registry, state, send = world
    send("POST", ITEMS, NEW)
    send("POST", "/v1/admin/versions/2/promote?ungated=true")
    learner = OnlineLearner(state.store.engine, state.models, state.folder, OnlineConfig(grace_seconds=0))
    learner.step()
    before = state.models.live.champion.scorer
    arm = before.arm(901)
    shown = event(user=3, items=(901,), version=2, propensities=(0.5,))
    with transaction(state.store.engine) as connection:
        insert_events(connection, [shown])
        said = [FeedbackItem(shown.id, 901, "rating", 5.0)]
        apply_feedback(connection, said, shown.time + 5, RewardRules((1.0, 5.0), window_ms=10**9))
    assert learner.step() == 1
    after = state.models.live.champion.scorer
    x = before.artifact.context[2].astype(np.float64)
    artifact = read_artifact(registry.resolve(2))
    prior, size = artifact.policy["added_prior"][0].astype(np.float64), len(x)
    rows, columns = np.triu_indices(size)
    covariance = np.empty((size, size))
    covariance[rows, columns] = covariance[columns, rows] = prior / np.where(rows == columns, 1, 2)
    theta = artifact.policy["theta"][arm].astype(np.float64)
    gain = covariance @ x / (1 + x @ covariance @ x)
    np.testing.assert_allclose(after.artifact.policy["theta"][arm], theta + gain * (5 - x @ theta), rtol=1e-5)
    others = np.arange(len(after.artifact.action_items)) != arm
    np.testing.assert_array_equal(after.artifact.policy["theta"][others], before.artifact.policy["theta"][others])


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "no items to add, to retire or to restore"),
        ({"restore": [104]}, 422, "item 104 is not retired"),
        ({"add": [{"item": 104}]}, 422, "item 104 is in the policy already"),
        ({"add": [{"item": "new"}]}, 422, "item id 'new'; the policy's ids are whole numbers"),
        ({"add": [{"item": 901}, {"item": 901}]}, 422, "item 901 occurs twice"),
        ({"add": [{"item": 901, "genres": ["Drama"]}]}, 422, "no genre named 'Drama'"),
        ({"add": [{"item": 901, "director": "Varda"}]}, 422, "director"),
        ({"add": [{"title": "no id"}]}, 422, "item"),
        ({"add": [{"item": 901, "year": "soon"}]}, 422, "year"),
        ({"retire": [9]}, 404, "no item with id 9 in this policy"),
        ({"retire": list(range(101, 112))}, 422, "0 would be left"),
        ({"retire": [104], "version": 7}, 404, "version 7 does not exist"),
    ],
)
def test_changes_that_cannot_be_are_4xx_and_leave_nothing(world, body, status, message):
    registry, _, send = world
    answer = send("POST", ITEMS, body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert message in error["message"]
    assert str(registry.folder) not in answer.text
    assert [version.number for version in registry.versions()] == [1]


def test_roles_and_turns_guard_the_route(world):
    _, state, send = world
    app = make_app(state)
    refusal(ask(app, "POST", ITEMS, NEW), 401, "unauthorized")
    refusal(ask(app, "POST", ITEMS, NEW, headers=bearing(key_for(app, "reader", "rita"))), 403, "forbidden")
    with admin_versions._importing:
        refusal(send("POST", ITEMS, NEW), 429, "overloaded")


@pytest.mark.usefixtures("in_this_process")
def test_a_damaged_version_is_a_conflict(world):
    registry, _, send = world
    path = registry.resolve(1) / "arrays.npz"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    refusal(send("POST", ITEMS, NEW), 409, "conflict")
