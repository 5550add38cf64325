"""Users whom the training lacks, and users who learn while the server serves."""

import numpy as np
import pytest
from client_helpers import ask, refusal
from learning_users import Client, contexts, learning, settings_of, shown, stored_ratings
from sqlalchemy import update
from tiny_policies import write_tiny

from recpolicy.core.errors import ConfigError
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.models.fold_in import fold_in_user
from recpolicy.server.app import make_app
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.schema import events
from recpolicy.server.lifespan import stateless_state
from recpolicy.server.schemas.responses import Recommendation
from recpolicy.server.settings import Settings, read_settings


@pytest.fixture
def app(tmp_path):
    with learning(tmp_path) as app:
        yield app


@pytest.fixture
def client(app):
    return Client(app)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return load_scorer(write_tiny(tmp_path_factory.mktemp("tiny") / "run"))


def engine_of(app):
    return app.state.server.store.engine


def test_an_unknown_user_gets_the_answers_of_the_prior_by_default(tmp_path, scorer):
    assert Settings().users.mode == "prior"
    with learning(tmp_path, "prior") as app:
        answers = [Client(app).recommend(user) for user in (4711, 4712, "somebody")]
        seen = contexts(engine_of(app), 4711)
    Recommendation.model_validate(answers[0])
    assert answers[0]["posterior"] == {"start": "prior", "ratings": 0}
    assert shown(answers[1]) == shown(answers[0]) == shown(answers[2])
    mean = scorer.artifact.context.mean(axis=0)
    np.testing.assert_allclose(seen, [mean], rtol=1e-6)
    by_context = [item["item_id"] for item in answers[0]["items"]]
    best = np.argsort(-scorer.predict_one("x", context=mean).score)[:3]
    assert by_context == [scorer.item_ids[row] for row in best]


def test_without_a_database_learn_is_prior(tmp_path):
    app = make_app(stateless_state(write_tiny(tmp_path / "run"), settings_of()))
    assert ask(app, "POST", "/v1/recommend", {"user": 4711}).json()["posterior"] == {"start": "prior", "ratings": 0}


def test_off_is_404_on_all_routes(tmp_path):
    with learning(tmp_path, "off") as app:
        for path, body in ROUTES:
            answer = ask(app, "POST", path, body)
            text = answer.text if answer.status_code == 200 else refusal(answer, 404, "unknown_id")
            assert "no user with id 4711" in text
        assert "posterior" not in Client(app).recommend(3)
        assert contexts(engine_of(app), 3) == [None]


TENSORS = [
    {"name": "user", "datatype": "INT64", "shape": [1], "data": [4711]},
    {"name": "item", "datatype": "INT64", "shape": [2], "data": [101, 102]},
]
ROUTES = [
    ("/v1/recommend", {"user": 4711, "k": 3}),
    ("/v1/recommend", {"user": 4711, "exclude": [101]}),
    ("/v1/recommend/batch", {"requests": [{"user": 4711, "k": 3}]}),
    ("/v1/predict", {"users": [4711], "items": [101, 102]}),
    ("/v1/models/recpolicy:predict", {"instances": [{"user": 4711, "k": 3}]}),
    ("/v1/models/recpolicy:predict", {"instances": [{"user": 4711, "items": [101, 102]}]}),
    ("/v2/models/recpolicy/infer", {"inputs": [TENSORS[0], {**TENSORS[0], "name": "k", "data": [3]}]}),
    ("/v2/models/recpolicy/infer", {"inputs": TENSORS}),
    ("/v1/console/estimates", {"user": 4711, "items": [101, 102]}),
]


