"""The inputs of a training: ratings and split, then rating model, embeddings, contexts and catalog.

U users, I items, A items of the catalog, D features. Features are fitted on the train part of the split only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import Size, SizeOrZero, build, config_dataclass
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.memory import FEWER_CELLS, check_memory
from recpolicy.data.features.attributes import Attributes, encode_attributes
from recpolicy.data.features.schema import schema_from_dict
from recpolicy.data.loaders import load_ratings
from recpolicy.data.log_ingest import RATINGS, TRAINING
from recpolicy.data.log_parts import has_events
from recpolicy.data.ratings import Ratings
from recpolicy.data.ratings_store import is_saved_ratings, load_saved_split, saved_split_name
from recpolicy.data.splits import Split
from recpolicy.data.splits import split as split_ratings
from recpolicy.inference.artifact_checks import MAX_WIDTH
from recpolicy.models.context import contexts
from recpolicy.models.embeddings import Embeddings, embed
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.models.user_posterior import pack, packed_size, trained_posterior

DATA, SPLIT = "ml-100k", "u1"
"""Defaults of data and split."""
READ_ITEM_ATTRIBUTES = ("linucb_shared", "linucb_hybrid", "squarecb", "eps_greedy", "boltzmann")
"""Agents of one model for all items, which can read attributes of items; others have a model per item, or read genres.
"""
_CELL_BYTES = 60
"""Bytes of a training at its peak for each user and item: rating model, features, world."""


@config_dataclass
class FeatureConfig:
    """Settings of the features."""

    items: SizeOrZero = 0
    """Size of the catalog: the most rated items of the train part; 0 takes all."""
    rank: Size = 20
    """Length of user and item embeddings."""
    rating_model: str = "bayesian_fm"
    """The model that embeddings come from (a name in RATING_MODELS)."""
    demographics: bool = False
    """Append age, gender and occupation to the contexts."""
    features: Mapping[str, Any] | None = None
    """Schema of attributes, as in a schema file: columns of users join the contexts, columns of items the items."""


@dataclass(frozen=True)
class Features:
    """Inputs of every agent on a split, fitted on the train part."""

    model: RatingModel
    embeddings: Embeddings
    context: NDArray[np.float32]  # [U, >= D]
    action_items: NDArray[np.int32]  # [A], item rows
    attributes: Attributes | None = None
    user_posteriors: bool = False
    """True if the contexts are the posteriors of the users' vectors, packed."""


def prepare_features(
    train_ratings: Ratings,
    settings: FeatureConfig,
    *,
    model: RatingModel | None = None,
    model_config: Any = None,
    seed: int = 0,
) -> Features:
    """Return embeddings, contexts and the catalog, from a rating model of the train part.

    Args:
        train_ratings: The train part of a split.
        settings: Settings of the features.
        model: A rating model that was fitted on the train part; without it, one is fitted or read from the cache.
        model_config: Settings of the rating model, if it is fitted here.
        seed: Seed of the rating model.

    Raises:
        ConfigError: The rating model was fitted on other ratings, the catalog is larger than the items, or the schema
            of attributes is wrong.
        DataError: A table of users or items lacks a column of the schema, or has a value of another type.
        MemoryLimitError: The users and items are too many for the memory of this machine.
    """
    users, items = train_ratings.shape
    check_memory(
        users * items * _CELL_BYTES, f"{train_ratings.name}: a training on {users:,} users x {items:,} items",
        FEWER_CELLS,
    )  # fmt: skip
    if model is None:
        model = fit_rating_model(train_ratings, settings.rating_model, model_config, seed=seed)
    if model.train_digest != train_ratings.digest:
        raise ConfigError(f"the rating model {model.name!r} was fitted on other ratings than {train_ratings.name}")
    attributes = None
    if settings.features is not None:
        attributes = encode_attributes(schema_from_dict(settings.features, "features"), train_ratings)
    rank = min(settings.rank, *train_ratings.shape)
    embeddings = embed(model, rank)
    context = contexts(embeddings, train_ratings.users, settings.demographics)
    if attributes is not None:
        context = np.concatenate([context, attributes.user], axis=1)
    return Features(model, embeddings, context, select_action_items(train_ratings, settings), attributes)


