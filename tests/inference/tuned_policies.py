"""Policies of a few kilobytes under a tuned layer, without training: even users get the first weights, odd the last."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tiny_policies import tiny_artifact

from recpolicy.inference.artifact import Artifact, policy_digest, write_arrays, write_manifest
from recpolicy.inference.ranking_utility import NO_OWN_HEADS, OwnHeads, RankingUtility
from recpolicy.inference.scorer import Scorer
from recpolicy.inference.tuned_layer import TunedLayer, UserFeatures
from recpolicy.inference.tuned_scorer import write_tuned_policy
from recpolicy.models.ranking_formula import ActionGrid
from recpolicy.models.tuning_network import TuningNetwork
from recpolicy.models.tuning_policy import TunedPolicy

HEADS = ("recency", "popularity")
POINTS = 3
NEW, POPULAR = 6, 2
"""Grid points of new items (weights 10, 0) and of popular ones (0, 10)."""


def base_artifact(users: int = 12, items: int = 15, seed: int = 0) -> Artifact:
    """The first coordinate of a user is 1 for odd ids and -1 for even ones; first items are new, last ones popular."""
    artifact, rng = tiny_artifact(seed=seed, users=users, items=items), np.random.default_rng(seed)
    context = artifact.context.copy()
    context[:, 0] = np.where(np.arange(users) % 2, -1.0, 1.0)
    rated = rng.choice(items, size=(users, 3), p=np.arange(1, items + 1) / np.arange(1, items + 1).sum())
    changed = replace(
        artifact, context=context,
        items=artifact.items.assign(year=pd.array(np.arange(1950 + items, 1950, -1), dtype="Int64")),
        rated_user=np.repeat(np.arange(users), 3).astype(np.int32), rated_item=rated.ravel().astype(np.int32),
    )  # fmt: skip
    return replace(changed, metadata={**changed.metadata, "policy_digest": policy_digest(changed)})


def make_layer(scorer: Scorer, own: OwnHeads = NO_OWN_HEADS, heads: tuple[str, ...] = HEADS) -> TunedLayer:
    """Return a layer that gives odd users the grid point NEW and even ones POPULAR."""
    grid = ActionGrid.full(heads, [0.0] * len(heads), [10.0] * len(heads), POINTS)
    features = UserFeatures.fit(scorer)
    rank, buckets = scorer.artifact.item.shape[1], len(features.edges) + 1
    weight = np.zeros((4 + rank + 1, grid.size), np.float32)  # 4: the embedding of the bucket
    weight[4, NEW], weight[4, POPULAR] = 1.0, -1.0
    params = {"embedding0": np.zeros((buckets, 4), np.float32), "weight_out": weight,
              "bias_out": np.zeros(grid.size, np.float32)}  # fmt: skip
    policy = TunedPolicy("softmax", grid, TuningNetwork(params, {}, 0))
    return TunedLayer(RankingUtility(scorer, ("score", *heads), own), policy, features, 4, {"slate_size": 5})


def write_base(folder: Path, seed: int = 0) -> Path:
    """Write the policy without a layer."""
    artifact = base_artifact(seed=seed)
    folder.mkdir(parents=True)
    write_arrays(artifact, folder)
    write_manifest(artifact, folder)
    return folder


def write_tuned(base: Path, out: Path) -> Path:
    """Write the policy in `base` under a layer."""
    from recpolicy.inference.load_scorer import load_scorer

    write_tuned_policy(base, make_layer(load_scorer(base)), out)
    return out
