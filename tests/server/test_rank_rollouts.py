"""Rollouts, comparisons and shadows of policies of features: variants, exact propensities, metrics, the whole way."""

import json
from dataclasses import replace

import numpy as np
import pytest
from api_keys import bearing, key_for
from client_helpers import ask, refusal
from rank_events import rank_event
from ranking import REQUEST, ValuePolicy, ranking
from rollout_fixtures import QUICK
from sqlalchemy import insert, select, update
from test_rank_jobs import REWARD, SETTINGS
from tiny_feature_log import tiny_actions, trained_case
from tiny_policies import write_tiny

from recpolicy.core.errors import DataError
from recpolicy.inference.feature_artifact import write_feature_policy
from recpolicy.inference.rank_request import draw
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.db import rollouts
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import id_key, now_ms
from recpolicy.server.db.rank_events import insert_rank_events
from recpolicy.server.db.rank_rewards import rank_variant_stats
from recpolicy.server.db.schema import rank_events, rank_signals
from recpolicy.server.db.schema import rollouts as rollout_rows
from recpolicy.server.jobs.rollout_job import check_rollout
from recpolicy.server.lifespan import open_state
from recpolicy.server.live_models import CHALLENGER, CHAMPION, LiveState, LoadedVersion, bucket
from recpolicy.server.online.rank_learner import RankLearner
from recpolicy.server.rollout import background, controller

CHAMPION_CHANCES, CHALLENGER_CHANCES = {"a": 0.15, "b": 0.7, "c": 0.15}, {"a": 0.6, "b": 0.1, "c": 0.3}


class FixedPolicy:
    """A policy with a probability for each action, also among fewer of them."""

    agent, policy_digest = "lints", "e" * 64

    def __init__(self, chances=CHALLENGER_CHANCES, fault=None):
        self.chances, self.fault = chances, fault

    def probabilities(self, context, actions, excluded=(), *, strict=True, keys=None):
        if self.fault is not None:
            raise self.fault
        chance = np.array([self.chances[name] for name, _ in actions])
        return chance / chance.sum(), 2 * chance


def versus(app, challenger=None, traffic_fraction=0.3, **live):
    """Let a challenger answer a share of the requests, in the rollout 9."""
    app.state.server.models.live = LiveState(
        LoadedVersion(FixedPolicy(CHAMPION_CHANCES), 1), LoadedVersion(challenger or FixedPolicy(), 2),
        traffic_fraction, rollout=9, **live,
    )  # fmt: skip


@pytest.fixture
def app(tmp_path):
    with ranking(tmp_path / "registry", ValuePolicy()) as app:
        versus(app)
        yield app


