"""A tuned layer on top of a policy: weights of the ranking formula for each user, with a static fallback.

    tuning.json   format, base policy, heads and bounds of their scaling, grid, static weights, features, gates
    arrays.npz    networks of the tuned policy, and the heads from files that it weighs (no pickle)

n users, H heads, K places. The first head is the policy's own score with weight 1; the tuned heads follow. The base
policy is not changed, and the layer refuses another one. NumPy only.
"""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from recpolicy.inference.block_prediction import WeightChoice
from recpolicy.inference.ranking_utility import (
    NO_OWN_HEADS,
    OwnHeads,
    RankingUtility,
    Rated,
    Scores,
    UtilitySlates,
)
from recpolicy.inference.scorer import FoldIn, Scorer
from recpolicy.models.ranking_formula import HeadScaling
from recpolicy.models.tuning_policy import TunedPolicy

logger = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "recpolicy tuned layer", 1
LAYER, ARRAYS = "tuning.json", "arrays.npz"
SCORE = "score"
"""The head with weight 1."""
LARGEST_GRID = 1_000_000
"""Weight vectors of the largest grid of a layer that is read; a tuning asks above 10,000."""


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
        blocks = scorer.contexts(list(users), fold_in or {}, 1_024)
        count = np.array([len(scorer.rated(user, fold_in)) for user in users], np.float64)
        return self.of_contexts(scorer, np.concatenate([block.context for block in blocks]), count)

    def of_contexts(self, scorer: Scorer, context: NDArray[np.floating], count: Array) -> TuningFeatures:
        """Return the features of users with contexts [n, C] who rated `count` [n] items."""
        embedding = context[:, : scorer.artifact.item.shape[1]]
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

    @property
    def base_policy(self) -> str:
        """Digest of the policy that the layer was tuned for."""
        return str(self.utility.scorer.metadata.get("policy_digest", ""))

    def actions(self, context: NDArray[np.floating], count: Array) -> NDArray[np.int64]:
        """Return the grid points [n] of users with contexts [n, C] who rated `count` [n] items."""
        return self.policy.actions(self.features.of_contexts(self.utility.scorer, context, count))

    def rank(
        self, block: Scores, users: Sequence[Hashable], context: NDArray[np.floating], rated: Rated,
        choose: Callable[[NDArray[np.floating], Array], NDArray[np.int64] | None] | None = None,
    ) -> tuple[Array, WeightChoice]:  # fmt: skip
        """Return the utilities [n, A] of n users and the weights behind them.

        Args:
            block: What the policy predicts for them, without the layer.
            users: Their ids.
            context: [n, C], their contexts.
            rated: The item rows that each of them rated.
            choose: Returns the grid points [n] for contexts and numbers of ratings, or None for the static weights;
                by default `actions`.
        """
        count = np.array([len(rows) for rows in rated], np.float64)
        action = (choose or self.actions)(context, count)
        fallback = np.full(len(users), action is None)
        chosen = np.full(len(users), self.static_action, np.int64) if action is None else action
        score, complete = self.utility.rank_block(block, users, rated, self._grid_weights[chosen])
        return score, WeightChoice(chosen, fallback | ~complete)

    def weights(self, users: Sequence[Hashable], fold_in: FoldIn | None = None) -> Array:
        """Return the weights [n, H] of each user, the first of which is 1; raises UnknownIdError."""
        action = self.policy.actions(self.features.of(self.utility.scorer, users, fold_in))
        return self.full_weights(action)

    def full_weights(self, action: NDArray[np.integer] | int) -> Array:
        """Return the weights [..., H] of grid points, the weight of the score included."""
        tuned = self.policy.grid.weights(action)
        return np.concatenate([np.ones((*tuned.shape[:-1], 1)), tuned], axis=-1)

    @cached_property
    def _grid_weights(self) -> Array:
        """The weights [A, H] of all grid points."""
        return self.full_weights(np.arange(self.policy.grid.size))

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
        own = own_arrays(self.utility)
        return content_digest(
            self.policy.as_dict(), self.utility.scaling.as_dict(), list(self.features.edges), self.static_action,
            *(arrays[name] for name in sorted(arrays)), *(own[name] for name in sorted(own)), *sorted(own),
        )  # fmt: skip


_PAIR, _ITEM = "own_pair/", "own_item/"


def own_arrays(utility: RankingUtility) -> dict[str, NDArray[Any]]:
    """Return the heads from files that a formula weighs, by the names of their arrays."""
    parts = ((_PAIR, utility.own.pair), (_ITEM, utility.own.item))
    return {prefix + name: part[name] for prefix, part in parts for name in part if name in utility.names}


