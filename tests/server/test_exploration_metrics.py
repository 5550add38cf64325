"""Counts of choices that are not the best estimate, and the standard deviation of what was shown, in /metrics."""

import re
import zlib
from dataclasses import replace

import pytest
from client_helpers import ask
from ranking import REQUEST, ValuePolicy, ranking
from strategy_fixtures import REQUEST as STRATEGY_REQUEST
from strategy_fixtures import strategist
from tiny_feature_log import tiny_actions, trained_case

from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.server.rank.ranking import STD_SAMPLE


def value(state, name):
    found = re.findall(rf"^recpolicy_{re.escape(name)} (\S+)$", state.metrics.text().decode(), re.MULTILINE)
    return float(found[0]) if found else 0.0


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_lists_that_are_drawn_count_and_greedy_ones_do_not(tmp_path, share):
    """Of 11 items, three in any order are the best list in 1 of 990 draws."""
    with strategist(tmp_path) as (state, app, _):
        object.__setattr__(state, "settings", replace(state.settings, exploration=ExplorationConfig(share=share)))
        stds = []
        for _ in range(20):
            body = ask(app, "POST", "/v1/recommend", {"user": 2, "k": 3}).json()
            stds.append(sum(item["std"] for item in body["items"]) / 3)
        count = value(state, 'choices_not_greedy_total{task="list",version="1"}')
        assert count == 0 if share == 0 else count >= 19
        assert value(state, 'chosen_std_count{task="list",version="1"}') == 20
        assert value(state, 'chosen_std_sum{task="list",version="1"}') == pytest.approx(sum(stds), rel=1e-5)


def test_ranks_count_whose_action_is_not_the_best(tmp_path):
    """The policy prefers b with 0.7; every other action counts."""
    with ranking(tmp_path / "ranks", ValuePolicy()) as app:
        chosen = [ask(app, "POST", "/v1/rank", REQUEST).json()["action"] for _ in range(40)]
        others = sum(action != "b" for action in chosen)
        assert 0 < others < 40
        assert value(app.state.server, 'choices_not_greedy_total{task="rank",version="1"}') == others


def test_the_std_of_a_rank_is_that_of_its_action_in_a_sample_of_ranks(tmp_path):
    policy, context = trained_case("linucb_shared"), {"hour": 0.4, "device": "mobile", "member": True}
    body = {"context": context, "actions": [{"id": name, "features": features} for name, features in tiny_actions()]}
    ids = [f"e{number}" for number in range(60)]
    expected = []
    with ranking(tmp_path / "ranks", policy) as app:
        for name in ids:
            action = ask(app, "POST", "/v1/rank", body | {"event_id": name}).json()["action"]
            if zlib.crc32(name.encode()) % STD_SAMPLE == 0:
                at = [identity for identity, _ in tiny_actions()].index(action)
                expected.append(policy.estimate_stds(context, tiny_actions())[at])
        assert len(expected) > 1
        assert value(app.state.server, 'chosen_std_count{task="rank",version="1"}') == len(expected)
        found = value(app.state.server, 'chosen_std_sum{task="rank",version="1"}')
        assert found == pytest.approx(sum(expected), rel=1e-9)


def test_a_rank_of_a_policy_without_uncertainty_is_not_observed(tmp_path):
    with ranking(tmp_path / "ranks", ValuePolicy()) as app:
        for number in range(40):
            ask(app, "POST", "/v1/rank", REQUEST | {"event_id": f"e{number}"})
        assert value(app.state.server, 'chosen_std_count{task="rank",version="1"}') == 0


def test_strategies_count_that_are_drawn(tmp_path):
    with strategist(tmp_path) as (state, app, _):
        answers = [ask(app, "POST", "/v1/strategies/recommend", STRATEGY_REQUEST).json() for _ in range(30)]
        explored = sum(answer["explored"] for answer in answers)
        assert value(state, 'choices_not_greedy_total{task="strategy",version="0"}') == explored > 0


def test_a_request_that_is_repeated_counts_once(tmp_path):
    """Three times the same id: one strategy and one rank, whatever was drawn."""
    with strategist(tmp_path / "strategies") as (state, app, _):
        for _ in range(3):
            ask(app, "POST", "/v1/strategies/recommend", STRATEGY_REQUEST | {"event_id": "mine"})
        text = state.metrics.text().decode()
        assert sum(map(float, re.findall(r"^recpolicy_strategies_total\S* (\S+)$", text, re.MULTILINE))) == 1
        assert value(state, 'choices_not_greedy_total{task="strategy",version="0"}') <= 1
    with ranking(tmp_path / "ranks", ValuePolicy()) as app:
        for _ in range(3):
            ask(app, "POST", "/v1/rank", REQUEST | {"event_id": "mine"})
        text = app.state.server.metrics.text().decode()
        assert sum(map(float, re.findall(r"^recpolicy_ranks_total\S* (\S+)$", text, re.MULTILINE))) == 1
