"""Policy artifacts of a few kilobytes: drawn at random, not trained, so that no TensorFlow is needed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from recpolicy.inference.artifact import Artifact, policy_digest, write_arrays, write_manifest

RANK = 3


def tiny_artifact(
    seed: int = 0, users: int = 7, items: int = 11, arms: int | None = None, text: bool = False
) -> Artifact:
    """A LinUCB policy over the first `arms` items (all by default); ids are numbers, or text."""
    rng = np.random.default_rng(seed)
    count = arms or items
    factor = rng.normal(size=(count, RANK, RANK))
    packed = factor @ factor.transpose(0, 2, 1)
    rows, columns = np.triu_indices(RANK)
    policy = {
        "theta": rng.normal(1, 0.5, (count, RANK)).astype(np.float32),
        "covariance": (packed[:, rows, columns] * np.where(rows == columns, 1, 2)).astype(np.float32) * 0.01,
        "prior_precision": np.float32(1.0),
        "bias": np.bool_(False),
    }
    user_id, item_id = np.arange(1, users + 1), np.arange(101, 101 + items)
    artifact = Artifact(
        agent="linucb",
        estimator="linear",
        head="upper_confidence",
        settings={"alpha": 0.5},
        uniform_mix=0.1,
        policy=policy,
        context=rng.normal(1, 0.3, (users, RANK)).astype(np.float32),
        item=rng.normal(0, 0.5, (items, RANK)).astype(np.float32),
        offset=rng.uniform(2, 4, items).astype(np.float32),
        rating_std=rng.uniform(0.1, 0.9, (users, items)).astype(np.float32),
        action_items=np.arange(count, dtype=np.int32),
        rated_user=np.zeros(1, np.int32),
        rated_item=np.zeros(1, np.int32),
        users=pd.DataFrame({"user_id": [f"u,{n}" for n in user_id] if text else user_id}),
        items=pd.DataFrame(
            {
                "item_id": [f'"{n}"' for n in item_id] if text else item_id,
                "title": pd.Series([f"Tiny, the {n}th" for n in item_id], dtype="str"),
                "year": pd.array([None] * items, dtype="Int64"),
                "genres": pd.Series([""] * items, dtype="str"),
            }
        ),
        scale=(1.0, 5.0),
        noise_std=0.5,
        metadata={"data": "tiny", "seed": seed},
    )
    return replace(artifact, metadata={**artifact.metadata, "policy_digest": policy_digest(artifact)})


def write_tiny(folder: Path, seed: int = 0) -> Path:
    """Write such a policy as an artifact, with a file in a folder of its own."""
    artifact = tiny_artifact(seed)
    folder.mkdir(parents=True)
    write_arrays(artifact, folder)
    (folder / "action").mkdir()
    (folder / "action" / "saved_model.pb").write_bytes(b"graph")
    write_manifest(artifact, folder)
    return folder
