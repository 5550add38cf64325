"""Add items to the catalog of a trained policy, retire some, or restore retired ones, without training.

A new item gets offset and embedding from its genres, by a regression over the items of the training
(models/fold_in.py). Its row follows those of all earlier items, and its arm those of all earlier arms, so rows and arms
keep their meaning. In a policy with one linear model per arm, the new arm starts at the regression's mean, and its
covariance is that of the regression over the noise variance. A retired item keeps its row, and loses its arm: no answer
recommends it, and ratings of it still describe a user. A restored item gets the arm that it had in the version before.

U users, I items, A arms, M new items, C context columns of which the first D are the embedding, T = entries of a packed
covariance.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, UnknownIdError, unknown_name_error
from recpolicy.core.ids import type_hint
from recpolicy.core.memory import FEWER_CELLS, check_memory
from recpolicy.core.types import Array
from recpolicy.data.features.attributes import attribute_columns
from recpolicy.data.features.encoder import FeatureEncoder
from recpolicy.data.ratings import genre_sets
from recpolicy.inference.arm_arrays import arm_axes, chosen_arms
from recpolicy.inference.artifact import RETIRED_ITEMS, TRAINED_ITEMS, Artifact, PolicyParts
from recpolicy.inference.reward_estimators import ADDED_ARM, ADDED_PRIOR, pack_symmetric
from recpolicy.models.embeddings import Embeddings, item_std, user_std
from recpolicy.models.fold_in import FoldedItems, fold_in_items, genre_prior

CATALOG_ARRAYS = (ADDED_ARM, ADDED_PRIOR, RETIRED_ITEMS, TRAINED_ITEMS, "prior_error_variance")
"""Arrays of a policy that record changes of its catalog, and what arms began with; a later training keeps them."""
CATALOG_CHANGE = "catalog_change"
"""Key in the metadata of a version whose catalog was changed: parent, added, retired and restored ids."""
OWN_POSTERIOR = ("linear", "hybrid")
"""Estimators with a linear model per arm: feedback on a new item moves its own estimate."""
_CELL_BYTES, _MOMENT_BYTES = 16, 8
"""Bytes for each user and item, and for each user and pair of directions."""
_ATTRIBUTES = "attributes"


def with_items(artifact: Artifact, items: pd.DataFrame) -> Artifact:
    """Return the policy with M new items.

    Args:
        artifact: The policy.
        items: The columns item_id, title, year and genres; ids of the policy's type, none of them known.

    Raises:
        ConfigError: The agent cannot take new items, or a genre is none of the policy's.
    """
    check_takes_items(artifact)
    users, known, new = len(artifact.context), len(artifact.item), len(items)
    rank = artifact.item.shape[1]
    needed = users * ((known + new) * _CELL_BYTES + _MOMENT_BYTES * (1 + rank) ** 2)
    check_memory(needed, f"{users:,} users x {known + new:,} items", FEWER_CELLS)
    folded = _fold(artifact, items)
    mean, std = folded.ratings(artifact.context[:, :rank])  # [U, M]
    std = np.hypot(std, user_std(artifact.rating_std)[:, np.newaxis])
    rating_mean = artifact.rating_mean
    if rating_mean is not None:
        rating_mean = np.concatenate([rating_mean, np.clip(mean, *artifact.scale)], axis=1)
    return replace(
        artifact,
        policy=_with_arms(artifact, folded, items),
        item=np.concatenate([artifact.item, folded.embedding]),
        offset=np.concatenate([artifact.offset, folded.offset]),
        rating_std=np.concatenate([artifact.rating_std, std.astype(np.float32)], axis=1),
        rating_mean=rating_mean,
        action_items=np.concatenate([artifact.action_items, known + np.arange(new, dtype=np.int32)]),
        items=pd.concat([artifact.items, items[list(artifact.items.columns)]], ignore_index=True),
    )


def without_items(artifact: Artifact, item_ids: Sequence[Hashable]) -> Artifact:
    """Return the policy without the arms of some items.

    Raises:
        UnknownIdError: An id is unknown.
        DataError: An item is not in the catalog, occurs twice, or no item would be left.
    """
    rows = _rows(artifact, item_ids)
    retired = np.zeros(len(artifact.item), bool)
    retired[rows] = True
    kept = ~retired[artifact.action_items]
    for row, identifier in zip(rows, item_ids, strict=True):
        if row not in artifact.action_items:
            state = "is retired already" if row in artifact.retired_items else "is not in the catalog"
            raise DataError(f"item {identifier} {state}")
    left, needed = int(kept.sum()), int(artifact.policy.get("steps", 1))
    if left < needed:
        raise DataError(f"{len(rows)} items to retire of {len(kept)}: {left} would be left; expected at least {needed}")
    return replace(
        artifact, policy=_with_retired(chosen_arms(artifact, np.flatnonzero(kept)), artifact, rows),
        action_items=artifact.action_items[kept],
    )  # fmt: skip


def with_restored(artifact: Artifact, before: Artifact, item_ids: Sequence[Hashable]) -> Artifact:
    """Return the policy with the arms that retired items had in a version before.

    Args:
        artifact: The policy.
        before: The version before: an ancestor of the policy that recommends the items.
        item_ids: Ids of retired items.

    Raises:
        UnknownIdError: An id is unknown.
        DataError: An item is not retired, or occurs twice.
    """
    rows = retired_rows(artifact, item_ids)
    count = len(artifact.action_items)
    arm_before = {row: arm for arm, row in enumerate(before.action_items.tolist())}
    chosen = np.array([arm_before[row] for row in rows.tolist()])
    action_items = np.concatenate([artifact.action_items, rows])
    # Rows in order stay so; else restored arms are the last ones.
    in_order = bool((np.diff(artifact.action_items) > 0).all())
    order = np.argsort(action_items) if in_order else np.arange(len(action_items))
    arrays = dict(artifact.policy)
    for name, axis in arm_axes(artifact).items():
        if name in arrays:
            own, rest = np.split(arrays[name], [count], axis=axis)  # a network may have an output for the value
            arms = np.concatenate([own, np.take(before.policy[name], chosen, axis=axis)], axis=axis)
            arrays[name] = np.concatenate([np.take(arms, order, axis=axis), rest], axis=axis)
    arrays.update(_added_arms(artifact, before, chosen, np.argsort(order)))
    arrays[RETIRED_ITEMS] = np.setdiff1d(artifact.retired_items, rows).astype(np.int32)
    return replace(artifact, policy=arrays, action_items=action_items[order].astype(np.int32))


def retired_rows(artifact: Artifact, item_ids: Sequence[Hashable]) -> NDArray[np.int32]:
    """Return the rows of different retired items; raises what `with_restored` raises."""
    rows = _rows(artifact, item_ids)
    for row, identifier in zip(rows, item_ids, strict=True):
        if row not in artifact.retired_items:
            raise DataError(f"item {identifier} is not retired")
    return rows


def arms_are_separate(parts: PolicyParts) -> bool:
    """Return True if an arm stays right while the policy learns from rounds that do not show its item."""
    return takes_items(parts) and not _forgets(parts)


def takes_items(parts: PolicyParts) -> bool:
    """Return True if an arm of the policy is a function of the item's embedding and offset, or starts as one."""
    if parts.estimator == "mlp":
        return "embedding" in parts.policy
    if parts.estimator == "rating_model":
        return "score" not in parts.policy
    return parts.estimator in (*OWN_POSTERIOR, "shared", "user")


