"""The mode apprentice: the champion learns to agree with the baseline, and goes online with what it has learned."""

import json
from dataclasses import replace

import numpy as np
import pytest
from api_keys import bearing, key_for
from client_helpers import ask
from rank_events import rank_event
from sqlalchemy import select, update
from test_rank_jobs import SETTINGS
from tiny_feature_log import tiny_actions, tiny_log, trained_case

from recpolicy.inference import feature_policy
from recpolicy.inference.feature_artifact import write_feature_policy
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rank_events import insert_rank_events, row_digest
from recpolicy.server.db.schema import rank_events
from recpolicy.server.lifespan import open_state
from recpolicy.server.online.rank_learner import RankLearner
from recpolicy.server.rank.service import SERVICE

AGENTS = ["squarecb", "squarecb hashed", "linucb_hybrid", "lints"]
ACTIONS = dict(tiny_actions())


def contexts(count, seed):
    rng = np.random.default_rng(seed)
    return [
        {"hour": round(float(rng.normal()), 3), "device": str(rng.choice(["mobile", "desk"])), "member": False}
        for _ in range(count)
    ]


def offers(context):
    """The actions as the planted caller offers them: on a phone a2 is the baseline, elsewhere a4."""
    baseline = "a2" if context["device"] == "mobile" else "a4"
    return [baseline, *(name for name in ACTIONS if name != baseline)]


def store(state, mode, count, seed):
    """Store ranks of the mode whose windows are over; the baseline was chosen."""
    events = []
    for place, context in enumerate(contexts(count, seed)):
        names = offers(context)
        rows = tuple(json.dumps({"id": name, "features": ACTIONS[name]}) for name in names)
        events.append(
            rank_event(
                id=f"{mode}-{seed}-{place}", time=now_ms() - 3_600_000 + place, mode=mode, context=json.dumps(context),
                offers=b"".join(map(row_digest, rows)), probabilities=(np.arange(6) == 0).astype("<f8").tobytes(),
                ranking=np.arange(6).astype("<u2").tobytes(), imitated=False, activated_at=1, rows=rows,
            )
        )  # fmt: skip
    with transaction(state.store.engine) as connection:
        insert_rank_events(connection, events)


@pytest.fixture
def opened(tmp_path):
    def open_with(agent):
        folder = tmp_path / agent.replace(" ", "-")
        registry = Registry(folder / "registry")
        write_feature_policy(trained_case(agent), folder / "policy")
        registry.register(folder / "policy")
        registry.promote(1, ungated=True)
        return open_state(registry.folder, None, SETTINGS)

    return open_with


def switch(state, mode):
    values = {"mode": mode, "exploration": 0.0, "wait_seconds": 600.0, "default_reward": 0.0, "combine": "sum",
              "other": {}}  # fmt: skip
    state.rank.store(state.store.engine, SERVICE, values)


def agreement(state, seed):
    """Return the share of 40 new requests for which the server says that its policy agrees with the baseline."""
    app, ids = make_app(state), []
    key = bearing(key_for(app, "client", name=f"client-{seed}"))
    for context in contexts(40, seed):
        actions = [{"id": name, "features": ACTIONS[name]} for name in offers(context)]
        answer = ask(app, "POST", "/v1/rank", {"context": context, "actions": actions}, headers=key).json()
        assert answer["action"] == actions[0]["id"]  # the baseline, whatever the policy prefers
        ids.append(answer["event_id"])
    mine = rank_events.c.id.in_(ids)
    with transaction(state.store.engine) as connection:
        agrees = connection.scalars(select(rank_events.c.imitated).where(mine)).all()
        connection.execute(update(rank_events).where(mine).values(time=rank_events.c.time - 3_600_000))  # final
    return np.mean(agrees)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_agreement_rises_and_online_begins_with_it(opened, agent):
    with opened(agent) as state:
        switch(state, "apprentice")
        RankLearner(state).step()  # what comes from now on is learned
        before = agreement(state, 1)
        learned = []
        for seed in (11, 12, 13):
            store(state, "apprentice", 1_000, seed)
            learned.append(RankLearner(state).step())
        assert learned == [1_040, 1_000, 1_000]  # with those that were asked before
        after = agreement(state, 2)
        assert before < 0.6 < 0.95 < after
        text = ask(make_app(state), "GET", "/metrics").text
        assert f'recpolicy_imitations_total{{agrees="true"}} {round(40 * (before + after)):.1f}' in text
        switch(state, "online")
        app, chances = make_app(state), []
        for context in contexts(40, 3):
            actions = [{"id": name, "features": ACTIONS[name]} for name in offers(context)]
            ranking = ask(app, "POST", "/v1/rank", {"context": context, "actions": actions}).json()["ranking"]
            chances.append({each["id"]: each["probability"] for each in ranking}[actions[0]["id"]])
        assert np.mean(chances) > 0.5  # six actions


