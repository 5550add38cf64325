"""Session policies that were never trained, only shaken: every weight that could hide a difference is moved.

The sessions are played at random on the miniature, one of each of B = 30 users; session b is looked at after b mod 20
items. W users of the world, An items of the catalog, O columns of the observation.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from trained_policies import miniature_split

from recpolicy.agents import SESSION_AGENTS
from recpolicy.agents.item_features import compute_item_features
from recpolicy.agents.sequence import SessionAgent
from recpolicy.environments.session import SessionEnvironment
from recpolicy.inference.artifact import write_arrays, write_manifest
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.models.sequence_layout import SEQUENCE_VIEWS
from recpolicy.models.session_world import SessionWorld
from recpolicy.workflows.artifacts import build_metadata, make_artifact
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds, session_environment, with_view
from recpolicy.workflows.training_data import Features, prepare_features

STEPS, SESSIONS = 20, 30
ITEMS = {"interest": 0, "last_item": 30, "last_n": 30, "gru": 30, "transformer": 30}
"""Views, and the size of the catalog that each is tried with; 0 takes all 80."""
_SMALL = {"layers": (8,)}
_TOWER = {"head": "tower", "tower_layers": (6,)}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", _SMALL),
    "ppo plain": ("ppo", _SMALL | {"head": "plain"}),
    "a2c": ("a2c", {"layers": (8, 8)}),
    "a2c plain": ("a2c", _SMALL | {"head": "plain"}),
    "reinforce": ("reinforce", _SMALL),
    "reinforce plain": ("reinforce", {"layers": (8, 8), "head": "plain"}),
    "topk_reinforce": ("topk_reinforce", {"layers": (8, 8)}),
    "topk_reinforce plain": ("topk_reinforce", _SMALL | {"head": "plain"}),
    "offpolicy_actor_critic": ("offpolicy_actor_critic", {"layers": (8, 8), "normalize_reward": True}),
    "offpolicy_actor_critic plain": ("offpolicy_actor_critic", _SMALL | {"head": "plain"}),
    "dqn": ("dqn", _SMALL | {"exploration_top_k": 12}),
    "dqn dueling": ("dqn", _SMALL | {"dueling": True}),
    "dqn plain": ("dqn", _SMALL | {"head": "plain"}),
    "dqn plain dueling": ("dqn", {"layers": (8, 8), "head": "plain", "dueling": True, "exploration_top_k": 12}),
    "q_learning": ("q_learning", {}),
    "q_learning ucb1": ("q_learning", {"exploration": "ucb1"}),
    "behavior_cloning": ("behavior_cloning", {"layers": (8, 8), "normalize_reward": True}),
    "behavior_cloning plain": ("behavior_cloning", _SMALL | {"head": "plain"}),
    "a2c normalized": ("a2c", {"layers": (8, 8), "normalize_reward": True}),
    "dqn normalized": ("dqn", _SMALL | {"exploration_top_k": 12, "dueling": True, "normalize_reward": True}),
    "dqn offset": ("dqn", _SMALL | {"value_offset": 2.5, "normalize_reward": True}),
    "dqn plain normalized": ("dqn", _SMALL | {"exploration_top_k": 12, "head": "plain", "normalize_reward": True}),
    "q_learning normalized": ("q_learning", {"exploration": "ucb1", "normalize_reward": True}),
}
"""Every session agent, with each head and form; towers apart."""
_TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo tower": ("ppo", _SMALL | _TOWER),
    "offpolicy_actor_critic tower": ("offpolicy_actor_critic", _SMALL | _TOWER),
    "dqn tower dueling": ("dqn", _SMALL | _TOWER | {"dueling": True, "normalize_reward": True}),
}
HAND_MADE = [view for view in ITEMS if view not in SEQUENCE_VIEWS]
_READERS = (
    "ppo", "a2c normalized", "reinforce plain", "topk_reinforce", "offpolicy_actor_critic", "dqn normalized",
    "behavior_cloning",
)  # fmt: skip
"""Every agent with a network, once."""
PAIRS = (
    [(variant, view) for variant in VARIANTS for view in HAND_MADE]
    + [
        ("ppo tower", "gru"),
        ("offpolicy_actor_critic tower", "interest"),
        ("dqn tower dueling", "last_n"),
    ]
    + [(variant, view) for variant in _READERS for view in SEQUENCE_VIEWS]
)
"""Variants and views; every agent with a network reads sequences."""


class Situations(NamedTuple):
    """Sessions in progress."""

    user: list[int]
    past: dict[int, list[tuple[int, bool]]]
    observation: np.ndarray  # [B, O]
    mask: np.ndarray  # [B, A] bool


def settings(view: str) -> SessionTrainConfig:
    """How the policies of this view would have been trained."""
    return SessionTrainConfig(
        rating_model="svd", rank=5, items=ITEMS[view], view=view, last_n=3, max_episode_steps=STEPS,
        batch_size=SESSIONS,
    )  # fmt: skip


@cache
def world() -> SessionWorld:
    return make_worlds(miniature_split(), settings("interest"), 0).training_world


@cache
def features(view: str) -> Features:
    return prepare_features(miniature_split().train, settings(view))


@cache
def environment(view: str) -> SessionEnvironment:
    return session_environment(world(), features(view), settings(view), 0)


@cache
def played(view: str) -> list[tuple[np.ndarray, ...]]:
    """Observation, mask, item row shown and like, [B, ...] each, before and at each of 20 steps; nobody leaves."""
    game, rng = environment(view), np.random.default_rng(3)
    session = game.restart(None, None, tf.constant((np.arange(SESSIONS, dtype=np.float32)[:, np.newaxis] + 0.5) / 30))
    steps = []
    for number in range(STEPS):
        observation, mask = (part.numpy() for part in game.observe(session))
        action = np.argmax(rng.random(mask.shape) * mask, axis=1).astype(np.int32)
        step = game.transition(session, tf.constant(action), game.noise(tf.constant(number, tf.int64)))
        steps.append((observation, mask, features(view).action_items[action], step.response.like.numpy()))
        session = step.session
    return steps


@cache
def distinct_contexts(view: str) -> Situations:
    """Session b after b mod 20 items."""
    users, items = miniature_split().train.users["user_id"], miniature_split().train.items["item_id"]
    user = users.iloc[world().users].tolist()
    steps, length = played(view), np.arange(SESSIONS) % STEPS
    past = {
        one: [(int(items[item[b]]), bool(like[b])) for _, _, item, like in steps[: length[b]]]
        for b, one in enumerate(user)
    }
    observation, mask = (np.stack([steps[length[b]][part][b] for b in range(SESSIONS)]) for part in (0, 1))
    return Situations(user, past, observation, mask)


@cache
def agent(variant: str, view: str, shaken: bool = True) -> SessionAgent:
    """The learner behind the variant."""
    name, given = (VARIANTS | _TOWERS)[variant]
    game, entry = environment(view), SESSION_AGENTS[name]
    arms = compute_item_features(features(view).action_items, features(view).embeddings, miniature_split().train)
    config = entry.config(**given)
    made = entry.make(game.time_step_spec(), game.action_spec(), config, arms, 0, game.view.sequence)
    if shaken:
        rng = np.random.default_rng(5)
        moved = [made.learner.table] if name == "q_learning" else made.learner.trainable_variables
        for variable in moved:
            variable.assign_add(rng.normal(0, 0.1, variable.shape).astype(np.float32))
        if name == "q_learning":
            made.learner.visits.assign(rng.poisson(2.0, made.learner.visits.shape).astype(np.float32))
        made.learner._rewards.take_in(tf.constant([1.0, 7.0]))  # the unit 3, if rewards are normalized
        if name in ("dqn", "q_learning"):
            made.learner._blocks.assign(100)  # epsilon has fallen to .3 x .995^100 = .18
    return made


def saved(variant: str, view: str, shaken: bool = True) -> Path:
    """Its artifact, without SavedModels; made once in a process."""
    name = f"{variant}-{view}-{shaken}".replace(" ", "-")
    folder = Path(os.environ["RECPOLICY_CACHE"]) / f"shaken-policies-{os.getpid()}" / name
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    made, kept = agent(variant, view, shaken), settings(view)
    exported = with_view(made.learner.export(), kept, miniature_split())
    metadata = {"source": None, **build_metadata(miniature_split(), kept, made.learner.config, features(view).model, 0)}
    artifact = make_artifact(
        (VARIANTS | _TOWERS)[variant][0], exported, miniature_split().train, features(view), metadata
    )
    write_arrays(artifact, folder)
    write_manifest(artifact, folder)
    return folder


@cache
def policy(variant: str, view: str, shaken: bool = True) -> Policy:
    """The policy, saved and loaded."""
    return load_policy(saved(variant, view, shaken))
