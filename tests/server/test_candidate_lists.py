"""Lists of a server that ranks candidates: the items of the highest expected rating that the request allows.

The policy learned to prefer other items than the rating model, so the candidates leave some of its best items out.
"""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from client_helpers import ask
from sqlalchemy import select
from tiny_session_policies import write_tiny_sessions
from unlimited import UNLIMITED

from recpolicy.inference.block_prediction import NOTHING_SHOWN
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.predictor import load_policy
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.server.app import make_app
from recpolicy.server.candidate_lists import score_candidates
from recpolicy.server.db.schema import events
from recpolicy.server.lifespan import open_state, stateless_state
from recpolicy.server.live_models import LoadedVersion
from recpolicy.server.settings import CandidatesConfig, read_settings

USER, ITEMS, SIZE = 3, 30, 6
NOT_RATED = {"user": USER, "exclude_rated": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_sessions(tmp_path_factory.mktemp("candidates") / "policy", items=ITEMS)


@pytest.fixture(scope="module")
def policy(folder):
    return load_policy(folder)


@pytest.fixture
def serve(folder, tmp_path):
    """Make the app of other settings."""
    open_states = []

    def make(share=0.0, top=4, size=SIZE, **settings):
        exploration = ExplorationConfig(share=share, top=top)
        whole = replace(UNLIMITED, exploration=exploration, candidates=CandidatesConfig(size=size), **settings)
        state = open_state(folder, tmp_path / f"state{len(open_states)}", whole)
        open_states.append(state)
        return make_app(state.__enter__())

    yield make
    for state in open_states:
        state.__exit__(None, None, None)


def recommend(app, **fields):
    answer = ask(app, "POST", "/v1/recommend", {**NOT_RATED, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def ids(items):
    return [item["item_id"] for item in items]


def by_rating(policy, allowed=None):
    """Item ids by the expected rating of the embeddings, the best first."""
    rating = policy.artifact.item @ policy.artifact.context[USER, : policy.artifact.item.shape[1]]
    order = np.argsort(-(rating + policy.artifact.offset))
    return [policy.scorer.item_ids[row] for row in order if allowed is None or policy.scorer.item_ids[row] in allowed]


def test_lists_are_those_of_policy_recommend_with_candidates(serve, policy):
    """Cached or not, with filters and with the history of a session."""
    app = serve()
    user = policy.scorer.user_ids[USER]
    whole = policy.recommend(user, k=4, exclude_rated=False)["item_id"].tolist()
    expected = policy.recommend(user, k=4, candidates=SIZE, exclude_rated=False)
    assert whole != expected["item_id"].tolist()  # candidates matter
    for fields in ({}, {}, {"genres": []}):
        items = recommend(app, user=user, k=4, **fields)
        assert ids(items) == expected["item_id"].tolist()
        assert [item["rating"] for item in items] == pytest.approx(expected["rating"].tolist(), rel=1e-6)
    first = ids(items)[0]
    after = policy.recommend(user, k=4, candidates=SIZE, exclude_rated=False, history={user: [(first, True)]})
    answered = recommend(app, user=user, k=4, history=[{"item": first, "liked": True}])
    assert ids(answered) == after["item_id"].tolist()


def test_a_batch_has_the_same_candidates(serve, policy):
    app = serve()
    requests = [{"user": user, "k": 3, "exclude_rated": False} for user in policy.scorer.user_ids]
    answers = ask(app, "POST", "/v1/recommend/batch", {"requests": requests}).json()["answers"]
    for user, answer in zip(policy.scorer.user_ids, answers, strict=True):
        expected = policy.recommend(user, k=3, candidates=SIZE, exclude_rated=False)["item_id"].tolist()
        assert ids(answer["items"]) == expected


def test_a_filter_that_leaves_few_items_still_fills_the_list(serve, policy):
    """The filter comes first: candidates are the best of what it leaves."""
    app, user = serve(), policy.scorer.user_ids[USER]
    best = by_rating(policy)
    items = recommend(app, user=user, k=SIZE, exclude=best[:20])
    assert sorted(ids(items)) == sorted(best[20 : 20 + SIZE])
    assert len(recommend(app, user=user, k=10, exclude=best[:20])) == 10  # more places than candidates


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_what_is_drawn_is_drawn_from_the_candidates_with_its_exact_chance(serve, policy, share):
    """All lists of the pool occur; propensities are those of a policy that cannot show other items."""
    app, user = serve(share), policy.scorer.user_ids[USER]
    score = dict(zip(policy.scorer.item_ids, policy.scorer.predict_one(user).score, strict=True))
    candidates = by_rating(policy)[:SIZE]
    pool = sorted(candidates, key=lambda item: -score[item])[:4]

    def chance(items):
        drawn = np.prod([1 / (4 - place) for place in range(len(items))])
        return share * drawn + (1 - share) * (list(items) == pool[: len(items)])

    assert sum(map(chance, permutations(pool, 2))) == pytest.approx(1)
    seen = set()
    for _ in range(60):
        items = recommend(app, user=user, k=2)
        listed = ids(items)
        assert set(listed) <= set(pool)
        assert items[0]["propensity"] == pytest.approx(chance(listed[:1]))
        assert items[1]["propensity"] == pytest.approx(chance(listed) / chance(listed[:1]))
        seen.add(tuple(listed))
    assert len(seen) > 4
    with app.state.server.store.engine.connect() as connection:
        stored = connection.execute(select(events)).all()
    allowed = {tuple(np.unpackbits(np.frombuffer(event.allowed, np.uint8))[:ITEMS]) for event in stored}
    assert allowed == {tuple(np.isin(policy.scorer.item_ids, candidates).astype(int))}  # the event has the candidates
    assert {len(json.loads(event.propensities)) for event in stored} == {2}


def test_guardrails_exclude_items_before_the_candidates_are_cut(serve, policy):
    best, user = by_rating(policy), policy.scorer.user_ids[USER]
    app = serve(guardrails=GuardrailConfig(blocked=tuple(best[:10])))
    items = recommend(app, user=user, k=SIZE)
    assert sorted(ids(items)) == sorted(best[10 : 10 + SIZE])
    table = policy.recommend(
        user, SIZE, exclude_rated=False, candidates=SIZE, guardrails=GuardrailConfig(blocked=tuple(best[:10]))
    )
    assert sorted(table["item_id"]) == sorted(ids(items))


def test_bounds_that_the_candidates_cannot_meet_are_met_by_all_items(serve, policy):
    """The last items by rating are marked, and two places are theirs."""
    best, user = by_rating(policy), policy.scorer.user_ids[USER]
    rails = GuardrailConfig(marked=tuple(best[-4:]), min_marked=2)
    items = recommend(serve(guardrails=rails), user=user, k=4)
    assert len(items) == 4
    assert len(set(ids(items)) & set(best[-4:])) == 2
    table = policy.recommend(user, 4, exclude_rated=False, candidates=SIZE, guardrails=rails)
    assert table["item_id"].tolist() == ids(items)


def test_a_server_without_a_store_has_candidates_too(folder, policy):
    settings = replace(UNLIMITED, exploration=ExplorationConfig(share=0.0), candidates=CandidatesConfig(size=SIZE))
    user = policy.scorer.user_ids[USER]
    items = recommend(make_app(stateless_state(folder, settings)), user=user, k=4)
    assert set(ids(items)) <= set(by_rating(policy)[:SIZE])


def test_a_user_without_any_item_has_no_candidates(policy):
    """As one who has rated the whole catalog, beside others."""
    version, users = LoadedVersion(policy.scorer, None, candidates=SIZE), policy.scorer.user_ids[:2]
    allowed = np.array([np.ones(ITEMS, bool), np.zeros(ITEMS, bool)])
    known = next(policy.scorer.contexts(users, {}, 2))
    scores, candidates = score_candidates(version, known, [NOTHING_SHOWN] * 2, allowed, 4)
    assert candidates.sum(axis=1).tolist() == [SIZE, 0]
    assert np.isfinite(scores.score).sum(axis=1).tolist() == [SIZE, 0]


def test_the_setting_is_a_table_of_the_servers_file(tmp_path):
    (tmp_path / "server.toml").write_text("[candidates]\nsize = 500\n")
    assert read_settings(tmp_path / "server.toml").candidates.size == 500
