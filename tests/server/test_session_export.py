"""Sessions of a server as a session log: exact propensities, likes and rewards; the log evaluates its own policy."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import insert
from tiny_session_policies import write_tiny_sessions

from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.session_log_files import SESSIONS, read_sessions
from recpolicy.inference.guardrails import GuardrailConfig, bind
from recpolicy.inference.predictor import load_policy
from recpolicy.inference.session_replay import moments
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.ope.feedback import TrajectoryFeedback
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db import session_export
from recpolicy.server.db.deletion import delete_user
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events, now_ms
from recpolicy.server.db.export import LogPolicy
from recpolicy.server.db.schema import rewards
from recpolicy.server.db.session_export import SessionExportOptions, export_sessions
from recpolicy.server.live_models import LiveState, LoadedVersion
from recpolicy.server.recommend import choose
from recpolicy.server.schemas.requests import RecommendRequest
from recpolicy.workflows.policy_feedback import trajectory_feedback

DAYS_AGO = now_ms() - 3 * 86_400_000
EXPLORING = ExplorationConfig(share=0.5, top=0)
UNIFORM = ExplorationConfig(share=1.0, top=0)
STEPS = 4


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.register(write_tiny_sessions(tmp_path / "policy", steps=STEPS, rated=3), gate={"verdict": "pass"})
    registry.promote(1)
    return registry


@pytest.fixture
def server(registry, engine):
    return Server(registry, engine)


class Server:
    """Lists of the champion, stored as of three days ago."""

    def __init__(self, registry, engine):
        self.policy, self.engine = load_policy(registry.resolve(1)), engine
        self.log_policy = LogPolicy(registry)
        self.live = LiveState(LoadedVersion(self.policy.scorer, 1))

    def choose(self, session, shown=(), user=1, k=1, time=DAYS_AGO, live=None, exploration=EXPLORING, **fields):
        """Choose a list after items and likes, without filters unless told; store and return its event."""
        history = [{"item": item, "liked": liked} for item, liked in shown]
        body = {"user": self.user(user), "k": k, "history": history, "session_id": session, "exclude_rated": False}
        event = choose(live or self.live, RecommendRequest.model_validate(body | fields), exploration).event
        event = event._replace(time=time + 1000 * len(shown))
        with transaction(self.engine) as connection:
            insert_events(connection, [event])
        return event

    def user(self, row):
        return self.policy.artifact.users["user_id"].tolist()[row]

    def reward(self, event, position, value, hours=1.0):
        row = {name: getattr(event, name) for name in ("user_key", "version", "variant", "rollout", "explored")}
        row |= {"event_id": event.id, "position": position, "reward": value}
        with transaction(self.engine) as connection:
            connection.execute(insert(rewards).values(**row, time=event.time + round(3_600_000 * hours), online=True))

    def export(self, out, **options):
        done = export_sessions(self.engine, self.log_policy, SessionExportOptions(out, **options))
        log = read_sessions(out / SESSIONS, IdVocabulary.from_policy(self.policy)) if done.sessions else None
        return done, log


def items_of(event):
    return json.loads(event.item_ids)


def play(server, name, user, rng, **fields):
    """Show items one by one; the user likes half of them and leaves after a third."""
    shown, chosen = [], []
    while len(shown) < STEPS:
        event = server.choose(name, shown, user, **fields)
        liked = bool(rng.random() < 0.5)
        server.reward(event, 0, 5.0 if liked else 1.0)
        chosen.append((event, liked))
        shown.append((items_of(event)[0], liked))
        if rng.random() < 1 / 3:
            break
    return chosen


@pytest.mark.parametrize("rated", ["excluded", "shown"])
def test_a_log_of_the_server_has_the_propensities_of_its_policy_and_evaluates_it_to_what_it_earned(
    server, tmp_path, rated
):
    """By default a list leaves out the items that the user has rated."""
    rng, fields = np.random.default_rng(0), {"exclude_rated": rated == "excluded"}
    sessions = [play(server, f"s{number:02d}", number % 7, rng, **fields) for number in range(40)]
    done, log = server.export(tmp_path / "log")
    assert (done.sessions, done.steps, done.left_out) == (40, sum(map(len, sessions)), {})
    assert (log.candidates is not None) == (rated == "excluded")
    played = [step for session in sessions for step in session]
    assert log.log_propensity.tolist() == [float(np.log(json.loads(event.propensities)[0])) for event, _ in played]
    assert log.liked.tolist() == [liked for _, liked in played]
    assert log.reward.tolist() == [float(liked) for _, liked in played]
    assert log.ended.tolist() == [
        place + 1 == len(session) < STEPS for session in sessions for place in range(len(session))
    ]
    # What the server did, computed again from the log alone: half of the choices greedy, half uniform.
    prob = np.empty(len(log))
    for moment in moments(server.policy.artifact, log):
        score = np.where(moment.allowed, moment.estimate.score, -np.inf)
        greedy = score.argmax(axis=1) == moment.arm
        prob[moment.row] = 0.5 * greedy + 0.5 / moment.allowed.sum(axis=1)
    np.testing.assert_allclose(prob, np.exp(log.log_propensity), rtol=1e-12)
    feedback = trajectory_feedback(log, prob, 1.0)
    assert isinstance(feedback, TrajectoryFeedback)
    weight = np.where(feedback.behavior_prob > 0, feedback.target_prob / np.maximum(feedback.behavior_prob, 1e-9), 1)
    value = float((weight.prod(axis=1) * feedback.reward.sum(axis=1)).mean())
    assert value == pytest.approx(sum(liked for _, liked in played) / 40, abs=1e-9)


def test_a_list_of_three_has_the_steps_that_the_next_history_and_the_rewards_tell(server, tmp_path):
    first = server.choose("s", k=3)
    shown = [(items_of(first)[0], True), (items_of(first)[1], False)]
    last = server.choose("s", shown, k=2)
    server.reward(last, 1, 4.0)
    done, log = server.export(tmp_path / "log")
    assert done.steps == 4
    ids = server.policy.artifact.items["item_id"].to_numpy()
    assert ids[log.item].tolist() == [*items_of(first)[:2], *items_of(last)]
    assert log.event_id.tolist() == [f"{first.id}:0", f"{first.id}:1", f"{last.id}:0", f"{last.id}:1"]
    expected = json.loads(first.propensities)[:2] + json.loads(last.propensities)
    assert log.log_propensity.tolist() == np.log(expected).tolist()
    assert log.liked.tolist() == [True, False, False, True]  # those of the last list by their rewards
    assert log.ended.tolist() == [False] * 4  # four steps are the longest session: it was cut


def test_the_last_list_has_shown_all_its_items_whatever_the_responses(server, tmp_path):
    """The first item is liked, the second one only if it is of one kind: the value of showing that kind is 2."""
    kind = 104
    for number in range(400):
        shown = server.choose(f"s{number:03d}", k=2, exploration=UNIFORM)
        for position, item in enumerate(items_of(shown)):
            if position == 0 or item == kind:
                server.reward(shown, position, 5.0)
    done, log = server.export(tmp_path / "log")
    assert (done.sessions, done.steps) == (400, 800)
    assert log.ended.tolist() == [False, True] * 400
    arm = np.searchsorted(log.action_items, log.item)
    target = np.where(log.step == 0, np.exp(log.log_propensity), arm == kind - 101)  # the first item as logged
    weight = (target / np.exp(log.log_propensity)).reshape(400, 2).prod(axis=1)
    second = arm.reshape(400, 2)[:, 1] == kind - 101
    n_arms = len(log.action_items)
    assert 0 < second.sum() < 400  # (1 - 1 / arms)^400 for none; the lists are drawn without a seed
    assert weight.tolist() == pytest.approx((second * (n_arms - 1)).tolist())  # the first item is not offered again
    value = (weight * log.reward.reshape(400, 2).sum(axis=1)).mean()
    assert value / weight.mean() == pytest.approx(2.0, abs=1e-9)
    assert value == pytest.approx(2 * weight.mean(), abs=1e-9)


def test_a_late_reward_or_like_is_earned_and_the_view_stays_what_the_policy_saw(server, tmp_path):
    first = server.choose("s")
    item = items_of(first)[0]
    second = server.choose("s", [(item, False)])
    server.reward(first, 0, 5.0, hours=20)  # the user watched it in the evening
    third = server.choose("s", [(item, False), (items_of(second)[0], False)])
    shown = [(item, False), (items_of(second)[0], True), (items_of(third)[0], False)]  # the second like came late
    server.choose("s", shown)
    done, log = server.export(tmp_path / "log")
    assert done.left_out == {}
    assert log.liked.tolist() == [False, False, False, False]
    assert log.reward.tolist() == [1.0, 1.0, 0.0, 0.0]


def test_a_session_waits_for_no_one_but_is_left_out_if_the_user_had_a_request_that_fits_no_session(server, tmp_path):
    event = server.choose("cut")
    server.choose("other_user", user=2)
    server.choose("earlier", time=DAYS_AGO - 86_400_000)
    with transaction(server.engine) as connection:
        lost = {"id": "e" * 32, "session_id": None, "step": 1, "time": event.time + 60_000}
        insert_events(connection, [event._replace(**lost)])
    done, log = server.export(tmp_path / "log")
    assert done.left_out == {"unplaced": 1}
    assert set(log.session) == {"other_user", "earlier"}
    assert server.export(tmp_path / "short", gap_minutes=0.5)[0].left_out == {}


def test_a_reward_of_an_item_that_the_session_has_not_shown_contradicts_it(server, tmp_path):
    first = server.choose("s", k=3)
    server.choose("s", [(items_of(first)[0], False)])
    server.reward(first, 2, 5.0)
    assert server.export(tmp_path / "log")[0].left_out == {"broken": 1}


def test_rewards_of_a_later_day_join_within_the_wait_window(server, tmp_path):
    inside, outside = server.choose("a"), server.choose("b")
    server.reward(inside, 0, 5.0, hours=23.9)
    server.reward(outside, 0, 5.0, hours=24.1)
    _, log = server.export(tmp_path / "log")
    assert dict(zip(log.session, log.reward, strict=True)) == {"a": 1.0, "b": 0.0}
    _, log = server.export(tmp_path / "longer", wait_hours=25.0)
    assert log.reward.tolist() == [1.0, 1.0]


def test_sessions_that_may_go_on_or_were_learned_wait(server, tmp_path):
    server.choose("old")
    server.choose("new", time=now_ms() - 3_600_000)
    done, log = server.export(tmp_path / "log")
    assert set(log.session) == {"old"}
    assert server.export(tmp_path / "next", since=done.until + 1)[0].sessions == 0
    assert not (tmp_path / "next").exists()
    assert server.export(tmp_path / "short", wait_hours=0.5)[0].sessions == 2
    assert server.export(tmp_path / "until", wait_hours=0.5, until=DAYS_AGO)[0].sessions == 1


def test_a_session_with_a_fault_is_left_out_as_a_whole_and_counted(server, tmp_path):
    good = server.choose("good")
    item = items_of(good)[0]
    server.choose("broken", [(item, True)])  # its first event is missing
    items = server.policy.artifact.items["item_id"].tolist()
    first = items_of(server.choose("other_items"))[0]
    server.choose("other_items", [(next(item for item in items if item != first), True)])
    server.choose("two_users", user=1)
    server.choose("two_users", [(items[0], True)], user=2)
    server.choose("new_user", context=[0.1] * server.policy.artifact.context.shape[1])
    with transaction(server.engine) as connection:
        insert_events(connection, [good._replace(id="f" * 32, session_id="rounds", history=None)])
    done, log = server.export(tmp_path / "log")
    assert set(log.session) == {"good"}
    assert done.left_out == {"broken": 3, "new_user": 1, "no_history": 1}


def candidates(server, log):
    """Return the ids of the items that each step could show, those aside that its session had shown."""
    ids = server.policy.artifact.items["item_id"].to_numpy()[log.action_items]
    return [set(ids[row].tolist()) for row in log.candidates.mask(slice(None))]


def test_the_candidates_of_a_step_are_those_of_its_request_and_sessions_share_sets(server, tmp_path):
    items = set(server.policy.artifact.items["item_id"].tolist())
    free = server.choose("a", k=2)
    server.choose("b", exclude=[101, 102], k=2)
    first = items_of(server.choose("c", exclude=[101]))[0]
    server.choose("c", [(first, True)], exclude=[first, 105])
    server.choose("d", exclude_rated=True)  # user 1 has rated the items of rows 1, 4 and 7
    server.reward(free, 1, 5.0)
    done, log = server.export(tmp_path / "log")
    assert done.left_out == {}
    expected = (
        [items] * 2 + [items - {101, 102}] * 2 + [items - {101}, items - {105} | {first}] + [items - {102, 105, 108}]
    )
    assert candidates(server, log) == expected
    assert len(log.candidates.sets) == len({frozenset(each) for each in expected})  # steps of a list share one


def test_guardrails_close_items_from_a_place_on(server, tmp_path):
    rails = GuardrailConfig(marked=(101, 102, 103, 104, 105), max_marked=1, blocked=(106,))
    live = LiveState(replace(server.live.champion, guardrails=bind(rails, server.policy.scorer)))
    for number in range(20):
        event = server.choose(f"s{number:02d}", k=3, live=live)
        server.reward(event, 2, 5.0)  # all three were shown
    done, log = server.export(tmp_path / "log")
    assert (done.sessions, done.steps) == (20, 60)
    shown = server.policy.artifact.items["item_id"].to_numpy()[log.item].reshape(20, 3).tolist()
    sets, sizes = candidates(server, log), set()
    for session, items in enumerate(shown):
        for place in range(3):
            before = set(items[:place])
            closed = {106} | (set(rails.marked) if before & set(rails.marked) else set())
            assert sets[3 * session + place] - before == set(range(101, 112)) - closed - before
            sizes.add(len(closed))
    assert sizes == {1, 6}


def test_a_log_of_a_smaller_catalog_has_the_sessions_that_could_show_none_of_the_items_without_an_arm(server, tmp_path):
    server.choose("with")
    server.choose("without", exclude=[103])
    artifact = server.policy.artifact
    server.log_policy.artifact = replace(artifact, action_items=np.delete(artifact.action_items, 2))
    done, log = server.export(tmp_path / "log")
    assert done.left_out == {"other_policy": 1}
    assert set(log.session) == {"without"}
    assert len(log.action_items) == 10
    assert log.candidates is None  # of the ten, all could be shown


def test_returns_have_exact_days_and_are_censored_at_the_time_of_the_export(server, tmp_path, monkeypatch):
    """User 1: three sessions, the second of two events; user 2: one, and a request that fits no session."""
    day, now = 86_400_000, DAYS_AGO + 3 * 86_400_000
    monkeypatch.setattr(session_export, "now_ms", lambda: now)
    server.choose("a", time=DAYS_AGO - 2 * day)
    first = server.choose("b", time=DAYS_AGO - day // 2)
    server.choose("b", [(items_of(first)[0], False)], time=DAYS_AGO - day // 2)  # a second later
    server.choose("c", time=DAYS_AGO)
    server.choose("fresh", time=now - 3_600_000)  # may go on, so it is not exported: the return is in the log anyway
    lone = server.choose("d", user=2, time=DAYS_AGO)
    with transaction(server.engine) as connection:
        insert_events(connection, [lone._replace(id="e" * 32, session_id=None, step=1, time=DAYS_AGO + day)])
    server.choose("gone", user=3, time=DAYS_AGO)
    done, log = server.export(tmp_path / "log")
    ids = log.session[log.start[:-1]].tolist()
    assert dict(zip(ids, (log.returns.days * day).round().astype(int).tolist(), strict=True)) == {
        "a": 3 * day // 2, "b": day // 2 - 1000, "c": 3 * day - 3_600_000, "d": day, "gone": 3 * day,
    }  # fmt: skip
    assert dict(zip(ids, log.returns.returned.tolist(), strict=True)) == dict.fromkeys("abcd", True) | {"gone": False}
    assert (done.sessions, done.returned, done.users_without_return) == (5, 4, 1)
    delete_user(server.engine, json.dumps(server.user(1)))
    done, log = server.export(tmp_path / "erased")
    assert set(log.session) == {"d", "gone"}
    assert (done.returned, done.users_without_return) == (1, 1)
