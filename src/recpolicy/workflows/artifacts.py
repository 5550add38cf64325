"""Build and write policy artifacts: metadata and lineage, the folder of an unfinished training, the files."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.core.files import atomic_directory, write_json
from recpolicy.core.hashes import Hashes, count_matches
from recpolicy.core.types import Bools
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.learned_events import file_events, log_events, merge, min_matches
from recpolicy.data.log_ingest import RATINGS, TRAINING
from recpolicy.data.ratings import Ratings, genre_directions
from recpolicy.data.session_log import SessionLog
from recpolicy.data.slate_log import SlateLog
from recpolicy.data.splits import Split
from recpolicy.inference.artifact import Artifact, policy_digest, write_arrays, write_manifest
from recpolicy.inference.artifact_files import unfinished
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.inference.predictor import Policy
from recpolicy.inference.reward_estimators import pack_symmetric
from recpolicy.models.embeddings import item_std
from recpolicy.models.rating_model import RatingModel
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.workflows.training_data import FeatureConfig, Features

if TYPE_CHECKING:
    from recpolicy.agents.learner import BanditAgent, ExportedPolicy
    from recpolicy.agents.sequence import SessionAgent

logger = logging.getLogger(__name__)

Log = TypeVar("Log", BanditLog, FeatureLog)

LEARNED_EVENTS = "learned_events"
"""Key in the metadata, and in those of parents: rounds or steps of the log, whose hashes the artifact has. An artifact
without the key was written before there were hashes: only the digest of its log is known."""
ATTRIBUTES = "attributes"
"""Key in the metadata: the encoder of attributes of users and items."""
LOG_UNTIL = "log_until"
"""Key in the metadata: time of the last learned round of a growing log, in milliseconds since 1970."""


def parent_record(metadata: Mapping[str, Any], digest: str | None = None) -> dict[str, Any]:
    """Return what the metadata of a new policy say of the one that it comes from: digests, and the events it learned.

    Args:
        metadata: The metadata of the older policy.
        digest: Its policy digest, if the metadata do not have it.
    """
    learned = {name: metadata[name] for name in ("slate_digest", LEARNED_EVENTS) if name in metadata}
    return {"policy_digest": digest or metadata["policy_digest"], "log": metadata.get("log"), **learned}


def build_metadata(
    split: Split,
    settings: FeatureConfig,
    agent: Any,
    model: RatingModel,
    seed: int,
    log: BanditLog | SessionLog | SlateLog | None = None,
) -> dict[str, Any]:
    """Return the lineage of a policy: source, data, split and digests, configs, seed, versions, log.

    Args:
        split: The split that the policy is trained on.
        settings: Settings of the training.
        agent: The agent's config.
        model: The rating model behind the features.
        seed: Seed of the training.
        log: The log that the policy learns from.
    """
    packages = ("recpolicy", "numpy", "pandas", "tensorflow", "tf-agents", "tf-keras", "myfm", "scikit-learn")
    return {
        "source": None if split.train.source is None else dict(split.train.source),
        "data": split.train.name,
        "split": {"name": split.name, "seed": split.seed, "train": split.train.digest, "test": split.test.digest},
        "config": {"train": as_dict(settings), "agent": as_dict(agent), "rating_model": model.config},
        "rating_model": {"name": model.name, "seed": model.seed},
        "seed": seed,
        "versions": {name: version(name) for name in packages},
        **({} if log is None else log_lineage(log)),
    }


def log_lineage(log: BanditLog | SessionLog | SlateLog) -> dict[str, Any]:
    """Return the metadata of a log that a policy learns from.

    It has the log's digest and the number of its rounds, steps or slates. Rounds from slates add the digest of the
    slates; a growing log adds the time of its last round (LOG_UNTIL).
    """
    if isinstance(log, SessionLog | SlateLog):
        return {"log": log.digest, LEARNED_EVENTS: len(log)}
    slates = {} if log.slate_digest is None else {"slate_digest": log.slate_digest}
    until = {} if log.exporter is None else {LOG_UNTIL: int(log.time[-1])}
    return {"log": log.digest, LEARNED_EVENTS: len(log), **slates, **until}


def training_events(log: BanditLog | SessionLog | SlateLog | None, source: Mapping[str, Any] | None) -> Hashes:
    """Return the hashes of all events that a training uses: of its log, and of the log behind its table of ratings.

    Args:
        log: The log that the policy learns from, or None.
        source: Arguments of `load_ratings` that read the ratings, or None.
    """
    table = Path(str((source or {}).get("source", "")))
    behind = []
    if table.name == RATINGS and table.with_name(TRAINING).is_file():
        behind.append(file_events(table.with_name(TRAINING)))
    return merge(*([] if log is None else [log_events(log)]), *behind)


def check_not_learned(
    log: BanditLog | SlateLog | SessionLog | FeatureLog, policies: Mapping[str, Policy | FeaturePolicy | StrategyPolicy]
) -> None:
    """Raise DataError if a policy, or one of its ancestors, has learned from an event of the log.

    Args:
        log: The log that is to evaluate the policies.
        policies: The policies by their roles, such as "the policy", for the message.
    """
    events, digest = log_events(log), ""
    slates = isinstance(log, SlateLog) or (isinstance(log, BanditLog) and log.slate_digest is not None)
    unit = "steps" if isinstance(log, SessionLog) else "slates" if slates else "rounds"
    for role, policy in policies.items():
        learned = policy.artifact.learned_events if isinstance(policy, Policy) else policy.learned_events
        matches = count_matches(learned, events)
        if matches >= min_matches(len(learned), len(events)):
            raise DataError(
                f"{log.name}: {role}, or one of its ancestors, has learned from {matches:,} of these {len(events):,}"
                f" {unit}; evaluate it on {unit} that played no part in its training"
            )
        lineage = (policy.metadata, *policy.metadata.get("parents", []))
        logs = {entry.get(key) for entry in lineage if LEARNED_EVENTS not in entry for key in ("log", "slate_digest")}
        if logs - {None}:
            digest = digest or log.digest
            if digest in logs:
                raise DataError(f"{log.name}: {role} has learned from this log; evaluate it on another log")


def unlearned_rounds(log: Log, learned: Bools) -> Log:
    """Return the rounds of a log that grows without those that a policy has learned.

    Args:
        log: The rounds to learn from.
        learned: [N], True for a learned round.

    Raises:
        DataError: No round is left.
    """
    if not learned.any():
        return log
    if learned.all():
        raise DataError(
            f"{log.name}: the policy has learned all of its {len(log)} training rounds already;"
            " later rounds are reserved for evaluation (evaluation_share), or do not exist yet"
        )
    return log.select(np.flatnonzero(~learned), log.name)


def check_absent(out: Path) -> None:
    """Raise ArtifactError if `out` exists."""
    if out.exists():
        raise ArtifactError(f"{out}: already exists; choose another folder or remove it first")


def check_writable_folder(out: Path) -> None:
    """Raise ArtifactError if `out` or a folder above it is a file."""
    nearest = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise ArtifactError(f"{nearest}: is a file; expected a folder or a path that does not exist")


def open_work_folder(out: Path, metadata: dict[str, Any]) -> Path:
    """Return the folder next to `out` for an unfinished training; create it, or check that it has the same metadata.

    Raises:
        ArtifactError: The folder holds an unfinished training with other settings or data, or a damaged one.
    """
    work = unfinished(out)
    path = work / "metadata.json"
    if path.exists():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # JSON or UTF-8 that was cut
            raise ArtifactError(f"{path}: damaged; remove {work} to begin the training again") from None
        if stored != json.loads(json.dumps(metadata)):
            raise ArtifactError(
                f"{work}: an unfinished training with other settings or data; finish it with the same settings, or"
                " remove the folder"
            )
        logger.info("continuing the unfinished training in %s", work)
    else:
        write_json(path, metadata)
    return work


def make_artifact(
    name: str,
    exported: "ExportedPolicy",
    train_ratings: Ratings,
    features: Features,
    metadata: dict[str, Any],
    uniform_mix: float = 0.0,
    learned_events: Hashes | None = None,
) -> Artifact:
    """Return the artifact of a trained policy; `uniform_mix` is the fraction of uniform actions.

    The metadata gets the encoder of attributes, if there is one.
    """
    if features.attributes is not None:
        metadata = {**metadata, ATTRIBUTES: features.attributes.encoder.as_dict()}
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
        action_items=features.action_items,
        rated_user=train_ratings.user,
        rated_item=train_ratings.item,
        users=train_ratings.users,
        items=train_ratings.items,
        scale=train_ratings.scale,
        noise_std=float(features.model.noise_std),
        metadata=metadata,
        rating_mean=None if features.model.linear_mean is None else features.model.mean,
        levels=features.model.levels,
        learned_events=merge() if learned_events is None else learned_events,
    )
    return with_policy(untrained, exported, metadata)


def with_policy(artifact: Artifact, exported: "ExportedPolicy", metadata: Mapping[str, Any]) -> Artifact:
    """Return the artifact with another learner's policy; the metadata gets the digest of the policy."""
    arrays = dict(exported.arrays)
    if "covariance" in arrays and arrays["covariance"].ndim == 3:
        arrays["covariance"] = pack_symmetric(arrays["covariance"])
    # neural_linucb changes its head when its network is frozen.
    changed = replace(
        artifact, estimator=exported.estimator, head=exported.head, settings=exported.settings, policy=arrays
    )
    return replace(changed, metadata={**metadata, "policy_digest": policy_digest(changed)})


