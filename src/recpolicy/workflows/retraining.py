"""Continue the training of a policy on new logged rounds, with the same features and catalog."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recpolicy.core.config import build
from recpolicy.core.errors import ConfigError
from recpolicy.core.memory import release_memory
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.learned_events import log_events, merge
from recpolicy.data.session_log import SessionLog
from recpolicy.inference.artifact import Artifact
from recpolicy.inference.catalog_changes import CATALOG_ARRAYS, CATALOG_CHANGE
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.registry.artifact_kinds import verify
from recpolicy.workflows.artifacts import (
    LOG_UNTIL,
    artifact_item_features,
    check_absent,
    log_lineage,
    open_work_folder,
    parent_record,
    unlearned_rounds,
    with_policy,
    write_artifact,
)

if TYPE_CHECKING:
    from recpolicy.agents.learner import BanditAgent


def retrain(
    incumbent: str | Path, log: BanditLog | SessionLog, out: str | Path, *, epochs: int = 1, seed: int = 0
) -> Policy:
    """Continue the training of a policy on logged rounds and write the new policy to the folder `out`.

    The new artifact keeps the incumbent's features, catalog and split. It has the hashes of all events that it and its
    ancestors learned from. Its metadata has the digest of the log and, in `parents`, the digests of all earlier
    policies and of their logs, the incumbent last. Rounds of a growing log that the incumbent has learned are skipped.

    Args:
        incumbent: The folder of the policy to continue from.
        log: The rounds to learn from; for a session policy, the sessions (`retrain_sessions`).
        out: The folder to write; it must not exist.
        epochs: Passes over the log.
        seed: Seed of the order of the rounds.

    Returns:
        The new policy, as read from `out`.

    Raises:
        ArtifactError: The incumbent is damaged or has no checkpoint, or `out` exists.
        ConfigError: The agent cannot learn from logs, as baselines and session agents.
        DataError: The log has items that the incumbent does not know, or no new rounds.
        DivergedError: A number of the training is not finite or absurdly large.
    """
    if isinstance(log, SessionLog):
        from recpolicy.workflows.session_retraining import retrain_sessions

        return retrain_sessions(incumbent, log, out, epochs=epochs, seed=seed)
    if epochs < 1:
        raise ConfigError(f"epochs is {epochs}: expected 1 or more")
    require_extra("train", "training")
    silence_libraries()
    from recpolicy.training.checkpoints import restore_learner
    from recpolicy.training.offline import learn_from_log

    incumbent, out = Path(incumbent), Path(out)
    check_absent(out)
    verify(incumbent)
    old = load_policy(incumbent).artifact
    until = old.metadata.get(LOG_UNTIL)
    if log.exporter is not None and until is not None:
        # By time: the artifact's hashes also contain events behind the ratings, which the agent has not learned.
        log = unlearned_rounds(log, log.time <= until)
    log = _without_retired(log, old)
    agent = untrained_agent(old)
    restore_learner(agent, old, incumbent)
    parent = parent_record(old.metadata)
    figures = {**learn_from_log(agent, log, old.context, old.action_items, epochs=epochs, seed=seed), "seed": seed}
    release_memory()
    if not old.learned_real_rewards:
        figures["rewards"] = f"{old.metadata['training'].get('rewards', 'unknown')}, then {figures['rewards']}"
    if CATALOG_CHANGE in old.metadata:
        parent[CATALOG_CHANGE] = {
            name: len(old.metadata[CATALOG_CHANGE].get(name, ())) for name in ("added", "retired", "restored")
        }
    inherited = {name: value for name, value in old.metadata.items() if name not in ("slate_digest", CATALOG_CHANGE)}
    lineage: dict[str, Any] = {
        **log_lineage(log),
        "training": figures,
        "parents": [*old.metadata.get("parents", []), parent],
    }
    exported = agent.learner.export()
    record = {name: old.policy[name] for name in CATALOG_ARRAYS if name in old.policy}
    new = with_policy(old, replace(exported, arrays={**exported.arrays, **record}), {**inherited, **lineage})
    new = replace(new, learned_events=merge(old.learned_events, log_events(log)))
    work = open_work_folder(
        out, {"agent": old.agent, "parent": parent, "log": log.digest, "epochs": epochs, "seed": seed}
    )
    write_artifact(new, agent, old.context.shape[1], work, out)
    return load_policy(out)


def _without_retired(log: BanditLog, old: Artifact) -> BanditLog:
    """Return the rounds without those that show a retired item: the policy has no arm that could learn from them."""
    shown = np.isin(log.item, old.retired_items)
    return log.select(np.flatnonzero(~shown), log.name) if shown.any() else log


def untrained_agent(artifact: Artifact) -> "BanditAgent":
    """Return an untrained agent with the config, catalog and contexts of the artifact.

    Raises:
        ConfigError: Agents of this name cannot learn from a log.
    """
    from recpolicy.agents import BASELINES, SESSION_AGENTS, agent_entry

    if artifact.agent in SESSION_AGENTS:
        raise ConfigError(f"{artifact.agent} learns in simulated sessions; it cannot be retrained on single rounds")
    if artifact.agent in BASELINES:
        raise ConfigError(f"{artifact.agent} is a baseline and never learns; retrain an agent that does (linucb)")
    entry = agent_entry(artifact.agent)
    config = build(entry.config, artifact.metadata["config"]["agent"], f"agent {artifact.agent}")
    specs = bandit_specs(artifact.context.shape[1], len(artifact.action_items))
    agent: BanditAgent = entry.make(*specs, config, artifact_item_features(artifact), 0)
    agent.uniform_mix = artifact.uniform_mix
    return agent


def bandit_specs(width: int, arms: int) -> tuple[Any, Any]:
    """Return the specs of time steps and actions of an agent of single rounds, with contexts of this width."""
    import tensorflow as tf
    from tf_agents.specs import tensor_spec
    from tf_agents.trajectories import time_step as ts

    observation = tensor_spec.TensorSpec((width,), tf.float32, "context")
    return ts.time_step_spec(observation), tensor_spec.BoundedTensorSpec((), tf.int32, 0, arms - 1, name="action")
