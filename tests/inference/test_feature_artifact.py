"""The artifact of a feature policy is read back as it was written, or refused with a line that names the file."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_feature_log import CASES, tiny_actions, tiny_log, tiny_policy, trained_case

from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import file_digest
from recpolicy.inference.artifact_files import MANIFEST
from recpolicy.inference.feature_artifact import (
    ARRAYS,
    FEATURES,
    FORMAT_VERSION,
    LEARNED,
    is_feature_policy,
    read_feature_policy,
    write_feature_policy,
)
from recpolicy.inference.predictor import load_policy
from recpolicy.registry.artifact_kinds import check_answers, manifest_digest, read_manifest, verify


@pytest.fixture
def policies():
    return {name: trained_case(name) for name in ("squarecb", "lints")}


@pytest.fixture
def folder(policies, tmp_path):
    write_feature_policy(policies["squarecb"], tmp_path / "policy")
    return tmp_path / "policy"


def change_manifest(folder, **words):
    """Change words of the manifest, with digests that fit."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    manifest |= words
    manifest["files"] = {name: file_digest(folder / name) for name in manifest["files"]}
    path.write_text(json.dumps(manifest))


def change_arrays(folder, **arrays):
    """Replace arrays, with a digest of the file that fits; None removes one."""
    with np.load(folder / ARRAYS) as stored:
        kept = {name: array for name, array in {**stored, **arrays}.items() if array is not None}
    np.savez(folder / ARRAYS, **kept)
    change_manifest(folder)


@pytest.mark.parametrize("case", CASES)
def test_a_policy_is_read_back_as_it_was(tmp_path, case):
    policy, log = trained_case(case), tiny_log(80, seed=2)
    write_feature_policy(policy, tmp_path / "policy")
    again = read_feature_policy(tmp_path / "policy")
    np.testing.assert_array_equal(again.probabilities_of(log), policy.probabilities_of(log))
    np.testing.assert_array_equal(again.learned_events, policy.learned_events)
    for name in (
        "agent",
        "head",
        "settings",
        "uniform_mix",
        "reward_range",
        "reward_std",
        "importance",
        "policy_digest",
    ):
        assert getattr(again, name) == getattr(policy, name), name
    assert again.metadata["policy_digest"] == policy.policy_digest
    if policy.learns_online:
        later = tiny_log(60, seed=8, name="later")
        assert again.updated(later).policy_digest == policy.updated(later).policy_digest


def test_the_kind_is_known_by_the_manifest(folder, tmp_path):
    assert is_feature_policy(folder)
    assert not is_feature_policy(tmp_path)
    assert read_manifest(folder)["agent"] == "squarecb"
    verify(folder)
    check_answers(folder)
    digest = manifest_digest(folder)
    change_manifest(folder, agent="another")
    assert manifest_digest(folder) != digest
    with pytest.raises(
        ArtifactError, match=r"holds a recpolicy feature policy, not a recpolicy policy; `recpolicy rank`"
    ):
        load_policy(folder)


def test_writing_replaces_a_folder_whole(folder, policies):
    write_feature_policy(policies["lints"], folder)
    assert read_feature_policy(folder).agent == "lints"
    assert {path.name for path in folder.iterdir()} == {MANIFEST, ARRAYS, FEATURES, LEARNED}


def test_a_diverged_policy_leaves_no_file(policies, tmp_path):
    policy = policies["squarecb"]
    broken = replace(policy, model=replace(policy.model, moment=policy.model.moment * np.nan))
    with pytest.raises(ArtifactError, match="moment holds numbers that are not finite"):
        write_feature_policy(broken, tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [ARRAYS, FEATURES, LEARNED, MANIFEST])
@pytest.mark.parametrize("change", ["cut", "flip", "remove"])
def test_a_damaged_file_is_named(folder, name, change):
    path = folder / name
    content = path.read_bytes()
    if change == "remove":
        path.unlink()
    elif change == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    with pytest.raises(ArtifactError) as caught:
        read_feature_policy(folder)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


WORDS = [
    ({"version": FORMAT_VERSION + 1}, "format version 2, but this recpolicy reads 1"),
    ({"agent": "x" * 65}, "agent"),
    ({"model": "forest"}, "no model named 'forest'"),
    ({"head": "argmax"}, "no head named 'argmax'"),
    ({"settings": {"gamma": float("nan")}}, "gamma is nan; expected a finite number"),
    ({"settings": {"gamma": "large"}}, "gamma is 'large'; expected a finite number"),
    ({"settings": {"gamma": 1.0}}, "the policy's digest in recpolicy.json is not that of the arrays"),
    ({"uniform_mix": 2}, "uniform_mix is 2; expected 0 to 1"),
    ({"reward_range": [1, 0]}, "reward_range is 1 to 0; expected two rising numbers"),
    ({"reward_std": 0}, "reward_std is 0; expected a number above 0"),
    ({"importance": {"max_weight": 20}}, "mean is None; expected a number above 0"),
    ({"importance": None}, "max_weight is None; expected a number above 0"),
    ({"model_settings": {"precision": [1]}}, r"model_settings: precision is \[1\]; expected a number"),
    ({"model_settings": {}}, "model_settings: lacks interactions, or has a name that a model bilinear does not have"),
    ({"model_settings": {"interactions": True, "x": 1}}, "model_settings: lacks precision, or has a name"),
    ({"metadata": []}, "metadata"),
    ({"metadata": {"policy_digest": "0"}}, "the policy's digest in recpolicy.json is not that of the arrays"),
    ({"files": {}}, "files: expected a digest for each"),
]


