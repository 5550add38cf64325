"""Feature logs of strategies become rounds; wrong values are one line that names the event."""

import math
from dataclasses import replace

import numpy as np
import pytest
from strategy_worlds import CONFIG, PROFILE, request

from recpolicy.core.errors import DataError
from recpolicy.data.feature_log_builder import FeatureLogBuilder
from recpolicy.strategies.config import strategy_config
from recpolicy.strategies.log_rounds import context_request, request_context, rounds_from_log, strategy_actions


def log_of(contexts, chosen=0, actions=None):
    """Return a log with one round for each context."""
    builder = FeatureLogBuilder("hand")
    for number, context in enumerate(contexts):
        builder.add(
            event_id=f"e{number}", time=number, context=context, actions=actions or strategy_actions(CONFIG),
            chosen=chosen, log_propensity=-math.log(27), reward=1.0 + number, user=f"u{number}",
        )  # fmt: skip
    return builder.build()


def test_a_log_by_hand():
    contexts = [request_context(request()), request_context(request(openness=0, mood="sad"), session="s9")]
    rounds = rounds_from_log(log_of(contexts, chosen=22), CONFIG)
    assert rounds.event_id.tolist() == ["e0", "e1"]
    assert rounds.profile.tolist() == [list(PROFILE.values()), [0, *list(PROFILE.values())[1:]]]
    assert rounds.situation.tolist() == [[0, 2, 2], [0, 1, 2]]
    assert rounds.action.tolist() == [22, 22]
    assert rounds.reward.tolist() == [1.0, 2.0]
    assert rounds.session.tolist() == [None, "'u1' s9"]
    assert rounds.log_propensity[0] == pytest.approx(-math.log(27))


def test_contexts_and_requests_are_the_same():
    assert context_request(request_context(request(), session="s"), CONFIG) == request()
    with pytest.raises(DataError, match="mood is missing; expected openness"):
        context_request({"content_type": "music"}, CONFIG)


def test_rounds_without_a_reward_are_left_out_and_actions_may_come_in_any_order():
    log = log_of([request_context(request())] * 3, chosen=0, actions=strategy_actions(CONFIG)[::-1])
    rounds = rounds_from_log(replace(log, reward=np.array([np.nan, 1.0, np.nan])), CONFIG)
    assert rounds.event_id.tolist() == ["e1"]
    assert rounds.action.tolist() == [26]
    with pytest.raises(DataError, match="hand: no round has a reward"):
        rounds_from_log(replace(log, reward=np.full(3, np.nan)), CONFIG)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"openness": 130}, r"hand: event e1: openness is 130\.0; expected a number in 0\.\.100"),
        ({"openness": None}, "event e1: openness is nan; expected a number"),
        ({"mood": "jazzy"}, r"event e1: no mood named 'jazzy'.*allow_other = true"),
        ({"mood": None}, "event e1: no mood named 'None'"),
    ],
)
def test_a_wrong_context_names_the_event(changes, message):
    context = request_context(request())
    with pytest.raises(DataError, match=message) as error:
        rounds_from_log(log_of([context, {**context, **changes}]), CONFIG)
    assert "\n" not in str(error.value)


def test_other_moods_are_taken_if_the_schema_says_so():
    config = strategy_config({"situation": {"allow_other": True}})
    rounds = rounds_from_log(log_of([request_context(request(mood="jazzy"))]), config)
    assert rounds.situation[0].tolist() == [0, 6, 2]


def test_missing_features_and_unknown_levels_are_named():
    context = request_context(request())
    with pytest.raises(DataError, match="no context feature neuroticism; expected openness"):
        rounds_from_log(log_of([{k: v for k, v in context.items() if k != "neuroticism"}]), CONFIG)
    with pytest.raises(DataError, match="no action feature energy; expected energy, diversity, novelty"):
        rounds_from_log(log_of([context], actions=[("a", {})]), CONFIG)
    loud = [("a", {"energy": "loud", "diversity": "focused", "novelty": "mixed"})]
    with pytest.raises(DataError, match="action 'a': no level of energy named 'loud'"):
        rounds_from_log(log_of([context], actions=loud), CONFIG)
