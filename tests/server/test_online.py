import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from api_keys import bearing, key_for
from client_helpers import ask, served
from event_factory import event
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_policies import trained
from unlimited import UNLIMITED
from waiting import wait_until

from recpolicy.agents.linucb import LinUCB, LinUCBConfig
from recpolicy.agents.observation import Observation
from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.files import content_digest, write_json
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.predictor import load_policy
from recpolicy.inference.reward_estimators import pack_symmetric
from recpolicy.server.db.admin import latest_audit
from recpolicy.server.db.keyless_feedback import KeylessBound
from recpolicy.server.online import checkpoints as checkpoint_files
from recpolicy.server.online import posterior as believing
from recpolicy.server.online.checkpoints import (
    CURRENT,
    Checkpoint,
    CheckpointJournal,
    checkpoint_folder,
    read_current,
)
from recpolicy.server.online.learned_policy import LearnedPolicy, with_posterior
from recpolicy.server.online.learner import LearningVersion, OnlineLearner, apply_rewards
from recpolicy.server.online.posterior import (
    Posterior,
    initial_posterior,
    learn,
    trained_arm,
    unpack_symmetric,
)
from recpolicy.server.settings import OnlineConfig, Settings
from recpolicy.training.checkpoints import read_learner
from recpolicy.workflows.retraining import untrained_agent

CLOSED_FORM = OnlineConfig(grace_seconds=0.0)


@pytest.fixture(scope="module")
def base():
    return load_scorer(trained("linucb"))


def trained_parts(theta, covariance):
    """What a posterior needs of an artifact."""
    policy = {"theta": theta.astype(np.float32), "covariance": pack_symmetric(covariance.astype(np.float32))}
    return SimpleNamespace(policy=policy, metadata={"policy_digest": "d" * 64})


def some(rng, arms=4, size=3, rounds=30):
    start = Posterior(trained_parts(np.zeros((arms, size)), np.tile(np.eye(size) / 2.0, (arms, 1, 1))))
    return start, rng.integers(0, arms, rounds), rng.normal(size=(rounds, size)), rng.normal(size=rounds)


def test_it_ends_where_ridge_regression_does():
    start, arm, x, r = some(np.random.default_rng(0))
    after = learn(start, arm, x, r, 1.0, 2.0)
    for a in range(4):
        rows = arm == a
        gram = x[rows].T @ x[rows] + 2.0 * np.eye(3)
        np.testing.assert_allclose(after.arm(a).theta, np.linalg.solve(gram, x[rows].T @ r[rows]), rtol=1e-9)
        np.testing.assert_allclose(after.arm(a).covariance, np.linalg.inv(gram), rtol=1e-9)


@given(st.lists(st.integers(0, 30), max_size=4), st.sampled_from([1.0, 0.9]))
@settings(max_examples=30)
def test_how_rewards_come_in_batches_changes_no_bit(cuts, forgetting):
    whole, arm, x, r = some(np.random.default_rng(1))
    parts = whole
    whole = learn(whole, arm, x, r, forgetting, 2.0)
    for rows in np.split(np.arange(30), sorted(cuts)):
        parts = learn(parts, arm[rows], x[rows], r[rows], forgetting, 2.0)
    assert parts.digest == whole.digest


def test_forgetting_stays_within_the_prior_when_one_user_rates_all_the_time():
    """One context for 100,000 rewards: unobserved directions keep the uncertainty of the prior."""
    rng = np.random.default_rng(4)
    start, _, _, _ = some(rng, arms=1)
    x = np.tile(rng.normal(size=3), (100_000, 1))
    after = learn(start, np.zeros(100_000, int), x, rng.integers(1, 6, 100_000).astype(float), 0.9, 2.0)
    values = np.linalg.eigvalsh(after.arm(0).covariance)
    assert values[0] > 0
    assert values[-1] == pytest.approx(0.5, rel=1e-9)
    assert 0.5 < x[0] @ after.arm(0).theta < 5.5