def check_takes_items(parts: PolicyParts) -> None:
    """Raise ConfigError for a policy that has no place for an item without training."""
    if not takes_items(parts):
        raise ConfigError(
            f"{parts.agent} cannot take new items without training, because it learns each item from its own feedback"
            " alone; linucb, lints, linucb_user, linucb_hybrid, linucb_shared, squarecb and rating_model can, and"
            " eps_greedy and boltzmann with the head dot"
        )
    if _forgets(parts):
        raise ConfigError(
            f"{parts.agent} with forgetting {_forgetting(parts):g} cannot take new items: a new arm would return to the"
            " prior of the training; train with forgetting 1"
        )


def _forgets(parts: PolicyParts) -> bool:
    return parts.estimator in OWN_POSTERIOR and _forgetting(parts) < 1


def _forgetting(parts: PolicyParts) -> float:
    return float((parts.metadata.get("config", {}).get("agent") or {}).get("forgetting", 1))


def genre_rows(names: Sequence[str], items: pd.DataFrame) -> NDArray[np.float32]:
    """Return the genres of items as a 0/1 matrix [M, G]; raises ConfigError for a genre that is not in `names` [G]."""
    column = {name: index for index, name in enumerate(names)}
    matrix = np.zeros((len(items), len(names)), np.float32)
    for row, genres in enumerate(genre_sets(items)):
        for genre in sorted(genres):
            if genre not in column:
                fault = unknown_name_error("genre", genre, names)
                raise ConfigError(f"item {items['item_id'].iloc[row]}: {fault}")
            matrix[row, column[genre]] = 1.0
    return matrix


