"""A server ranks by the tuned layer of a version, explores weights on a share of the requests, and logs both."""

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from client_helpers import ask, refusal
from rollout_fixtures import rate, rolling
from sqlalchemy import select
from tuned_policies import HEADS, NEW, POPULAR, write_base, write_tuned
from unlimited import UNLIMITED

from recpolicy.core.errors import ConfigError
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.inference.weight_exploration import TuningConfig
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.db import rollouts
from recpolicy.server.db.schema import events
from recpolicy.server.jobs.rollout_job import check_rollout
from recpolicy.server.lifespan import open_state
from recpolicy.server.rollout import controller
from recpolicy.server.rollout.gain import compare_gains
from recpolicy.server.settings import read_settings

GREEDY = replace(UNLIMITED, exploration=ExplorationConfig(share=0.0))
EXPLORING = replace(GREEDY, tuning=TuningConfig(explore_share=1.0, heads=HEADS, high=10.0, points=3))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = write_base(tmp_path_factory.mktemp("served") / "base")
    return base, write_tuned(base, base.with_name("tuned"))


@contextmanager
def serving(source, folder, settings=GREEDY):
    with open_state(source, folder, settings) as state:
        yield make_app(state), state


def recommend(app, user=1, **body):
    answer = ask(app, "POST", "/v1/recommend", {"user": user, "k": 4, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def items_of(answer):
    return [item["item_id"] for item in answer["items"]]


def stored(state):
    with state.store.engine.connect() as connection:
        return connection.execute(select(events).order_by(events.c.seq)).all()


def expected(scorer, user, k=4, **options):
    return [scorer.item_ids[arm] for arm in scorer.layer.recommend([user], k, **options).arms[0].tolist()]


def test_a_tuned_version_ranks_by_the_weights_of_each_user_and_logs_them(folders, tmp_path):
    base, tuned = folders
    scorer, plain = load_scorer(tuned), load_scorer(base)
    with serving(tuned, tmp_path / "state") as (app, state):
        first, second, again = recommend(app, 1), recommend(app, 2), recommend(app, 1)
        assert items_of(first) == items_of(again) == expected(scorer, 1)
        assert items_of(second) == expected(scorer, 2)
        assert first["weights"] == {"values": {"recency": 10.0, "popularity": 0.0}, "fallback": False}
        assert first["policy"]["policy_digest"] == scorer.metadata["policy_digest"]
        rating = plain.predict_one(1).rating[plain.item_row(first["items"][0]["item_id"])]
        assert first["items"][0]["rating"] == pytest.approx(float(rating))
        records = [json.loads(row.weights) for row in stored(state)]
        assert records == [{"action": action, "fallback": False} for action in (NEW, POPULAR, NEW)]
        assert b"recpolicy_weight_fallbacks_total{" not in state.metrics.text()


def test_filters_guardrails_new_users_and_rated_items_hold(folders, tmp_path):
    _, tuned = folders
    scorer = load_scorer(tuned)
    with serving(tuned, tmp_path / "state") as (app, _):
        best = items_of(recommend(app, 1))
        assert items_of(recommend(app, 1, exclude=best[:2]))[:2] == best[2:]
        with_rated = recommend(app, 1, exclude_rated=False, k=15)
        assert items_of(with_rated) == expected(scorer, 1, 15, exclude_rated=False)
        guarded = recommend(app, 1, guardrails={"min_rating": 1.0})
        assert items_of(guarded) == best
        assert {"weights", "guardrails"} <= guarded.keys()
        ratings = [{"item": 101, "rating": 5}, {"item": 104, "rating": 2}]
        new = recommend(app, 999, ratings=ratings)
        fold_in = {999: {101: 5.0, 104: 2.0}}
        assert items_of(new) == expected(scorer, 999, fold_in=fold_in)
        unknown = recommend(app, 1_000)  # the population's prior
        assert not unknown["weights"]["fallback"]


def test_exploration_of_items_has_exact_propensities_under_the_utility(folders, tmp_path):
    settings = replace(UNLIMITED, exploration=ExplorationConfig(share=0.5, top=5))
    with serving(folders[1], tmp_path / "state", settings) as (app, _):
        answers = [recommend(app, 1, k=1) for _ in range(40)]
    greedy = expected(load_scorer(folders[1]), 1, 1)
    for answer in answers:
        share = 0.5 * (items_of(answer) == greedy) + 0.5 / 5
        assert answer["items"][0]["propensity"] == pytest.approx(share)
    assert {answer["explored"] for answer in answers} == {True, False}


def test_lists_outside_of_the_drawn_ones_explore_with_the_share_that_they_log(folders, tmp_path):
    """Weights are drawn first, so they do not change how often the other lists explore."""
    settings = replace(
        UNLIMITED, exploration=ExplorationConfig(share=0.5, top=5), tuning=TuningConfig(explore_share=0.5)
    )
    with serving(folders[1], tmp_path / "state", settings) as (app, state):
        for _ in range(30):
            for user in range(1, 13):
                recommend(app, user, k=1)
        rows = [row for row in stored(state) if json.loads(row.propensities) != [0.0]]
    explored = np.mean([row.explored for row in rows])
    assert abs(explored - 0.5) < 4 * 0.5 / np.sqrt(len(rows))  # four standard errors of some 180 lists
    assert abs(len(rows) / 360 - 0.5) < 4 * 0.5 / np.sqrt(360)


def test_a_slow_layer_leaves_the_static_weights_and_is_counted_but_not_cached(folders, tmp_path):
    with serving(folders[1], tmp_path / "state") as (app, state):
        scorer = state.models.live.champion.scorer
        scorer.max_seconds = 0.0
        slow = recommend(app, 1)
        assert slow["weights"] == {"values": {"recency": 5.0, "popularity": 5.0}, "fallback": True}
        assert json.loads(stored(state)[0].weights) == {"action": 4, "fallback": True}
        assert b'recpolicy_weight_fallbacks_total{version="1"} 1.0' in state.metrics.text()
        scorer.max_seconds = 1.0
        assert not recommend(app, 1)["weights"]["fallback"]


@pytest.mark.parametrize("place", [0, 1], ids=["a policy without a layer", "a tuned version"])
def test_drawn_weights_are_logged_with_all_that_tuning_needs(folders, tmp_path, place):
    base, tuned = folders
    layer = load_scorer(tuned).layer
    with serving(folders[place], tmp_path / "state", EXPLORING) as (app, state):
        answers = [recommend(app, user) for user in (1, 2) * 10]
        rows = stored(state)
    records = [json.loads(row.weights) for row in rows]
    assert len({record["action"] for record in records}) > 3
    for answer, row, record in zip(answers, rows, records, strict=True):
        assert answer["explored"]
        assert row.explored
        assert record["propensity"] == pytest.approx(1 / 9)
        assert {item["propensity"] for item in answer["items"]} == {0.0}
        assert json.loads(row.propensities) == [0.0] * 4  # of the items, over all draws: unknown
        assert record["grid"] == layer.policy.grid.as_dict()
        assert record["scaling"] == layer.utility.scaling.as_dict()
        user = answer["user"]
        weights = layer.full_weights(record["action"])[np.newaxis]
        arms = layer.utility.slates([user], weights, 4).arms[0].tolist()
        assert items_of(answer) == [101 + arm for arm in arms]
        features = layer.features.of(load_scorer(base), [user])
        assert record["categorical"] == features.categorical[0].tolist()
        assert record["numeric"] == pytest.approx(features.numeric[0].tolist(), abs=1e-6)


def test_no_weights_are_drawn_by_default_or_while_exploration_is_paused(folders, tmp_path):
    with serving(folders[0], tmp_path / "state") as (app, state):
        assert "weights" not in recommend(app, 1)
        assert stored(state)[0].weights is None
    registry = Registry(tmp_path / "state" / "registry")
    registry.pause_exploration()
    with serving(registry.folder, tmp_path / "other", EXPLORING) as (app, _):
        assert not recommend(app, 1)["explored"]


def test_a_challenger_with_a_layer_serves_its_share(folders, tmp_path):
    registry = Registry(tmp_path / "registry")
    for folder in folders:
        registry.register(folder)
    registry.promote(1, ungated=True)
    registry.set_challenger(2, 0.5, ungated=True)
    with serving(registry.folder, tmp_path / "state") as (app, _):
        answers = [recommend(app, user) for user in range(1, 13)]
    roles = {answer["policy"]["variant"] for answer in answers}
    assert roles == {"champion", "challenger"}
    assert all(("weights" in answer) == (answer["policy"]["variant"] == "challenger") for answer in answers)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("heads = ['likes']", "no head named 'likes'. Did you mean 'like'"),
        ("heads = ['score']", "score always has weight 1"),
        ("heads = ['like', 'like']", "a weight occurs twice"),
        ("explore_share = 2", "explore_share is 2"),
        (
            "heads = ['like', 'top', 'rating', 'novelty', 'recency']\npoints = 7",
            "16,807 weight vectors; expected at most 10,000",
        ),
        ("timeout_ms = 0", "timeout_ms is 0"),
        ("heads = ['like']\nlow = 1", "expected two ascending numbers"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, lines, message):
    path = tmp_path / "settings.toml"
    path.write_text(f"[tuning]\n{lines}\n")
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_heads_that_do_not_fit_the_policy_are_logged_and_not_explored(tmp_path, caplog):
    from tiny_policies import write_tiny

    with serving(write_tiny(tmp_path / "tiny"), tmp_path / "state", EXPLORING) as (app, _):
        assert not recommend(app, 1)["explored"]
    assert "are not explored: head 'recency' is" in caplog.text


def test_a_wrong_request_of_a_tuned_version_is_refused_as_ever(folders, tmp_path):
    with serving(folders[1], tmp_path / "state") as (app, _):
        answer = ask(app, "POST", "/v1/recommend", {"user": 1, "k": 2, "exclude": [7]})
        assert "no item with id 7" in refusal(answer, 404, "unknown_id")


def test_a_layer_is_rolled_out_over_its_policy_and_promoted(folders, tmp_path):
    registry = Registry(tmp_path / "registry")
    for folder in folders:
        registry.register(folder, gate={"verdict": "pass"})
    registry.promote(1)
    with rolling(tmp_path) as state:
        row = controller.start(state, 2, "ann")
        served = [recommend(make_app(state), user) for user in range(1, 13)]
        assert {answer["policy"]["version"] for answer in served} <= {1, 2}
        for stage in range(2):
            rate(state, row, 900, difference=0.2, seed=stage)
            assert check_rollout(state, {}).metadata["action"] == "advance"
            with state.store.engine.connect() as connection:
                (row,) = rollouts.latest(connection, 1)
        rate(state, row, 60, seed=2)
        assert check_rollout(state, {}).metadata["action"] == "promote"
        assert "weights" in recommend(make_app(state), 1)
        with state.store.engine.connect() as connection:
            (compared,) = compare_gains(registry, connection)
        assert compared.challenger == 2
        assert compared.measured is not None
        assert compared.predicted is None  # the gates of a layer are in another unit