@pytest.mark.parametrize("forgetting", [1.0, 0.9])
def test_it_learns_as_the_agent_does_in_training(forgetting):
    start, arm, x, r = some(np.random.default_rng(5))
    config = LinUCBConfig(bias=False, precision=2.0, forgetting=forgetting)
    agent = LinUCB(np.zeros((4, 3), np.float32), config, "linucb")
    agent.update(Observation(tf.constant(x, tf.float32), None, None), tf.constant(arm), tf.constant(r, tf.float32))
    after = learn(start, arm, x, r, forgetting, 2.0)
    for a in range(4):
        np.testing.assert_allclose(after.arm(a).theta, agent.posterior.theta[a], atol=1e-5)
        np.testing.assert_allclose(after.arm(a).covariance, agent.posterior.covariance[a], atol=1e-5)


def test_triangles_unpack_to_what_was_packed():
    root = np.random.default_rng(2).normal(size=(5, 4, 4))
    matrices = root @ root.transpose(0, 2, 1)
    np.testing.assert_allclose(unpack_symmetric(pack_symmetric(matrices), 4), matrices, rtol=1e-12)


def test_a_policy_that_has_learnt_nothing_answers_as_it_was_trained(base):
    same = with_posterior(base, initial_posterior(base.artifact))
    np.testing.assert_allclose(same.predict_one(3).score, base.predict_one(3).score, rtol=1e-5)
    assert same.metadata["policy_digest"] != base.metadata["policy_digest"]
    assert same.metadata["learned_from"] == base.metadata["policy_digest"]


def test_neural_linucb_learns_over_its_frozen_network_as_in_training():
    """The learner of the checkpoint and the posterior of the server take the same rewards at the same contexts."""
    folder = trained("neural_linucb")
    artifact = load_policy(folder).artifact
    agent = untrained_agent(artifact)
    read_learner(agent, folder)
    rng = np.random.default_rng(6)
    user, arm = rng.integers(0, len(artifact.context), 40), rng.integers(0, 5, 40)
    reward = rng.integers(1, 6, 40).astype(float)
    contexts = artifact.context[user]
    observation = Observation(tf.constant(contexts), None, None)
    agent.learner.update(observation, tf.constant(arm), tf.constant(reward, tf.float32))
    features = np.array([believing.make_regressors(artifact, context) for context in contexts])
    after = learn(initial_posterior(artifact), arm, features, reward, 1.0, 1.0)
    for a in range(5):
        np.testing.assert_allclose(after.arm(a).theta, agent.learner._posterior.theta[a], rtol=2e-3, atol=2e-3)
    scorer = load_scorer(folder)
    served = with_posterior(scorer, after).predict_one(artifact.users["user_id"][0]).score
    context = believing.make_regressors(artifact, artifact.context[0])
    np.testing.assert_allclose(served[:5], [context @ after.arm(a).theta for a in range(5)], rtol=1e-4)
    assert not np.allclose(served[:5], scorer.predict_one(artifact.users["user_id"][0]).score[:5])


def test_neural_linucb_does_not_learn_while_its_network_does():
    artifact = load_scorer(trained("neural_linucb")).artifact
    with pytest.raises(
        ConfigError,
        match="neural_linucb cannot learn online; linucb, lints and",
    ):
        initial_posterior(replace(artifact, head="epsilon_greedy"))


def test_only_policies_that_are_linear_per_arm_learn():
    with pytest.raises(ConfigError, match="ucb1 cannot learn online"):
        initial_posterior(load_scorer(trained("ucb1")).artifact)


def row(seq, shown, reward, position=0):
    return SimpleNamespace(
        seq=seq, position=position, reward=reward, online=True, user_key=shown.user_key,
        item_ids=shown.item_ids, context=shown.context,
    )  # fmt: skip


def version(base, folder=None):
    return LearningVersion(base, None if folder is None else CheckpointJournal(folder, base.artifact))