def _fold(artifact: Artifact, items: pd.DataFrame) -> FoldedItems:
    """Return offset, embedding and covariance of the new items, from the items of the training."""
    rank, tables, trained = artifact.item.shape[1], artifact.tables, artifact.trained_items
    embeddings = Embeddings(
        artifact.context[:, :rank], artifact.item[:trained], artifact.offset[:trained], artifact.scale,
        artifact.noise_std, np.nan, item_std(artifact.rating_std[:, :trained]),
    )  # fmt: skip
    prior = genre_prior(embeddings, tables.genres[:trained].astype(np.float32))
    return fold_in_items(prior, genre_rows(tables.genre_names, items))


def _with_arms(artifact: Artifact, folded: FoldedItems, items: pd.DataFrame) -> dict[str, Any]:
    """Return the arrays of the policy with M more arms."""
    arrays, new = dict(artifact.policy), len(items)
    arrays[TRAINED_ITEMS] = np.array(artifact.trained_items, np.int32)
    if artifact.estimator in OWN_POSTERIOR:
        width, own = _regressors(artifact)
        packed = pack_symmetric(_prior_covariance(artifact, folded, width, own)).astype(np.float32)
        arms = len(artifact.action_items) + np.arange(new, dtype=np.int32)
        arrays[ADDED_ARM] = np.concatenate([np.asarray(arrays.get(ADDED_ARM, ()), np.int32), arms])
        arrays[ADDED_PRIOR] = np.concatenate([arrays[ADDED_PRIOR], packed]) if ADDED_PRIOR in arrays else packed
        arrays["covariance"] = np.concatenate([arrays["covariance"], packed])
    if artifact.estimator == "linear":
        theta = np.zeros((new, width), np.float32)
        theta[:, : artifact.item.shape[1]] = folded.embedding
        if arrays["bias"]:
            theta[:, -1] = folded.offset
        arrays["theta"] = np.concatenate([arrays["theta"], theta])
    if artifact.estimator == "hybrid":  # the shared part gives the mean, from embedding and offset
        for name in ("cross", "center"):
            arrays[name] = np.concatenate([arrays[name], np.zeros((new, *arrays[name].shape[1:]), np.float32)])
    if artifact.estimator == "user":  # the item's own error, which ratings of all users move
        variance = np.square(folded.std)
        for name, values in (
            ("error_mean", 0 * variance),
            ("error_variance", variance),
            ("prior_error_variance", variance),
        ):
            arrays[name] = np.concatenate([arrays[name], values.astype(np.float32)])
    if artifact.estimator == "mlp":
        arrays["embedding"] = np.concatenate([arrays["embedding"], folded.embedding])
        arrays["offset"] = np.concatenate([arrays["offset"], folded.offset])
    if "item_attributes" in arrays:
        encoder = FeatureEncoder.from_dict(artifact.metadata[_ATTRIBUTES])
        encoded = encoder.dense_action(attribute_columns(items, "item_id"))
        arrays["item_attributes"] = np.concatenate([arrays["item_attributes"], encoded.astype(np.float32)])
    return arrays


