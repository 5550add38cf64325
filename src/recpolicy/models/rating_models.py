"""The rating models by name, and a function that fits any of them with a cache.

The name of a cache folder is a digest of ratings, attributes, model, config, seed and the version of recpolicy. A
repeated fit is loaded from the cache.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from recpolicy.core.config import as_dict, build
from recpolicy.core.errors import ArtifactError, ConfigError, DataError, unknown_name_error
from recpolicy.core.files import content_digest
from recpolicy.core.memory import FEWER_CELLS, check_memory
from recpolicy.data.ratings import Ratings
from recpolicy.models.bayesian_fm import BayesianFMConfig, fit_bayesian_fm
from recpolicy.models.bias import BiasConfig, fit_bias
from recpolicy.models.item_knn import ItemKNNConfig, fit_item_knn
from recpolicy.models.item_mean import ItemMeanConfig, fit_item_mean
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.rating_model_io import FORMAT_VERSION, load_rating_model, save_rating_model
from recpolicy.models.svd import SVDConfig, fit_svd

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RatingModelKind:
    """A kind of rating model: its config class and its fit function (train, config, seed)."""

    config: type[Any]
    fit: Callable[[Ratings, Any, int], RatingModel]
    cell_bytes: int
    """Bytes of a fit at its peak for each user and item, as measured."""
    pair_bytes: int = 0
    """Bytes for each pair of items."""


RATING_MODELS: Mapping[str, RatingModelKind] = {
    "bayesian_fm": RatingModelKind(BayesianFMConfig, fit_bayesian_fm, cell_bytes=37),
    "bias": RatingModelKind(BiasConfig, fit_bias, cell_bytes=29),
    "item_knn": RatingModelKind(ItemKNNConfig, fit_item_knn, cell_bytes=42, pair_bytes=24),
    "item_mean": RatingModelKind(ItemMeanConfig, fit_item_mean, cell_bytes=16),
    "svd": RatingModelKind(SVDConfig, fit_svd, cell_bytes=49),
}


def fit_rating_model(
    train: Ratings,
    model: str = "bayesian_fm",
    config: Any = None,
    seed: int = 0,
    cache: Path | Literal["default"] | None = "default",
) -> RatingModel:
    """Fit the named model, or load it from the cache if the same fit was made before.

    Args:
        train: Ratings to fit on.
        model: A name in RATING_MODELS.
        config: The config dataclass of the model, a mapping of its settings, or None for the defaults.
        seed: Seed of the fit.
        cache: A folder, "default" (see `default_cache`), or None for no cache.

    Returns:
        The fitted model: expected ratings and their standard deviations, each [U, I], in rating units.

    Raises:
        ConfigError: The model or a setting is unknown.
        DataError: There are no ratings.
        MemoryLimitError: The users and items are too many for the memory of this machine.
    """
    if model not in RATING_MODELS:
        raise unknown_name_error("rating model", model, RATING_MODELS)
    kind = RATING_MODELS[model]
    settings = _resolve(kind, config, model)
    check_fit(train, model)
    if not len(train):
        raise DataError(f"{train.name}: no ratings to fit the rating model {model!r} on")
    if cache is None:
        return kind.fit(train, settings, seed)
    root = default_cache() if cache == "default" else Path(cache)
    folder = root / "rating-models" / _key(train, model, settings, seed)
    if folder.exists():
        try:
            return load_rating_model(folder)
        except ArtifactError as error:
            logger.warning("cached rating model is fitted again: %s", error)
    fitted = kind.fit(train, settings, seed)
    try:
        save_rating_model(fitted, folder)
    except OSError as error:  # keep the fit even if the disk is full or read-only
        logger.warning("rating model is not cached in %s: %s", folder, error)
    return fitted


def check_fit(train: Ratings, model: str) -> None:
    """Raise MemoryLimitError if the tables of users by items of a rating model do not fit into memory."""
    kind, (users, items) = RATING_MODELS[model], train.shape
    needed = users * items * kind.cell_bytes + items * items * kind.pair_bytes
    check_memory(needed, f"{train.name}: rating model {model} of {users:,} users x {items:,} items", FEWER_CELLS)


def default_cache() -> Path:
    """Return the folder in $RECPOLICY_CACHE, or ~/.cache/recpolicy."""
    return Path(os.environ.get("RECPOLICY_CACHE") or Path.home() / ".cache" / "recpolicy")


def _resolve(kind: RatingModelKind, config: Any, model: str) -> Any:
    """Return the settings as the model's config dataclass."""
    if config is None:
        return kind.config()
    if isinstance(config, kind.config):
        return config
    if isinstance(config, Mapping):
        return build(kind.config, config, where=f"rating model {model!r}")
    actual = type(config).__name__ if is_dataclass(config) else repr(config)
    raise ConfigError(f"rating model {model!r}: config is {actual}; expected {kind.config.__name__} or a mapping")


def _key(train: Ratings, model: str, settings: Any, seed: int) -> str:
    """Return a digest of all inputs of a fit, including attributes and unrated rows, which Ratings.digest omits."""
    tables = [train.digest, train.user, train.item, _table(train.users), _table(train.items), list(train.scale)]
    return content_digest(*tables, model, as_dict(settings), seed, FORMAT_VERSION, version("recpolicy"))[:32]


def _table(table: pd.DataFrame) -> dict[str, list[str]]:
    return {str(name): [str(value) for value in table[name]] for name in table.columns}
