"""Online learning of feature policies: the same events give the same policy, in any batches and after a restart.

Closed forms add up sums of batches, so their last bits depend on the batches; hashed models have the same bits.
"""

import json

import numpy as np
import pytest
from api_keys import bearing, key_for
from client_helpers import ask
from sqlalchemy import select, update
from test_rank_jobs import REWARD, SETTINGS, store
from tiny_feature_log import tiny_actions, tiny_log, trained_case

from recpolicy.data.reward_signals import RewardConfig
from recpolicy.inference.feature_artifact import write_feature_policy
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.backup.create import create_backup
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feature_export import log_of_rows
from recpolicy.server.db.schema import rank_events, rank_signals
from recpolicy.server.lifespan import open_state
from recpolicy.server.online import rank_learner
from recpolicy.server.online.rank_checkpoints import rank_checkpoint_folder, read_rank_checkpoint
from recpolicy.server.online.rank_learner import RankLearner, final_after_ms
from recpolicy.server.settings import OnlineConfig

CONTEXT = {"hour": 0.4, "device": "mobile", "member": True}
REQUEST = {"context": CONTEXT, "actions": [{"id": name, "features": features} for name, features in tiny_actions()]}


def registry_of(folder, agent="squarecb"):
    registry = Registry(folder / "registry")
    write_feature_policy(trained_case(agent), folder / agent)
    registry.register(folder / agent)
    registry.promote(1, ungated=True)
    return registry


@pytest.fixture
def registry(tmp_path):
    return registry_of(tmp_path)


@pytest.fixture
def state(registry):
    with open_state(registry.folder, None, SETTINGS) as state:
        RankLearner(state).step()  # what comes from now on is learned
        yield state


def served(state):
    return state.models.live.champion


def folder_of(state):
    return rank_checkpoint_folder(state.folder, trained_case("squarecb").policy_digest)


def test_the_champion_learns_from_final_events(state):
    log = tiny_log(120, seed=9, name="new")
    before = served(state).policy_digest
    store(state, log)
    assert RankLearner(state).step() == 120
    expected = trained_case("squarecb").updated(log)
    probability, score = served(state).ranker.probabilities(CONTEXT, tiny_actions())
    wanted, scores = expected.probabilities(CONTEXT, tiny_actions())
    np.testing.assert_allclose(score, scores, atol=1e-9)
    np.testing.assert_allclose(probability, wanted, atol=1e-9)
    assert served(state).policy_digest != before
    assert served(state).number == 1
    assert RankLearner(state).step() == 0


@pytest.mark.parametrize("agent", ["squarecb", "squarecb hashed", "lints", "neural_linucb"])
def test_batches_make_no_difference_and_a_restart_keeps_what_was_learned(tmp_path, monkeypatch, agent):
    log, digests, scores = tiny_log(60, seed=9, name="new"), [], []
    for name, at_once in (("one", 1_000), ("many", 7)):
        monkeypatch.setattr(rank_learner, "_AT_ONCE", at_once)
        (tmp_path / name).mkdir()
        registry = registry_of(tmp_path / name, agent)
        with open_state(registry.folder, None, SETTINGS) as state:
            RankLearner(state).step()
            store(state, log)
            learner = RankLearner(state)
            assert sum(iter(learner.step, 0)) == 60
            digests.append(served(state).policy_digest)
            scores.append(served(state).ranker.probabilities(CONTEXT, tiny_actions())[1])
        with open_state(registry.folder, None, SETTINGS) as state:
            assert served(state).policy_digest == digests[-1]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-9)
    assert agent != "squarecb hashed" or digests[0] == digests[1]


def test_open_windows_wait_and_events_without_a_key_are_left_out(state):
    log = tiny_log(4, seed=9, name="new")
    store(state, log)
    columns = rank_events.c
    with state.store.engine.begin() as connection:
        connection.execute(update(rank_events).where(columns.id == log.event_id[0]).values(online=False))
        mine = rank_signals.c.event_id == log.event_id[1]
        connection.execute(update(rank_signals).where(mine).values(online=False))
        connection.execute(update(rank_events).where(columns.id == log.event_id[2]).values(activated_at=None))
    app = make_app(state)
    key = bearing(key_for(app, "client"))
    assert ask(app, "POST", "/v1/rank", REQUEST, headers=key).status_code == 200
    assert RankLearner(state).step() == 1
    checkpoint = read_rank_checkpoint(folder_of(state))
    assert (checkpoint.last, checkpoint.learned, checkpoint.passed) == (4, 1, 3)
    with state.store.engine.begin() as connection:
        connection.execute(update(rank_events).where(columns.seq == 5).values(time=columns.time - 700_000))
    assert RankLearner(state).step() == 1


