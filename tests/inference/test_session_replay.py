"""Logged sessions seen again, many side by side: the same memories and choices as one after the other."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tiny_session_policies import WIDTHS, chances, led_by, tiny_session_artifact

from recpolicy.data.candidates import CandidateSets
from recpolicy.data.session_log import SessionLog
from recpolicy.inference.history_state import HISTORY_ENCODERS, Past, Shape
from recpolicy.inference.predictor import Policy
from recpolicy.inference.session_replay import ACTS, exploring_probabilities, moments

every_view = pytest.mark.parametrize("view", WIDTHS)


@cache
def policy(view: str, head: str = "softmax", steps: int = 4) -> Policy:
    return Policy(tiny_session_artifact(view=view, head=head, steps=steps, items=50, arms=24))


@cache
def log(view: str, head: str = "softmax", steps: int = 4) -> SessionLog:
    return led_by(policy(view, head, steps))


def test_every_view_is_tried():
    assert set(WIDTHS) == set(HISTORY_ENCODERS)


@every_view
@pytest.mark.parametrize("head", ["softmax", "epsilon_top_k"])
def test_probabilities_are_those_that_the_exploring_policy_logged(view, head):
    """Which asked for one session after the other."""
    one, logged = policy(view, head), log(view, head)
    found = np.full(len(logged), np.nan)
    for moment in moments(one.artifact, logged):
        probability = exploring_probabilities(one.artifact, moment.estimate, moment.allowed)
        np.testing.assert_allclose(probability.sum(axis=1), 1)
        assert (probability[~moment.allowed] == 0).all()
        found[moment.row] = probability[np.arange(len(moment.row)), moment.arm]
    np.testing.assert_allclose(found, np.exp(logged.log_propensity), rtol=0, atol=1e-6)
    assert np.ptp(found) > 0.1  # the negative control: no two items are alike


def test_only_candidates_that_the_session_has_not_shown_are_allowed():
    one, logged = policy("interest"), log("interest")
    rng, arms = np.random.default_rng(0), len(logged.action_items)
    mask = rng.random((len(logged), arms)) < 0.5
    mask[np.arange(len(logged)), np.searchsorted(logged.action_items, logged.item)] = True
    sets = CandidateSets.without_exclusions(np.packbits(mask, axis=1), np.arange(len(logged)), arms)
    plain = {row: moment.allowed[at] for moment in moments(one.artifact, logged) for at, row in enumerate(moment.row)}
    for moment in moments(one.artifact, replace(logged, candidates=sets), at_once=7):
        for row, allowed in zip(moment.row, moment.allowed, strict=True):
            np.testing.assert_array_equal(allowed, plain[row] & mask[row])


@every_view
def test_memories_are_those_of_whole_pasts_and_counters_to_the_last_bit(view):
    one, logged = policy(view, steps=25), log(view, steps=25)
    artifact = one.artifact
    genres, number = artifact.policy["genres"], np.repeat(np.arange(len(logged.length)), logged.length)
    shape = Shape(25, int(artifact.policy["last_n"]), genres.shape[1])
    longest = 0
    for moment in moments(artifact, logged):
        for row, history_state in zip(moment.row, moment.history_state, strict=True):
            before = slice(logged.start[number[row]], row)
            item, user = logged.item[before], artifact.context[logged.user[row]]
            past = Past(artifact.item[item], genres[item], logged.liked[before].tolist())
            expected = HISTORY_ENCODERS[view](user, past, shape)
            np.testing.assert_allclose(history_state, expected, atol=1e-6)
            counters = {"interest": 2, "last_item": 0}.get(view, 1)
            np.testing.assert_array_equal(
                history_state[len(history_state) - counters :], expected[len(expected) - counters :]
            )
            longest = max(longest, len(item))
    assert longest > 10  # by then sums of 1/25 in single and in double precision have parted


def test_every_step_comes_once_with_the_items_that_are_left():
    one, logged = policy("interest"), log("interest")
    seen = np.zeros(len(logged), int)
    for moment in moments(one.artifact, logged):
        np.testing.assert_array_equal(one.artifact.action_items[moment.arm], logged.item[moment.row])
        np.testing.assert_array_equal((~moment.allowed).sum(axis=1), logged.step[moment.row])
        assert moment.allowed[np.arange(len(moment.row)), moment.arm].all()
        seen[moment.row] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("at_once", [1, 7])
def test_how_many_sessions_are_seen_at_once_changes_nothing(at_once):
    one, logged = policy("last_n"), log("last_n")

    def scores(size: int) -> np.ndarray:
        found = np.zeros((len(logged), len(one.artifact.action_items)), np.float32)
        for moment in moments(one.artifact, logged, size):
            found[moment.row] = moment.estimate.score
        return found

    np.testing.assert_allclose(scores(at_once), scores(1_000), rtol=1e-5, atol=1e-6)


@every_view
def test_ways_to_act_are_those_of_the_predictor(view):
    one, logged = policy(view), log(view)
    for moment in moments(one.artifact, logged, at_once=20):
        for act, probabilities in ACTS.items():
            row = int(moment.row[0])
            shown = slice(row - logged.step[row], row)
            arms = np.searchsorted(logged.action_items, logged.item[shown]).tolist()
            told = chances(one, logged.user[row], arms, logged.liked[shown].tolist(), act)
            found = probabilities(one.artifact, moment.estimate, moment.allowed)[0]
            np.testing.assert_allclose(found, told, atol=1e-6, err_msg=act)


def test_exact_ties_share_alike_among_the_items_that_are_left():
    one, logged = policy("interest"), log("interest")
    for moment in moments(one.artifact, logged):
        level = replace(moment.estimate, score=np.zeros_like(moment.estimate.score))
        share = ACTS["greedy"](one.artifact, level, moment.allowed)
        np.testing.assert_allclose(share, moment.allowed / moment.allowed.sum(axis=1, keepdims=True))


def test_probabilities_are_those_that_the_player_of_simulated_sessions_logs():
    """Which is TensorFlow, in single precision up to the scores."""
    variant, view = "topk_reinforce", "last_n"
    from randomized_policies import agent, environment, features, policy
    from synthetic_session_logs import eagerly, log_of

    from recpolicy.training.rollout_sessions import exploring, rollout_sessions

    with eagerly():
        played = rollout_sessions(environment(view), exploring(agent(variant, view).learner.export()), 30, 0)
    action_items = features(view).action_items
    logged = log_of(played, len(action_items), item=action_items[played.arm], action_items=action_items)
    parts, found = policy(variant, view).artifact, np.full(len(logged), np.nan)
    for moment in moments(parts, logged):
        probability = exploring_probabilities(parts, moment.estimate, moment.allowed)
        found[moment.row] = probability[np.arange(len(moment.row)), moment.arm]
    np.testing.assert_allclose(found, np.exp(logged.log_propensity), rtol=1e-4, atol=1e-6)