def _stored_heads(arrays: Mapping[str, NDArray[Any]]) -> OwnHeads:
    def of(prefix: str) -> dict[str, NDArray[np.float64]]:
        return {name.removeprefix(prefix): part for name, part in arrays.items() if name.startswith(prefix)}

    return OwnHeads(of(_PAIR), of(_ITEM))


def write_tuned_layer(layer: TunedLayer, folder: Path, texts: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write a layer and further files of text by name, whole or not at all."""
    body = {
        "format": FORMAT, "version": FORMAT_VERSION, "base_policy": layer.base_policy,
        "scaling": layer.utility.scaling.as_dict(), "policy": layer.policy.as_dict(),
        "features": {"edges": list(layer.features.edges)},
        "static_action": layer.static_action, "digest": layer.digest, "metadata": dict(layer.metadata),
    }  # fmt: skip
    with atomic_directory(folder) as temporary:
        np.savez(temporary / ARRAYS, **layer.policy.arrays(), **own_arrays(layer.utility))  # type: ignore[arg-type]
        for name, text in texts.items():
            write_text(temporary / name, text)
        write_json(temporary / LAYER, body)


def _check_parts(policy: TunedPolicy, scaling: HeadScaling, static_action: int) -> None:
    """Raise ArtifactError for parts of a layer that do not fit each other."""
    grid = policy.grid
    if grid.size > LARGEST_GRID:
        raise ArtifactError(f"a grid of {grid.size:,} weight vectors; expected at most {LARGEST_GRID:,}")
    if scaling.names != (SCORE, *grid.names) or not len(scaling.low) == len(scaling.high) == len(scaling.names):
        raise ArtifactError(f"bounds of {list(scaling.names)}; expected those of {SCORE} and {', '.join(grid.names)}")
    if not (np.isfinite(scaling.low).all() and np.isfinite(scaling.high).all()):
        raise ArtifactError("a bound of a head is not finite; tune again")
    if not 0 <= static_action < grid.size:
        raise ArtifactError(f"static weights are grid point {static_action}; expected 0 to {grid.size - 1}")
    outputs = policy.network.params["weight_out"].shape[1]
    expected = {"softmax": outputs == grid.size, "gaussian": outputs == grid.groups}
    objectives = len(policy.objective_weights)
    expected["values"] = policy.action_network is not None and objectives > 0 and outputs % max(objectives, 1) == 0
    if not expected.get(policy.form, False):
        raise ArtifactError(f"a network of {outputs} outputs does not fit the form {policy.form}; tune again")


def _check_heads(own: OwnHeads, scorer: Scorer) -> None:
    """Raise ArtifactError for heads from files that have another size than the policy's users and items."""
    users, items = len(scorer.user_ids), len(scorer.item_ids)
    for heads, shape in ((own.pair, (users, items)), (own.item, (items,))):
        for name, head in heads.items():
            if head.shape != shape or head.dtype.kind != "f":
                raise ArtifactError(f"head {name} is {head.dtype} {head.shape}; expected numbers {shape}; tune again")


def read_tuned_layer(folder: str | Path, scorer: Scorer, own: OwnHeads = NO_OWN_HEADS) -> TunedLayer:
    """Read a layer for its base policy.

    Args:
        folder: Folder that `recpolicy tune` wrote.
        scorer: The base policy.
        own: Heads from files in place of those that the folder has.

    Raises:
        ArtifactError: The folder is damaged, the layer belongs to another policy, or one of its heads is missing.
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
            arrays = read_arrays(folder / ARRAYS)
            stored = _stored_heads(arrays)
            arrays = {name: part for name, part in arrays.items() if not name.startswith((_PAIR, _ITEM))}
            if bad := [name for name, part in arrays.items() if part.dtype.kind == "f" and not np.isfinite(part).all()]:
                raise ArtifactError(f"{bad[0]} has a number that is not finite; tune again")
            policy = TunedPolicy.from_parts(body["policy"], arrays)
        bounds = body["scaling"]
        scaling = HeadScaling(tuple(bounds["names"]), np.array(bounds["low"]), np.array(bounds["high"]))
        edges = tuple(map(float, body["features"]["edges"]))
        _check_parts(policy, scaling, int(body["static_action"]))
        _check_heads(stored, scorer)
        heads = OwnHeads({**stored.pair, **own.pair}, {**stored.item, **own.item})
        utility = RankingUtility(scorer, scaling.names, heads, scaling)
        layer = TunedLayer(utility, policy, UserFeatures(edges), int(body["static_action"]), body["metadata"])
        if layer.digest != body["digest"]:
            raise ArtifactError(f"{folder}: changed since it was written; tune again")
        return layer
