"""The file of a candidate's evaluation, which the gate reads; older versions are read with the names of today."""

from pathlib import Path
from typing import Any

from recpolicy.core.files import read_versioned_json, rename_keys, write_json
from recpolicy.core.json import to_plain
from recpolicy.workflows.candidate_evaluation import CandidateEvaluation
from recpolicy.workflows.feature_estimation import FeatureEvaluation

FORMAT, FORMAT_VERSION = "recpolicy evaluation", 5


def write_candidate_evaluation(evaluation: CandidateEvaluation | FeatureEvaluation, path: Path) -> None:
    """Write the evaluation as JSON; `reports.write_evaluation_page` writes the page.

    Args:
        evaluation: The evaluation.
        path: File to write.
    """
    body = to_plain(evaluation.as_dict(), keep_infinity=True)  # limits of an unknown error
    write_json(path, {"format": FORMAT, "version": FORMAT_VERSION, **body})


def read_candidate_evaluation(path: Path) -> dict[str, Any]:
    """Read an evaluation that `write_candidate_evaluation` wrote.

    Args:
        path: The file.

    Returns:
        Its content, with the names of the current version.

    Raises:
        ArtifactError: The file is missing or not an evaluation.
    """
    migrations = {1: _from_version_1, 2: _from_version_2, 3: _from_version_3, 4: _from_version_4}
    return read_versioned_json(path, FORMAT, FORMAT_VERSION, migrations, former_format="recpolicy judgement")


def _from_version_1(body: dict[str, Any]) -> dict[str, Any]:
    """Return the content with the names of version 2."""
    renamed = {
        "judge_regret": "evaluation_regret",
        "against": "baseline",
        "effective_rounds": "effective_sample_size",
        "weight_off": "mean_weight_z",
        "largest_weight": "max_weight",
        "share_tamed": "share_clipped",
    }
    body = {**rename_keys(body, renamed, nested=True), "format": FORMAT}
    choices = {"held_out": "held_out_choice", "choice": "held_out_choice", "place": "normalized_choice"}
    parts = {"held_out": choices, "off_policy": {"choice": "tuning"}}
    return {**body, **{key: rename_keys(body[key], names, nested=True) for key, names in parts.items() if key in body}}


def _from_version_2(body: dict[str, Any]) -> dict[str, Any]:
    policy = rename_keys(body["policy"], {"content": "policy_digest"})
    return {**body, "policy": policy, "inputs": rename_keys(body.get("inputs", {}), {"fit": "train"})}


def _from_version_3(body: dict[str, Any]) -> dict[str, Any]:
    """Return the content with gains by kind of interval; version 3 has one kind and no tail index."""
    if "off_policy" not in body:
        return body
    gains = {name: {"t": body["off_policy"].get(name)} for name in ("gain", "relative_gain")}
    return {**body, "off_policy": {**body["off_policy"], **gains}}


def _from_version_4(body: dict[str, Any]) -> dict[str, Any]:
    if "held_out" not in body:
        return body
    return {**body, "held_out": rename_keys(body["held_out"], {"fit_digest": "train_digest"})}