def rank(app, path="/v1/rank", **changes):
    answer = ask(app, "POST", path, REQUEST | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def stored(app):
    with app.state.server.store.engine.connect() as connection:
        return connection.execute(select(rank_events).order_by(rank_events.c.seq)).all()


def chances(answer):
    return {each["id"]: each["probability"] for each in answer["ranking"]}


def health(state, rollout=9):
    background.flush(state)
    with state.store.engine.connect() as connection:
        return rollouts.health(connection, rollout)


def test_a_user_keeps_the_variant_and_gets_the_probabilities_of_its_version(app):
    salt, seen = FixedPolicy.policy_digest, set()
    for user in range(20):
        answers = [rank(app, user=user) for _ in range(2)]
        variant = CHALLENGER if bucket(id_key(user), salt) < 0.3 else CHAMPION
        for answer in answers:
            assert answer["policy"]["variant"] == variant
            expected = CHALLENGER_CHANCES if variant == CHALLENGER else CHAMPION_CHANCES
            assert chances(answer) == pytest.approx(expected)
        seen.add(variant)
    assert seen == {CHAMPION, CHALLENGER}
    for event in stored(app):
        assert (event.variant == CHALLENGER, event.rollout) == (event.version == 2, 9)
        assert event.policy_digest == ("e" * 64)
    counted = health(app.state.server)
    assert sum(each.requests for each in counted.values()) == 40


def test_an_event_without_a_user_has_the_mixture_of_both_versions(app):
    mixture = {name: 0.7 * CHAMPION_CHANCES[name] + 0.3 * CHALLENGER_CHANCES[name] for name in "abc"}
    answers = [rank(app, event_id=f"event-{number}") for number in range(400)]
    assert all(chances(answer) == pytest.approx(mixture) for answer in answers)
    for event in stored(app):
        assert np.frombuffer(event.probabilities) == pytest.approx([mixture[name] for name in "abc"])
    share = np.mean([answer["policy"]["variant"] == CHALLENGER for answer in answers])
    assert share == pytest.approx(0.3, abs=4 * (0.21 / 400) ** 0.5)
    for name, chance in mixture.items():  # the ids decide the draws, so they follow the logged probabilities
        drawn = np.mean([answer["action"] == name for answer in answers])
        assert drawn == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 400) ** 0.5)


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, CHAMPION_CHANCES), (1.0, CHALLENGER_CHANCES)])
def test_a_fraction_of_0_or_1_asks_one_version(app, fraction, expected):
    fault = FixedPolicy(fault=ZeroDivisionError())
    versus(app, fault if fraction == 0 else None, fraction)
    assert chances(rank(app)) == pytest.approx(expected)


def test_the_probabilities_of_slots_are_those_of_the_pair_of_actions(app):
    """P(first, second) = .7 P1(first) P1(second | first) + .3 P2(first) P2(second | first)."""

    def pair(table, first, second):
        return table[first] * table[second] / (1 - table[first])

    body = {
        "actions": [{"id": name, "features": [{}]} for name in "abc"],
        "slots": [{"id": "top", "baselineAction": "a"}, {"id": "side", "baselineAction": "b"}],
    }
    for number in range(12):
        sent = body | {"eventId": f"slots-{number}"}
        assert ask(app, "POST", "/personalizer/v1.0/multislot/rank", sent).status_code == 201
    rows, seen = stored(app), set()
    for top, side in zip(rows[::2], rows[1::2], strict=True):
        names = []
        product = 1.0
        for row, left in ((top, "abc"), (side, None)):
            left = left or [name for name in "bac" if name != names[0]]  # the baseline of the second slot is first
            place = int(np.frombuffer(row.ranking, "<u2")[0])
            names.append(left[place])
            product *= float(np.frombuffer(row.probabilities)[place])
        expected = 0.7 * pair(CHAMPION_CHANCES, *names) + 0.3 * pair(CHALLENGER_CHANCES, *names)
        assert product == pytest.approx(expected)
        assert top.variant == side.variant
        seen.add(top.variant)
    assert seen == {CHAMPION, CHALLENGER}


def test_an_earlier_event_keeps_its_variant_and_probabilities(app):
    first = [rank(app, event_id=f"event-{number}") for number in range(8)]
    versus(app, traffic_fraction=1.0)
    assert [rank(app, event_id=f"event-{number}") for number in range(8)] == first
    assert {answer["policy"]["variant"] for answer in first} == {CHAMPION, CHALLENGER}


@pytest.mark.parametrize("fault", [ZeroDivisionError("no"), DataError("an unknown feature"), MemoryError()])
@pytest.mark.parametrize("user", [None, 7])
def test_what_the_challenger_fails_to_answer_the_champion_answers(app, fault, user):
    versus(app, FixedPolicy(fault=fault), 0.5)
    answers = [rank(app, event_id=f"event-{number}", user=user and user + number) for number in range(20)]
    assert all(answer["policy"]["variant"] == CHAMPION for answer in answers)
    assert all(chances(answer) == pytest.approx(CHAMPION_CHANCES) for answer in answers)
    failed = health(app.state.server)[CHALLENGER]
    assert 0 < failed.failures == failed.requests < 20
    counting = [event.rollout for event in stored(app)].count(9)
    # An event for which the challenger would have failed is no part of the comparison on either side.
    assert counting == (0 if user is None else 20 - failed.failures)


