"""Ranking among candidates: exact candidates, exact propensities, 0 outside of them; for every kind of policy."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tiny_session_policies import tiny_session_artifact

from recpolicy.core.errors import ConfigError
from recpolicy.inference.block_prediction import predict_among, predict_block
from recpolicy.inference.candidate_generation import top_candidates
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.predictor import Policy, load_policy

STORED = sorted((Path(__file__).resolve().parents[1] / "migration" / "v0" / "policies").iterdir())
"""Policies of many agents, written by an early version."""


@pytest.mark.parametrize("at_once", [1, 7, 64, 1_000])
@pytest.mark.parametrize("count", [1, 5, 40, 200])
def test_candidates_are_the_best_of_those_allowed_whatever_the_blocks(at_once, count):
    rng = np.random.default_rng(count)
    item, offset, user = rng.normal(size=(100, 4)), rng.normal(size=100), rng.normal(size=4)
    allowed = rng.random(100) < 0.6
    rating = np.where(allowed, item @ user + offset, -np.inf)
    expected = np.sort(np.argsort(-rating)[: min(count, allowed.sum())])
    np.testing.assert_array_equal(top_candidates(user, item, offset, allowed, count, at_once), expected)


@cache
def tiny(view: str, head: str) -> Policy:
    return Policy(tiny_session_artifact(view=view, head=head, items=50, arms=24, rated=3))


def check_among(policy: Policy) -> None:
    """Each column among a few arms is that of a policy that is masked everywhere else, and that one gives 0 there."""
    artifact, rng = policy.artifact, np.random.default_rng(0)
    users = policy.scorer.user_ids[:3]
    arms = np.sort(rng.choice(len(artifact.action_items), 6, replace=False))
    rows, mask = artifact.action_items[arms], np.zeros(len(artifact.action_items), bool)
    mask[arms] = True
    outside = np.setdiff1d(np.arange(artifact.action_items[-1] + 1), rows)
    history = {users[0]: [(policy.scorer.item_ids[row], True) for row in artifact.action_items[:2]]}
    past = policy.scorer.histories(users, history if policy.sequential else None)
    known = next(policy.scorer.contexts(users, {}, len(users)))
    among, masked = predict_among(artifact, known, arms, past), predict_block(artifact, known, mask, past)
    assert (masked.probability[:, outside] == 0).all()
    for name in ("rating", "std", "value", "probability"):
        found, expected = getattr(among, name), getattr(masked, name)
        assert (found is None) == (expected is None)
        if found is not None:
            np.testing.assert_allclose(found, expected[:, rows], rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(among.probability.sum(axis=1), 1, atol=1e-6)
    if not artifact.policy.get("dueling", False):
        np.testing.assert_allclose(among.score, masked.score[:, arms], rtol=1e-4, atol=1e-6)
        if among.session_value is not None:
            np.testing.assert_allclose(among.session_value, masked.session_value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("view", ["interest", "gru", "transformer"])
@pytest.mark.parametrize("head", ["softmax", "epsilon_top_k"])
def test_a_session_policy_among_candidates_is_the_one_that_cannot_show_others(view, head):
    check_among(tiny(view, head))


@pytest.mark.parametrize("folder", STORED, ids=[folder.name for folder in STORED])
def test_so_is_every_other_policy(folder):
    check_among(load_policy(folder))


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("exclude_rated", [False, True])
def test_lists_hold_candidates_only_and_say_their_probability_among_them(sample, exclude_rated):
    policy = tiny("gru", "softmax")
    artifact, user = policy.artifact, policy.scorer.user_ids[2]
    history = {user: [(policy.scorer.item_ids[row], False) for row in artifact.action_items[3:5]]}
    listed = policy.recommend(
        user, k=5, candidates=6, history=history, sample=sample, exclude_rated=exclude_rated, seed=1
    )
    context = artifact.context[2, : artifact.item.shape[1]]
    rating = (artifact.item @ context + artifact.offset)[artifact.action_items]
    closed = np.isin(artifact.action_items, artifact.action_items[3:5])
    if exclude_rated:
        closed |= np.isin(artifact.action_items, policy.scorer.rated(user))
    best = artifact.action_items[np.argsort(-np.where(closed, -np.inf, rating))[:6]]
    candidates = {policy.scorer.item_ids[row] for row in best}
    assert set(listed["item_id"]) <= candidates
    assert len(listed) == 5
    assert listed["probability"].sum() < 1 if not sample else (listed["probability"] > 0).all()
    again = policy.recommend(user, k=6, candidates=6, history=history, exclude_rated=exclude_rated)
    assert set(again["item_id"]) == candidates
    assert again["probability"].sum() == pytest.approx(1)


@pytest.mark.parametrize("head", ["softmax", "epsilon_top_k"])
def test_as_many_candidates_as_items_change_nothing(head):
    policy = tiny("interest", head)
    users = policy.scorer.user_ids[:3]
    full, among = (policy.recommend(users, k=4, candidates=count) for count in (None, 24))
    for name in full.columns:
        if full[name].dtype.kind == "f":
            np.testing.assert_allclose(among[name], full[name], rtol=1e-5, atol=1e-7)
        else:
            assert among[name].tolist() == full[name].tolist()


def test_guardrails_hold_among_candidates():
    policy = tiny("interest", "softmax")
    user = policy.scorer.user_ids[0]
    first = policy.recommend(user, k=4, candidates=8)["item_id"].tolist()
    rails = GuardrailConfig(blocked=(first[0],))
    listed = policy.recommend(user, k=4, candidates=8, guardrails=rails)
    assert first[0] not in set(listed["item_id"])
    assert set(listed["item_id"]) <= set(policy.recommend(user, k=8, candidates=8)["item_id"])


def test_fewer_candidates_than_places_are_refused():
    with pytest.raises(ConfigError, match="candidates is 3; expected at least k, 4"):
        tiny("interest", "softmax").recommend(0, k=4, candidates=3)