@pytest.mark.parametrize(
    ("wait", "grace", "dialect", "expected"),
    [(600, 1, "sqlite", 601_000), (0.25, 0.1, "sqlite", 350), (0.25, 0.1, "postgresql", 5_000), (0, 0, "sqlite", 0)],
)
def test_the_age_of_learned_events_is_the_window_and_the_time_of_a_commit(wait, grace, dialect, expected):
    online = OnlineConfig(grace_seconds=grace)
    assert final_after_ms(RewardConfig(wait_seconds=wait), online, dialect) == expected


def test_a_signal_of_the_last_moment_has_time_to_be_written(state):
    log = tiny_log(2, seed=9, name="new")
    store(state, log)
    with state.store.engine.begin() as connection:
        for seq, ended_ms in ((1, 2_000), (2, 500)):  # the window is over, and grace_seconds is 1
            time = now_ms() - 1000 * int(REWARD.wait_seconds) - ended_ms
            connection.execute(update(rank_events).where(rank_events.c.seq == seq).values(time=time))
    assert RankLearner(state).step() == 1


def test_a_learner_continues_the_checkpoint_of_another_process(state):
    log = tiny_log(90, seed=9, name="new")
    mine, other = RankLearner(state), RankLearner(state)
    for learner, first in ((mine, 0), (other, 30), (mine, 60)):
        store(state, log.take(first, first + 30, "new"))
        assert learner.step() == 30
    _, scores = trained_case("squarecb").updated(log).probabilities(CONTEXT, tiny_actions())
    np.testing.assert_allclose(served(state).ranker.probabilities(CONTEXT, tiny_actions())[1], scores, atol=1e-9)


def test_signals_of_other_events_do_not_count(state):
    log = tiny_log(700, seed=9, name="new")  # more than one query takes
    store(state, log)
    with state.store.engine.connect() as connection:
        rows = connection.execute(select(rank_events).order_by(rank_events.c.seq)).all()
        np.testing.assert_array_equal(log_of_rows(connection, rows, REWARD, "all").reward, log.reward)
        np.testing.assert_array_equal(log_of_rows(connection, rows[5:9], REWARD, "some").reward, log.reward[5:9])


def test_an_event_of_other_features_stops_no_other(state):
    store(state, tiny_log(3, seed=9, name="new"))
    with state.store.engine.begin() as connection:
        second = rank_events.c.seq == 2
        connection.execute(update(rank_events).where(second).values(context=json.dumps({"hour": "noon"})))
        third = rank_events.c.seq == 3
        connection.execute(update(rank_events).where(third).values(context=json.dumps({"hour": 1.5})))
    assert RankLearner(state).step() == 2


def test_a_damaged_checkpoint_serves_the_version_as_trained(registry, state):
    store(state, tiny_log(30, seed=9, name="new"))
    RankLearner(state).step()
    learned = served(state).policy_digest
    folder = folder_of(state)
    (policy,) = [path for path in folder.iterdir() if path.is_dir()]
    (policy / "arrays.npz").write_bytes(b"broken")
    with open_state(registry.folder, None, SETTINGS) as again:
        assert served(again).policy_digest == trained_case("squarecb").policy_digest != learned


def test_a_backup_has_the_checkpoint(registry, state, tmp_path):
    store(state, tiny_log(30, seed=9, name="new"))
    RankLearner(state).step()
    create_backup(state.folder, tmp_path / "backup")
    digest = trained_case("squarecb").policy_digest
    copied = rank_checkpoint_folder(tmp_path / "backup", digest)
    assert read_rank_checkpoint(copied) == read_rank_checkpoint(folder_of(state))
    assert (copied / read_rank_checkpoint(copied).folder / "recpolicy.json").is_file()
    assert REWARD.wait_seconds == 600


def test_models_that_do_not_learn_are_left_alone(tmp_path):
    agent = next(name for name in ("neural_linucb", "boltzmann", "eps_greedy") if not trained_case(name).learns_online)
    registry = registry_of(tmp_path, agent)
    with open_state(registry.folder, None, SETTINGS) as state:
        store(state, tiny_log(3, seed=9, name="new"))
        assert RankLearner(state).step() == 0
        assert not (state.folder / "online_ranks").exists()
