"""Bayesian factorization machines: the preferred rating model, with uncertainty and a distribution over the levels.

Two likelihoods share one form of score, x joining the features of the user (id, attributes, implicit set of rated
items) with those of the item (id, year, genres, implicit set of users):

    score = w0 + sum_f x_f w_f + sum_{f<g} x_f x_g v_f.v_g
    Gaussian:        rating ~ Normal(score, 1/alpha)
    ordered probit:  P(rating <= level k) = Phi(c_k - score)

Each group of features has a Normal prior with its own Gamma/Normal hyper-priors; Gibbs sweeps draw all parameters
(`myfm`). The expected rating is the mean of both models, which are different and equally good. The Gaussian's alone is
linear in its factors, so embeddings come from it. The cut points give the distribution of one rating
(rating_levels.py).

Sources: Rendle 2012 (libFM); Salakhutdinov & Mnih 2008 (BPMF); Rendle, Zhang & Koren 2019 (implicit sets); Albert &
Chib 1993 (ordered probit).
"""

from dataclasses import replace

import numpy as np

from recpolicy.core.config import Count, Size, as_dict, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.data.ratings import Ratings
from recpolicy.models.fm_features import item_features, user_features
from recpolicy.models.fm_gibbs import Chain, Design, fit_gaussian, fit_ordered_probit
from recpolicy.models.fm_process import gaussian_alongside
from recpolicy.models.rating_model import Array, RatingModel

_MIN_LEVELS, _MAX_LEVELS = 2, 20


@config_dataclass
class BayesianFMConfig:
    """Settings of the Bayesian factorization machine."""

    rank: Size = 10
    """Length of the factor of each feature."""
    sweeps: Count = 300
    """Gibbs sweeps; each draws every parameter once."""
    samples: Count | None = None
    """Draws averaged, the last of the sweeps; None keeps the last two thirds."""
    attributes: bool = True
    """Use user attributes, item years and genres, where the table has them."""
    implicit: bool = True
    """Use the implicit sets of the train part: user-item pairs without the ratings' values."""
    bins: Size = 8
    """Equal-frequency bins of a numeric attribute such as age or year."""
    max_levels: Size = 50
    """Largest number of values of a text attribute of users; attributes with more values are omitted."""
    ordinal: bool = True
    """Average the Gaussian model with an ordered-probit model, if the ratings have 2 to 20 levels."""

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples > self.sweeps:
            raise ConfigError(f"samples is {self.samples}: expected at most the number of sweeps, {self.sweeps}")

    @property
    def kept(self) -> int:
        """The number of draws that are averaged."""
        return self.samples if self.samples is not None else max(1, self.sweeps * 2 // 3)


def fit_bayesian_fm(train: Ratings, config: BayesianFMConfig, seed: int) -> RatingModel:
    """Fit by Gibbs sampling; the same seed gives the same numbers. The two models are fitted side by side."""
    design = make_design(train, config)
    chain = Chain(config.rank, config.sweeps, config.kept, seed)
    values = np.unique(train.rating)  # [L]
    if not (config.ordinal and _MIN_LEVELS <= len(values) <= _MAX_LEVELS):
        gaussian = fit_gaussian(design, chain, train.scale)
        return _rating_model(train, config, seed, gaussian.mean, gaussian.std, gaussian.noise_std)

    with gaussian_alongside(design, chain, train.scale) as get_gaussian:
        probit, levels = fit_ordered_probit(design, values, chain)
        gaussian = get_gaussian()
    mean = np.clip((gaussian.mean + probit.mean) / 2, *train.scale).astype(np.float32)
    # The variance of an even mixture of the two posteriors.
    variance = (np.square(gaussian.std) + np.square(probit.std)) / 2 + np.square((gaussian.mean - probit.mean) / 2)
    pair = _rating_model(train, config, seed, mean, np.sqrt(variance).astype(np.float32), gaussian.noise_std)
    return replace(pair, linear_mean=gaussian.mean, levels=levels)


def make_design(train: Ratings, config: BayesianFMConfig) -> Design:
    """Return the ratings with the features of users and items."""
    users = user_features(
        train, attributes=config.attributes, bins=config.bins, max_levels=config.max_levels, implicit=config.implicit
    )
    items = item_features(train, attributes=config.attributes, bins=config.bins, implicit=config.implicit)
    return Design(train.user, train.item, train.rating.astype(np.float64), users, items)


def _rating_model(
    train: Ratings, config: BayesianFMConfig, seed: int, mean: Array, std: Array, noise_std: float
) -> RatingModel:
    return RatingModel(
        name="bayesian_fm", mean=mean, std=std, noise_std=noise_std, scale=train.scale, train_digest=train.digest,
        seed=seed, config=as_dict(config),
    )  # fmt: skip
