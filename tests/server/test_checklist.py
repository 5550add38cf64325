"""The production checklist of a server over two tiny versions: each item can be kept, and can fail alone."""

from dataclasses import replace

import pytest
from client_helpers import ask
from rank_events import rank_event
from rollout_fixtures import rate, rolling

from recpolicy.data.reward_signals import RewardConfig
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.registry.artifact_kinds import read_manifest
from recpolicy.server import checklist
from recpolicy.server.app import make_app
from recpolicy.server.auth.keys import key_digest, new_key
from recpolicy.server.checklist import production_checklist
from recpolicy.server.db import admin
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.rank_events import insert_rank_events
from recpolicy.server.db.rank_signals import RankSignal, apply_rank_actions
from recpolicy.server.live_models import LiveState, LoadedVersion
from recpolicy.server.rank.ranker import UniformPolicy
from recpolicy.server.rollout import controller
from recpolicy.server.schemas.admin import Checklist
from recpolicy.server.settings import AlertsConfig, ChecklistConfig, DriftConfig, JobsConfig, RolloutConfig

NAMES = [
    "interactions with a reward", "mean reward of the last 7 days above the floor", "share of exploration",
    "versions are registered", "A/B comparison", "gradual rollout", "alerts", "roll-back is possible",
    "settings are recorded", "tests of the reward",
]  # fmt: skip
GOOD = {
    "checklist": ChecklistConfig(min_interactions=60), "drift": DriftConfig(min_mean_reward=2.0),
    "exploration": ExplorationConfig(share=0.05), "alerts": AlertsConfig(url="https://example.org/secret-hook"),
}  # fmt: skip


def put(state, **settings):
    """Change settings of an open server."""
    object.__setattr__(state, "settings", replace(state.settings, **settings))


def items(state):
    return {item.name: item for item in production_checklist(state)}


def with_settings(folder):
    """The manifest of a tiny policy as if a training had written it: tiny policies have no settings."""
    manifest = read_manifest(folder)
    return {**manifest, "metadata": {**manifest["metadata"], "config": {"agent": {"alpha": 0.5}}}}


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A server that keeps every item: 100 users with rewards, a rollout, a previous champion, an alert."""
    monkeypatch.setattr(checklist, "read_manifest", with_settings)
    with rolling(tmp_path) as state:
        registry = state.models.registry
        registry.promote(2)
        registry.promote(1)
        state.models.refresh()
        row = controller.start(state, 2, "test", {"stages": [0.5, 1.0]})
        rate(state, row, 100)
        controller.stop(state, "test")
        put(state, **GOOD)
        yield state


def test_every_item_is_kept_with_its_figure_and_its_command(state):
    found = items(state)
    assert list(found) == NAMES
    assert [name for name, item in found.items() if not item.kept] == []
    assert all(item.figure and item.expected and item.command for item in found.values())
    assert found[NAMES[0]].figure == "100"
    assert found[NAMES[2]].figure == "5.00% in the settings; 0.00% of 100 lists"
    assert found[NAMES[3]].figure == "2 registered, champion 1"
    assert found[NAMES[4]].figure.endswith("version 2 against 1, stopped")
    assert found[NAMES[7]].figure == "to version 2"
    assert "secret-hook" not in str(found)


@pytest.mark.parametrize(
    ("name", "settings", "figure"),
    [
        ("interactions with a reward", {"checklist": ChecklistConfig(min_interactions=101)}, "100"),
        (NAMES[1], {"drift": DriftConfig(min_mean_reward=3.5)}, "["),
        (NAMES[1], {"drift": DriftConfig()}, "no floor is set"),
        ("share of exploration", {"exploration": ExplorationConfig(share=0.0)}, "0.00%"),
        ("share of exploration", {"exploration": ExplorationConfig(share=0.5)}, "50.00%"),
        ("gradual rollout", {"jobs": JobsConfig(cron={"check_rollout": "off"})}, "is off"),
        ("gradual rollout", {"rollout": RolloutConfig(stages=(1.0,))}, "100%"),
        ("alerts", {"alerts": AlertsConfig()}, "only go to the log"),
        ("alerts", {"jobs": JobsConfig(cron={"drift": "off"})}, "drift is off"),
    ],
)
def test_an_item_fails_alone(state, monkeypatch, name, settings, figure):
    monkeypatch.delenv("RECPOLICY_ALERT_URL", raising=False)
    put(state, **settings)
    found = items(state)
    assert [each for each, item in found.items() if not item.kept] == [name]
    assert figure in found[name].figure


def test_paused_exploration_is_not_kept(state):
    state.models.registry.pause_exploration()
    state.models.refresh()
    assert not items(state)["share of exploration"].kept


def test_a_reward_that_pays_otherwise_than_its_range_is_not_kept(state):
    """A like is worth 1, and the range ends at 0.5, so that the reward of a like is an error."""
    object.__setattr__(
        state.rank, "current", replace(state.rank.current, reward=RewardConfig(min_reward=-2.0, max_reward=0.5))
    )
    item = items(state)["tests of the reward"]
    assert not item.kept
    assert "a combined reward is 1" in item.figure


def test_a_young_server_keeps_what_it_can(tmp_path):
    with rolling(tmp_path) as state:
        found = items(state)
        kept = {name for name, item in found.items() if item.kept}
        assert kept == {"versions are registered", "gradual rollout", "tests of the reward"}
        assert found["settings are recorded"].figure == "seed, data"  # a tiny policy has no settings
        assert found[NAMES[1]].figure == "no rewards of the champion; no floor is set"
        assert found["roll-back is possible"].figure == "no previous champion"


def test_ranks_are_measured_by_their_probabilities(tmp_path):
    """Two equally likely actions: half of the choices are not the most probable one, which is too much."""
    with rolling(tmp_path) as state:
        shown = [rank_event(user=user, time=1) for user in range(40)]
        with transaction(state.store.engine) as connection:
            insert_rank_events(connection, shown)
            apply_rank_actions(
                connection, [RankSignal(each.id, "click", 1.0) for each in shown for _ in range(2)], 2, 10
            )
        state.models.live = LiveState(LoadedVersion(UniformPolicy(), 1))
        found = items(state)
        assert found["share of exploration"].figure == "50.00% of the last 1,000 ranks"
        assert not found["share of exploration"].kept
        assert found["interactions with a reward"].figure == "40"  # two clicks on one event are one interaction
        state.models.live = LiveState(LoadedVersion(UniformPolicy(), 2))
        assert found != items(state)
        assert items(state)["share of exploration"].figure == "no events of the champion"


def test_the_route_answers_readers_and_says_whether_all_is_kept(state):
    key = new_key()
    with transaction(state.store.engine) as connection:
        admin.add_key(connection, "reader", "reader", key_digest(key))
    app = make_app(state)
    assert ask(app, "GET", "/v1/admin/checklist").status_code == 401
    answer = ask(app, "GET", "/v1/admin/checklist", headers={"x-api-key": key})
    body = Checklist.model_validate(answer.json(), strict=True)
    assert body.kept
    assert [item.name for item in body.items] == NAMES
    put(state, checklist=ChecklistConfig(min_interactions=10**6))
    assert ask(app, "GET", "/v1/admin/checklist", headers={"x-api-key": key}).json()["kept"] is False