def first(base):
    return Checkpoint(initial_posterior(base.artifact), 0, 0, 0, 0)


def test_rewards_move_the_item_that_they_are_of_for_users_who_are_alike(base):
    rows = [row(seq, event(user=3, items=[10, 20]), 1.0, position=1) for seq in range(1, 21)]
    after = apply_rewards(version(base), first(base), rows)
    assert (after.learnt, after.passed, after.last) == (20, 0, 20)
    before, now = base.predict_one(3), with_posterior(base, after.posterior).predict_one(3)
    assert now.value[19] < before.value[19] - 0.05  # item 20
    np.testing.assert_allclose(np.delete(now.value, 19), np.delete(before.value, 19), rtol=1e-4)
    np.testing.assert_array_equal(now.rating, before.rating)  # the base was trained in simulation


def test_a_folded_in_user_teaches_with_the_context_that_the_policy_saw(base):
    context = base.artifact.context[2]
    known = apply_rewards(version(base), first(base), [row(1, event(user=3, items=[10]), 1.0)])
    folded = apply_rewards(
        version(base), first(base), [row(1, event(user="new", items=[10], context=context.tobytes()), 1.0)]
    )
    assert folded.posterior.digest == known.posterior.digest


def test_what_the_policy_does_not_know_is_passed_over(base):
    odd = [
        event(user="nobody", items=[10]),
        event(user=3, items=["no item"]),
        event(user=3, items=[10], context=bytes(8)),
        event(user=3, items=[10], context=(base.artifact.context[2] * np.float32(1e5)).tobytes()),
    ]
    after = apply_rewards(version(base), first(base), [row(seq, shown, 1.0) for seq, shown in enumerate(odd, 1)])
    assert (after.learnt, after.passed, after.last) == (0, 4, 4)
    assert after.posterior.digest == first(base).posterior.digest


def journal(base, folder):
    return CheckpointJournal(folder, base.artifact)


def same(one, other):
    """True if two checkpoints are the same to the last bit."""
    return one.posterior.digest == other.posterior.digest and replace(one, posterior=None) == replace(
        other, posterior=None
    )


def rewarded(base, before, seq, item, value=1.0):
    return apply_rewards(version(base), before, [row(seq, event(user=3, items=[item]), value)])


