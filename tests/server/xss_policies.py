"""Small policies whose names try to become HTML: users, items and genres that somebody wrote to do harm."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tiny_policies import tiny_artifact

from recpolicy.inference.artifact import write_arrays, write_manifest

TITLE = '<img src=x onerror="document.title=1"> & "quoted" </script><b>Item'
GENRE = '"><script src="/x.js"></script>'
USER = '<svg onload="document.title=1">'


@contextmanager
def _made(folder: Path):
    folder.mkdir(parents=True)
    (folder / "action").mkdir()
    yield
    (folder / "action" / "saved_model.pb").write_bytes(b"graph")


def write_hostile(folder: Path, seed: int = 0, users: int = 20, items: int = 30, text: bool = False) -> Path:
    """Write a policy as an artifact; with `text` the first user's id is hostile, too. Every user rated six items."""
    artifact = tiny_artifact(seed, users, items)
    rng = np.random.default_rng(7)
    named = artifact.users if not text else pd.DataFrame({"user_id": [USER, *(f"u{n}" for n in range(1, users))]})
    artifact = replace(
        artifact,
        users=named,
        items=artifact.items.assign(
            title=pd.Series([f"{TITLE} {n} ({1980 + n})" for n in range(items)], dtype="str"),
            year=pd.array([1980 + n for n in range(items)], dtype="Int64"),
            genres=pd.Series([("Comedy", GENRE)[n % 2] for n in range(items)], dtype="str"),
        ),
        rated_user=np.repeat(np.arange(users, dtype=np.int32), 6),
        rated_item=np.concatenate([rng.permutation(items)[:6] for _ in range(users)]).astype(np.int32),
    )
    with _made(folder):
        write_arrays(artifact, folder)
    write_manifest(artifact, folder)
    return folder
