"""Slots of a rank for which no action is left: they stay empty, and the others have exact probabilities."""

import json
from dataclasses import replace

import numpy as np
import pytest
from client_helpers import ask, refusal
from ranking import ranking
from sqlalchemy import select

from recpolicy.core.errors import NoActionError
from recpolicy.data.reward_signals import RewardConfig
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.rank_guardrails import RankGuardrails
from recpolicy.server.db.feature_export import collect_features
from recpolicy.server.db.rank_events import RankEvent, parse_rank_event, rank_event_line
from recpolicy.server.db.recent_ranks import list_recent, summarize_recent
from recpolicy.server.db.schema import UNFILLED, rank_events
from recpolicy.server.db.signal_rates import signal_rates
from recpolicy.server.live_models import CHALLENGER, CHAMPION, LiveState, LoadedVersion, with_guardrails
from recpolicy.server.rank.action_rows import ActionRows
from recpolicy.server.rank.personalizer import apprentice_metrics
from recpolicy.server.rank.slot_decisions import PreparedRank, RankInput, Slot, compare_ranks, decide_rank, with_mixture

PATH = "/personalizer/multislot/rank"
REWARD = RewardConfig(weights={"reward": 1.0}, wait_seconds=0.001, default_reward=0.0, min_reward=0.0, max_reward=1.0)
ACTIONS = [{"id": name, "features": [{"kind": name}]} for name in "abc"]
SLOTS = [
    {"id": "top", "baselineAction": "a", "excludedActions": ["b"]},
    {"id": "side", "baselineAction": "b", "excludedActions": ["a", "c"]},
    {"id": "end", "baselineAction": "c", "excludedActions": ["a", "b"]},
]
"""Slot end takes c only, so it stays empty if slot top got c."""


class Shares:
    """A policy whose probabilities are proportional to the weights of the actions that are not excluded."""

    agent, policy_digest = "squarecb", "a" * 64

    def __init__(self, weight, score=None):
        self.weight, self.score = weight, score or dict.fromkeys(weight, 0.5)

    def probabilities(self, context, actions, excluded=(), *, strict=True, keys=None):
        weight = np.array([0.0 if name in excluded else self.weight[name] for name, _ in actions])
        return weight / weight.sum(), np.array([self.score[name] for name, _ in actions])


EVEN = Shares({"a": 1.0, "b": 3.0, "c": 2.0})
STRICT = Shares({"a": 2.0, "b": 1.0, "c": 1.0}, {"a": 0.5, "b": 0.1, "c": 0.1})
"""With a lowest reward of .4, the guardrails leave it action a only."""


@pytest.fixture
def app(tmp_path):
    with ranking(tmp_path / "registry", EVEN, REWARD) as app:
        yield app


def sent(app, event, slots=SLOTS):
    answer = ask(app, "POST", PATH, {"actions": ACTIONS, "slots": slots, "eventId": event})
    assert answer.status_code == 201, answer.text
    return answer.json()


def stored(app):
    with app.state.server.store.engine.connect() as connection:
        return connection.execute(select(rank_events).order_by(rank_events.c.seq)).all()


def guard(app, **settings):
    version = with_guardrails(LoadedVersion(EVEN, 1), GuardrailConfig(**settings))
    app.state.server.models.live = LiveState(version)


def test_the_slot_is_named_and_the_others_are_filled(app):
    answers = [sent(app, f"e{number}") for number in range(12)]
    seen = set()
    for answer in answers:
        top, side, end = answer["slots"]
        assert side == {"id": "side", "rewardActionId": "b"}
        empty = {"id": "end", "rewardActionId": None, "unfilled": "excluded"}
        assert end == (empty if top["rewardActionId"] == "c" else {"id": "end", "rewardActionId": "c"})
        seen.add(top["rewardActionId"])
    assert seen == {"a", "c"}
    assert [sent(app, f"e{number}") for number in range(12)] == answers  # a known event has the same answer
    assert len(stored(app)) == 36


