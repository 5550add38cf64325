"""A tuned layer on top of a policy: weights of the ranking formula for each user, with a static fallback.

    tuning.json   format, base policy, heads and bounds of their scaling, grid, static weights, features, gates
    arrays.npz    networks of the tuned policy (no pickle)

n users, H heads, K places. The first head is the policy's own score with weight 1; the tuned heads follow. The base
policy is not changed, and the layer refuses another one. NumPy only.
"""

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.arrays import read_arrays
from recpolicy.core.errors import ArtifactError, UnknownIdError
from recpolicy.core.files import atomic_directory, content_digest, read_versioned_json, write_json, write_text
from recpolicy.core.types import Array
from recpolicy.data.tuning_log import TuningFeatures
from recpolicy.inference.artifact_files import artifact_errors
from recpolicy.inference.ranking_utility import NO_OWN_HEADS, OwnHeads, RankingUtility, UtilitySlates
from recpolicy.inference.scorer import FoldIn, Scorer
from recpolicy.models.ranking_formula import HeadScaling
from recpolicy.models.tuning_policy import TunedPolicy

logger = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "recpolicy tuned layer", 1
LAYER, ARRAYS = "tuning.json", "arrays.npz"
SCORE = "score"
"""The head with weight 1."""


@dataclass(frozen=True)
class UserFeatures:
    """Features of users for tuning: their embedding, their number of ratings, and their bucket of activity."""

    edges: tuple[float, ...]
    """Numbers of ratings between the buckets of activity, ascending."""

    @classmethod
    def fit(cls, scorer: Scorer, buckets: int = 4) -> "UserFeatures":
        """Return features whose buckets hold equally many users of the policy."""
        count = np.bincount(scorer.artifact.rated_user, minlength=len(scorer.user_ids))
        edges = np.unique(np.quantile(count, np.linspace(0, 1, buckets + 1)[1:-1]))
        return cls(tuple(map(float, edges)))

    def of(self, scorer: Scorer, users: Sequence[Hashable], fold_in: FoldIn | None = None) -> TuningFeatures:
        """Return the features of users; raises UnknownIdError."""
        rank = scorer.artifact.item.shape[1]
        blocks = scorer.contexts(list(users), fold_in or {}, 1_024)
        embedding = np.concatenate([block.context[:, :rank] for block in blocks])
        count = np.array([len(scorer.rated(user, fold_in)) for user in users], np.float64)
        numeric = np.concatenate([embedding, np.log1p(count)[:, np.newaxis]], axis=1).astype(np.float32)
        bucket = np.searchsorted(self.edges, count, side="right").astype(np.int32)
        return TuningFeatures(bucket[:, np.newaxis], numeric, (len(self.edges) + 1,))


@dataclass(frozen=True)
class TunedLayer:
    """A tuned policy over the heads of one base policy."""

    utility: RankingUtility
    policy: TunedPolicy
    features: UserFeatures
    static_action: int
    """Grid point of the best static weights: the fallback."""
    metadata: Mapping[str, Any]

    def weights(self, users: Sequence[Hashable], fold_in: FoldIn | None = None) -> Array:
        """Return the weights [n, H] of each user, the first of which is 1; raises UnknownIdError."""
        action = self.policy.actions(self.features.of(self.utility.scorer, users, fold_in))
        return self.full_weights(action)

    def full_weights(self, action: NDArray[np.integer] | int) -> Array:
        """Return the weights [..., H] of grid points, the weight of the score included."""
        tuned = self.policy.grid.weights(action)
        return np.concatenate([np.ones((*tuned.shape[:-1], 1)), tuned], axis=-1)

    @property
    def static_weights(self) -> Array:
        """The static weights [H]."""
        return self.full_weights(self.static_action)

    def recommend(
        self, users: Sequence[Hashable], k: int = 10, *, exclude_rated: bool = True, fold_in: FoldIn | None = None
    ) -> UtilitySlates:
        """Return the slates of n users; the static weights choose where the tuned policy fails, marked as fallback.

        Raises:
            UnknownIdError: A user is unknown and has no ratings in `fold_in`.
            ConfigError: k is below 1.
        """
        failed = False
        try:
            weights = self.weights(users, fold_in)
            failed = not np.isfinite(weights).all()
        except UnknownIdError:
            raise
        except Exception:  # a layer that fails must not take the recommendations with it
            logger.exception("the tuned layer failed; the static weights serve")
            failed = True
        if failed:
            weights = self.static_weights
        slates = self.utility.slates(
            users, weights, k, static=self.static_weights, exclude_rated=exclude_rated, fold_in=fold_in
        )
        return UtilitySlates(slates.arms, slates.fallback | failed)

    @property
    def digest(self) -> str:
        """SHA-256 of all that determines the weights."""
        arrays = self.policy.arrays()
        return content_digest(
            self.policy.as_dict(), self.utility.scaling.as_dict(), list(self.features.edges), self.static_action,
            *(arrays[name] for name in sorted(arrays)),
        )  # fmt: skip


def write_tuned_layer(layer: TunedLayer, folder: Path, texts: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write a layer and further files of text by name, whole or not at all."""
    base = layer.utility.scorer.metadata.get("policy_digest", "")
    body = {
        "format": FORMAT, "version": FORMAT_VERSION, "base_policy": base, "scaling": layer.utility.scaling.as_dict(),
        "policy": layer.policy.as_dict(), "features": {"edges": list(layer.features.edges)},
        "static_action": layer.static_action, "digest": layer.digest, "metadata": dict(layer.metadata),
    }  # fmt: skip
    with atomic_directory(folder) as temporary:
        np.savez(temporary / ARRAYS, **layer.policy.arrays())  # type: ignore[arg-type]
        for name, text in texts.items():
            write_text(temporary / name, text)
        write_json(temporary / LAYER, body)


def read_tuned_layer(folder: str | Path, scorer: Scorer, own: OwnHeads = NO_OWN_HEADS) -> TunedLayer:
    """Read a layer for its base policy.

    Args:
        folder: Folder that `recpolicy tune` wrote.
        scorer: The base policy.
        own: Heads from files, if the layer uses any.

    Raises:
        ArtifactError: The folder is damaged, the layer belongs to another policy, or `own` lacks one of its heads.
    """
    folder = Path(folder)
    body = read_versioned_json(folder / LAYER, FORMAT, FORMAT_VERSION)
    with artifact_errors(folder):
        base = scorer.metadata.get("policy_digest", "")
        if body["base_policy"] != base:
            raise ArtifactError(
                f"{folder}: tuned for policy {body['base_policy'][:12]}, not {base[:12]}; tune this one"
            )
        with artifact_errors(folder / ARRAYS):
            policy = TunedPolicy.from_parts(body["policy"], read_arrays(folder / ARRAYS))
        bounds = body["scaling"]
        scaling = HeadScaling(tuple(bounds["names"]), np.array(bounds["low"]), np.array(bounds["high"]))
        edges = tuple(map(float, body["features"]["edges"]))
        utility = RankingUtility(scorer, scaling.names, own, scaling)
        layer = TunedLayer(utility, policy, UserFeatures(edges), int(body["static_action"]), body["metadata"])
        if layer.digest != body["digest"]:
            raise ArtifactError(f"{folder}: changed since it was written; tune again")
        return layer