def test_what_is_the_callers_fault_counts_against_nobody(app):
    live = app.state.server.models.live
    fault = FixedPolicy(fault=DataError("wrong"))
    app.state.server.models.live = replace(live, champion=LoadedVersion(fault, 1), challenger=LoadedVersion(fault, 2))
    for number in range(6):
        refusal(ask(app, "POST", "/v1/rank", REQUEST | {"event_id": f"e{number}"}), 422, "invalid_value")
    assert health(app.state.server) == {}


def test_a_shadow_changes_no_answer_and_is_compared(app, monkeypatch):
    state, policy = app.state.server, FixedPolicy()
    monkeypatch.setattr("recpolicy.server.rollout.counters.random.random", lambda: 0.0)  # every request is compared
    versus(app, traffic_fraction=1.0, shadow=True)
    answers = [rank(app, event_id=f"shadowed-{number}") for number in range(20)]
    assert all(chances(answer) == pytest.approx(CHAMPION_CHANCES) for answer in answers)
    assert all(answer["policy"]["version"] == 1 for answer in answers)
    while background.compare_next(state):
        pass
    found, agreement, difference = health(state)[CHALLENGER], 0, 0.0
    actions = [(name, {}) for name in "abc"]
    for answer in answers:
        drawn = draw(policy.probabilities({}, actions)[0], answer["event_id"])
        agreement += actions[drawn][0] == answer["action"]
        difference += 2 * (CHALLENGER_CHANCES[answer["action"]] - CHAMPION_CHANCES[answer["action"]])
    assert (found.requests, found.failures, found.agreement) == (20, 0, agreement)
    assert found.rating_difference == pytest.approx(difference)
    assert 0 < agreement < 20


def test_rewards_of_a_stage_are_means_of_units_with_final_rewards(each_engine):
    now, wait = now_ms(), REWARD.wait_ms
    old = now - wait - 60_000
    planted = [  # id, user, variant, time, changes; signals
        ("a", 1, CHAMPION, old, {}, [1.0]),
        ("b", 1, CHAMPION, old, {}, []),  # the default, 0
        ("c", 2, CHAMPION, old, {}, [1.0]),
        ("d", None, CHALLENGER, old, {}, [0.25, 0.5]),  # a unit of its own
        ("e", None, CHALLENGER, old, {}, [0.75, 0.75]),  # cut to the range
        ("f", 3, CHAMPION, now, {}, [1.0]),  # its window is open
        ("g", 3, CHAMPION, old, {"activated_at": None}, [1.0]),
        ("h", 3, CHAMPION, old, {"rollout": 8}, [1.0]),
        ("i", 3, CHAMPION, old - 10_000, {}, [1.0]),  # before the stage
    ]
    with transaction(each_engine) as connection:
        events = [
            rank_event(user, id=name, time=time, variant=variant, **{"rollout": 9, **changes})
            for name, user, variant, time, changes, _ in planted
        ]
        insert_rank_events(connection, events)
        given = [
            {"event_id": name, "slot": 0, "signal_id": None, "type": "reward", "value": value, "time": time + 1,
             "late": False, "online": True}
            for name, _, _, time, _, values in planted for value in values
        ]  # fmt: skip
        late = {**given[0], "event_id": "b", "late": True}
        connection.execute(insert(rank_signals), [*given, late])
        stats = rank_variant_stats(connection, 9, old - 5_000, REWARD)
        without_default = rank_variant_stats(connection, 9, old - 5_000, replace(REWARD, default_reward=None))
        assert rank_variant_stats(connection, 7, 0, REWARD) == {}
    champion, challenger = stats[CHAMPION], stats[CHALLENGER]
    assert (champion.users, champion.rewards, champion.mean) == (2, 3, pytest.approx(0.75))  # means .5 and 1
    assert champion.variance == pytest.approx(0.125)
    assert (challenger.users, challenger.rewards, challenger.mean) == (2, 2, pytest.approx(0.875))  # .75 and 1
    assert without_default[CHAMPION].rewards == 2


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry")
    for agent in ("squarecb", "linucb_shared"):
        write_feature_policy(trained_case(agent), tmp_path / agent)
        registry.register(tmp_path / agent, gate={"verdict": "pass"})
    registry.promote(1)
    return registry