def test_a_checkpoint_comes_back_and_continues_the_one_before(base, tmp_path):
    writer, reader = journal(base, tmp_path), journal(base, tmp_path)
    assert reader.read() is None
    one = rewarded(base, first(base), 1, 10)
    two = rewarded(base, one, 2, 12, 5.0)
    for checkpoint in (one, two, two):
        writer.write(checkpoint)
        assert same(reader.read(), checkpoint)
        assert same(journal(base, tmp_path).read(), checkpoint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.arms", CURRENT]


@pytest.mark.parametrize("digest", ["../registry/versions/1/policy", "/tmp/evil", "..", "", "a" * 63, "A" * 64, None])
def test_only_a_digest_becomes_a_folder(tmp_path, digest):
    with pytest.raises(ArtifactError, match="expected a SHA-256"):
        checkpoint_folder(tmp_path, digest)
    assert checkpoint_folder(tmp_path, "a" * 64) == tmp_path / "online" / ("a" * 64)


def test_files_of_others_in_the_folder_are_left_alone(base, tmp_path):
    for name in ("arrays.npz", "1x.npz", "backup.arms", "0.npz"):
        (tmp_path / name).write_bytes(b"")
    journal(base, tmp_path).write(rewarded(base, first(base), 1, 10))
    assert {path.name for path in tmp_path.iterdir()} == {
        "1.arms", CURRENT, "arrays.npz", "1x.npz", "backup.arms",
    }  # fmt: skip


def test_a_step_writes_and_reads_the_arms_that_changed_and_no_others(base, tmp_path, monkeypatch):
    """80 arms of 6 features: one arm has 8 (1 + 6 + 36) bytes, and a block 40 more."""
    writer, reader, one_arm = journal(base, tmp_path), journal(base, tmp_path), 8 * (1 + 6 + 36) + 40
    state, read = first(base), []
    for seq, item in enumerate((10, 12, 10, 11), 1):
        state = rewarded(base, state, seq, item)
        assert writer.write(state) == one_arm
        assert (tmp_path / "1.arms").stat().st_size == seq * one_arm
    reader.read()
    real = checkpoint_files._read_block
    monkeypatch.setattr(checkpoint_files, "_read_block", lambda *words: read.append(1) or real(*words))
    state = rewarded(base, state, 5, 10)
    writer.write(state)
    assert same(reader.read(), state)
    assert same(reader.read(), state)
    assert len(read) == 1


def test_the_file_is_written_anew_once_it_has_twice_the_bytes_that_it_needs(base, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "_SPARE", 0)
    writer, reader, state, sizes = journal(base, tmp_path), journal(base, tmp_path), first(base), []
    for seq in range(1, 8):
        state = rewarded(base, state, seq, 10)
        writer.write(state)
        sizes.append(read_current(tmp_path).length)
        assert same(reader.read(), state)
        assert len(list(tmp_path.glob("*.arms"))) == 1
    assert max(sizes) == 2 * min(sizes)
    assert same(journal(base, tmp_path).read(), state)


def test_bytes_of_a_killed_step_are_overwritten(base, tmp_path, monkeypatch):
    writer = journal(base, tmp_path)
    one = rewarded(base, first(base), 1, 10)
    writer.write(one)

    def die(*_):
        raise KeyboardInterrupt

    two = rewarded(base, one, 2, 12)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "write_json", die)
        with pytest.raises(KeyboardInterrupt):
            writer.write(two)
    again = journal(base, tmp_path)
    assert same(again.read(), one)
    two = rewarded(base, one, 2, 11)
    again.write(two)
    assert same(journal(base, tmp_path).read(), two)


def test_a_process_that_learns_after_another_continues_its_checkpoint(base, tmp_path):
    one, other = journal(base, tmp_path), journal(base, tmp_path)
    state = rewarded(base, first(base), 1, 10)
    one.write(state)
    state = rewarded(base, other.read(), 2, 12)
    other.write(state)
    state = rewarded(base, one.read(), 3, 10)
    one.write(state)
    assert same(other.read(), state)
    assert same(state, rewarded(base, rewarded(base, rewarded(base, first(base), 1, 10), 2, 12), 3, 10))


def write_old(base, folder, checkpoint):
    """Write a checkpoint in format version 1: all arms, in one .npz file."""
    arms = [checkpoint.posterior.arm(arm) for arm in range(len(base.artifact.action_items))]
    theta, covariance = (np.array([getattr(arm, name) for arm in arms]) for name in ("theta", "covariance"))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "1.npz", theta=theta, covariance=covariance)
    counts = {name: getattr(checkpoint, name) for name in ("first", "last", "learnt", "passed")}
    body = {"format": "recpolicy online learning", "version": 1, "file": "1.npz"}
    write_json(folder / CURRENT, body | {"digest": content_digest(theta, covariance)} | counts)


@pytest.mark.parametrize("item", [10, 12, "no item"])
def test_a_checkpoint_of_format_version_1_is_read_and_continued(base, tmp_path, item):
    one = rewarded(base, first(base), 1, 10)
    folder = checkpoint_folder(tmp_path, base.metadata["policy_digest"])
    write_old(base, folder, one)
    reader, served = journal(base, folder), LearnedPolicy(tmp_path)
    assert same(reader.read(), one)
    assert list(one.posterior.learned) == [9]
    assert served(base).metadata["policy_digest"] == read_current(folder).digest
    np.testing.assert_array_equal(served(base).artifact.policy["theta"], policy_arrays(base, one)["theta"])
    two = rewarded(base, reader.read(), 2, item)
    reader.write(two)
    assert same(journal(base, folder).read(), two)
    assert sorted(path.name for path in folder.iterdir()) == ["2.arms", CURRENT]
    np.testing.assert_array_equal(served(base).artifact.policy["covariance"], policy_arrays(base, two)["covariance"])


