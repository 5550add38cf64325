"""The policy that a training starts from (`train --init-from`): it is read, and compared with the training to begin.

Everything that decides what the networks see and score must be equal: ratings, seed, catalog, features, view, layers.
Settings that are not given come from the policy; other ones are an error. All of this needs no TensorFlow.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ConfigError
from recpolicy.core.hashes import Hashes
from recpolicy.data.learned_events import merge
from recpolicy.data.splits import Split
from recpolicy.inference.artifact import REAL_REWARDS, Artifact, read_artifact
from recpolicy.registry.aliases import CHAMPION, STATE
from recpolicy.registry.artifact_kinds import verify
from recpolicy.registry.model_registry import Registry
from recpolicy.workflows.artifacts import parent_record
from recpolicy.workflows.training_data import Features

if TYPE_CHECKING:
    from recpolicy.agents.sequence import SessionAgent

INIT_FROM = "init_from"
"""Key in the metadata: agent and digest of the policy that the training started from."""
KINDS: Mapping[str, tuple[str, ...]] = {
    "session": ("ppo", "a2c", "reinforce", "topk_reinforce", "offpolicy_actor_critic", "behavior_cloning"),
    "session_values": ("dqn",),
    "mlp": ("eps_greedy", "boltzmann", "squarecb"),
    "encoded_linear": ("neural_linucb",),
}
"""Agents with a network by the estimator of their policies; agents of one kind can start from each other's policies."""
_FEATURES = ("items", "rank", "rating_model", "demographics", "features")
_VIEW = ("view", "last_n", "max_episode_steps")
_PARTS = ("tower_layers", "sequence_units", "transformer_layers", "transformer_heads")
NETWORK_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "session": ("layers", "head", "temperature", *_PARTS),
    "session_values": ("layers", "head", "temperature", "value_offset", "dueling", *_PARTS),
    "mlp": ("layers", "head"),
    "encoded_linear": ("layers", "encoding_dim"),
}
"""Settings that all agents of a kind have and that decide about the network, by the estimator."""
_TOLERANCE = 1e-3
"""Largest difference of embeddings that counts as equal, as between two processors."""


@dataclass(frozen=True)
class InitialPolicy:
    """A policy to start from, and the settings of the training with those that were not given."""

    folder: Path
    artifact: Artifact
    train: Any
    """Settings of the training: a config, or a mapping."""
    agent: Any
    """Settings of the agent: a config, or a mapping."""
    rating_model: Any
    """Settings of the rating model."""

    def metadata(self) -> dict[str, Any]:
        """Return the lineage: the policy, and it and its ancestors as parents."""
        old = self.artifact.metadata
        origin = {"agent": self.artifact.agent, "policy_digest": old["policy_digest"]}
        return {INIT_FROM: origin, "parents": [*old.get("parents", []), parent_record(old)]}

    def events(self, learned: Hashes) -> Hashes:
        """Return the hashes of the events that the training or the policy learned from."""
        return merge(self.artifact.learned_events, learned)

    def rewards(self, training: Mapping[str, Any]) -> dict[str, Any]:
        """Return the figures of a training; rewards count as real only if those of the policy were real as well."""
        if training.get("rewards") != REAL_REWARDS or self.artifact.learned_real_rewards:
            return dict(training)
        before = self.artifact.metadata["training"].get("rewards", "unknown")
        return {**training, "rewards": f"{before}, then {training['rewards']}"}

    def check_features(self, features: Features) -> None:
        """Raise ConfigError unless the features are those of the policy."""
        old = self.artifact
        pairs = (
            (old.action_items, features.action_items), (old.item, features.embeddings.item),
            (old.context, features.context),
        )  # fmt: skip
        if all(a.shape == b.shape and np.allclose(a, b, rtol=0, atol=_TOLERANCE) for a, b in pairs):
            return
        raise ConfigError(
            f"--init-from {self.folder}: its embeddings are not those of this training; both need the same rating model"
        )

    def start(self, agent: "SessionAgent | Any", config: Any = None) -> None:
        """Copy the networks of the policy into an agent, and limit its divergence from the policy if its config does.

        `config` is that of a bandit; a session agent has its own. Raises ConfigError for another network.
        """
        try:
            agent.learner.start_from({name: np.asarray(value) for name, value in self.artifact.policy.items()})
        except ConfigError as error:
            raise ConfigError(f"--init-from {self.folder}: {error}") from None
        config = getattr(agent.learner, "config", None) if config is None else config
        coefficient, maximum = (float(getattr(config, name, None) or 0) for name in LIMITS)
        if not coefficient and not maximum:
            return
        if not self.artifact.sequential:
            agent.learner.limit_divergence(config)
        else:
            from recpolicy.agents.reference_policy import ReferencePolicy

            agent.learner.limit_divergence(ReferencePolicy(self.artifact.policy), coefficient, maximum)


LIMITS = ("reference_kl_coef", "max_reference_kl")
"""Settings of agents that limit the divergence from the initial policy (agents/reference_policy.py)."""
LIMITED = (*KINDS["session"], *KINDS["session_values"], *KINDS["mlp"])
"""Agents with these settings."""


