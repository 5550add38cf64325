"""A checkpoint of an unfinished training becomes a policy; one that is missing or half written is one line."""

import json
import shutil

import numpy as np
import pytest
from trained_policies import miniature_split

from recpolicy.core.errors import ArtifactError, ConfigError, DataError, DivergedError
from recpolicy.data.splits import split as split_ratings
from recpolicy.training import session_trainer, tensorflow_export, trainer
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.training_checkpoints import policy_of_checkpoint

SHORT = {"rating_model": "svd", "rank": 5, "batch_size": 16, "total_timesteps": 256, "checkpoint_every_steps": 64}
AGENTS = {
    "q_learning": SHORT | {"log_rows": 4, "max_episode_steps": 8},
    "linucb": SHORT | {"log_rows": 4, "world": "item_knn"},
}


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """Trainings that end with the check of the last row, after the checkpoints of the steps 128 and 192."""
    root = tmp_path_factory.mktemp("unfinished")
    for name, settings in AGENTS.items():
        module = session_trainer if name == "q_learning" else trainer

        def stop(learner, step, saved, folder):
            if step == 256:
                raise DivergedError("planted")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "check_variables", stop)
            with pytest.raises(DivergedError):
                train(name, miniature_split(), root / name, config=settings, show_progress=False)
    return root


@pytest.mark.parametrize("name", AGENTS)
def test_the_policy_is_that_of_a_training_which_ended_there(unfinished, tmp_path, monkeypatch, name):
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
    policy = policy_of_checkpoint(unfinished / name, miniature_split())
    assert (policy.artifact.agent, policy.metadata["training"]["step"]) == (name, 192)
    settings = AGENTS[name] | {"total_timesteps": 192, "log_rows": 3}
    whole = train(name, miniature_split(), tmp_path / "whole", config=settings, show_progress=False)
    assert policy.artifact.policy.keys() == whole.artifact.policy.keys()
    for key, values in whole.artifact.policy.items():
        if values.dtype.kind == "U":
            assert policy.artifact.policy[key] == values
            continue
        np.testing.assert_allclose(policy.artifact.policy[key], values, rtol=1e-5, atol=1e-6, err_msg=key)


def test_a_step_names_an_earlier_checkpoint_and_the_folder_itself_may_be_given(unfinished):
    early = policy_of_checkpoint(unfinished / "q_learning.incomplete", miniature_split(), "128")
    last = policy_of_checkpoint(unfinished / "q_learning", miniature_split(), "last")
    assert early.metadata["training"]["step"] == 128
    assert np.abs(early.artifact.policy["visits"]).sum() < np.abs(last.artifact.policy["visits"]).sum()


def message_of(run, checkpoint="last", split=None):
    with pytest.raises((ArtifactError, ConfigError, DataError)) as raised:
        policy_of_checkpoint(run, split or miniature_split(), checkpoint)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_missing_or_half_written_checkpoint_is_one_line_that_names_the_others(unfinished, tmp_path):
    run = tmp_path / "q_learning.incomplete"
    shutil.copytree(unfinished / "q_learning.incomplete", run)
    assert "no checkpoint of step 7; there are 128, 192" in message_of(run, "7")
    (data,) = (run / "checkpoints").glob("ckpt-192.data*")
    data.write_bytes(data.read_bytes()[:100])
    assert "the checkpoint of step 192 is only half written; there are 128" in message_of(run, "192")
    assert policy_of_checkpoint(run, miniature_split()).metadata["training"]["step"] == 128  # the last good one
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint of step last; there is no whole checkpoint" in message_of(run)
    assert "expected 'last' or a number of steps" in message_of(run, "best")


def test_folders_and_splits_that_do_not_fit_are_one_line(unfinished, tmp_path):
    assert "no unfinished training" in message_of(tmp_path / "nothing")
    done = tmp_path / "done"
    done.mkdir()
    (done / "recpolicy.json").write_text("{}")
    assert "its training is finished" in message_of(done)
    other = split_ratings(miniature_split().train, "random", 3)
    assert "read another train part" in message_of(unfinished / "linucb", split=other)
    run = tmp_path / "linucb.incomplete"
    shutil.copytree(unfinished / "linucb.incomplete", run)
    (run / "metadata.json").write_text(json.dumps({"agent": "linucb", "parent": {}}))
    assert "not the settings of a training" in message_of(run)
    foreign = json.loads((unfinished / "q_learning.incomplete" / "metadata.json").read_text())
    (run / "metadata.json").write_text(json.dumps(foreign))
    assert "damaged or belongs to another agent" in message_of(run)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("checkpoints/ckpt-192.data-00000-of-00001", 100, r"its checkpoint ckpt-192 is damaged or belongs to another"),
        ("checkpoints/ckpt-192.index", 50, r"its checkpoint ckpt-192 is damaged or belongs to another"),
        ("checkpoints/checkpoint", 0, r"checkpoint: damaged, so the training cannot continue; remove"),
        ("metadata.json", 100, r"metadata\.json: damaged; remove"),
    ],
)
def test_a_training_does_not_go_on_from_files_that_were_cut(unfinished, tmp_path, name, size, message):
    run = tmp_path / "q_learning.incomplete"
    shutil.copytree(unfinished / "q_learning.incomplete", run)
    (run / name).write_bytes((run / name).read_bytes()[:size])
    before = sorted(path.name for path in run.rglob("*"))
    with pytest.raises(ArtifactError, match=message) as raised:
        train(
            "q_learning", miniature_split(), tmp_path / "q_learning", config=AGENTS["q_learning"], show_progress=False
        )
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "q_learning").exists()
    assert sorted(path.name for path in run.rglob("*")) == before