def policy_arrays(base, checkpoint):
    return with_posterior(base, checkpoint.posterior).artifact.policy


@pytest.mark.parametrize("how", ["cut", "changed", "gone", "short", "other policy", "not a name", "counts"])
def test_a_damaged_checkpoint_is_said_and_the_trained_policy_serves(base, tmp_path, how, caplog):
    folder = checkpoint_folder(tmp_path, base.metadata["policy_digest"])
    journal(base, folder).write(rewarded(base, first(base), 1, 10))
    path, state = folder / "1.arms", json.loads((folder / CURRENT).read_text())
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[:100])
    elif how == "short":
        path.write_bytes(data[:5])
    elif how == "changed":
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif how == "other policy":
        path.write_bytes(np.array([1, 7], "<u4").tobytes() + data[8:])
    elif how == "gone":
        path.unlink()
    elif how == "not a name":
        write_json(folder / CURRENT, state | {"file": "../../registry/1.arms"})
    else:
        write_json(folder / CURRENT, state | {"learnt": "many"})
    with pytest.raises(ArtifactError, match="remove the folder to start online learning again"):
        journal(base, folder).read()
    assert LearnedPolicy(tmp_path)(base) is base
    assert "ignores a damaged checkpoint" in caplog.text


@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_a_damaged_checkpoint_of_format_version_1_is_said(base, tmp_path, how):
    folder = checkpoint_folder(tmp_path, base.metadata["policy_digest"])
    write_old(base, folder, rewarded(base, first(base), 1, 10))
    path = folder / "1.npz"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "gone":
        path.unlink()
    else:
        np.savez(path, theta=base.artifact.policy["theta"].astype(float), covariance=np.zeros((80, 6, 6)))
    with pytest.raises(ArtifactError, match="remove the folder to start online learning again"):
        journal(base, folder).read()
    assert LearnedPolicy(tmp_path)(base) is base


def test_a_digest_that_differs_is_damage(base, tmp_path):
    journal(base, tmp_path).write(rewarded(base, first(base), 1, 10))
    body = json.loads((tmp_path / CURRENT).read_text())
    write_json(tmp_path / CURRENT, body | {"digest": "0" * 64})
    with pytest.raises(ArtifactError, match="does not match its digest"):
        journal(base, tmp_path).read()


@pytest.mark.parametrize("looks", [range(1, 8), (1, 7)], ids=["each step", "rarely"])
def test_a_process_that_follows_has_the_same_arrays_as_one_that_starts(base, tmp_path, monkeypatch, looks):
    """The file of the arms is written anew on the way; a process that looks rarely finds another, longer file."""
    monkeypatch.setattr(checkpoint_files, "_SPARE", 0)
    folder = checkpoint_folder(tmp_path, base.metadata["policy_digest"])
    writer, follower, state = journal(base, folder), LearnedPolicy(tmp_path), first(base)
    assert follower(base) is base
    before = None
    for seq, item in enumerate((10, 12, 10, 10, 10, 10, 11), 1):
        state = rewarded(base, state, seq, item)
        writer.write(state)
        if seq not in looks:
            continue
        now = follower(base)
        assert follower(base) is now
        assert now is not before
        for name in ("theta", "covariance"):
            np.testing.assert_array_equal(
                now.artifact.policy[name], LearnedPolicy(tmp_path)(base).artifact.policy[name]
            )
            np.testing.assert_array_equal(now.artifact.policy[name], policy_arrays(base, state)[name])
        assert now.metadata["policy_digest"] == state.posterior.digest
        before = now
    assert base.metadata["policy_digest"] not in (now.metadata["policy_digest"], None)
    np.testing.assert_array_equal(
        base.artifact.policy["theta"], load_scorer(trained("linucb")).artifact.policy["theta"]
    )


