"""Train a feature policy from a log of rounds with features, and write its artifact."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ConfigError
from recpolicy.core.hashes import Hashes
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.features.schema import ACTION_ID, PARTS, FeatureSchema, unused_names
from recpolicy.data.learned_events import merge
from recpolicy.data.reward_signals import RewardConfig
from recpolicy.inference.feature_artifact import read_feature_policy, write_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.registry.artifact_kinds import verify
from recpolicy.workflows.artifacts import LEARNED_EVENTS, check_absent, parent_record
from recpolicy.workflows.initial_policy import INIT_FROM, policy_folder
from recpolicy.workflows.training_data import coerce

_NETWORK_SETTINGS = ("layers", "normalization", "encoding_dim")
_PACKAGES = ("recpolicy", "numpy", "tensorflow", "tf-keras")


def train_feature_policy(
    log: FeatureLog,
    schema: FeatureSchema | None,
    agent: str,
    out: str | Path,
    *,
    config: Any = None,
    agent_config: Any = None,
    reward: RewardConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    learned_before: Hashes | None = None,
    init_from: str | Path | None = None,
) -> FeaturePolicy:
    """Train an agent on logged rounds with features and write the policy to the folder `out`.

    All rounds of the log are the training part: the encoder is fitted on them, and their hashes are in the artifact.
    Rounds without a reward are left out.

    Args:
        log: The rounds.
        schema: The features that the policy sees; None takes those of `init_from`.
        agent: A name in recpolicy.training.feature_agents.FEATURE_AGENTS, such as squarecb.
        out: The folder to write; it must not exist.
        config: A FeatureTrainConfig or its settings.
        agent_config: The agent's config or its settings.
        reward: The table `[reward]`: its bounds, clip and normalize apply to the log's rewards.
        seed: Seed of initial weights and of the order of rounds.
        metadata: Further metadata of the artifact; they replace others of the same name.
        learned_before: Hashes of other events on which the rewards of the log rest, ascending.
        init_from: The folder of a policy with a network to start from, or of a registry: then its champion.

    Returns:
        The trained policy, as read from `out`.

    Raises:
        ConfigError: An agent or a setting is unknown or out of range, or the model is too large.
        DataError: The log has no rewards, lacks a feature or has a value of another type.
        ArtifactError: `out` exists.
        DivergedError: A number of the training is not finite or absurdly large.
    """
    require_extra("train", "training")
    check_absent(Path(out))
    silence_libraries()
    from recpolicy.models.feature_agent_configs import FeatureTrainConfig
    from recpolicy.training.feature_agents import feature_agent
    from recpolicy.training.feature_training import learn_feature_policy

    initial = None if init_from is None else read_initial_features(init_from)
    settings = coerce(FeatureTrainConfig, config, "train")
    if initial is not None:
        agent_config = _with_network_of(initial, agent, agent_config)
    agent_settings = coerce(feature_agent(agent).config, agent_config, agent)
    if schema is None:
        if initial is None:
            raise ConfigError(f"{log.name}: no features are named; give a schema")
        schema = initial.encoder.schema
    rewards = None if reward is None else coerce(RewardConfig, reward, "reward")
    log = log if rewards is None else _with_rewards(log, rewards)
    try:
        learned = learn_feature_policy(
            log, schema, agent, agent_settings, settings, normalize=rewards is not None and rewards.normalize,
            seed=seed, initial=initial,
        )  # fmt: skip
    except ConfigError as error:
        raise error if initial is None else ConfigError(f"--init-from {init_from}: {error}") from None
    rounds = int(log.has_reward.sum())
    if learned_before is not None:
        learned = replace(learned, learned_events=merge(learned.learned_events, learned_before))
    full_metadata = {
        **learned.metadata,
        "data": log.name,
        "log": log.digest,
        LEARNED_EVENTS: rounds,
        "config": {
            "train": as_dict(settings),
            "agent": as_dict(agent_settings),
            **({} if rewards is None else {"reward": as_dict(rewards)}),
        },
        "seed": seed,
        "versions": _versions(),
        "ignored_features": ignored_features(schema, log),
        **({} if initial is None else _lineage(initial)),
        **(metadata or {}),
    }
    write_feature_policy(replace(learned, metadata=full_metadata), Path(out))
    return read_feature_policy(out)


def read_initial_features(source: str | Path) -> FeaturePolicy:
    """Return the feature policy in a folder, or the champion of a registry.

    Raises:
        ArtifactError: It is missing, damaged, or a policy of items.
    """
    folder = policy_folder(source)
    verify(folder)
    return read_feature_policy(folder)


def _with_network_of(initial: FeaturePolicy, agent: str, config: Any) -> Any:
    """Return the agent's settings; those of the network that are not given come from the policy."""
    from recpolicy.training.feature_agents import feature_agent

    if config is not None and not isinstance(config, Mapping):
        return config
    theirs = initial.metadata.get("config", {}).get("agent", {})
    ours = as_dict(feature_agent(agent).config())
    network = {name: theirs[name] for name in _NETWORK_SETTINGS if name in theirs and name in ours}
    if network.get("normalization") == "batch":
        network["normalization"] = "none"  # it is a part of the exported kernels
    if agent == "squarecb":  # its default model has no network
        network["model"] = "neural"
    return {**network, **(config or {})}


def _lineage(initial: FeaturePolicy) -> dict[str, Any]:
    """Return the metadata of a training that started from a policy: it, and it with its ancestors as parents."""
    old = initial.metadata
    parent = parent_record(old, initial.policy_digest)
    origin = {"agent": initial.agent, "policy_digest": initial.policy_digest}
    return {INIT_FROM: origin, "parents": [*old.get("parents", []), parent]}


def ignored_features(schema: FeatureSchema, log: FeatureLog) -> dict[str, list[str]]:
    """Return the names of the log's features of each part that the schema does not use."""
    columns = {"context": log.context, "action": log.actions}
    unused = {part: unused_names(columns[part], schema.part(part)) for part in PARTS}
    return {part: [name for name in names if name != ACTION_ID] for part, names in unused.items()}


def _with_rewards(log: FeatureLog, config: RewardConfig) -> FeatureLog:
    """Return the log with clipped rewards and the bounds of the config."""
    reward = log.reward if config.clip is None else np.clip(log.reward, *config.clip)
    bounds = config.reward_range or log.reward_range
    if bounds is not None:
        known = reward[np.isfinite(reward)]
        if len(known) and not bounds[0] <= known.min() <= known.max() <= bounds[1]:
            raise ConfigError(
                f"{log.name}: rewards are {known.min():g} to {known.max():g}, but [reward] says {bounds[0]:g} to"
                f" {bounds[1]:g}: change min_reward and max_reward, or set clip"
            )
    return replace(log, reward=reward, reward_range=bounds)


def _versions() -> dict[str, str]:
    """Return the versions of the packages that a training uses."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
