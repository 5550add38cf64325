from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from client_helpers import ask, served
from event_factory import event
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_policies import trained

from recpolicy.agents.linucb import LinUCB, LinUCBConfig
from recpolicy.agents.observation import Observation
from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.inference.reward_estimators import pack_symmetric
from recpolicy.inference.scorer import load_scorer
from recpolicy.server.online import posterior as believing
from recpolicy.server.online.learner import OnlineLearner, apply_rewards, with_latest_checkpoint, with_posterior
from recpolicy.server.online.posterior import (
    CURRENT,
    Checkpoint,
    Posterior,
    checkpoint_folder,
    initial_posterior,
    learn,
    read_checkpoint,
    unpack_symmetric,
    write_checkpoint,
)
from recpolicy.server.settings import OnlineConfig, Settings

CLOSED_FORM = OnlineConfig(grace_seconds=0.0)


@pytest.fixture(scope="module")
def base():
    return load_scorer(trained("linucb"))


def some(rng, arms=4, size=3, rounds=30):
    start = Posterior(np.zeros((arms, size)), np.tile(np.eye(size) / 2.0, (arms, 1, 1)))
    return start, rng.integers(0, arms, rounds), rng.normal(size=(rounds, size)), rng.normal(size=rounds)


def test_it_ends_where_ridge_regression_does():
    start, arm, x, r = some(np.random.default_rng(0))
    after = learn(start, arm, x, r, 1.0, 2.0)
    for a in range(4):
        rows = arm == a
        gram = x[rows].T @ x[rows] + 2.0 * np.eye(3)
        np.testing.assert_allclose(after.theta[a], np.linalg.solve(gram, x[rows].T @ r[rows]), rtol=1e-9)
        np.testing.assert_allclose(after.covariance[a], np.linalg.inv(gram), rtol=1e-9)


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
    values = np.linalg.eigvalsh(after.covariance[0])
    assert values[0] > 0
    assert values[-1] == pytest.approx(0.5, rel=1e-9)
    assert 0.5 < x[0] @ after.theta[0] < 5.5


@pytest.mark.parametrize("forgetting", [1.0, 0.9])
def test_it_learns_as_the_agent_does_in_training(forgetting):
    start, arm, x, r = some(np.random.default_rng(5))
    config = LinUCBConfig(bias=False, precision=2.0, forgetting=forgetting)
    agent = LinUCB(np.zeros((4, 3), np.float32), config, "linucb")
    agent.update(Observation(tf.constant(x, tf.float32), None, None), tf.constant(arm), tf.constant(r, tf.float32))
    after = learn(start, arm, x, r, forgetting, 2.0)
    np.testing.assert_allclose(after.theta, agent.posterior.theta, atol=1e-5)
    np.testing.assert_allclose(after.covariance, agent.posterior.covariance, atol=1e-5)


def test_triangles_unpack_to_what_was_packed():
    root = np.random.default_rng(2).normal(size=(5, 4, 4))
    matrices = root @ root.transpose(0, 2, 1)
    np.testing.assert_allclose(unpack_symmetric(pack_symmetric(matrices), 4), matrices, rtol=1e-12)


def test_a_policy_that_has_learnt_nothing_answers_as_it_was_trained(base):
    same = with_posterior(base, initial_posterior(base.artifact))
    np.testing.assert_allclose(same.predict_one(3).score, base.predict_one(3).score, rtol=1e-5)
    assert same.metadata["policy_digest"] != base.metadata["policy_digest"]
    assert same.metadata["learned_from"] == base.metadata["policy_digest"]


def test_only_policies_that_are_linear_per_arm_learn():
    with pytest.raises(ConfigError, match="ucb1 cannot learn online"):
        initial_posterior(load_scorer(trained("ucb1")).artifact)


def row(seq, shown, reward, position=0):
    return SimpleNamespace(
        seq=seq, position=position, reward=reward, user_key=shown.user_key,
        item_ids=shown.item_ids, context=shown.context,
    )  # fmt: skip


def first(base):
    return Checkpoint(initial_posterior(base.artifact), 0, 0, 0, 0)


