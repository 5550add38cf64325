"""Continue the training of a session policy on new logged sessions, with the same features and catalog."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recpolicy.core.config import build
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.hashes import text_hashes
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.learned_events import log_events, merge
from recpolicy.data.session_log import SessionLog
from recpolicy.inference.artifact import Artifact
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.registry.artifact_kinds import verify
from recpolicy.workflows.artifacts import (
    LOG_UNTIL,
    artifact_item_features,
    check_absent,
    log_lineage,
    open_work_folder,
    parent_record,
    with_policy,
    write_artifact,
)
from recpolicy.workflows.session_settings import SessionTrainConfig, reward_scale
from recpolicy.workflows.training_data import coerce

if TYPE_CHECKING:
    from recpolicy.training.observation_builder import ObservationBuilder

_VIEW = ("view", "steps", "last_n", "genres")
"""Arrays by which the predictor builds the policy's observations; they stay the same."""


def retrain_sessions(
    incumbent: str | Path, log: SessionLog, out: str | Path, *, epochs: int = 1, seed: int = 0,
    until: int | None = None, show_progress: bool | None = False,
) -> Policy:  # fmt: skip
    """Continue the training of a session policy on logged sessions and write the new policy to the folder `out`.

    Sessions that the incumbent, or an ancestor, has learned are skipped. The same call continues a training that was
    interrupted.

    Args:
        incumbent: The folder of the policy to continue from.
        log: The sessions to learn from.
        out: The folder to write; it must not exist.
        epochs: Passes over the log.
        seed: Seed of the order of the sessions or steps.
        until: Time of the latest session that the log could have, in milliseconds since 1970; None for a log that does
            not grow.
        show_progress: Show a progress bar; None shows it on a terminal, and lines elsewhere.

    Returns:
        The new policy, as read from `out`.

    Raises:
        ArtifactError: The incumbent is damaged or has no checkpoint, or `out` exists.
        ConfigError: The incumbent acts in single rounds or shows slates, or its agent learns only from its own
            sessions, or rewards have another unit.
        DataError: The log has items that the incumbent does not know, longer sessions, or no new ones.
        DivergedError: A number of the training is not finite.
    """
    if epochs < 1:
        raise ConfigError(f"epochs is {epochs}: expected 1 or more")
    require_extra("train", "training")
    silence_libraries()
    from recpolicy.agents import SESSION_AGENTS
    from recpolicy.training.checkpoints import read_learner
    from recpolicy.training.offline_sessions import OfflineRunConfig, check_log, learn_from_sessions

    incumbent, out = Path(incumbent), Path(out)
    check_absent(out)
    verify(incumbent)
    old = load_policy(incumbent).artifact
    if not old.sequential:
        raise ConfigError(f"{old.agent} acts in single rounds; retrain it on rounds, not on the sessions of {log.name}")
    settings = coerce(SessionTrainConfig, old.metadata["config"]["train"], "train")
    if settings.slate_size > 1:
        raise ConfigError(
            f"{log.name}: a log of sessions has one item a step, but {old.agent} shows slates of {settings.slate_size};"
            " train a policy on simulated slates"
        )
    expected = reward_scale(settings, old.scale)
    if log.scale != expected:
        raise ConfigError(
            f"{log.name}: rewards in {log.scale[0]:g}..{log.scale[1]:g}, but the policy learns from"
            f" {settings.reward!r}, in {expected[0]:g}..{expected[1]:g}"
        )
    log = unlearned_sessions(log, old)
    entry, sight = SESSION_AGENTS[old.agent], _observations(old)
    config = build(entry.config, old.metadata["config"]["agent"], f"agent {old.agent}")
    agent: Any = entry.make(*sight.specs(), config, artifact_item_features(old), seed, sight.view.sequence)
    check_log(agent.learner, log, sight)
    read_learner(agent, incumbent)
    parent = parent_record(old.metadata)
    work = open_work_folder(
        out, {"agent": old.agent, "parent": parent, "log": log.digest, "epochs": epochs, "seed": seed}
    )
    run = OfflineRunConfig(
        epochs=epochs, batch_size=settings.batch_size, checkpoint_every_steps=settings.checkpoint_every_steps
    )
    figures = learn_from_sessions(agent, log, sight, run, seed=seed, folder=work, show_progress=show_progress)
    lineage: dict[str, Any] = {
        **log_lineage(log), "training": {**figures, "seed": seed},
        "parents": [*old.metadata.get("parents", []), parent],
        **({} if until is None else {LOG_UNTIL: until}),
    }  # fmt: skip
    exported = agent.learner.export()
    arrays = {**exported.arrays, **{name: old.policy[name] for name in _VIEW}}
    new = with_policy(old, replace(exported, arrays=arrays), {**old.metadata, **lineage})
    new = replace(new, learned_events=merge(old.learned_events, log_events(log)))
    write_artifact(new, agent, old.context.shape[1] + sight.view.width, work, out)
    return load_policy(out)


def unlearned_sessions(log: SessionLog, old: Artifact) -> SessionLog:
    """Return the sessions of which the policy has learned no step; raises DataError if there are none."""
    learned = np.isin(text_hashes(log.event_id), old.learned_events)
    fresh = ~np.logical_or.reduceat(learned, log.start[:-1])
    if fresh.all():
        return log
    if not fresh.any():
        raise DataError(f"{log.name}: the policy has learned all of its {len(fresh)} sessions already; log others")
    return log.select_sessions(fresh)


def _observations(old: Artifact) -> "ObservationBuilder":
    """Return the builder of the observations that the policy was trained with."""
    from recpolicy.environments.observation_encoders import OBSERVATION_ENCODERS
    from recpolicy.training.observation_builder import ObservationBuilder

    embedding, genres = old.item[old.action_items], np.asarray(old.policy["genres"], np.float32)
    steps, last_n = int(old.policy["steps"]), int(old.policy["last_n"])
    view = OBSERVATION_ENCODERS[str(old.policy["view"])](embedding.shape[1], genres.shape[1], steps, last_n)
    return ObservationBuilder(old.context, embedding, genres[old.action_items], old.action_items, view, steps)
