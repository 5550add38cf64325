"""Go on from a trained policy with a new log: same features and arms, the learner's beliefs as the start."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recpolicy.core.config import build
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.ratings import genre_directions
from recpolicy.inference.artifact import Artifact, verify
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.workflows.artifacts import (
    LOG_UNTIL,
    learned_from,
    refuse_existing,
    with_policy,
    work_folder,
    write_artifact,
)

if TYPE_CHECKING:
    from recpolicy.agents.learner import BanditAgent


def retrain(incumbent: str | Path, log: BanditLog, out: str | Path, *, epochs: int = 1, seed: int = 0) -> Policy:
    """Train the policy in the folder `incumbent` on, from the rounds of `log`, and write the new one to `out`.

    The new artifact keeps the incumbent's features, catalogue and split; `about` names the digest of the log, and under
    `parents` the contents of all policies before it, the incumbent last, each with the log that it had learnt from.
    Raises ArtifactError for a damaged incumbent, one without its learner, or an `out` that exists; ConfigError for
    agents that cannot learn from logs, baselines included; DataError for a log of items the incumbent does not know,
    and for one without news: of a log that a server exports again and again, what was learnt before is passed over.
    """
    if epochs < 1:
        raise ConfigError(f"epochs is {epochs}: expected 1 or more")
    require_extra("train", "training")
    silence_libraries()
    from recpolicy.training.checkpoints import read_learner
    from recpolicy.training.offline import learn_from_log

    incumbent, out = Path(incumbent), Path(out)
    refuse_existing(out)
    verify(incumbent)
    old = load_policy(incumbent).artifact
    log = _not_learnt_yet(log, old)
    agent = agent_of(old)
    read_learner(agent, incumbent)
    parent: dict[str, Any] = {"content": old.metadata["content"], "log": old.metadata.get("log")}
    if "pages" in old.metadata:
        parent["pages"] = old.metadata["pages"]
    figures = {**learn_from_log(agent, log, old.context, old.catalogue, epochs=epochs, seed=seed), "seed": seed}
    kept = {name: value for name, value in old.metadata.items() if name != "pages"}
    lineage: dict[str, Any] = {
        **learned_from(log),
        "training": figures,
        "parents": [*old.metadata.get("parents", []), parent],
    }
    new = with_policy(old, agent.learner.export(), {**kept, **lineage})
    work = work_folder(out, {"agent": old.agent, "parent": parent, "log": log.digest, "epochs": epochs, "seed": seed})
    write_artifact(new, agent, old.context.shape[1], work, out)
    return load_policy(out)


def _not_learnt_yet(log: BanditLog, old: Artifact) -> BanditLog:
    """Of a log that grows, the rounds after those that the policy has learnt; raises DataError where there are none."""
    until = old.metadata.get(LOG_UNTIL)
    if log.exporter is None or until is None:
        return log
    first = int(np.searchsorted(log.time, until, side="right"))
    if first == len(log):
        raise DataError(
            f"{log.name}: the policy has learnt all of its {len(log)} rounds to learn from already; later ones are kept"
            " for evaluation (evaluation_share), or are yet to come"
        )
    return log.take(first, len(log), log.name)


def agent_of(artifact: Artifact) -> "BanditAgent":
    """An untrained agent of the artifact's kind, over its arms and contexts; raises ConfigError if none can go on."""
    import tensorflow as tf
    from tf_agents.specs import tensor_spec
    from tf_agents.trajectories import time_step as ts

    from recpolicy.agents.agent_table import BASELINES, SESSION_AGENTS, agent_entry

    if artifact.agent in SESSION_AGENTS:
        raise ConfigError(f"{artifact.agent} learns in simulated sessions; it cannot go on from a log of single rounds")
    if artifact.agent in BASELINES:
        raise ConfigError(f"{artifact.agent} is a baseline and never learns; a log cannot make it better")
    entry = agent_entry(artifact.agent)
    config = build(entry.config, artifact.metadata["config"]["agent"], f"agent {artifact.agent}")
    width, arms = artifact.context.shape[1], len(artifact.catalogue)
    observation = tensor_spec.TensorSpec((width,), tf.float32, "context")
    action = tensor_spec.BoundedTensorSpec((), tf.int32, 0, arms - 1, name="action")
    agent: BanditAgent = entry.make(ts.time_step_spec(observation), action, config, _arms_of(artifact), 0)
    agent.uniform_mix = artifact.uniform_mix
    return agent


def _arms_of(artifact: Artifact) -> Any:
    """The arms' tables; the ratings behind the mean ratings are not in an artifact, and no learner needs them again."""
    from recpolicy.agents.item_features import Arms

    catalogue = artifact.catalogue
    count = np.bincount(artifact.rated_item, minlength=len(artifact.items))[catalogue]
    return Arms(
        artifact.item[catalogue], artifact.offset[catalogue], count.astype(np.float32),
        np.zeros(len(catalogue), np.float32), artifact.scale, genre_directions(artifact.items)[catalogue],
    )  # fmt: skip