def test_rewards_move_the_item_that_they_are_of_for_users_who_are_alike(base):
    rows = [row(seq, event(user=3, items=[10, 20]), 1.0, position=1) for seq in range(1, 21)]
    after = apply_rewards(base, first(base), rows)
    assert (after.learnt, after.passed, after.last) == (20, 0, 20)
    before, now = base.predict_one(3), with_posterior(base, after.beliefs).predict_one(3)
    assert now.value[19] < before.value[19] - 0.05  # item 20
    np.testing.assert_allclose(np.delete(now.value, 19), np.delete(before.value, 19), rtol=1e-4)
    np.testing.assert_array_equal(now.rating, before.rating)  # the base was trained in simulation


def test_a_folded_in_user_teaches_with_the_context_that_the_policy_saw(base):
    context = base.artifact.context[2]
    known = apply_rewards(base, first(base), [row(1, event(user=3, items=[10]), 1.0)])
    folded = apply_rewards(base, first(base), [row(1, event(user="new", items=[10], context=context.tobytes()), 1.0)])
    assert folded.beliefs.digest == known.beliefs.digest


def test_what_the_policy_does_not_know_is_passed_over(base):
    odd = [
        event(user="nobody", items=[10]),
        event(user=3, items=["no item"]),
        event(user=3, items=[10], context=bytes(8)),
        event(user=3, items=[10], context=(base.artifact.context[2] * np.float32(1e5)).tobytes()),
    ]
    after = apply_rewards(base, first(base), [row(seq, shown, 1.0) for seq, shown in enumerate(odd, 1)])
    assert (after.learnt, after.passed, after.last) == (0, 4, 4)
    assert after.beliefs.digest == first(base).beliefs.digest


def test_a_checkpoint_comes_back_and_takes_the_place_of_the_one_before(base, tmp_path):
    one = apply_rewards(base, first(base), [row(1, event(user=3, items=[10]), 1.0)])
    two = apply_rewards(base, one, [row(2, event(user=4, items=[10]), 5.0)])
    write_checkpoint(tmp_path, one)
    write_checkpoint(tmp_path, two)
    back = read_checkpoint(tmp_path)
    assert back.beliefs.digest == two.beliefs.digest
    assert replace(back, beliefs=None) == replace(two, beliefs=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.npz", CURRENT]


@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_a_damaged_checkpoint_is_said_and_the_trained_policy_serves(base, tmp_path, how, caplog):
    folder = checkpoint_folder(tmp_path, base.metadata["policy_digest"])
    write_checkpoint(folder, apply_rewards(base, first(base), [row(1, event(user=3, items=[10]), 1.0)]))
    path = folder / "1.npz"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "gone":
        path.unlink()
    else:
        np.savez(path, theta=base.artifact.policy["theta"].astype(float), covariance=np.zeros((80, 6, 6)))
    with pytest.raises(ArtifactError, match="remove the folder to start online learning again"):
        read_checkpoint(folder)
    assert with_latest_checkpoint(tmp_path, base) is base
    assert "ignores a damaged checkpoint" in caplog.text


def rate(app, value, users=range(1, 13)):
    for user in users:
        event_id = ask(app, "POST", "/v1/recommend", {"user": user, "k": 2}).json()["event_id"]
        assert ask(app, "POST", "/v1/feedback", {"event_id": event_id, "type": "rating", "value": value}).is_success


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


def test_the_same_events_replayed_give_the_same_weights(tmp_path, base):
    with served(tmp_path) as app:
        learner = learner_of(app, tmp_path)
        learner.step()
        for value in (1.0, 5.0, 3.0):
            rate(app, value, users=range(1, 6))
            learner.step()
        rows = learner._rewards(0)
    replayed = apply_rewards(base, first(base), rows)
    assert replayed.learnt == 15
    assert (
        replayed.beliefs.digest
        == read_checkpoint(checkpoint_folder(tmp_path, base.metadata["policy_digest"])).beliefs.digest
    )


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
    np.testing.assert_allclose(x @ initial_posterior(base.artifact).theta.T, base.predict([1]).score[0], rtol=1e-5)
