"""An artifact is read back as it was written, or refused with a line that names the file."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from trained_policies import loaded, miniature_split, trained

from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import file_digest
from recpolicy.inference.artifact import (
    FORMAT_VERSION,
    migrate_metadata,
    read_artifact,
    read_inference_artifact,
    write_arrays,
)
from recpolicy.inference.predictor import load_policy
from recpolicy.registry.artifact_kinds import verify


@pytest.fixture
def folder(tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(trained("linucb"), tmp_path / "policy")


def replace_text(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_it_remembers_what_it_was_made_of():
    split, policy = miniature_split(), loaded("linucb")
    assert policy.metadata["agent"] == "linucb"
    assert policy.metadata["split"] == {"name": "u1", "seed": 0, "train": split.train.digest, "test": split.test.digest}
    assert policy.metadata["config"]["train"]["total_timesteps"] == 640
    assert policy.metadata["config"]["agent"]["alpha"] == 1
    assert policy.metadata["training"]["total_timesteps"] == sum(policy.metadata["training"]["pulls"]) == 640
    assert policy.metadata["versions"]["tf-agents"] == "0.18.0"
    pd.testing.assert_frame_equal(policy.artifact.users, split.train.users)
    pd.testing.assert_frame_equal(policy.artifact.items, split.train.items)
    np.testing.assert_array_equal(policy.artifact.rated_item, split.train.item)


def test_it_holds_no_pickle():
    with np.load(trained("linucb") / "arrays.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype.kind in "bfiu" for name in stored)
    assert not [path for path in trained("linucb").rglob("*") if path.suffix in {".pkl", ".pickle", ".joblib"}]


def test_it_says_nothing_of_the_machine_it_was_made_on():
    said = (trained("linucb") / "recpolicy.json").read_text(encoding="utf-8")
    assert str(trained("linucb").parent) not in said


@pytest.mark.parametrize("name", ["arrays.npz", "users.parquet", "items.parquet"])
def test_a_changed_file_is_refused(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"policy/{name}: changed since"):
        load_policy(folder)


@pytest.mark.parametrize("name", ["arrays.npz", "users.parquet", "items.parquet"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=rf"policy/{name}: missing"):
        load_policy(folder)


def test_a_file_cut_short_is_refused_even_when_its_digest_was_made_to_fit(folder):
    arrays = folder / "arrays.npz"
    digest = file_digest(arrays)
    arrays.write_bytes(arrays.read_bytes()[:-200])
    replace_text(folder / "recpolicy.json", digest, file_digest(arrays))
    with pytest.raises(ArtifactError, match=r"policy"):
        load_policy(folder)


def test_an_array_of_objects_is_refused_even_when_its_digest_was_made_to_fit(folder):
    arrays = folder / "arrays.npz"
    with np.load(arrays) as stored:
        content = dict(stored)
    digest = file_digest(arrays)
    np.savez(arrays, **{**content, "offset": np.array([{"a": 1}], dtype=object)})
    replace_text(folder / "recpolicy.json", digest, file_digest(arrays))
    with pytest.raises(ArtifactError, match=r"policy"):
        load_policy(folder)


def spoil(folder, **arrays):
    """Replace arrays of an artifact, and make the digest fit: an older recpolicy wrote such numbers."""
    path = folder / "arrays.npz"
    with np.load(path) as stored:
        content = dict(stored)
    digest = file_digest(path)
    np.savez(path, **{**content, **{name: change(content[name]) for name, change in arrays.items()}})
    replace_text(folder / "recpolicy.json", digest, file_digest(path))


@pytest.mark.parametrize(
    ("value", "fault"),
    [(np.nan, "numbers that are not finite"), (-np.inf, "not finite"), (1e20, "absurd numbers"), (-1e20, "absurd")],
)
@pytest.mark.parametrize("name", ["policy/theta", "policy/covariance", "offset", "rating_std"])
def test_numbers_that_are_not_finite_or_absurd_are_refused(folder, name, value, fault):
    def one_number(array):
        array = array.copy()
        array.flat[-1] = value
        return array

    spoil(folder, **{name: one_number})
    for read in (read_artifact, read_inference_artifact):
        with pytest.raises(ArtifactError, match=rf"policy/arrays.npz: {name} holds .*{fault}.*; train it again"):
            read(folder)


@pytest.mark.parametrize(
    ("part", "value", "fault"),
    [
        ("settings", {"alpha": float("nan")}, "alpha is nan; expected a finite number"),
        ("settings", {"alpha": "1"}, "alpha is '1'"),
        ("noise_std", float("inf"), "noise_std is inf"),
        ("uniform_mix", float("nan"), "uniform_mix is nan; expected 0 to 1"),
        ("uniform_mix", 1.5, "uniform_mix is 1.5"),
        ("scale", [5.0, 1.0], "scale is 5.0 to 1.0"),
    ],
)
def test_settings_of_a_policy_that_cannot_be_are_refused(folder, part, value, fault):
    path = folder / "recpolicy.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, part: value}), encoding="utf-8")
    with pytest.raises(ArtifactError, match=fault):
        load_policy(folder)


def test_a_diverged_policy_is_not_written(tmp_path):
    artifact = loaded("linucb").artifact
    diverged = replace(artifact, policy={**artifact.policy, "theta": np.full_like(artifact.policy["theta"], np.nan)})
    with pytest.raises(ArtifactError, match="policy/theta holds numbers that are not finite"):
        write_arrays(diverged, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_or_not_ours_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere: no such folder"):
        load_policy(tmp_path / "nowhere")
    (tmp_path / "half.incomplete").mkdir()
    with pytest.raises(ArtifactError, match=r"half: its training is unfinished"):
        load_policy(tmp_path / "half")
    (tmp_path / "foreign").mkdir()
    with pytest.raises(ArtifactError, match=r"foreign: not a policy artifact: it has no recpolicy\.json"):
        load_policy(tmp_path / "foreign")
    (tmp_path / "foreign" / "recpolicy.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"recpolicy\.json: not readable as JSON"):
        load_policy(tmp_path / "foreign")
    (tmp_path / "foreign" / "recpolicy.json").write_text('["format"]')
    with pytest.raises(ArtifactError, match=r"recpolicy\.json: not a recpolicy policy"):
        load_policy(tmp_path / "foreign")


def test_a_file_is_no_artifact(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match=r"file: no such folder"):
        load_policy(tmp_path / "file")


def test_a_later_format_is_refused(folder):
    replace_text(folder / "recpolicy.json", f'"version": {FORMAT_VERSION}', '"version": 99')
    with pytest.raises(ArtifactError, match=r"format version 99, but this recpolicy reads 1, 2, 3"):
        load_policy(folder)


@pytest.mark.parametrize("part", ["head", "files", "metadata"])
def test_a_manifest_that_lacks_a_part_is_refused(folder, part):
    manifest = json.loads((folder / "recpolicy.json").read_text())
    del manifest[part]
    (folder / "recpolicy.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=part):
        read_artifact(folder)


@pytest.mark.parametrize("part", ["head", "estimator"])
def test_a_part_of_an_unknown_kind_is_refused(folder, part):
    manifest = json.loads((folder / "recpolicy.json").read_text())
    (folder / "recpolicy.json").write_text(json.dumps({**manifest, part: "clairvoyance"}))
    with pytest.raises(ArtifactError, match="clairvoyance"):
        load_policy(folder)


def test_verify_looks_at_every_file(folder):
    verify(folder)
    variables = folder / "action" / "variables" / "variables.index"
    variables.write_bytes(variables.read_bytes() + b"x")
    with pytest.raises(ArtifactError, match=r"action/variables/variables\.index: missing or changed"):
        verify(folder)
    load_policy(folder)  # the predictor does not read it


def test_old_settings_of_models_in_a_training_are_mapped():
    simulator = {"model": "bias", "model_config": {"reg_movie": 2.0}, "keep": 0.8}
    metadata = migrate_metadata({"config": {"train": {"world": "movie_mean", "simulator": simulator}}})
    assert metadata["config"]["train"] == {
        "world": "item_mean",
        "simulator": {"rating_model": "bias", "rating_model_config": {"reg_item": 2.0}, "interest_decay": 0.8},
    }


def test_a_lineage_may_hold_anything():
    lineage = {"config": {"shop": {"movies": 1}, "agent": None}, "split": "ours", "rating_model": {"kind": 3}}
    assert migrate_metadata(lineage) == lineage
