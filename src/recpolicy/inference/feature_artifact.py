"""Read and write the artifact of a feature policy.

    recpolicy.json     format, agent, model, head, settings, rewards, lineage, digests of the files below
    features.json      the fitted encoder: schema, means, vocabularies
    arrays.npz         arrays of the reward model (no pickle)
    learned_events.npy hashes of the logged events that it, or an ancestor, learned from (data/learned_events.py)

The folder appears complete or not at all. A truncated, changed or foreign one raises ArtifactError. A policy is used
only after it has answered requests of its own making: no number of its arrays may make an answer that is not finite.
Reading needs neither pandas nor pyarrow.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.arrays import read_arrays
from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import atomic_directory, read_versioned_json, write_text
from recpolicy.core.hashes import Hashes, read_hashes, write_hashes
from recpolicy.data.features.encoder import FeatureEncoder
from recpolicy.inference import artifact_checks as checks
from recpolicy.inference.action_distributions import HEADS
from recpolicy.inference.artifact_files import (
    FEATURE_POLICY,
    ArtifactFormat,
    artifact_errors,
    check_digests,
    check_policy_digest,
    format_name,
    read_manifest_file,
    write_manifest_file,
)
from recpolicy.inference.feature_policy import FeaturePolicy, ImportanceWeights
from recpolicy.inference.rank_request import Action, draw
from recpolicy.inference.self_test import answer_errors
from recpolicy.models.reward_model import Pairs
from recpolicy.models.reward_models import REWARD_MODELS

FORMAT, FORMAT_VERSION = FEATURE_POLICY, 1
ENCODER_FORMAT, ENCODER_VERSION = "recpolicy feature encoder", 1
ARRAYS, FEATURES, LEARNED = "arrays.npz", "features.json", "learned_events.npy"
_MAX_ENCODER_BYTES = 64 << 20
_WORDS = (
    "agent", "model", "model_settings", "head", "settings", "uniform_mix", "reward_range", "reward_std", "importance",
    "metadata",
)  # fmt: skip
_KIND = ArtifactFormat(FORMAT, FORMAT_VERSION, _WORDS)


def is_feature_policy(folder: Path) -> bool:
    """Return True if the folder holds the artifact of a feature policy, whole or damaged."""
    try:
        return format_name(folder) == FORMAT
    except ArtifactError:
        return False


def write_feature_policy(policy: FeaturePolicy, folder: Path) -> None:
    """Write the artifact, which replaces a former one in `folder`.

    Raises ArtifactError for a policy that could not be read again, such as one that diverged; nothing is written then.
    """
    words = {
        "agent": policy.agent,
        "model": policy.model.name,
        "model_settings": dict(policy.model.settings),
        "head": policy.head,
        "settings": dict(policy.settings),
        "uniform_mix": policy.uniform_mix,
        "reward_range": None if policy.reward_range is None else list(policy.reward_range),
        "reward_std": policy.reward_std,
        "importance": {"max_weight": policy.importance.max_weight, "mean": policy.importance.mean},
        "metadata": {**policy.metadata, "policy_digest": policy.policy_digest},
    }
    with artifact_errors(folder):
        plain = json.loads(json.dumps(words))
        checks.check_metadata(plain["metadata"])
        encoder = json.loads(json.dumps(policy.encoder.as_dict(), allow_nan=False))
        arrays: dict[str, Any] = {name: np.asarray(array) for name, array in policy.model.arrays.items()}
        self_test(_policy(plain, FeatureEncoder.from_dict(encoder), arrays, policy.learned_events))
    with atomic_directory(folder) as temporary:
        header = {"format": ENCODER_FORMAT, "version": ENCODER_VERSION}
        # Unsorted: the order of the features is that of the columns.
        write_text(temporary / FEATURES, json.dumps({**header, "encoder": encoder}, indent=1) + "\n")
        np.savez(temporary / ARRAYS, **arrays)
        write_hashes(temporary / LEARNED, policy.learned_events)
        write_manifest_file(temporary, _KIND, plain)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the checked manifest; raise ArtifactError for a folder that is no artifact of a feature policy."""
    return read_manifest_file(folder, _KIND)