def test_a_policy_that_learned_shares_the_tables_of_the_trained_one_but_no_predictions(base):
    before = base.predict_one(3)
    after = with_posterior(base, rewarded(base, first(base), 1, 10).posterior)
    assert after.user_ids is base.user_ids
    assert not np.array_equal(after.predict_one(3).value, before.value)
    assert base.predict_one(3) is before


def rate(app, value, users=range(1, 13), key=True):
    headers = bearing(key_for(app, "client") if key else None)
    for user in users:
        event_id = ask(app, "POST", "/v1/recommend", {"user": user, "k": 2}).json()["event_id"]
        feedback = {"event_id": event_id, "type": "rating", "value": value}
        assert ask(app, "POST", "/v1/feedback", feedback, headers=headers).is_success


def learner_of(app, folder):
    here = app.state.server
    return OnlineLearner(here.store.engine, here.models, folder, CLOSED_FORM)


def test_feedback_moves_the_policy_that_serves_and_a_restart_goes_on_from_there(tmp_path):
    with served(tmp_path) as app:
        learner, live = learner_of(app, tmp_path), app.state.server.models
        learner.step()  # begins here: what came before was not this version's to learn
        before = live.live.champion
        rate(app, 1.0)
        assert learner.step() == 12
        assert learner.step() == 0
        moved = live.live.champion
        assert moved.number == before.number
        assert moved.policy_digest != before.policy_digest
        policy = ask(app, "POST", "/v1/recommend", {"user": 1}).json()["policy"]
        assert policy["policy_digest"] == moved.policy_digest
    with served(tmp_path) as app:
        assert app.state.server.models.live.champion.policy_digest == moved.policy_digest


def test_without_a_key_nobody_moves_the_lists_of_others(tmp_path):
    with served(tmp_path) as app:
        learner, live = learner_of(app, tmp_path), app.state.server.models
        learner.step()
        before = live.live.champion.policy_digest
        rate(app, 1.0, key=False)
        assert learner.step() == 0
        assert live.live.champion.policy_digest == before
        assert "recpolicy_rewards_not_learned_total 12.0" in ask(app, "GET", "/metrics").text.splitlines()
        assert "recpolicy_reward_count_total 12.0" in ask(app, "GET", "/metrics").text.splitlines()  # they are stored
        rate(app, 1.0, users=[1])
        assert learner.step() == 1  # the others stay behind it, unlearned


def test_with_a_bound_so_many_rewards_of_an_address_are_learned_and_the_operator_is_told(tmp_path, caplog):
    caplog.set_level("WARNING", "recpolicy")
    settings = replace(UNLIMITED, online=OnlineConfig(enabled=False, keyless_per_hour=5))
    with served(tmp_path, settings=settings) as app:
        learner = learner_of(app, tmp_path)
        learner.step()
        rate(app, 1.0, key=False)
        rate(app, 1.0, users=[1, 2])
        assert learner.step() == 5 + 2
        wait_until(lambda: [r for r in caplog.records if "alert: feedback without a key" in r.getMessage()], "an alert")
        with app.state.server.store.engine.connect() as connection:
            actions = [line["action"] for line in latest_audit(connection, 10)]
    assert actions.count("alert online.keyless_feedback") == 1


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_bound_holds_for_each_client_and_for_each_item_and_refills():
    clock = Clock()
    bound = KeylessBound(3, clock)
    assert [bound.admits("a", str(item)) for item in range(5)] == [True] * 3 + [False] * 2
    assert [bound.admits(f"client {n}", "0") for n in range(5)] == [True] * 2 + [False] * 3  # one was a's
    clock.now = 3600.0
    assert bound.admits("a", "0")
    assert [bound.must_alert() for _ in range(2)] == [True, False]
    clock.now = 7200.0
    assert bound.must_alert()
    assert not KeylessBound(0).admits("a", "0")
    assert not KeylessBound(0).must_alert()


