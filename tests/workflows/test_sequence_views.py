"""A policy that reads sequences goes the whole way: simulation, artifact, history, server, logged sessions."""

import numpy as np
import pytest
from synthetic_session_logs import eagerly, log_of
from trained_policies import miniature_split

from recpolicy.core.errors import ArtifactError, UnknownIdError
from recpolicy.inference.artifact import read_artifact
from recpolicy.inference.predictor import load_policy
from recpolicy.training import tensorflow_export
from recpolicy.training.rollout_sessions import exploring, rollout_sessions
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds, session_environment
from recpolicy.workflows.session_training import train_sessions

TINY = {
    "total_timesteps": 128, "batch_size": 16, "log_rows": 1, "rating_model": "svd", "rank": 4, "max_episode_steps": 8,
    "view": "gru", "last_n": 3,
}  # fmt: skip
AGENT = {"layers": [8], "sequence_units": 4, "n_epochs": 1}


@pytest.fixture(scope="module", autouse=True)
def without_saved_models():
    """tests/inference reads their like."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def worlds():
    return make_worlds(miniature_split(), SessionTrainConfig(**TINY), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, worlds):
    out = tmp_path_factory.mktemp("gru") / "policy"
    with eagerly():
        train_sessions("topk_reinforce", miniature_split(), out, config=TINY, agent_config=AGENT, worlds=worlds)
    return out


def test_the_history_reaches_the_policy_and_what_is_older_than_n_does_not(folder):
    policy = load_policy(folder)
    arrays, user = policy.artifact.policy, policy.artifact.users["user_id"].iloc[0]
    assert (str(arrays["view"]), str(arrays["encoder/kind"]), int(arrays["encoder/places"])) == ("gru", "gru", 3)

    def value(past):
        return policy.predict(user, history={user: past})["session_value"].iloc[0]

    recent = [(3, True), (4, False), (5, True)]
    assert value([(1, True), *recent]) == value([(2, False), *recent])
    assert value(recent) != value([(3, True), (4, True), (5, True)])
    untold, nothing = policy.predict(user), policy.predict(user, history={user: []})
    np.testing.assert_array_equal(untold["probability"], nothing["probability"])
    with pytest.raises(UnknownIdError, match="no item with id 999"):
        policy.predict(user, history={user: [(999, True)]})


def test_it_logs_sessions_and_learns_from_them(folder, tmp_path, worlds):
    policy, settings = load_policy(folder), SessionTrainConfig(**TINY)
    from recpolicy.agents.learner import ExportedPolicy
    from recpolicy.workflows.training_data import prepare_features

    artifact, train = policy.artifact, miniature_split().train
    features = prepare_features(train, settings)
    game = session_environment(worlds.training_world, features, settings, 0, 20)
    exported = ExportedPolicy(artifact.estimator, artifact.head, {}, dict(artifact.policy))
    with eagerly():
        played = rollout_sessions(game, exploring(exported), 20, 0)
        log = log_of(played, len(features.action_items), item=features.action_items[played.arm],
                     action_items=features.action_items)  # fmt: skip
        learned = train_sessions(
            "topk_reinforce", miniature_split(), tmp_path / "policy", config=TINY, agent_config=AGENT, log=log,
            init_from=folder,
        )  # fmt: skip
    before, after = (one.artifact.policy["encoder/recurrent"] for one in (policy, learned))
    assert before.shape == after.shape
    assert (before != after).any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"view": np.array("lstm")}, r"policy/view: no view named 'lstm'\..*Read it with a newer recpolicy"),
        ({"encoder/places": np.array(4)}, "policy/encoder/places: expected last_n, at most 200"),
        ({"last_n": np.array(9_999), "encoder/places": np.array(9_999)}, "encoder/places: expected last_n, at most"),
        ({"encoder/kind": np.array("lstm")}, "policy/encoder/kind: expected the view, gru"),
        ({"encoder/recurrent": np.zeros((4, 5), np.float32)}, r"encoder/recurrent: float32 \[4, 5\]; expected"),
    ],
)
def test_a_damaged_encoder_is_refused_with_its_place(folder, tmp_path, changed, message):
    from dataclasses import replace
    from shutil import copytree

    from recpolicy.inference.artifact import write_manifest

    copy = copytree(folder, tmp_path / "policy")
    artifact = read_artifact(copy)
    stored = dict(np.load(copy / "arrays.npz")) | {f"policy/{name}": array for name, array in changed.items()}
    np.savez(copy / "arrays.npz", **stored)
    (copy / "recpolicy.json").unlink()
    write_manifest(replace(artifact, policy={**artifact.policy, **changed}), copy)
    with pytest.raises(ArtifactError, match=message):
        load_policy(copy)
