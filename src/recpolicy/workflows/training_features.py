"""What every agent on a split starts from: rating model, embeddings, contexts, catalogue; from the train part only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from recpolicy.core.config import build, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.data.ratings import Ratings
from recpolicy.models.context import contexts
from recpolicy.models.embeddings import Embeddings, embed
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.rating_models import fit_rating_model


@config_dataclass
class FeatureConfig:
    """Settings of the features."""

    items: NonNegativeInt = 0
    """Size of the catalogue: the most rated items of the train part; 0 takes all."""
    rank: PositiveInt = 20
    """Length of user and item embeddings."""
    rating_model: str = "bayesian_fm"
    """The model that embeddings come from (a name in RATING_MODELS)."""
    demographics: bool = False
    """Append age, gender and occupation to the contexts."""


@dataclass(frozen=True)
class Features:
    """What every agent on a split starts from; fitted on the train part only."""

    model: RatingModel
    embeddings: Embeddings
    context: NDArray[np.float32]  # [U, >= D]
    catalogue: NDArray[np.int32]  # [A], item rows


def prepare(
    fit: Ratings, settings: FeatureConfig, *, model: RatingModel | None = None, model_config: Any = None, seed: int = 0
) -> Features:
    """Fit (or take) the rating model and derive embeddings, contexts and the catalogue from the train part."""
    if model is None:
        model = fit_rating_model(fit, settings.rating_model, model_config, seed=seed)
    if model.fit_digest != fit.digest:
        raise ConfigError(f"the rating model {model.name!r} was fitted on other ratings than {fit.name}")
    rank = min(settings.rank, *fit.shape)
    embeddings = embed(model, rank)
    return Features(
        model, embeddings, contexts(embeddings, fit.users, settings.demographics), catalogue_of(fit, settings)
    )


def catalogue_of(fit: Ratings, settings: FeatureConfig) -> NDArray[np.int32]:
    """The rows [A] of the items to choose from, ascending: the most rated ones."""
    items = fit.shape[1]
    if settings.items and not 2 <= settings.items <= items:
        raise ConfigError(f"train: items is {settings.items}; expected 0 (all) or 2..{items}")
    if not settings.items:
        return np.arange(items, dtype=np.int32)
    count = np.bincount(fit.item, minlength=items)
    return np.sort(np.argsort(-count, kind="stable")[: settings.items]).astype(np.int32)


def settings_of(kind: type[Any], given: Any, where: str) -> Any:
    """`given` as a config of class `kind`: that class, a mapping of settings, or None for the defaults."""
    if given is None:
        return kind()
    if isinstance(given, kind):
        return given
    return build(kind, given, where)
