"""Settings of off-policy estimates, kept with the results."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

import numpy as np
from annotated_types import Ge
from pydantic import AllowInfNan

from recpolicy.core.config import CountOrZero, Folds, Number, OpenFraction, Seed, config_dataclass
from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.statistics import LEVEL, RESAMPLES
from recpolicy.ope.reward_model import RewardModelConfig
from recpolicy.ope.tuning import TRANSFORMS, TuningMethod


@config_dataclass
class EstimationConfig:
    """Settings that all kinds of feedback share."""

    level: OpenFraction = LEVEL
    """Probability that an interval contains the true value."""
    resamples: CountOrZero = RESAMPLES
    """Bootstrap resamples of the users; 0 leaves the bootstrap intervals out."""
    seed: Seed = 0
    """Seed of the resamples, the folds and the replayed actions."""
    reward_range: tuple[Number, Number] | None = None
    """Minimum and maximum possible reward of a round, a whole slate, or the discounted sum of a whole session. Give it
    only if it is known before the data: reward models are clipped to it and empirical Bernstein requires it. Every
    interval allows for one more reward at its ends; without it, at the ends of the logged rewards."""
    weight_bound: Annotated[float, Ge(1), AllowInfNan(True)] = np.inf
    """Maximum possible weight, known before the data; empirical Bernstein requires it. For single rounds it is 1 / the
    smallest probability that the logging policy gives any action. For whole slates and sessions it is the maximum of
    the product of pi / mu over slots or steps, with probabilities of 1/10 or more in K slots 10^K. It also bounds the
    pseudo-inverse weights of `pi`."""

    def __post_init__(self) -> None:
        if self.reward_range is not None and not self.reward_range[0] < self.reward_range[1]:
            raise ConfigError(f"reward_range is {self.reward_range}: expected (minimum, maximum)")


@config_dataclass
class OffPolicyConfig(EstimationConfig):
    """Settings of estimates from single rounds."""

    tuning: TuningMethod = "bound"
    """Method that chooses clip, tau and lambda where `settings` has none (tuning.py)."""
    settings: Mapping[str, Annotated[float, AllowInfNan(True)]] = field(default_factory=dict)
    """Clip, tau or lambda by estimator, for instance {"clipped_ips": 10}."""
    model: RewardModelConfig = field(default_factory=RewardModelConfig)
    """The reward model to fit where none is given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.settings:
            if name not in TRANSFORMS:
                raise unknown_name_error("estimator with a setting", name, TRANSFORMS)


@config_dataclass
class MultiStepConfig(EstimationConfig):
    """Settings of estimates from slates and sessions."""

    folds: Folds = 2
    """Parts of the users for cross-fitting; 2 or 3 are usual. No row is predicted by a model that was fitted on it."""