QUICK_RANKS = replace(SETTINGS, rollout=replace(QUICK, margin=0.1))


@pytest.fixture
def state(registry):
    with open_state(registry.folder, None, QUICK_RANKS) as state:
        yield state


def last(state):
    with state.store.engine.connect() as connection:
        return rollouts.latest(connection, 1)[0]


def reward_units(state, count, difference=0.0, seed=0):
    """Let units have rewards in the present stage, which began long enough ago; the champion's mean is .5."""
    rng, row = np.random.default_rng(seed), last(state)
    began = now_ms() - 10_000_000 + 1_000_000 * row.stage  # stages follow one another
    share, salt, events, given = row.plan["stages"][row.stage], state.models.live.challenger.policy_digest, [], []
    for unit in range(count):
        name = f"{seed}-{unit}"
        variant = CHALLENGER if bucket(name, salt) < share else CHAMPION
        value = float(rng.random() < 0.5 + difference * (variant == CHALLENGER))
        events.append(rank_event(id=name, time=began + 5_000, variant=variant, rollout=row.id))
        given.append(
            {"event_id": name, "slot": 0, "signal_id": None, "type": "reward", "value": value, "time": began + 6_000,
             "late": False, "online": True}
        )  # fmt: skip
    with transaction(state.store.engine) as connection:
        connection.execute(update(rollout_rows).where(rollout_rows.c.id == row.id).values(stage_at=began))
        insert_rank_events(connection, events)
        connection.execute(insert(rank_signals), given)


def routing(state):
    now = state.models.registry.routing()
    return now.champion, now.challenger, now.traffic_fraction


def test_a_challenger_that_is_not_worse_goes_through_its_stages_and_is_promoted(state):
    row = controller.start(state, 2, "ann")
    for stage, (share, units) in enumerate(((0.1, 4_000), (0.5, 3_000))):
        assert routing(state) == (1, 2, share)
        live = state.models.live
        assert (live.challenger.number, live.traffic_fraction, live.rollout) == (2, share, row.id)
        assert check_rollout(state, {}).metadata["action"] == "wait"
        reward_units(state, units, difference=0.2, seed=stage)
        result = check_rollout(state, {})
        assert (result.metadata["action"], result.users) == ("advance", units), result.metadata
    reward_units(state, 60, seed=2)
    assert check_rollout(state, {}).metadata["action"] == "promote"
    assert (routing(state), last(state).state) == ((2, None, 0.0), "promoted")
    assert state.models.live.champion.agent == "linucb_shared"


def test_harm_is_rolled_back(state):
    controller.start(state, 2, "ann", {"stages": [0.5, 1.0], "min_hours": 4.0})
    reward_units(state, 600, difference=-0.4, seed=1)
    result = check_rollout(state, {})
    assert (result.metadata["action"], routing(state)) == ("roll_back", (1, None, 0.0))
    assert "rewards are lower" in result.metadata["reason"]


def test_a_restarted_server_finishes_the_step_that_a_killed_one_began(registry):
    with open_state(registry.folder, None, QUICK_RANKS) as state:
        row = controller.start(state, 2, "ann")
        with transaction(state.store.engine) as connection:  # the row has the next stage, the registry does not
            assert rollouts.move(connection, row, stage=1, stage_at=0)
    with open_state(registry.folder, None, QUICK_RANKS) as state:
        assert routing(state) == (1, 2, 0.1)
        assert state.models.live.rollout == row.id
        assert check_rollout(state, {}).metadata["stage"] == 1
        assert (routing(state), last(state).reconciled) == ((1, 2, 0.5), True)


