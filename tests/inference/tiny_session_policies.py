"""Session policies of a few kilobytes, and sessions that they lead: drawn at random, no TensorFlow needed.

What a policy does in a session is asked of `predict`, item after item: another way than that of the code under test,
which carries memories on from step to step.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tiny_policies import RANK, tiny_artifact

from recpolicy.data.session_log import SessionLog
from recpolicy.inference.action_distributions import greedy
from recpolicy.inference.artifact import Artifact, policy_digest, write_arrays, write_manifest
from recpolicy.inference.predictor import Policy
from recpolicy.models.sequence_layout import SEQUENCE_VIEWS

GENRES, STEPS, LAST_N = 4, 4, 2
TOKENS = LAST_N * (RANK + GENRES + 2) + 1
WIDTHS = {
    "interest": RANK + GENRES + 2, "last_item": RANK, "last_n": LAST_N * (RANK + 1) + 1, "gru": TOKENS,
    "transformer": TOKENS,
}  # fmt: skip
UNITS = 4
"""Columns of each view's memory."""


def tiny_session_artifact(
    seed: int = 0, view: str = "interest", users: int = 7, items: int = 11, arms: int | None = None,
    steps: int = STEPS, head: str = "softmax", metadata: dict[str, Any] | None = None, rated: int = 0,
) -> Artifact:  # fmt: skip
    """A network of one hidden layer with an output for each of `arms` items (all by default), the last among them.

    Each user has rated `rated` items, others than the next user; 0: one user has rated one.
    """
    plain = tiny_artifact(0, users, items, arms)
    action_items = np.arange(items - 1, -1, -(items // (arms or items)))[: arms or items][::-1].astype(np.int32)
    rng = np.random.default_rng([seed, 8])
    genres = rng.random((items, GENRES)).astype(np.float32)
    genres /= np.linalg.norm(genres, axis=1, keepdims=True)
    seen = RANK + (UNITS + 1 if view in SEQUENCE_VIEWS else WIDTHS[view])
    sizes = {"": (seen, 6, len(action_items)), "value/": (seen, 6, 1)}
    policy: dict[str, Any] = {
        f"{prefix}{part}_{layer}": rng.normal(0, 0.7, shape).astype(np.float32)
        for prefix, size in sizes.items()
        for layer in range(2)
        for part, shape in (("kernel", size[layer : layer + 2]), ("bias", size[layer + 1 : layer + 2]))
    }
    for prefix in sizes:
        policy |= {f"{prefix}encoder/{name}": array for name, array in _encoder(view, rng).items()}
    policy |= {"view": np.array(view), "steps": np.array(steps), "last_n": np.array(LAST_N), "genres": genres,
               "dueling": np.bool_(False)}  # fmt: skip
    epsilon = {"epsilon": 0.4, "top_k": 5.0, "temperature": 0.5}
    dqn = head == "epsilon_top_k"
    artifact = replace(
        plain, agent="dqn" if dqn else "topk_reinforce", estimator="session_values" if dqn else "session", head=head,
        settings=epsilon if dqn else {}, uniform_mix=0.05 * dqn, policy=policy, action_items=action_items,
        metadata={"data": "tiny", "seed": seed},
    )  # fmt: skip
    if rated:
        user = np.repeat(np.arange(users, dtype=np.int32), rated)
        item = (user + 3 * np.tile(np.arange(rated, dtype=np.int32), users)) % items
        artifact = replace(artifact, rated_user=user, rated_item=item)
    own = {"policy_digest": policy_digest(artifact), **(metadata or {})}
    return replace(artifact, metadata={**artifact.metadata, **own})


def _encoder(view: str, rng: np.random.Generator) -> dict[str, Any]:
    """A random encoder of UNITS units with two blocks of two heads; none for other views."""
    if view not in SEQUENCE_VIEWS:
        return {}
    width, many = 2 * (RANK + GENRES) + 1, 3 * UNITS if view == "gru" else UNITS
    shapes: dict[str, tuple[int, ...]] = {"input": (width, many), "input_bias": (many,)}
    if view == "gru":
        shapes |= {"recurrent": (UNITS, many), "recurrent_bias": (many,)}
    else:
        shapes["position"] = (LAST_N, UNITS)
        for layer in range(2):
            shapes |= {
                f"query_{layer}": (UNITS, UNITS), f"memory_{layer}": (UNITS, 2 * UNITS),
                f"attention_{layer}": (UNITS, UNITS), f"hidden_{layer}": (UNITS, 2 * UNITS),
                f"hidden_{layer}_bias": (2 * UNITS,), f"output_{layer}": (2 * UNITS, UNITS),
                f"output_{layer}_bias": (UNITS,),
            }  # fmt: skip
    words = {"kind": np.array(view), "places": np.array(LAST_N), "heads": np.array(2)}
    return words | {name: rng.normal(0, 0.7, shape).astype(np.float32) for name, shape in shapes.items()}


def write_tiny_sessions(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write such a policy as an artifact."""
    folder.mkdir(parents=True)
    artifact = tiny_session_artifact(seed, **changes)
    write_arrays(artifact, folder)
    write_manifest(artifact, folder)
    return folder


def chances(policy: Policy, user: int, shown: list[int], liked: list[bool], act: str = "exploring") -> np.ndarray:
    """What the policy does [A] for a user row after these items (arms)."""
    artifact = policy.artifact
    user_id = artifact.users["user_id"].tolist()[user]
    item_id = artifact.items["item_id"].to_numpy()[artifact.action_items]
    past = {user_id: list(zip(item_id[shown].tolist(), liked, strict=True))}
    answer = policy.scorer.predict_one(user_id, history=past if shown else None)
    if act == "exploring":
        return np.asarray(answer.probability[artifact.action_items])
    return np.asarray(greedy(answer.score, ~np.isin(np.arange(len(item_id)), shown)))


def led_by(
    policy: Policy, sessions: int = 60, seed: int = 0, leave: float = 0.25, liked_always: bool = False
) -> SessionLog:
    """Sessions of the exploring policy: users like what their embedding points to, and may leave after each item."""
    rng = np.random.default_rng([seed, 9])
    artifact, steps = policy.artifact, int(policy.artifact.policy["steps"])
    taste = artifact.context[:, :RANK] @ artifact.item[artifact.action_items].T  # [U, A]
    told = []
    for number in range(sessions):
        user, shown, liked = int(rng.integers(len(artifact.context))), [], []
        while True:
            probability = chances(policy, user, shown, liked)
            arm = int(rng.choice(len(probability), p=probability))
            ended = bool(rng.random() < leave)
            like = liked_always or bool(rng.random() < 1 / (1 + np.exp(-taste[user, arm])))
            told.append((number, len(shown), user, arm, np.log(probability[arm]), like, ended))
            shown, liked = [*shown, arm], [*liked, like]
            if ended or len(shown) == steps:
                break
    return session_log(policy, *map(np.array, zip(*told, strict=True)))


def session_log(
    policy: Policy, session: np.ndarray, step: np.ndarray, user: np.ndarray, arm: np.ndarray,
    log_propensity: np.ndarray, liked: np.ndarray, ended: np.ndarray, **changes: Any,
) -> SessionLog:  # fmt: skip
    """The steps [N] of sessions as a log of the policy's catalog; a like earns 1."""
    count, action_items = len(step), policy.artifact.action_items
    columns: dict[str, Any] = {
        "event_id": np.array([f"e{row}" for row in range(count)], object),
        "time": 1_767_571_200_000 + 60_000 * np.arange(count),
        "user": user.astype(np.int32),
        "session": np.array([f"s{one}" for one in session], object),
        "step": step.astype(np.int32),
        "item": action_items[arm],
        "log_propensity": log_propensity,
        "reward": liked.astype(np.float64),
        "liked": liked.astype(bool),
        "ended": ended.astype(bool),
        "policy": np.full(count, "x", object),
        "version": np.full(count, "1", object),
        "action_items": action_items,
        "scale": (0.0, 1.0),
        "name": "tiny sessions",
    }
    return SessionLog(**(columns | changes))