def test_the_same_events_replayed_give_the_same_weights(tmp_path, base):
    with served(tmp_path) as app:
        learner = learner_of(app, tmp_path)
        learner.step()
        for value in (1.0, 5.0, 3.0):
            rate(app, value, users=range(1, 6))
            learner.step()
        rows = learner._rewards(0)
    replayed = apply_rewards(version(base), first(base), rows)
    assert replayed.learnt == 15
    folder = checkpoint_folder(tmp_path, base.metadata["policy_digest"])
    assert replayed.posterior.digest == journal(base, folder).read().posterior.digest


def test_a_step_without_new_rewards_reads_no_arms_and_takes_no_lock(tmp_path, monkeypatch):
    from recpolicy.server.online import learner as learner_module

    with served(tmp_path) as app:
        learner = learner_of(app, tmp_path)
        learner.step()
        rate(app, 1.0)
        learner.step()

        def fail(*_, **__):
            raise AssertionError("a step without news did this")

        monkeypatch.setattr(checkpoint_files, "read_blocks", fail)
        monkeypatch.setattr(learner_module, "FileLock", fail)
        monkeypatch.setattr(learner_module, "apply_rewards", fail)
        assert learner.step() == 0


def test_a_failure_is_logged_once_until_the_next_success(tmp_path, monkeypatch, caplog):
    with served(tmp_path) as app:
        learner = learner_of(app, tmp_path)
        results = iter([ArtifactError("damaged"), ArtifactError("damaged"), None, ArtifactError("damaged"), OSError()])

        def step():
            try:
                result = next(results)
            except StopIteration:
                learner._stop.set()
                return
            if result is not None:
                raise result

        monkeypatch.setattr(learner, "step", step)
        monkeypatch.setattr(learner, "_seconds", 1e-3)
        learner._work()
    lines = [record.getMessage() for record in caplog.records if "online learning failed" in record.getMessage()]
    assert lines == [
        "online learning failed: damaged", "online learning failed: damaged", "online learning failed: OSError",
    ]  # fmt: skip


def test_nothing_is_learnt_while_a_challenger_is_out(tmp_path):
    with served(tmp_path) as app:
        learner, policies = learner_of(app, tmp_path), app.state.server.models
        learner.step()
        other = policies.registry.register(trained("popular"), gate={"verdict": "pass"})
        policies.registry.set_challenger(other.number, 0.5)
        policies.refresh()
        rate(app, 1.0)
        assert learner.step() == 0
        policies.registry.clear_challenger()
        policies.refresh()
        assert learner.step() == 12


def test_one_process_of_a_folder_learns_the_others_load(tmp_path):
    with served(tmp_path) as one, served(tmp_path) as other:
        first_learner, second_learner = learner_of(one, tmp_path), learner_of(other, tmp_path)
        first_learner.step()
        rate(one, 1.0)
        assert first_learner.step() == 12
        assert second_learner.step() == 0
        other.state.server.models.refresh()
        assert (
            other.state.server.models.live.champion.policy_digest == one.state.server.models.live.champion.policy_digest
        )


def test_it_can_be_turned_off(tmp_path):
    with served(tmp_path, settings=Settings(online=OnlineConfig(enabled=False))) as app:
        learner = OnlineLearner(
            app.state.server.store.engine, app.state.server.models, tmp_path, OnlineConfig(enabled=False)
        )
        learner.start()
        assert learner._thread is None


@pytest.mark.parametrize("words", [{"seconds": 0}, {"seconds": float("nan")}, {"grace_seconds": -1}])
def test_settings_out_of_range_are_refused(words):
    with pytest.raises(ConfigError):
        OnlineConfig(**words)


def test_the_features_are_those_of_the_trained_learner(base):
    x = believing.make_regressors(base.artifact, base.artifact.context[0])
    theta = np.array([trained_arm(base.artifact, arm).theta for arm in range(len(base.action_items))])
    np.testing.assert_allclose(x @ theta.T, base.predict([1]).score[0], rtol=1e-5)