@pytest.mark.parametrize("mode", ["prior", "learn"])
def test_all_routes_answer_unknown_users_alike(tmp_path, mode):
    with learning(tmp_path, mode) as app:
        client = Client(app)
        if mode == "learn":
            client.rate(4711, 5.0, 1.0)
        answers = [ask(app, "POST", path, body) for path, body in ROUTES]
    assert [answer.status_code for answer in answers] == [200] * len(ROUTES)
    alone, _, batch, rows, instance, instance_rows, tensors, estimates, console = (each.json() for each in answers)
    listed = {item["item_id"]: item["rating"] for item in alone["items"]}
    assert shown(batch["answers"][0]) == shown(alone) == shown(instance["predictions"][0])
    assert tensors["outputs"][0]["data"] == list(listed)
    ratings = [row["rating"] for row in rows["rows"]]
    assert [row["rating"] for row in instance_rows["predictions"][0]["rows"]] == ratings
    assert estimates["outputs"][0]["data"] == ratings == [item["rating"] for item in console["items"]]
    both = set(listed) & {101, 102}
    assert all(listed[item] == pytest.approx(ratings[item - 101], rel=1e-5) for item in both)


@pytest.mark.parametrize("mode", ["prior", "learn"])
def test_an_id_of_the_other_type_is_a_mistake_and_no_new_user(tmp_path, mode):
    with learning(tmp_path, mode) as app:
        message = refusal(ask(app, "POST", "/v1/recommend", {"user": "3"}), 404, "unknown_id")
        assert "the ids are integers: 3 without quotes" in message


def test_the_next_request_is_that_of_a_user_with_these_ratings(app, client):
    items = client.rate(4711, 5.0, 1.0, 4.0)
    assert len(set(items)) == 3  # rated items are left out
    learned = client.recommend(4711)
    assert learned["posterior"] == {"start": "prior", "ratings": 3}
    ratings = [{"item": item, "rating": rating} for item, rating in zip(items, (5.0, 1.0, 4.0), strict=True)]
    told = client.recommend(999, ratings=ratings)
    for column in ("item_id", "explanations"):
        assert [item[column] for item in learned["items"]] == [item[column] for item in told["items"]]
    for column in ("rating", "std", "value", "propensity"):
        expected = [item[column] for item in told["items"]]
        assert [item[column] for item in learned["items"]] == pytest.approx(expected, rel=1e-5)
    engine = engine_of(app)
    np.testing.assert_allclose(contexts(engine, 4711)[-1], contexts(engine, 999)[-1], rtol=1e-5)
    assert stored_ratings(engine, 4711) == list(zip(items, (5.0, 1.0, 4.0), strict=True))
    again = client.recommend(4711, exclude_rated=False)
    assert {item["item_id"] for item in again["items"]} & set(items)


def test_the_context_of_an_event_is_the_posterior_that_the_policy_saw(app, client, scorer):
    items = client.rate(4711, 5.0, 2.0)
    client.recommend(4711)
    before, after_one, after_two = contexts(engine_of(app), 4711)
    rows = scorer.item_rows(items)
    np.testing.assert_allclose(before, scorer.artifact.context.mean(axis=0), rtol=1e-6)
    for seen, count in ((after_one, 1), (after_two, 2)):
        expected, _ = fold_in_user(scorer.embeddings, rows[:count], [5.0, 2.0][:count])
        np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_a_known_user_starts_at_the_trained_posterior(app, client, scorer):
    before = client.recommend(3)
    assert "posterior" not in before
    (item,) = client.rate(3, 1.0)
    after = client.recommend(3)
    assert after["posterior"] == {"start": "trained", "ratings": 1}
    assert item not in [each["item_id"] for each in after["items"]]
    first, _, second = contexts(engine_of(app), 3)
    assert first is None
    start = scorer.user_vectors.start(3)
    np.testing.assert_allclose(start.mean, scorer.artifact.context[2])
    rated = np.linalg.norm(second - scorer.artifact.context[2])
    assert 0.01 < rated < 1
    told = ask(app, "POST", "/v1/predict", {"users": [3], "items": [item]}).json()["rows"][0]
    as_trained = scorer.predict_one(3)
    row = scorer.item_row(item)
    assert told["rating"] < as_trained.rating[row]
    assert told["std"] < as_trained.std[row]


def test_a_rating_that_the_training_has_counts_once(app, client):
    """User 1 has rated item 101 in the training; a user without that rating moves."""
    for user in (1, 2):
        answer = client.recommend(user, exclude_rated=False, k=11)
        assert client.send(answer["event_id"], 101, 1.0).json()["status"] == "accepted"
    assert "posterior" not in client.recommend(1)
    assert client.recommend(2)["posterior"] == {"start": "trained", "ratings": 1}