def test_the_routes_start_show_and_stop_a_rollout(state):
    app = make_app(state)
    operator, client = bearing(key_for(app, "operator")), bearing(key_for(app, "client"))
    body = {"challenger": 2, "stages": [0.5], "promote": False, "margin": 0.05}
    assert ask(app, "POST", "/v1/admin/rollouts", body, headers=operator).status_code == 201
    actions = [{"id": name, "features": features} for name, features in tiny_actions()]
    sent = {"context": {"hour": 0.4, "device": "mobile", "member": True}, "actions": actions}
    answers = [ask(app, "POST", "/v1/rank", sent | {"event_id": str(at)}, headers=client).json() for at in range(16)]
    assert {answer["policy"]["version"] for answer in answers} == {1, 2}
    both = [trained_case(agent).probabilities(sent["context"], tiny_actions())[0]
            for agent in ("squarecb", "linucb_shared")]  # fmt: skip
    mixture = dict(zip([name for name, _ in tiny_actions()], (both[0] + both[1]) / 2, strict=True))
    assert all(chances(answer) == pytest.approx(mixture, abs=1e-9) for answer in answers)
    background.flush(state)
    shown = ask(app, "GET", "/v1/admin/rollouts/current", headers=operator).json()
    assert sum(each["requests"] for each in shown["metrics"]["health"].values()) == 16
    assert ask(app, "DELETE", "/v1/admin/rollouts/current", headers=operator).status_code == 200
    assert ask(app, "POST", "/v1/rank", sent, headers=client).json()["policy"]["variant"] == CHAMPION


def test_a_rollout_that_could_not_compare_is_refused(state, registry, tmp_path):
    registry.register(write_tiny(tmp_path / "ratings", 0), gate={"verdict": "pass"})
    rank_settings = state.rank

    def message(number=2, **plan):
        with pytest.raises(rollouts.ConflictError) as raised:
            controller.start(state, number, "ann", plan)
        return str(raised.value)

    assert "version 3 is a policy of ratings and the champion, version 1, is a policy of features" in message(3)
    assert "every challenger would pass" in message(margin=1.0)
    before = rank_settings.current
    rank_settings.current = replace(before, mode="apprentice")
    assert "the learning mode is apprentice" in message()
    rank_settings.current = replace(before, reset_version=1)
    assert "was reset" in message()
    rank_settings.current = replace(before, reward=replace(REWARD, min_reward=None, max_reward=None))
    assert "min_reward and max_reward" in message()
    assert controller.start(state, 2, "ann", {"shadow": True}).state == "running"  # it serves nobody


def test_a_rollout_waits_while_the_baseline_is_chosen(state):
    controller.start(state, 2, "ann")
    state.rank.current = replace(state.rank.current, mode="apprentice")
    assert "the learning mode is apprentice" in check_rollout(state, {}).metadata["reason"]
    app = make_app(state)
    actions = [{"id": name, "features": features} for name, features in tiny_actions()]
    answer = ask(app, "POST", "/v1/rank", {"actions": actions}).json()
    assert (answer["policy"]["variant"], answer["action"]) == (CHAMPION, "a0")
    assert stored(app)[0].rollout is None


def test_the_champion_learns_nothing_while_it_is_compared(state):
    RankLearner(state).step()
    controller.start(state, 2, "ann")
    reward_units(state, 40)
    assert RankLearner(state).step() == 0
    controller.stop(state, "ann")
    with transaction(state.store.engine) as connection:  # features that the champion knows
        context = json.dumps({"hour": 0.4, "device": "mobile", "member": True})
        connection.execute(update(rank_events).values(context=context))
    assert RankLearner(state).step() == 40