def test_the_guardrails_are_named_as_the_cause(app):
    guard(app, blocked=("b",))
    answer = sent(app, "e")
    assert answer["slots"][1] == {"id": "side", "rewardActionId": None, "unfilled": "guardrails"}
    assert sent(app, "e") == answer
    metrics = ask(app, "GET", "/metrics").text
    assert 'recpolicy_slots_unfilled_total{cause="guardrails",version="1"} 1.0' in metrics


def test_a_request_of_which_every_slot_stays_empty_is_refused(app):
    guard(app, blocked=("a", "b", "c"))
    answer = ask(app, "POST", PATH, {"actions": ACTIONS, "slots": SLOTS})
    assert refusal(answer, 422, "invalid_value") == ("slot top: no action is left under the guardrails: 2 blocked")
    assert stored(app) == []


def test_logs_rewards_and_rates_have_the_filled_slots_only(app):
    empty = sum(sent(app, f"e{number}")["slots"][2]["rewardActionId"] is None for number in range(12))
    assert 0 < empty < 12
    engine = app.state.server.store.engine
    log, _ = collect_features(engine, REWARD, "log")
    assert len(log) == 36 - empty
    top = [row for row in range(len(log)) if str(log.event_id[row]).endswith("slot top")]
    chance = {"a": 1 / 3, "c": 2 / 3}
    for row in top:
        assert log.propensity[row] == pytest.approx(chance[str(log.action_id[log.chosen_action[row]])], abs=1e-12)
    with engine.connect() as connection:
        assert summarize_recent(connection, REWARD).final == 36 - empty
        assert len(list_recent(connection, REWARD, 100)) == 36 - empty


def test_an_empty_slot_has_no_reward_and_no_rate(tmp_path):
    with ranking(tmp_path / "registry", EVEN, replace(REWARD, wait_seconds=600)) as app:
        names = [f"e{number}" for number in range(12)]
        empty = [name for name in names if sent(app, name)["slots"][2]["rewardActionId"] is None]
        path = f"/personalizer/multislot/events/{empty[0]}/reward"
        said = refusal(ask(app, "POST", path, {"reward": [{"slotId": "end", "value": 1}]}), 404, "unknown_slot")
        assert said == "the slot has no action, so there is nothing to reward"
        assert ask(app, "POST", path, {"reward": [{"slotId": "side", "value": 1}]}).status_code == 204
        with app.state.server.store.engine.connect() as connection:
            (rate,) = signal_rates(connection, 0)
    assert (rate.task, rate.rate.value) == ("rank", pytest.approx(1 / (36 - len(empty))))


def test_the_mode_apprentice_counts_filled_slots(app):
    state = app.state.server
    state.rank.current = replace(state.rank.current, mode="apprentice")
    guard(app, blocked=("b",))
    sent(app, "e")
    assert apprentice_metrics(state.store.engine, state.rank.current)["numberOfEvents"] == 2


def test_a_line_of_the_spool_keeps_an_empty_slot(app):
    guard(app, blocked=("b",))
    sent(app, "e")
    row = next(row for row in stored(app) if row.task == UNFILLED)
    event = RankEvent(**{name: getattr(row, name) for name in RankEvent._fields[:-1]}, rows=())
    assert parse_rank_event(json.loads(rank_event_line(event))) == event


def versions():
    rails = replace(RankGuardrails.for_policy(GuardrailConfig(), EVEN), min_reward=0.4)
    return [replace(LoadedVersion(policy, at), guardrails=rails) for at, policy in ((1, EVEN), (2, STRICT))]


def prepared(event, excluded):
    actions = [(name, {}) for name in "abc"]
    slots = [Slot(str(place), {}, frozenset(names)) for place, names in enumerate(excluded)]
    wanted = RankInput({}, actions, slots, event, strict=False)
    return PreparedRank(wanted, ActionRows().of(actions), event, "online", 0.0)


def paths(policy, excluded, lowest, path=(), chance=1.0):
    """Yield each sequence of actions, None for an empty slot, with its probability under one version."""
    if len(path) == len(excluded):
        yield path, chance
        return
    left = [a for a in "abc" if a not in path and a not in excluded[len(path)] and policy.score[a] >= lowest]
    for action in left or [None]:
        share = 1.0 if action is None else policy.weight[action] / sum(policy.weight[a] for a in left)
        yield from paths(policy, excluded, lowest, (*path, action), chance * share)