@pytest.mark.parametrize(("words", "message"), WORDS)
def test_a_manifest_that_no_training_writes_is_refused(folder, words, message):
    if "files" in words:
        path = folder / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text()) | words))
    else:
        change_manifest(folder, **words)
    with pytest.raises(ArtifactError, match=message) as caught:
        read_feature_policy(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ["squarecb hashed", "linucb_hybrid", "eps_greedy", "neural_linucb"])
def test_every_array_is_needed_and_has_one_shape(tmp_path, case):
    policy = trained_case(case)
    for name, array in policy.model.arrays.items():
        folder = tmp_path / name
        write_feature_policy(policy, folder)
        change_arrays(folder, **{name: array[:-1]} if array.ndim and len(array) else {name: np.zeros(9)})
        with pytest.raises(ArtifactError) as caught:
            read_feature_policy(folder)
        assert str(folder) in str(caught.value)
        change_arrays(folder, **{name: None})
        with pytest.raises(ArtifactError):
            read_feature_policy(folder)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"gram": None}, "gram: missing; expected floats"),
        ({"moment": np.zeros((2, 2))}, r"moment: float64 \[2, 2\]; expected floats"),
        ({"moment": np.zeros((6, 8), np.int64)}, "moment: int64"),
        ({"gram": np.full((21, 36), np.inf)}, "gram holds numbers that are not finite"),
        ({"gram": np.full((21, 36), -1.0)}, "policy"),  # no Gram matrix: its digest differs, if nothing else
        ({"more": np.zeros(3)}, "arrays.npz holds more, which is no array of a model bilinear"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(folder, arrays, message):
    with np.load(folder / ARRAYS) as stored:
        shapes = {name: stored[name].shape for name in stored}
    arrays = {name: None if array is None else np.resize(array, shapes[name]) if name == "gram" else array
              for name, array in arrays.items()}  # fmt: skip
    change_arrays(folder, **arrays)
    with pytest.raises(ArtifactError, match=message):
        read_feature_policy(folder)


def rewrite(folder, policy):
    """Put a policy into the folder of another without the checks of the writer."""
    change_arrays(folder, **policy.model.arrays)
    metadata = {**policy.metadata, "policy_digest": policy.policy_digest}
    change_manifest(folder, metadata=metadata, settings=policy.settings)


def test_a_policy_that_cannot_answer_is_refused_even_with_a_digest_that_fits(policies, folder):
    policy = policies["squarecb"]
    gram = np.zeros_like(policy.model.gram)
    gram[0, 0] = -policy.model.precision
    rewrite(folder, replace(policy, model=replace(policy.model, gram=gram)))
    with pytest.raises(ArtifactError, match="the policy cannot answer: LinAlgError: Singular matrix: train it again"):
        read_feature_policy(folder)
    rewrite(folder, replace(policy, settings={}))
    with pytest.raises(ArtifactError, match="the policy cannot answer: KeyError: 'gamma': train it again"):
        read_feature_policy(folder)
    rewrite(folder, replace(policy, settings={"gamma": -50.0}))
    with pytest.raises(ArtifactError, match=r"probabilities do not add up to 1|not finite"):
        read_feature_policy(folder)


def test_an_encoder_of_another_schema_is_refused(folder, policies, tmp_path):
    other = tiny_policy("squarecb", schema=None)
    write_feature_policy(other, tmp_path / "other")
    encoder = json.loads((folder / FEATURES).read_text())
    del encoder["encoder"]["schema"]["context"]["member"]
    encoder["encoder"]["context"].pop("member", None)
    (folder / FEATURES).write_text(json.dumps(encoder))
    change_manifest(folder)
    with pytest.raises(ArtifactError, match=r"gram: float64 \[.*\]; expected floats"):
        read_feature_policy(folder)


def test_an_answer_of_a_read_policy_needs_no_training(folder):
    policy = read_feature_policy(folder)
    ranking = policy.rank({"hour": 1.0, "device": "desk"}, tiny_actions(), ["a1"], 7)
    assert ranking.probability[1] == 0
