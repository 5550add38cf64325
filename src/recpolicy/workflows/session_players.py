"""Session policies as players of simulated sessions: their settings, environments and choices.

A policy of single rounds leads a session, too, in an environment of another policy or of the default settings.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from recpolicy.core.errors import ConfigError
from recpolicy.core.files import content_digest
from recpolicy.inference.predictor import Policy
from recpolicy.inference.scorer import slate_size
from recpolicy.models.session_world import SIMILARITIES, SessionWorld
from recpolicy.workflows.session_settings import SessionTrainConfig, session_config, slate_config
from recpolicy.workflows.training_data import coerce

SESSIONS_PER_USER = 4
"""Simulated sessions of each user of a world, unless told otherwise."""


def check_comparable(policies: Mapping[str, Policy], *, own_worlds: bool) -> None:
    """Raise ConfigError unless all policies were trained for the same sessions."""

    def comparable_settings(policy: Policy) -> dict[str, Any]:
        if not policy.sequential:
            return {"action_items": policy.artifact.action_items.tolist()}
        train = policy.metadata["config"]["train"]
        same = {name: train[name] for name in ("reward_decay", "max_episode_steps")}
        settings = session_settings(policy)
        same |= {name: getattr(settings, name) for name in ("reward", "slate_size")}
        if settings.slate_size > 1:
            same["continuation_probability"] = settings.continuation_probability
        worlds = {} if own_worlds else {"simulator": train["simulator"], "seed": policy.metadata["seed"]}
        return {**same, **worlds, "action_items": policy.artifact.action_items.tolist()}

    first = next((name for name, policy in policies.items() if policy.sequential), next(iter(policies)))
    others = [name for name in policies if name != first]
    expected = comparable_settings(policies[first])
    for name in others:
        for setting, value in comparable_settings(policies[name]).items():
            if value != expected[setting]:
                raise ConfigError(
                    f"{first} and {name} were trained with different {setting}: their sessions cannot be compared;"
                    " evaluate them one by one"
                )


def check_single_items(who: str, policy: Policy, log: str) -> None:
    """Raise ConfigError for a policy that learned from slates: a log of sessions has one item a step."""
    size = slate_size(policy.metadata)
    if policy.sequential and size is not None:
        raise ConfigError(
            f"{log}: a log of sessions has one item a step, but {who} shows slates of {size}; leave the log out: the"
            " gate and `recpolicy evaluate` simulate its slates"
        )


def session_settings(policy: Policy) -> SessionTrainConfig:
    """Return the settings of sessions that a policy was trained with; the defaults for a policy of single rounds.

    A policy that was trained on a similarity of embeddings is evaluated by likes: the similarity holds no feedback.
    """
    if not policy.sequential:
        return SessionTrainConfig()
    settings: SessionTrainConfig = coerce(SessionTrainConfig, policy.metadata["config"]["train"], "train")
    return replace(settings, reward="like") if settings.reward in SIMILARITIES else settings


def group_by_observations(policies: Mapping[str, Policy]) -> list[list[str]]:
    """Return the names of session policies in groups of equal observations, or the first policy if there are none."""
    groups: dict[str, list[str]] = {}
    sequential = {name: policy for name, policy in policies.items() if policy.sequential}
    # Tables of scores need any environment: that of a session policy, or of the first policy.
    for name, policy in (sequential or dict([next(iter(policies.items()))])).items():
        artifact, settings = policy.artifact, session_settings(policy)
        sees = content_digest(artifact.context, artifact.item, [settings.view, str(settings.last_n)])
        groups.setdefault(sees, []).append(name)
    return list(groups.values())


def policy_environment(
    policy: Policy, settings: SessionTrainConfig, world: SessionWorld, seed: int, sessions: int,
    replaceable: bool = False,
) -> Any:  # fmt: skip
    """Return the environment of `world` with the observations and the catalog of the policy, for so many sessions.

    It is one of slates if the settings are. The world of a `replaceable` one can be replaced later.
    """
    from recpolicy.environments.session import SessionEnvironment
    from recpolicy.environments.session_slate import SlateEnvironment
    from recpolicy.evaluation.sessions import SESSIONS_AT_ONCE

    artifact, batch_size = policy.artifact, min(sessions, SESSIONS_AT_ONCE)
    tables = artifact.context, artifact.item, artifact.action_items
    if settings.slate_size > 1:
        return SlateEnvironment(world, *tables, slate_config(settings, batch_size), seed, replaceable=replaceable)
    return SessionEnvironment(world, *tables, session_config(settings, batch_size), seed, replaceable=replaceable)


def greedy_choice(policy: Policy) -> Any:
    """Return the choice of a session policy without exploration as `SessionRunner.run` takes it: items or slates."""
    from recpolicy.evaluation.sessions import best, best_slate

    width, size = policy.artifact.context.shape[1], session_settings(policy).slate_size

    def choose(_: Any, observation: Any, mask: Any, rng: np.random.Generator) -> Any:
        score = policy.session_scores(observation[:, :width], observation[:, width:])
        return best(score, mask, rng) if size == 1 else best_slate(score, mask, size, rng)

    return choose
