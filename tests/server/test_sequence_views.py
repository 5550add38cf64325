"""Session policies that read their last items with a GRU or a Transformer, served over HTTP."""

from dataclasses import replace

import pytest
from client_helpers import ask, refusal
from sqlalchemy import select
from tiny_session_policies import STEPS, write_tiny_sessions
from unlimited import UNLIMITED

from recpolicy.inference.predictor import load_policy
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.models.sequence_layout import SEQUENCE_VIEWS
from recpolicy.server.app import make_app
from recpolicy.server.db.schema import events
from recpolicy.server.db.session_history import unpack_history
from recpolicy.server.lifespan import open_state

USER, ITEMS = 3, 12


@pytest.fixture(scope="module", params=SEQUENCE_VIEWS)
def folder(request, tmp_path_factory):
    return write_tiny_sessions(tmp_path_factory.mktemp("views") / "policy", view=request.param, items=ITEMS)


@pytest.fixture
def app(folder, tmp_path):
    settings = replace(UNLIMITED, exploration=ExplorationConfig(share=0.0))
    with open_state(folder, tmp_path / "state", settings) as state:
        yield make_app(state)


def recommend(app, history=(), **fields):
    """The answer after a history of (item, liked)."""
    past = [{"item": item, "liked": liked} for item, liked in history]
    body = {"user": USER, "k": 2, "exclude_rated": False, "history": past, "session_id": "s", **fields}
    return ask(app, "POST", "/v1/recommend", body)


def listed(answer):
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def test_a_session_over_http_is_that_of_the_policy(app, folder):
    """Until every item has been shown, so longer than the policy remembers, and than the sessions of its training."""
    policy, history, expected = load_policy(folder), [], []
    while len(history) < ITEMS - 2:
        answer = recommend(app, history)
        table = policy.recommend(USER, k=2, exclude_rated=False, history={USER: history} if history else None)
        assert listed(answer) == table["item_id"].tolist()
        for column in ("rating", "std"):
            served = [item[column] for item in answer.json()["items"]]
            assert served == pytest.approx(table[column].tolist(), rel=1e-6)
        assert answer.json()["session"] == {"id": "s", "step": len(history)}
        expected.append(list(history))
        history = [*history, *zip(listed(answer), [len(history) % 4 == 0, True], strict=True)]
    assert len(history) > STEPS
    with app.state.server.store.engine.connect() as connection:
        stored = [unpack_history(packed) for packed in connection.scalars(select(events.c.history).order_by("seq"))]
    ids = policy.scorer.item_ids
    assert [[(ids[row], bool(like)) for row, like in zip(*past, strict=True)] for past in stored] == expected


def test_the_order_and_the_responses_of_a_session_matter(app, folder):
    """What the history says reaches the encoder: otherwise all answers would be alike."""
    answers = set()
    for first, second in ((101, 102), (102, 101)):
        for liked in (True, False):
            history = [(first, liked), (second, not liked)]
            fields = {"session_id": None, "k": 10}
            answers.add(tuple(listed(recommend(app, history, **fields))))
    assert len(answers) > 2


def test_what_continues_no_session_is_refused(app):
    first = listed(recommend(app))
    assert "expected a history of 1 or more items" in refusal(recommend(app), 409, "session_conflict")
    listed(recommend(app, [(first[0], True)]))
    for wrong in ([(first[1], True)], [(first[0], True)]):
        refusal(recommend(app, wrong), 409, "session_conflict")
    assert "another user" in refusal(recommend(app, [(first[0], True)], user=4), 409, "session_conflict")


def test_a_history_that_the_policy_cannot_read_is_refused(app):
    unknown = refusal(recommend(app, [("nowhere", True)], session_id="t"), 409, "session_conflict")
    assert "has shown none" in unknown
    assert "no item with id" in refusal(recommend(app, [(999, True)], session_id=None), 404, "unknown_id")
    too_long = refusal(recommend(app, [(101, True)] * 101, session_id=None), 422, "invalid_request")
    assert "history" in too_long
    everything = [(101 + number, True) for number in range(ITEMS)]
    assert "no item is left" in refusal(recommend(app, everything, session_id=None), 422, "invalid_value")
