"""From a trained agent to its artifact: the note of where it comes from, the folder of an unfinished training."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import atomic_directory, content_digest, write_json
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import Split
from recpolicy.inference.artifact import Artifact, write_arrays, write_manifest
from recpolicy.inference.reward_estimators import pack_symmetric
from recpolicy.models.rating_model import RatingModel
from recpolicy.workflows.training_features import FeatureConfig, Features

if TYPE_CHECKING:
    from recpolicy.agents.learner import BanditAgent, ExportedPolicy
    from recpolicy.agents.sequence import SequenceAgent

logger = logging.getLogger(__name__)

LOG_UNTIL = "log_until"
"""In `about`: up to when (milliseconds since 1970) a log that grows has been learnt."""


def build_metadata(split: Split, settings: FeatureConfig, agent: Any, model: RatingModel, seed: int) -> dict[str, Any]:
    """Where a policy comes from: data, split and digests, config, seed, versions."""
    packages = ("recpolicy", "numpy", "pandas", "tensorflow", "tf-agents", "tf-keras", "myfm", "scikit-learn")
    return {
        "data": split.train.name,
        "split": {"name": split.name, "seed": split.seed, "train": split.train.digest, "test": split.test.digest},
        "config": {"train": as_dict(settings), "agent": as_dict(agent), "rating_model": model.config},
        "rating_model": {"name": model.name, "seed": model.seed},
        "seed": seed,
        "versions": {name: version(name) for name in packages},
    }


def learned_from(log: BanditLog) -> dict[str, Any]:
    """What `about` says of the rounds that were learnt from.

    That is their digest, that of pages whose slots they are, and of a log that grows the time of the last of them.
    """
    pages = {} if log.pages is None else {"pages": log.pages}
    until = {} if log.exporter is None else {LOG_UNTIL: int(log.time[-1])}
    return {"log": log.digest, **pages, **until}


def refuse_existing(out: Path) -> None:
    """Raise ArtifactError when there is something at `out` already."""
    if out.exists():
        raise ArtifactError(f"{out}: exists already; choose another folder or remove it first")


def refuse_file(out: Path) -> None:
    """Raise ArtifactError where files cannot be put into the folder `out`, for it or a folder above it is a file."""
    above = next(one for one in (out.absolute(), *out.absolute().parents) if one.exists())
    if not above.is_dir():
        raise ArtifactError(f"{above}: is a file; expected a folder, which is made where there is none")


def work_folder(out: Path, metadata: dict[str, Any]) -> Path:
    """The folder beside `out` that holds an unfinished training; raises ArtifactError if it is of another training."""
    work = out.with_name(f"{out.name}.training")
    note = work / "metadata.json"
    if note.exists():
        if json.loads(note.read_text(encoding="utf-8")) != json.loads(json.dumps(metadata)):
            raise ArtifactError(
                f"{work}: an unfinished training with other settings or data; finish it with the same settings, or"
                " remove the folder"
            )
        logger.info("taking up the unfinished training in %s", work)
    else:
        write_json(note, metadata)
    return work


def artifact_of(
    name: str,
    exported: "ExportedPolicy",
    fit: Ratings,
    features: Features,
    metadata: dict[str, Any],
    uniform_mix: float = 0.0,
) -> Artifact:
    """The trained policy with all that predicting needs; `uniform_mix` is the share of uniform actions."""
    untrained = Artifact(
        agent=name,
        estimator=exported.estimator,
        head=exported.head,
        settings=exported.settings,
        uniform_mix=uniform_mix,
        policy={},
        context=features.context,
        item=features.embeddings.item,
        offset=features.embeddings.offset,
        rating_std=features.model.std,
        catalogue=features.catalogue,
        rated_user=fit.user,
        rated_item=fit.item,
        users=fit.users,
        items=fit.items,
        scale=fit.scale,
        noise_std=float(features.model.noise_std),
        metadata=metadata,
    )
    return with_policy(untrained, exported, metadata)


def with_policy(artifact: Artifact, exported: "ExportedPolicy", metadata: Mapping[str, Any]) -> Artifact:
    """The artifact with another learner in it; its content digest is added to `about`."""
    arrays = dict(exported.arrays)
    if "covariance" in arrays and arrays["covariance"].ndim == 3:
        arrays["covariance"] = pack_symmetric(arrays["covariance"])
    # The head as well: neural_linucb acts by another one once its network is frozen.
    made = replace(
        artifact, estimator=exported.estimator, head=exported.head, settings=exported.settings, policy=arrays
    )
    return replace(made, metadata={**metadata, "content": policy_digest(made)})


def policy_digest(artifact: Artifact) -> str:
    """SHA-256 of all that decides what the policy does: equal for two policies that cannot be told apart."""
    return content_digest(
        artifact.agent, artifact.estimator, artifact.head, dict(artifact.settings), artifact.uniform_mix,
        *(artifact.policy[key] for key in sorted(artifact.policy)), artifact.context, artifact.item, artifact.offset,
        artifact.catalogue,
    )  # fmt: skip


def write_artifact(artifact: Artifact, agent: "BanditAgent | SequenceAgent", width: int, work: Path, out: Path) -> None:
    """Write the artifact folder `out`, whole or not at all, and remove the work folder; see write_saved_models."""
    from recpolicy.training.checkpoints import write_learner
    from recpolicy.training.tensorflow_export import write_saved_models
    from recpolicy.training.trainer import METRICS_FILE, TENSORBOARD_FOLDER

    with atomic_directory(out) as folder:
        write_arrays(artifact, folder)
        write_saved_models(agent, width, folder)
        write_learner(agent, folder)
        if (work / METRICS_FILE).exists():
            shutil.copy(work / METRICS_FILE, folder / METRICS_FILE)
            shutil.copytree(work / TENSORBOARD_FOLDER, folder / TENSORBOARD_FOLDER)
        write_manifest(artifact, folder)
    shutil.rmtree(work)