def _regressors(artifact: Artifact) -> tuple[int, float]:
    """Return the regressors of an arm's own model, and the weight of its prior in the training."""
    bias = artifact.estimator == "hybrid" or bool(artifact.policy["bias"])
    settings = artifact.metadata.get("config", {}).get("agent") or {}
    trained = artifact.policy.get("prior_precision")
    precision = settings.get("precision", 1.0) if trained is None else np.ravel(trained)[-1]
    return artifact.context.shape[1] + bias, float(precision)


def _prior_covariance(artifact: Artifact, folded: FoldedItems, width: int, precision: float) -> Array:
    """Return the covariance over the noise variance [M, width, width] of new arms; columns of the context beyond the
    embedding have the prior of the training."""
    rank = artifact.item.shape[1]
    matrices = np.broadcast_to(np.eye(width) / precision, (len(folded.offset), width, width)).copy()
    places, parts = np.arange(rank), np.arange(1, rank + 1)
    if width > artifact.context.shape[1]:  # the constant 1 is the last regressor
        places, parts = np.append(places, width - 1), np.append(parts, 0)
    scaled = folded.covariance / artifact.noise_std**2
    matrices[:, places[:, np.newaxis], places] = scaled[:, parts[:, np.newaxis], parts]
    return matrices


def _added_arms(
    artifact: Artifact, before: Artifact, chosen: NDArray[np.integer], place: NDArray[np.integer]
) -> dict[str, Any]:
    """Return the record of added arms after arms were restored.

    Args:
        artifact: The policy with A arms.
        before: The version before.
        chosen: [M], its arms that come back.
        place: [A + M], the new arm of each old one and then of each restored one.
    """
    arms, priors = [], []
    count = len(artifact.action_items)
    for policy, new_arms in ((artifact, dict(enumerate(place[:count].tolist()))),
                             (before, dict(zip(chosen.tolist(), place[count:].tolist(), strict=True)))):  # fmt: skip
        for arm, prior in zip(policy.policy.get(ADDED_ARM, ()), policy.policy.get(ADDED_PRIOR, ()), strict=True):
            if int(arm) in new_arms:
                arms.append(new_arms[int(arm)])
                priors.append(prior)
    if not arms:
        return {}
    order = np.argsort(arms)
    return {ADDED_ARM: np.array(arms, np.int32)[order], ADDED_PRIOR: np.array(priors)[order]}


def _with_retired(arrays: dict[str, Any], artifact: Artifact, rows: NDArray[np.int32]) -> dict[str, Any]:
    return {**arrays, RETIRED_ITEMS: np.sort(np.concatenate([artifact.retired_items, rows]))}


def _rows(artifact: Artifact, item_ids: Sequence[Hashable]) -> NDArray[np.int32]:
    """Return the rows of different item ids."""
    row = {identifier: place for place, identifier in enumerate(artifact.tables.item_ids)}
    unknown = [identifier for identifier in item_ids if identifier not in row]
    if unknown:
        raise UnknownIdError(f"no item with id {unknown[0]!r} in this policy{type_hint(unknown, row)}")
    if len(set(item_ids)) != len(item_ids):
        twice = next(identifier for place, identifier in enumerate(item_ids) if identifier in item_ids[:place])
        raise DataError(f"item {twice} is named twice")
    return np.array([row[identifier] for identifier in item_ids], np.int32)