def test_users_move_only_their_own_posterior(client):
    other, known = client.recommend(4712), client.recommend(5)
    client.rate(4711, 1.0, 1.0)
    assert shown(client.recommend(4712)) == shown(other)
    assert shown(client.recommend(5)) == shown(known)


def test_the_latest_rating_of_an_item_counts_alone(tmp_path):
    """A reward in parts: each part moves the posterior when it arrives."""
    with learning(tmp_path, signals=("rating", "watch_fraction")) as app:
        client, engine = Client(app), engine_of(app)
        first = client.recommend(4711, k=11)
        item = first["items"][0]["item_id"]
        assert client.send(first["event_id"], item, 0.25, "watch_fraction").json()["reward"] == 2.0
        assert client.recommend(4711)["posterior"]["ratings"] == 1
        assert client.send(first["event_id"], item, 5.0).json() == {"status": "accepted", "reward": None}
        assert client.recommend(4711)["posterior"]["ratings"] == 1
        assert stored_ratings(engine, 4711) == [(item, 2.0), (item, 5.0)]
        other = client.recommend(4712, k=11)
        client.send(other["event_id"], item, 5.0)
        client.recommend(4712)
        _, in_between, revised = contexts(engine, 4711)
        np.testing.assert_allclose(revised, contexts(engine, 4712)[-1], rtol=1e-6)
        assert np.abs(revised - in_between).max() > 0.01


def test_only_signals_of_the_setting_move_a_posterior(app, client):
    event = client.recommend(4711)
    first, second, third = (item["item_id"] for item in event["items"])
    for item, value, kind in ((first, None, "like"), (second, 0.5, "watch_fraction"), (third, None, "skip")):
        assert client.send(event["event_id"], item, value, kind).json()["status"] == "accepted"
    assert client.recommend(4711)["posterior"]["ratings"] == 0
    assert stored_ratings(engine_of(app), 4711) == []


def test_feedback_that_changes_nothing_moves_nothing(app, client):
    event = client.recommend(4711)
    item = event["items"][0]["item_id"]
    assert refusal(client.send(event["event_id"], item, 9.0), 422, "rating_out_of_range").startswith(
        "expected a rating"
    )
    without_key = {"event_id": event["event_id"], "type": "rating", "value": 1.0, "item": event["items"][1]["item_id"]}
    assert ask(app, "POST", "/v1/feedback", without_key).json()["status"] == "accepted"
    assert client.recommend(4711)["posterior"]["ratings"] == 0
    for expected in ("accepted", "duplicate"):
        assert client.send(event["event_id"], item, 4.0).json()["status"] == expected
    refusal(client.send(event["event_id"], item, 5.0), 409, "conflict")
    assert stored_ratings(engine_of(app), 4711) == [(item, 4.0)]


def test_late_feedback_moves_nothing(app, client):
    event = client.recommend(4711)
    with transaction(engine_of(app)) as connection:
        connection.execute(update(events).values(time=1_000))
    assert client.send(event["event_id"], event["items"][0]["item_id"], 4.0).json()["status"] == "late"
    assert client.recommend(4711)["posterior"]["ratings"] == 0


def test_ratings_or_a_context_in_the_request_replace_the_posterior(client, scorer):
    client.rate(4711, 1.0)
    for words in ({"ratings": [{"item": 105, "rating": 5}]}, {"context": [1.0, 1.0, 1.0]}):
        answer = client.recommend(4711, **words)
        assert "posterior" not in answer
        assert shown(answer) == shown(client.recommend(4713, **words))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('mode = "learned"', r"\[users\].*mode is 'learned': expected 'off', 'prior' or 'learn'"),
        ("signals = []", r"\[users\].*signals"),
        ('signals = ["revenue"]', r"\[users\].*signals"),
        ("cache_mib = 0", r"\[users\].*cache_mib"),
        ("learn = true", r"\[users\].*learn"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, table, message):
    (tmp_path / "server.toml").write_text(f"[users]\n{table}\n")
    with pytest.raises(ConfigError, match=message):
        read_settings(tmp_path / "server.toml")