def test_logging_only_teaches_nothing(opened):
    with opened("squarecb") as state:
        RankLearner(state).step()
        digest = state.models.live.champion.policy_digest
        store(state, "logging_only", 50, 1)
        assert RankLearner(state).step() == 0
        assert state.models.live.champion.policy_digest == digest
        store(state, "apprentice", 50, 2)  # the events before are passed over, once
        assert RankLearner(state).step() == 50


def one_round(differs):
    """Return a policy, and a log of one round of which it prefers another action than the chosen one, or the same."""
    policy, log = trained_case("squarecb"), tiny_log(40, seed=4, name="one")
    for row in range(len(log)):
        one = log.take(row, row + 1, "one")
        if (policy.probabilities_of(one).argmax() != one.chosen[0]) == differs:
            return policy, one
    raise AssertionError("no such round")


@pytest.mark.parametrize("agent", AGENTS)
def test_parts_of_whole_blocks_make_no_difference(agent):
    log, policy, block = tiny_log(160, seed=4, name="taught"), trained_case(agent), feature_policy._TAUGHT_AT_ONCE
    whole = policy.imitating(log)
    parts = policy.imitating(log.take(0, block, "a")).imitating(log.take(block, 160, "b"))
    np.testing.assert_allclose(parts.scores_of(log), whole.scores_of(log), atol=1e-9)
    assert dict(parts.settings) == dict(whole.settings)


def test_a_round_of_which_the_policy_prefers_another_action_teaches_it():
    policy, log = one_round(differs=True)
    taught = policy.imitating(log)
    change = taught.scores_of(log) - policy.scores_of(log)
    chosen = np.arange(len(change)) == log.chosen[0]
    assert change[chosen] > 0
    assert change[~chosen].mean() < 0
    assert taught.settings["rounds"] == policy.settings["rounds"] + 1
    assert len(taught.learned_events) == len(policy.learned_events) + 1


def test_a_round_of_which_the_policy_prefers_the_chosen_action_changes_nothing():
    policy, log = one_round(differs=False)
    assert policy.imitating(log) is policy
    alone = replace(log, start=np.array([0, 1]), offered=log.offered[:1], chosen=np.zeros(1, np.int32))
    assert policy.imitating(alone) is policy


@pytest.mark.parametrize("agent", AGENTS)
def test_rewards_online_lead_away_from_a_bad_baseline(agent):
    """A long apprenticeship moves the estimates no further than a short one, so rewards can move them back."""
    taught, log = trained_case(agent), tiny_log(2_000, seed=4, name="taught")
    worst = replace(log, chosen=np.zeros(len(log), np.int32), log_propensity=np.zeros(len(log)))
    worst = replace(worst, offered=_with_first(worst, action=4))
    for _ in range(3):
        taught = taught.imitating(worst)
    agrees = taught.probabilities_of(worst)[worst.start[:-1]]
    rewarded = taught.updated(replace(worst.take(0, 1_000, "r"), reward=np.zeros(1_000)))
    assert agrees.mean() > 0.5
    assert rewarded.probabilities_of(worst)[worst.start[:-1]].mean() < 0.5 * agrees.mean()


def _with_first(log, action):
    """Return the offers with one action in the first place of each round, in exchange for the action there."""
    offered = log.offered.copy()
    for first, end in zip(log.start[:-1], log.start[1:], strict=True):
        place = np.flatnonzero(offered[first:end] == action)
        offered[first + (place[0] if len(place) else 0)] = offered[first]
        offered[first] = action
    return offered
