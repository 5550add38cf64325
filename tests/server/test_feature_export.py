import numpy as np
import pytest
from client_helpers import ask
from ranking import REQUEST, ValuePolicy, ranking
from sqlalchemy import delete, update

from recpolicy.core.errors import DataError
from recpolicy.data.feature_log_files import read_feature_log
from recpolicy.data.reward_signals import RewardConfig
from recpolicy.server.db import rank_export
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rank_export import export_ranks
from recpolicy.server.db.schema import action_rows, rank_events, rank_signals
from recpolicy.server.rank.service import stored_reward

REWARD = RewardConfig(weights={"reward": 1.0, "click": 0.5}, wait_seconds=600, min_reward=-2.0, max_reward=2.0)


@pytest.fixture
def app(tmp_path):
    with ranking(tmp_path / "registry", ValuePolicy(), REWARD) as app:
        yield app


def rank(app, **changes):
    answer = ask(app, "POST", "/v1/rank", REQUEST | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def reward(app, event, *values, **body):
    for value in values:
        assert ask(app, "POST", f"/v1/events/{event}/reward", {"value": value, **body}).status_code == 200


def end_of_windows(app):
    """Move all events, and the signals on them, into the past."""
    with app.state.server.store.engine.begin() as connection:
        earlier = {name: rank_events.c[name] - 700_000 for name in ("time", "activated_at")}
        connection.execute(update(rank_events).values(earlier))
        connection.execute(update(rank_signals).values(time=rank_signals.c.time - 700_000))


def exported(app, folder):
    engine = app.state.server.store.engine
    return export_ranks(engine, stored_reward(engine), folder)


def test_ranks_and_their_rewards_become_a_feature_log(app, tmp_path):
    answers = {name: rank(app, event_id=name, user=user) for name, user in (("one", 7), ("two", "x"), ("none", 7))}
    reward(app, "one", 0.5, 0.75)
    reward(app, "two", 1, type="click")
    end_of_windows(app)
    reward(app, "none", 1.0)
    done = exported(app, tmp_path / "log")
    assert (done.rounds, done.actions, done.signals, done.left_out) == (3, 3, 3, {})
    log = read_feature_log(tmp_path / "log")
    assert log.event_id.tolist() == ["one", "two", "none"]
    assert log.reward.tolist() == [1.25, 0.5, 0.0]
    assert log.reward_range == (-2.0, 2.0)
    assert log.user.tolist() == [7, "x", 7]
    assert log.context["hour"].tolist() == [20.0] * 3
    for round_, answer in enumerate(answers.values()):
        assert log.action_id[log.chosen_action[round_]] == answer["action"]
        assert log.propensity[round_] == pytest.approx(answer["ranking"][0]["probability"])
    assert sorted(log.action_id.tolist()) == ["a", "b", "c"]


def test_open_windows_and_inactive_events_are_left_out(app, tmp_path, monkeypatch):
    rank(app)
    rank(app, deferred=True, event_id="later")
    end_of_windows(app)
    rank(app)
    done = exported(app, tmp_path / "log")
    assert (done.rounds, done.left_out) == (1, {"inactive": 1, "waiting": 1})
    ask(app, "POST", "/v1/events/later/activate")
    assert exported(app, tmp_path / "log").new_rounds == 0  # other activations of this minute may not be stored yet
    monkeypatch.setattr(rank_export, "now_ms", lambda: now_ms() + 61_000)
    done = exported(app, tmp_path / "log")
    assert (done.new_rounds, done.rounds, done.left_out) == (1, 2, {"waiting": 1})
    assert len(read_feature_log(tmp_path / "log")) == 2


def test_several_signals_beyond_the_range_count_as_its_end(app, tmp_path):
    reward(app, rank(app)["event_id"], 2.0, 2.0)
    end_of_windows(app)
    exported(app, tmp_path / "log")
    assert read_feature_log(tmp_path / "log").reward.tolist() == [2.0]


def test_an_event_whose_actions_are_gone_is_left_out_and_counted(app, tmp_path):
    rank(app)
    rank(app, actions=[{"id": "only"}])
    end_of_windows(app)
    with app.state.server.store.engine.begin() as connection:
        connection.execute(delete(action_rows).where(action_rows.c.row.contains('"a"')))
    done = exported(app, tmp_path / "log")
    assert (done.rounds, done.left_out) == (1, {"damaged": 1})


def test_nothing_to_export_is_one_line(app, tmp_path):
    rank(app)
    with pytest.raises(DataError, match="no ranked event has a final reward yet; left out: 1 waiting"):
        exported(app, tmp_path / "log")


def test_propensities_are_those_of_the_draw(app, tmp_path):
    for number in range(200):
        rank(app, event_id=str(number))
    end_of_windows(app)
    exported(app, tmp_path / "log")
    log = read_feature_log(tmp_path / "log")
    value = np.array([{"a": 0.15, "b": 0.7, "c": 0.15}[name] for name in log.action_id[log.chosen_action]])
    assert log.propensity == pytest.approx(value)
