"""Guardrails of ranks: masks slot by slot, exact probabilities, a log without closed offers, and bad input."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from client_helpers import ask, refusal
from ranking import ranking
from sqlalchemy import select
from tiny_feature_log import trained_case

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.reward_signals import RewardConfig
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.rank_guardrails import RankGuardrails
from recpolicy.server.db.feature_export import collect_features
from recpolicy.server.db.guardrail_record import unpack_rank
from recpolicy.server.db.schema import rank_events
from recpolicy.server.live_models import LiveState, LoadedVersion, with_guardrails
from recpolicy.server.rank.decision import decide

RAILS = GuardrailConfig(
    max_per_category=1, blocked=("d",), blocked_categories=("weapons",), marked_feature="ad", max_marked=1,
    category_feature="shelf.name",
)  # fmt: skip
ACTIONS = [
    {"id": name, "features": {"value": value, "shelf": {"name": shelf}, "ad": ad}}
    for name, value, shelf, ad in (
        ("a", 1, "books", False), ("b", 5, "books", True), ("c", 2, "games", True), ("d", 9, "games", False),
        ("e", 4, "weapons", False), ("f", 3, ["films", "games"], False),
    )
]  # fmt: skip
OFFERS = [(action["id"], action["features"]) for action in ACTIONS]


class SharePolicy:
    """A policy whose probabilities are proportional to the feature `value`."""

    agent, policy_digest = "squarecb", "a" * 64

    def probabilities(self, context, actions, excluded=(), *, strict=True, keys=None):
        value = np.array([features["value"] for _, features in actions], float)
        allowed = value * np.array([name not in excluded for name, _ in actions])
        return allowed / allowed.sum(), value


@pytest.fixture
def app(tmp_path):
    """A server whose policy keeps RAILS."""
    reward = RewardConfig(weights={"reward": 1.0}, wait_seconds=0.001)
    with ranking(tmp_path / "registry", SharePolicy(), reward) as app:
        state = app.state.server
        state.models.live = LiveState(with_guardrails(LoadedVersion(SharePolicy(), 1), RAILS))
        yield app


def rails(**settings):
    return RankGuardrails.for_policy(GuardrailConfig(**settings), SharePolicy())


def decided(seed="x", exploration=0.0, mode="online", guardrails=None, **words):
    guardrails = guardrails or RankGuardrails.for_policy(RAILS, SharePolicy())
    return decide(SharePolicy(), {}, OFFERS, seed, mode, exploration, guardrails=guardrails, **words)


@pytest.mark.parametrize("exploration", [0.0, 0.3])
def test_probabilities_are_the_policys_among_open_actions_and_the_draw_has_them(exploration):
    decision = decided(exploration=exploration)
    open_values = {"a": 1, "b": 5, "c": 2, "f": 3}
    exact = [(1 - exploration) * open_values[name] / 11 + exploration / 4 if name in open_values else 0.0
             for name, _ in OFFERS]  # fmt: skip
    np.testing.assert_allclose(decision.probability, exact, rtol=0, atol=1e-12)
    assert decision.closed.tolist() == [False, False, False, True, True, False]
    first = Counter(OFFERS[decided(str(seed), exploration).order[0]][0] for seed in range(2_000))
    assert set(first) <= set(open_values)
    for (name, _), p in zip(OFFERS, exact, strict=True):
        assert abs(first[name] / 2_000 - p) < 4.5 * np.sqrt(p * (1 - p) / 2_000) + 1e-12
    assert [OFFERS[at][0] for at in decision.order[-2:]] == ["d", "e"]  # closed ones are the last


def test_slots_are_masked_by_the_actions_before():
    guardrails = RankGuardrails.for_policy(RAILS, SharePolicy())
    by_name = dict(OFFERS)

    def closed(*earlier):
        mask, causes = guardrails.closed(OFFERS, [(name, by_name[name]) for name in earlier], 3)
        return [name for (name, _), shut in zip(OFFERS, mask, strict=True) if shut], causes

    assert closed("b") == (["a", "b", "c", "d", "e"], [
        "2 of the full category books", "1 beyond max_marked 1", "1 blocked", "1 of the blocked category weapons"
    ])  # fmt: skip
    assert closed("f")[0] == ["c", "d", "e", "f"]
    reserve = rails(marked_feature="ad", min_marked=2)
    assert reserve.closed(OFFERS, [], 3)[0].tolist() == [False] * 6
    after = reserve.closed(OFFERS, [("a", by_name["a"])], 3)
    assert after[0].tolist() == [True, False, False, True, True, True]
    assert after[1] == ["4 not marked (min_marked 2)"]
    assert rails(marked_feature="ad", min_marked=9).closed(OFFERS, [], 1)[0].tolist() == [
        True,
        False,
        False,
        True,
        True,
        True,
    ]


def test_actions_below_the_lowest_reward_are_closed():
    guardrails = replace(rails(blocked=("d",)), min_reward=3.0)
    decision = decided(guardrails=guardrails)
    np.testing.assert_allclose(decision.probability, [0, 5 / 12, 0, 0, 4 / 12, 3 / 12], rtol=0, atol=1e-12)
    with pytest.raises(DataError, match="no action is left under the guardrails: 1 blocked; 5 below min_reward 9"):
        decided(guardrails=replace(guardrails, min_reward=9.0))


@pytest.mark.parametrize("mode", ["apprentice", "logging_only"])
def test_the_baseline_is_the_first_action_that_the_guardrails_allow(mode):
    decision = decided(mode=mode, guardrails=rails(blocked=("a", "b")))
    assert decision.order[0] == 2
    assert decision.probability.tolist() == [0, 0, 1, 0, 0, 0]
    assert not decision.imitated


def test_an_answer_has_no_closed_action_and_the_log_no_closed_offer(app):
    state, exact = app.state.server, {"a": 1 / 11, "b": 5 / 11, "c": 2 / 11, "f": 3 / 11}
    for turn in range(40):
        body = {"context": {}, "actions": ACTIONS, "event_id": f"event{turn}"}
        answer = ask(app, "POST", "/v1/rank", body)
        assert answer.status_code < 300, answer.text
        ranking = {each["id"]: each["probability"] for each in answer.json()["ranking"]}
        assert ranking == pytest.approx(exact, abs=1e-12)
        again = ask(app, "POST", "/v1/rank", body)
        assert again.json()["ranking"] == answer.json()["ranking"]
    with state.store.engine.connect() as connection:
        rows = connection.execute(select(rank_events)).all()
    digest = RankGuardrails.for_policy(RAILS, SharePolicy()).digest
    assert {unpack_rank(row.guardrails, 6)[0] for row in rows} == {digest}
    log, exported = collect_features(state.store.engine, RewardConfig(weights={"reward": 1.0}, wait_seconds=0.0), "log")
    assert exported.left_out == {}
    for row in range(len(log)):
        offers = [str(log.action_id[at]) for at in log.offered[log.start[row] : log.start[row + 1]]]
        assert sorted(offers) == ["a", "b", "c", "f"]
        assert log.propensity[row] == pytest.approx(exact[offers[log.chosen[row]]], abs=1e-12)


def test_personalizers_clients_get_closed_actions_last_with_probability_0(app):
    actions = [{"id": action["id"], "features": [action["features"]]} for action in ACTIONS]
    answer = ask(app, "POST", "/personalizer/v1.0/rank", {"contextFeatures": [], "actions": actions})
    assert answer.status_code == 201, answer.text
    ranking = answer.json()["ranking"]
    assert [each["id"] for each in ranking[-2:]] == ["d", "e"]
    assert [each["probability"] for each in ranking[-2:]] == [0, 0]


def test_no_action_left_is_one_line(app):
    only = [action for action in ACTIONS if action["id"] in "de"]
    said = refusal(ask(app, "POST", "/v1/rank", {"context": {}, "actions": only}), 422, "invalid_value")
    assert said == "no action is left under the guardrails: 1 blocked; 1 of the blocked category weapons"


def test_a_champion_that_was_reset_keeps_them(app):
    state = app.state.server
    settings = replace(state.settings, guardrails=RAILS)
    object.__setattr__(state, "settings", settings)
    state.rank.current = replace(state.rank.current, reset_version=1)
    answer = ask(app, "POST", "/v1/rank", {"context": {}, "actions": ACTIONS}).json()
    assert {each["id"]: each["probability"] for each in answer["ranking"]} == dict.fromkeys("abcf", 0.25)


def test_both_variants_of_a_rollout_keep_them(app):
    state = app.state.server
    both = [with_guardrails(LoadedVersion(SharePolicy(), number), RAILS) for number in (1, 2)]
    state.models.live = LiveState(*both, 0.5, rollout=9)
    for _ in range(30):
        answer = ask(app, "POST", "/v1/rank", {"context": {}, "actions": ACTIONS}).json()
        assert sorted(each["id"] for each in answer["ranking"]) == ["a", "b", "c", "f"]
        assert sum(each["probability"] for each in answer["ranking"]) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_per_category": 1}, "max_per_category needs category_feature for a policy of features"),
        ({"category_caps": {"x": 1}}, "category_caps needs category_feature"),
        ({"max_marked": 0}, "max_marked needs marked_feature"),
    ],
)
def test_settings_without_their_feature_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        rails(**settings)


def test_features_and_rewards_that_the_policy_cannot_have_are_refused():
    trained_policy = trained_case("squarecb")
    config = GuardrailConfig(category_feature="nonsense", max_per_category=1)
    with pytest.raises(ConfigError, match="no action feature named 'nonsense'"):
        RankGuardrails.for_policy(config, trained_policy)
    known = sorted(trained_policy.encoder.names("action"))[0]
    assert RankGuardrails.for_policy(GuardrailConfig(category_feature=known, max_per_category=1), trained_policy)
    bounded = replace(trained_policy, reward_range=(0.0, 1.0))
    with pytest.raises(ConfigError, match="min_reward is 2, and the highest reward is 1"):
        RankGuardrails.for_policy(GuardrailConfig(min_reward=2.0), bounded)
    assert RankGuardrails.for_policy(GuardrailConfig(min_reward=0.5), bounded).min_reward == 0.5