def write_artifact(artifact: Artifact, agent: "BanditAgent | SessionAgent", width: int, work: Path, out: Path) -> None:
    """Write the artifact folder `out` atomically and remove the work folder; `width` is the length of observations."""
    from recpolicy.training.checkpoints import write_learner
    from recpolicy.training.snapshots import SNAPSHOTS
    from recpolicy.training.tensorflow_export import write_saved_models
    from recpolicy.training.trainer import METRICS_FILE, TENSORBOARD_FOLDER

    with atomic_directory(out) as folder:
        write_arrays(artifact, folder)
        write_saved_models(agent, width, folder)
        write_learner(agent, folder)
        if (work / METRICS_FILE).exists():
            shutil.copy(work / METRICS_FILE, folder / METRICS_FILE)
            shutil.copytree(work / TENSORBOARD_FOLDER, folder / TENSORBOARD_FOLDER)
        if (work / SNAPSHOTS).exists():
            shutil.copytree(work / SNAPSHOTS, folder / SNAPSHOTS)
        write_manifest(artifact, folder)
    shutil.rmtree(work)


def artifact_item_features(artifact: Artifact) -> Any:
    """Return the features of the catalog; mean ratings are 0, because no learner reads them again."""
    from recpolicy.agents.item_features import ItemFeatures

    action_items, attributes = artifact.action_items, artifact.policy.get("item_attributes")
    count = np.bincount(artifact.rated_item, minlength=len(artifact.items))[action_items]
    return ItemFeatures(
        artifact.item[action_items], artifact.offset[action_items], count.astype(np.float32),
        np.zeros(len(action_items), np.float32), artifact.scale, genre_directions(artifact.items)[action_items],
        None if attributes is None else attributes.astype(np.float32),
        bool(artifact.policy.get("attribute_interactions", False)), artifact.noise_std,
        item_std(artifact.rating_std)[action_items],
    )  # fmt: skip