@pytest.mark.parametrize("excluded", [("", "a", ""), ("a", "", ""), ("c", "a", "b"), ("a", "a", "")])
def test_the_probabilities_of_a_rollout_equal_enumeration(excluded):
    weight = 0.3
    both = versions()
    live = LiveState(*both, weight, rollout=9)
    exact = {}
    for policy, share in ((EVEN, 1 - weight), (STRICT, weight)):
        for path, chance in paths(policy, excluded, 0.4):
            for end in range(len(path) + 1):
                exact[path[:end]] = exact.get(path[:end], 0.0) + share * chance
    seen = set()
    for number in range(300):
        request = prepared(f"e{number}", excluded)
        decided = with_mixture(live, request, decide_rank(live, request))
        assert decided.rollout == 9
        chosen = {slot.place: "abc"[slot.chosen] for slot in decided.slots}
        path = tuple(chosen.get(place) for place in range(3))
        for slot in decided.slots:
            before, at = path[: slot.place], int(slot.decision.order[0])
            expected = exact[(*before, path[slot.place])] / exact[before]
            assert slot.decision.probability[at] == pytest.approx(expected, abs=1e-12)
        seen.add((path, decided.variant))
    assert {path for path, _ in seen} == {path for path, chance in exact.items() if len(path) == 3 and chance > 0}
    assert {variant for _, variant in seen} == {CHAMPION, CHALLENGER}


def test_a_version_that_fills_no_slot_has_no_part_in_the_probabilities():
    live = LiveState(*versions(), 0.3, rollout=9)
    requests = [prepared(f"e{number}", ("a", "a")) for number in range(30)]
    served = [request for request in requests if live.variant_for(request.unit)[1] == CHAMPION]
    assert 0 < len(served) < 30
    for request in served:
        decided = decide_rank(live, request)
        mixed = with_mixture(live, request, decided)
        assert mixed.rollout is None
        for before, after in zip(decided.slots, mixed.slots, strict=True):
            assert after.decision.probability.tolist() == before.decision.probability.tolist()


@pytest.mark.parametrize("empty", [0, 1])
def test_an_empty_slot_takes_no_reserved_place(empty):
    """One of the two slots with an action is for the marked c, wherever the slot that stays empty is."""
    version = with_guardrails(LoadedVersion(EVEN, 1), GuardrailConfig(marked_feature="ad", min_marked=1))
    actions = [(name, {"ad": name == "c"}) for name in "abc"]
    slots = [Slot(str(place), {}, frozenset("abc") if place == empty else frozenset()) for place in range(3)]
    first = set()
    for number in range(40):
        wanted = RankInput({}, actions, slots, f"e{number}", strict=False)
        prepared = PreparedRank(wanted, ActionRows().of(actions), f"e{number}", "online", 0.0)
        decided = decide_rank(LiveState(version), prepared)
        assert [slot.place for slot in decided.unfilled] == [empty]
        assert "c" in ["abc"[slot.chosen] for slot in decided.slots]
        first.add("abc"[decided.slots[0].chosen])
    assert first == {"a", "b", "c"}


def test_a_shadow_agrees_on_slots_that_both_leave_empty():
    first, second = (LiveState(version) for version in versions())
    request = prepared("e", ("bc", "a", "abc"))
    served, shadow = decide_rank(first, request), decide_rank(second, request)
    assert [slot.place for slot in served.unfilled] == [2]
    assert [slot.place for slot in shadow.unfilled] == [1, 2]
    assert compare_ranks(served, shadow) == (pytest.approx(2 / 3), 0.0)
    with pytest.raises(NoActionError, match="slot 0: no action is left under the guardrails: 2 below"):
        decide_rank(second, prepared("e", ("a",)))
    empty_first = prepared("e", ("a", ""))
    assert compare_ranks(decide_rank(first, empty_first), decide_rank(second, empty_first))[1] == 0.0