def read_feature_policy(folder: str | Path) -> FeaturePolicy:
    """Read a feature policy and let it answer once; raise ArtifactError for one that is damaged or foreign."""
    folder = Path(folder)
    with artifact_errors(folder):
        manifest = read_manifest(folder)
        check_digests(folder, manifest, (ARRAYS, FEATURES, LEARNED))
        with artifact_errors(folder / FEATURES):
            stored = read_versioned_json(
                folder / FEATURES, ENCODER_FORMAT, ENCODER_VERSION, max_bytes=_MAX_ENCODER_BYTES
            )
            encoder = FeatureEncoder.from_dict(stored["encoder"])
        with artifact_errors(folder / ARRAYS):
            arrays = read_arrays(folder / ARRAYS)
        policy = _policy(manifest, encoder, arrays, read_hashes(folder / LEARNED))
        check_policy_digest(manifest["metadata"], policy.policy_digest)
        self_test(policy)
        return policy


def _policy(
    words: Mapping[str, Any], encoder: FeatureEncoder, arrays: Mapping[str, Any], learned_events: Hashes
) -> FeaturePolicy:
    """Return the policy of a manifest and its files, after a check of all their values."""
    checks.check_policy_words(words, {"model": REWARD_MODELS, "head": HEADS})
    _check_model_settings(words["model_settings"])
    if words["reward_range"] is not None:
        checks.check_range("reward_range", words["reward_range"])
    importance = words["importance"] if isinstance(words["importance"], dict) else {}
    positive = {"reward_std": words["reward_std"], **{name: importance.get(name) for name in ("max_weight", "mean")}}
    for name, value in positive.items():
        if not checks.is_number(value) or value <= 0:
            raise ArtifactError(f"{name} is {str(value)[:80]}; expected a number above 0: train it again")
    checks.check_numbers(arrays)
    width = len(encoder.context_names), len(encoder.action_names)
    settings = words["model_settings"]
    try:
        model = REWARD_MODELS[words["model"]].from_arrays(arrays, settings, width)
    except (KeyError, TypeError) as error:
        name = error.args[0] if isinstance(error, KeyError) else "a name"
        raise ArtifactError(
            f"model_settings: lacks {name}, or has a name that a model {words['model']} does not have: train it again"
        ) from None
    unknown = sorted(set(arrays) - set(model.arrays))
    if unknown:
        raise ArtifactError(f"{ARRAYS} holds {unknown[0]}, which is no array of a model {words['model']}")
    return FeaturePolicy(
        encoder=encoder,
        model=model,
        agent=words["agent"],
        head=words["head"],
        settings=words["settings"],
        uniform_mix=words["uniform_mix"],
        reward_range=None if words["reward_range"] is None else tuple(words["reward_range"]),
        reward_std=words["reward_std"],
        importance=ImportanceWeights(importance["max_weight"], importance["mean"]),
        metadata=words["metadata"],
        learned_events=learned_events,
    )


def _check_model_settings(settings: Any) -> None:
    """Check that settings are finite numbers, true or false, or the list of action ids."""
    checks.check_plain("model_settings", settings)
    for name, value in settings.items():
        if name == "action_ids" and isinstance(value, list):
            checks.check_ids(name, value)
        elif not isinstance(value, bool) and not checks.is_number(value):
            raise ArtifactError(f"model_settings: {name} is {str(value)[:80]}; expected a number: train it again")


def self_test(policy: FeaturePolicy) -> None:
    """Rank made-up actions; raise ArtifactError unless all answers are finite and probabilities add up to 1."""
    with answer_errors():
        _check_answers(policy)


def _check_answers(policy: FeaturePolicy) -> None:
    known = list(policy.model.settings.get("action_ids", ()))[:1]
    ids: list[str | int] = [*known, *(name for name in ("a new action", "another") if name not in known)]
    actions: list[Action] = [(identifier, {}) for identifier in ids]
    for excluded in ((), ids[:1]):
        probability, score = policy.probabilities({}, actions, excluded)
        _check(probability, score)
        if excluded and probability[0] != 0:
            raise ArtifactError("the policy gives an excluded action a probability: train it again")
        draw(probability, 0)
    if not policy.model.sparse:
        context, columns = len(policy.encoder.context_names), len(policy.encoder.action_names)
        identifiers, rows = np.array(ids, object), np.arange(len(ids))
        action = np.linspace(-1, 1, len(ids))[:, np.newaxis] * np.ones(columns)
        pairs = Pairs(np.ones((1, context)), action, identifiers, np.zeros_like(rows), rows)
        _check(*policy.answer(pairs, np.ones(len(ids), bool)))


def _check(probability: Any, score: Any) -> None:
    for name, values in (("probability", probability), ("score", score)):
        if not np.isfinite(values).all():
            raise ArtifactError(f"the policy answers with a {name} that is not finite: train it again")
    if probability.min() < 0 or abs(float(probability.sum()) - 1) > 1e-6:
        raise ArtifactError("the policy's probabilities do not add up to 1: train it again")
