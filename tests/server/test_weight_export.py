"""Weights that the server drew, from the lists to a layer that the same server ranks by."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from client_helpers import ask
from sqlalchemy import select, update
from tuned_policies import HEADS, write_base, write_tuned
from typer.testing import CliRunner
from unlimited import UNLIMITED

from recpolicy.cli.main import app as command
from recpolicy.core.errors import DataError
from recpolicy.inference.predictor import load_policy
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.inference.weight_exploration import TuningConfig
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.db.schema import events, rewards
from recpolicy.server.db.weight_export import WeightExportOptions, export_weights
from recpolicy.server.lifespan import open_state
from recpolicy.workflows.weight_logs import read_weight_log

TUNING = TuningConfig(explore_share=1.0, heads=HEADS, high=10.0, points=3)
SETTINGS = replace(UNLIMITED, exploration=ExplorationConfig(share=0.0), tuning=TUNING)
DAYS = 2 * 86_400_000
ROUNDS = 60
USERS = range(1, 13)


def likes(user, item):
    """Odd users like the eight newest items, even ones the seven oldest."""
    return (item < 109) == bool(user % 2)


def serve_and_reward(app, rounds=ROUNDS):
    for _ in range(rounds):
        for user in USERS:
            answer = ask(app, "POST", "/v1/recommend", {"user": user, "k": 2}).json()
            liked = [item["item_id"] for item in answer["items"] if likes(user, item["item_id"])]
            for item in liked[:1]:
                feedback = {"event_id": answer["event_id"], "item": item, "type": "rating", "value": 5}
                assert ask(app, "POST", "/v1/feedback", feedback).status_code == 200


def age(state, milliseconds=DAYS):
    """Make all lists and rewards older."""
    with state.store.engine.begin() as connection:
        for table in (events, rewards):
            connection.execute(update(table).values(time=table.c.time - milliseconds))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A registry whose champion has no layer, with two days of lists under drawn weights."""
    folder = tmp_path_factory.mktemp("weights")
    registry = Registry(folder / "registry")
    registry.register(write_base(folder / "base"))
    registry.promote(1, ungated=True)
    with open_state(registry.folder, None, SETTINGS) as state:
        serve_and_reward(make_app(state))
        age(state)
    return folder, registry


@pytest.fixture(scope="module")
def log(served):
    folder, registry = served
    with open_state(registry.folder, None, SETTINGS) as state:
        done = export_weights(state.store.engine, registry, "champion", WeightExportOptions(folder / "log"))
    assert done.lists == ROUNDS * len(USERS)
    assert done.left_out == {}
    return folder / "log"


def test_the_log_is_uniform_and_has_each_list_with_its_rewards(served, log):
    policy = load_policy(served[0] / "base")
    table = pd.read_parquet(log / "weights.parquet")
    read, utility, grid, body = read_weight_log(log, policy, HEADS)
    read.check_uniform("tuning")
    assert grid.size == 9
    assert (table["like"].mean() > 0.3) & (table["like"].mean() < 0.95)
    assert table["session_continues"].sum() == len(table) - len(USERS)  # the last list of each user has no next one
    assert table["novelty"].between(0, 1).all()
    user, action = int(table["user_id"][0]), int(table["action"][0])
    arms = utility.slates([user], np.concatenate([[1.0], grid.weights(action)]), 2).arms[0]
    assert table["like"][0] == any(likes(user, 101 + arm) for arm in arms.tolist())
    assert body["config"]["slate_size"] == 2


