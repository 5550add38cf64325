"""Continue the training of a feature policy on new logged rounds."""

from dataclasses import replace
from pathlib import Path

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.learned_events import is_learned
from recpolicy.data.reward_signals import summarize_rewards
from recpolicy.inference.feature_artifact import read_feature_policy, write_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.registry.artifact_kinds import verify
from recpolicy.workflows.artifacts import LEARNED_EVENTS, check_absent, parent_record, unlearned_rounds


def retrain_features(incumbent: str | Path, log: FeatureLog, out: str | Path) -> FeaturePolicy:
    """Let a policy learn the rewarded rounds of a log and write the new policy to the folder `out`.

    Rounds that the policy or an ancestor has learned are skipped. The new artifact keeps the encoder and the hashes of
    all events that the policy and its ancestors learned from; its metadata name the parents.

    Args:
        incumbent: The folder of the policy to continue from.
        log: The rounds to learn from.
        out: The folder to write; it must not exist.

    Returns:
        The new policy, as read from `out`.

    Raises:
        ArtifactError: The incumbent is damaged, or `out` exists.
        ConfigError: The policy's model does not learn from further rounds.
        DataError: The policy has learned all rounds already, or the log lacks features or rewards.
    """
    incumbent, out = Path(incumbent), Path(out)
    check_absent(out)
    verify(incumbent)
    old = read_feature_policy(incumbent)
    if not old.learns_online:
        raise ConfigError(
            f"{old.agent} with the model {old.model.name} does not learn from further rounds; train a new policy on all"
            " rounds (recpolicy train --log)"
        )
    if not log.has_reward.any():
        raise DataError(f"{log.name}: no round has a reward; ingest the log first")
    log = unlearned_rounds(log, is_learned(log, old.learned_events))
    if not log.has_reward.any():
        raise DataError(f"{log.name}: none of its {len(log):,} new rounds has a reward yet")
    new = old.updated(log)
    parent = parent_record(old.metadata, old.policy_digest)
    summary = summarize_rewards(log.reward, log.reward_range)
    figures = {
        "mode": "log", "rewards": old.metadata.get("training", {}).get("rewards"), "rows": summary.known,
        **summary.as_dict(),
    }  # fmt: skip
    metadata = {
        **old.metadata, "data": log.name, "log": log.digest, LEARNED_EVENTS: len(log), "training": figures,
        "parents": [*old.metadata.get("parents", []), parent],
    }  # fmt: skip
    write_feature_policy(replace(new, metadata=metadata), out)
    return read_feature_policy(out)
