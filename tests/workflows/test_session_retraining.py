"""Session policies continue on logged sessions: from their checkpoints, once per session, with whole artifacts."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_session_logs import eagerly
from trained_policies import miniature_split
from trained_policies import trained as trained_folder

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.data.learned_events import log_events
from recpolicy.registry.artifact_kinds import verify
from recpolicy.training import tensorflow_export
from recpolicy.training.offline_sessions import LEARN_FROM_LOGS
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.retraining import retrain
from recpolicy.workflows.session_logs import simulate_session_log
from recpolicy.workflows.session_retraining import retrain_sessions
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds

TRAIN = {"rating_model": "svd", "rank": 5, "max_episode_steps": 8, "batch_size": 32, "epochs": 1}
NETWORK = {"layers": (8,)}


@pytest.fixture(scope="module", autouse=True)
def without_compiling():
    """Which takes longer than these logs do."""
    with eagerly():
        yield


@pytest.fixture(autouse=True)
def without_saved_models(monkeypatch):
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """The two halves of a log of the uniform choice."""
    worlds = make_worlds(miniature_split(), SessionTrainConfig(**TRAIN), 0)
    out = tmp_path_factory.mktemp("logs") / "random"
    log = simulate_session_log(miniature_split(), out, config={"sessions": 120}, train=TRAIN, worlds=worlds)
    first = np.arange(120) < 60
    return log.select_sessions(first), log.select_sessions(~first), log


@pytest.mark.parametrize("agent", LEARN_FROM_LOGS)
def test_a_session_policy_goes_on_from_where_it_stood(agent, logs, tmp_path):
    first, second, both = logs
    old = train(agent, miniature_split(), tmp_path / "old", config=TRAIN, agent_config=NETWORK, log=first)
    new = retrain_sessions(tmp_path / "old", both, tmp_path / "new", seed=1, until=7)
    verify(tmp_path / "new")
    assert new.metadata["parents"] == [
        {"policy_digest": old.metadata["policy_digest"], "log": first.digest, "learned_events": len(first)}
    ]
    assert (new.metadata["log"], new.metadata["log_until"]) == (second.digest, 7)  # the first half is known
    assert new.metadata["training"]["sessions"] == 60
    assert new.artifact.learned_events.tolist() == log_events(both).tolist()
    assert new.metadata["policy_digest"] != old.metadata["policy_digest"]
    kernel = new.artifact.policy["kernel_0"] - old.artifact.policy["kernel_0"]
    fresh = train(agent, miniature_split(), tmp_path / "fresh", config=TRAIN, agent_config=NETWORK, log=second)
    apart = fresh.artifact.policy["kernel_0"] - old.artifact.policy["kernel_0"]
    assert 0 < np.abs(kernel).max() < 1
    assert not np.array_equal(kernel, apart)
    for name in ("view", "steps", "last_n", "genres"):
        assert np.array_equal(new.artifact.policy[name], old.artifact.policy[name])
    with pytest.raises(DataError, match="has learned all of its 120 sessions already"):
        retrain_sessions(tmp_path / "new", both, tmp_path / "newer")
    assert not (tmp_path / "newer").exists()


def test_without_a_pass_of_learning_the_checkpoint_is_the_policy(logs, tmp_path, monkeypatch):
    first, second, _ = logs
    old = train("dqn", miniature_split(), tmp_path / "old", config=TRAIN, agent_config=NETWORK, log=first)
    monkeypatch.setattr("recpolicy.training.offline_sessions.learn_from_sessions", lambda *_, **__: {"mode": "log"})
    new = retrain_sessions(tmp_path / "old", second, tmp_path / "new")
    for name, array in old.artifact.policy.items():
        assert np.array_equal(new.artifact.policy[name], array), name
    assert new.metadata["policy_digest"] == old.metadata["policy_digest"]


def test_what_does_not_fit_is_refused_and_nothing_is_written(logs, tmp_path):
    first, second, _ = logs
    old = tmp_path / "old"
    train("dqn", miniature_split(), old, config=TRAIN, agent_config=NETWORK, log=first)
    with pytest.raises(ConfigError, match="epochs is 0"):
        retrain_sessions(old, second, tmp_path / "new", epochs=0)
    with pytest.raises(ConfigError, match=r"rewards in 1\.\.5, but the policy learns from 'like', in 0\.\.1"):
        retrain_sessions(old, replace(second, scale=(1.0, 5.0), reward=second.reward + 1), tmp_path / "new")
    with pytest.raises(ConfigError, match="linucb acts in single rounds; retrain it on rounds"):
        retrain(trained_folder("linucb"), second, tmp_path / "new")
    (old / "checkpoint" / "state.index").write_bytes(b"half")
    with pytest.raises(ArtifactError):
        retrain_sessions(old, second, tmp_path / "new")
    assert not (tmp_path / "new").exists()