def policy_folder(source: str | Path) -> Path:
    """Return the folder of a policy; that of the champion if `source` is a registry."""
    folder = Path(source)
    return Registry(folder).resolve(CHAMPION) if (folder / STATE).is_file() else folder


def read_initial_policy(
    source: str | Path, agent: str, split: Split, *, config: Any = None, agent_config: Any = None,
    model_config: Any = None, seed: int = 0,
) -> InitialPolicy:  # fmt: skip
    """Return the policy that a training is to start from, if it fits; reads only, and without TensorFlow.

    Args:
        source: The folder of a policy, or of a registry: then its champion.
        agent: Name of the agent to train.
        split: The ratings of the training.
        config: A config of the training, its settings, or None.
        agent_config: A config of the agent, its settings, or None.
        model_config: A config of the rating model, its settings, or None.
        seed: Seed of the training.

    Raises:
        ArtifactError: The policy is missing, damaged, or of another kind of data.
        ConfigError: It has another catalog, other ratings, features or another network, or the agent has no network.
    """
    folder = policy_folder(source)
    verify(folder)
    policy = read_artifact(folder)
    where, estimator = f"--init-from {source}", policy.estimator
    if not any(agent in agents for agents in KINDS.values()):
        known = ", ".join(name for agents in KINDS.values() for name in agents)
        raise ConfigError(f"{where}: {agent} is no agent with a network; those are {known}")
    if agent not in KINDS.get(estimator, ()):
        able = ", ".join(KINDS.get(estimator, ())) or "no agent"
        raise ConfigError(f"{where}: holds a policy of {policy.agent}, from which {able} can start, not {agent}")
    _check_data(where, policy, split, seed)
    learned = policy.metadata["config"]
    names = (*_FEATURES, *(_VIEW if policy.sequential else ()))
    return InitialPolicy(
        folder, policy, _adopt(where, "train", config, learned["train"], names),
        _adopt(where, "agent", agent_config, *_network(agent, estimator, learned["agent"])),
        _adopt(where, "rating_model", model_config, learned["rating_model"], tuple(learned["rating_model"])),
    )  # fmt: skip


def _network(agent: str, estimator: str, theirs: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the settings of a policy's agent and the names of those that the agent to train must have as well."""
    names = NETWORK_SETTINGS[estimator]
    if agent == "squarecb":  # its default model has no network
        return {**theirs, "model": "neural"}, (*names, "model")
    return dict(theirs), names


def refuse_limits(agent: str, config: Any) -> None:
    """Raise ConfigError if settings limit the divergence of an agent that has no such limit."""
    if agent in LIMITED or not isinstance(config, Mapping):
        return
    for name in LIMITS:
        if name in config:
            raise ConfigError(
                f"{agent}: {name} limits the divergence from an initial policy, but {agent} has no such limit; those"
                f" that have one are {', '.join(LIMITED)}"
            )


def check_limits(agent: str, config: Any, initial: InitialPolicy | None) -> None:
    """Raise ConfigError if the agent's config limits the divergence from a policy that is not given."""
    for name in LIMITS:
        if initial is None and getattr(config, name, None):
            raise ConfigError(
                f"{agent}: {name} limits the divergence from the initial policy; give one with --init-from, or set it"
                " to 0"
            )


def _check_data(where: str, policy: Artifact, split: Split, seed: int) -> None:
    """Raise ConfigError unless the policy was trained on these ratings, with this seed and the same catalog."""
    metadata, train = policy.metadata, split.train
    if policy.catalog_changed:
        raise ConfigError(f"{where}: its catalog was changed after the training; start from the version before")
    theirs, ours = policy.items["item_id"].astype(str), train.items["item_id"].astype(str)
    if len(theirs) != len(ours) or (theirs.to_numpy() != ours.to_numpy()).any():
        raise ConfigError(
            f"{where}: another catalog: {len(theirs):,} items of {metadata['data']}, but {len(ours):,} of {train.name};"
            " train on the data of the policy"
        )
    if metadata["split"]["train"] != train.digest:
        raise ConfigError(
            f"{where}: trained on the split {metadata['split']['name']} of {metadata['data']}, not on {split.name} of"
            f" {train.name}; train on the same ratings, or test ratings may have been learned"
        )
    if metadata["seed"] != seed:
        raise ConfigError(
            f"{where}: trained with the seed {metadata['seed']}, not {seed}; take its seed, which decides about"
            " embeddings and about the users of the simulated worlds"
        )


def _adopt(where: str, table: str, given: Any, theirs: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the given settings with those of the policy that are not given; raise ConfigError for other values."""
    shared = {name: theirs[name] for name in names if name in theirs}
    if given is not None and not isinstance(given, Mapping):
        plain = as_dict(given)
        ours = {name: plain[name] for name in shared if name in plain}
    else:
        ours = {name: value for name, value in (given or {}).items() if name in shared}
    for name, value in ours.items():
        if json.loads(json.dumps(value, default=str)) != shared[name]:
            raise ConfigError(
                f"{where}: {table}.{name} is {shared[name]!r} there, not {value!r}; leave it out, or start from another"
                " policy"
            )
    return given if given is not None and not isinstance(given, Mapping) else {**(given or {}), **shared}
