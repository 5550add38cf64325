"""A world, the policies' tables and the candidates in one .npz file, and the environment made from it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.files import atomic_path
from recpolicy.models.session_world import SessionWorld

TABLES = ("context", "embedding", "candidates")


def write_world(
    path: Path, world: SessionWorld, context: NDArray[np.float32], embedding: NDArray[np.float32],
    candidates: NDArray[np.int32],
) -> None:  # fmt: skip
    """Write all that an environment needs; context [U, D or more], embedding [I, D], candidates [A] item rows."""
    fields = {f"world_{field.name}": getattr(world, field.name) for field in dataclasses.fields(world)}
    arrays = {name: np.asarray(value) for name, value in fields.items() if value is not None}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, context=context, embedding=embedding, candidates=candidates, **arrays)


def read_world(path: Path) -> tuple[SessionWorld, dict[str, NDArray[Any]]]:
    """The world, and context, embedding and candidates by name."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    fields = {name.removeprefix("world_"): part for name, part in arrays.items() if name.startswith("world_")}
    plain = {name: part.item() if part.ndim == 0 else part for name, part in fields.items()}
    for name in ("fatigue", "scale"):
        plain[name] = tuple(fields[name].tolist())
    return SessionWorld(**plain), {name: arrays[name] for name in TABLES}


def make_environment(path: Path, sessions: int, seed: int, **config: Any) -> Any:
    """The SessionEnvironment of the file with `sessions` sessions side by side; `config` goes to SessionConfig."""
    from recpolicy.environments.session import SessionConfig, SessionEnvironment

    world, tables = read_world(path)
    return SessionEnvironment(
        world, **tables, config=SessionConfig(batch_size=sessions, max_episode_steps=world.steps, **config), seed=seed
    )