def with_user_posteriors(features: Features, train_ratings: Ratings, settings: FeatureConfig, agent: str) -> Features:
    """Return the features with posteriors of the users' vectors as contexts [U, D + T], for an agent that reads them.

    Raises:
        ConfigError: The settings add other columns to the contexts, or a posterior would be too long.
    """
    if settings.demographics or settings.features is not None:
        raise ConfigError(
            f"{agent} sees the posterior of the user's vector only; leave out demographics and features, or choose"
            " another agent (linucb_shared)"
        )
    width = packed_size(features.embeddings.item.shape[1])
    if width > MAX_WIDTH:
        raise ConfigError(
            f"{agent}: a posterior of rank {settings.rank} has {width:,} numbers, of at most {MAX_WIDTH:,}; choose a"
            " rank of at most 43"
        )
    posterior = trained_posterior(features.embeddings, train_ratings.user, train_ratings.item)
    return replace(features, context=pack(posterior).astype(np.float32), user_posteriors=True)


def item_attributes(agent: str, features: Features) -> Attributes | None:
    """Return the attributes for the tables of items, if the agent reads some.

    Raises:
        ConfigError: The schema has attributes of items, and the agent does not read them.
    """
    attributes = features.attributes
    if attributes is None or not attributes.encoder.schema.action or agent in READ_ITEM_ATTRIBUTES:
        return attributes
    raise ConfigError(
        f"features: {agent} does not read attributes of items, only those of users ([context.NAME]);"
        f" {', '.join(READ_ITEM_ATTRIBUTES)} read both"
    )


def select_action_items(train_ratings: Ratings, settings: FeatureConfig) -> NDArray[np.int32]:
    """Return the ascending rows [A] of the items to recommend: the most rated ones."""
    items = train_ratings.shape[1]
    if settings.items and not 2 <= settings.items <= items:
        raise ConfigError(f"train: items is {settings.items}; expected 0 (all) or 2..{items}")
    if not settings.items:
        return np.arange(items, dtype=np.int32)
    count = np.bincount(train_ratings.item, minlength=items)
    return np.sort(np.argsort(-count, kind="stable")[: settings.items]).astype(np.int32)


def coerce(config_type: type[Any], config: Any, where: str) -> Any:
    """Return `config` as a `config_type`: it may be one, a mapping of settings, or None for the defaults."""
    if config is None:
        return config_type()
    if isinstance(config, config_type):
        return config
    return build(config_type, config, where)


def training_data(
    data: str | None = None,
    split: str | None = None,
    log: Path | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Split:
    """Return the split to train on.

    Args:
        data: A source of `load_ratings`; without it, the ratings table of the log, or else DATA.
        split: The name of a split; without it, the split that was saved with the table, or else SPLIT.
        log: The folder of an ingested log.
        seed: Seed of random splits.
        options: Further arguments of `load_ratings`.

    Raises:
        DataError: The log does not exist or was not ingested, or its ratings have no test part and `split` is None.
        ConfigError: The split would train on rounds that are reserved for evaluation.
    """
    if log is not None and not log.exists():
        raise DataError(f"{log}: no such folder; expected a log that `recpolicy log ingest` wrote")
    if log is not None and has_events(log) and not (log / TRAINING).exists():
        raise DataError(f"{log}: a raw log; ingest it first: recpolicy log ingest {log} --out ROUNDS")
    has_table = log is not None and data is None and (log / RATINGS).exists()
    table = str(log / RATINGS) if log is not None and has_table else data or DATA
    saved = saved_split_name(Path(table)) if has_table or is_saved_ratings(Path(table)) else None
    if has_table and saved is None and split is None:
        raise DataError(
            f"{table}: this log has no rounds for evaluation; ingest it again with more of them"
            " (--evaluation-share 0.2), or choose a test part with --split (temporal, random)"
        )
    if has_table and saved is not None and split not in (None, saved):
        raise ConfigError(
            f"{log}: split {split!r} would train on rounds for evaluation; leave --split out:"
            f" the log has the split {saved}"
        )
    if saved is not None and split in (None, saved) and not options:
        parts, source = load_saved_split(Path(table)), {"source": table}
        return replace(parts, train=replace(parts.train, source=source), test=replace(parts.test, source=source))
    return split_ratings(load_ratings(table, **(options or {})), split or SPLIT, seed)