def test_lists_wait_for_their_rewards_and_others_are_counted(served, tmp_path):
    registry = served[1]
    with open_state(registry.folder, None, SETTINGS) as state:
        engine, wait = state.store.engine, WeightExportOptions(tmp_path / "out", wait_hours=60.0)
        with pytest.raises(DataError, match=r"no list under drawn weights of policy \w{12} \(720 waiting\)"):
            export_weights(engine, registry, 1, wait)
        other = registry.register(write_base(tmp_path / "other", seed=3))
        with pytest.raises(DataError, match="720 other_policy"):
            export_weights(engine, registry, other.number, WeightExportOptions(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_layer_from_the_server_s_own_log_serves_there(served, log, tmp_path):
    pytest.importorskip("tensorflow")
    folder, registry = served
    run = CliRunner()
    tuned = run.invoke(
        command, ["tune", str(folder / "base"), "--log", str(log), "--steps", "300", "--no-worlds", "--out",
                  str(folder / "tuned")],
    )  # fmt: skip
    assert tuned.exit_code == 0, tuned.output
    added = run.invoke(command, ["registry", "add", str(registry.folder), str(folder / "tuned"), "--json"])
    number = json.loads(added.stdout)["number"]
    listed = run.invoke(command, ["registry", "list", str(registry.folder)]).stdout
    assert re.search(r"linucb, tuned layer over \w{12}", listed)
    registry.promote(number, ungated=True)
    with open_state(registry.folder, None, replace(SETTINGS, tuning=TuningConfig())) as state:
        app = make_app(state)
        served_items = {
            user: ask(app, "POST", "/v1/recommend", {"user": user, "k": 2}).json()["items"] for user in USERS
        }
    layer = load_policy(folder / "tuned").scorer.layer
    arms = layer.recommend(list(USERS), 2).arms
    assert [[item["item_id"] for item in served_items[user]] for user in USERS] == (101 + arms).tolist()
    assert layer.metadata["gates"]["verdict"] in ("pass", "fail", "cannot tell")
    assert layer.metadata["log_until"] == int(pd.read_parquet(log / "weights.parquet")["time"].max())


def test_a_tuned_version_and_its_policy_share_one_log(served, log, tmp_path):
    """Lists of a layer's exploration belong to the policy below it: tuning goes on."""
    del log
    folder, registry = served
    version = registry.register(write_tuned(folder / "base", tmp_path / "tuned"))
    before = registry.aliases()["champion"]
    registry.promote(version.number, ungated=True)
    with open_state(registry.folder, None, SETTINGS) as state:
        serve_and_reward(make_app(state), 1)
        age(state)
        done = export_weights(state.store.engine, registry, 1, WeightExportOptions(tmp_path / "log"))
    registry.promote(before, ungated=True)
    assert done.lists == (ROUNDS + 1) * len(USERS)


def test_the_command_names_the_reason_of_an_empty_log(served, tmp_path):
    _, registry = served
    words = ["log", "export", str(registry.folder), "--task", "weights", "--wait-hours", "1000", "--out"]
    done = CliRunner().invoke(command, [*words, str(tmp_path / "out")])
    assert "waiting" in str(done.exception)
    assert "\n" not in str(done.exception)
    (tmp_path / "there").mkdir()
    assert "already exists" in str(CliRunner().invoke(command, [*words, str(tmp_path / "there")]).exception)


def test_lists_without_drawn_weights_are_explored_as_often_as_their_propensities_say(tmp_path):
    """Logs leave out lists under drawn weights. Of the others, a half must be explored: four standard errors of 300.

    A session is under drawn weights as a whole, or else long sessions would be left out more often.
    """
    halves = replace(SETTINGS, exploration=ExplorationConfig(share=0.5), tuning=replace(TUNING, explore_share=0.5))
    with open_state(write_base(tmp_path / "base"), tmp_path / "state", halves) as state:
        app = make_app(state)
        for number in range(600):
            session = {"session_id": f"s{number // 4}", "history": None} if number < 80 else {}
            assert ask(app, "POST", "/v1/recommend", {"user": 1, "k": 2, **session}).status_code == 200
        with state.store.engine.connect() as connection:
            rows = connection.execute(select(events.c.session_id, events.c.weights, events.c.explored)).all()
    drawn = [row.weights is not None for row in rows]
    assert 0.4 < np.mean(drawn) < 0.6
    explored = np.mean([row.explored for row, weights in zip(rows, drawn, strict=True) if not weights])
    assert explored == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(300))
    by_session = {}
    for row, weights in zip(rows, drawn, strict=True):
        by_session.setdefault(row.session_id, set()).add(weights)
    assert len(by_session.pop(None)) == 2
    assert {len(kinds) for kinds in by_session.values()} == {1}
    assert {kind for kinds in by_session.values() for kind in kinds} == {True, False}
