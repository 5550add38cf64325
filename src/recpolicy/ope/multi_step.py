"""What evaluations of slates and of sessions share: config, folds that keep a user's rows together, bounds, pairing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import LEVEL, RESAMPLES
from recpolicy.ope.forms import mean_form
from recpolicy.ope.inference import Estimation, gains_of
from recpolicy.ope.intervals import weighted_bracket
from recpolicy.ope.results import Gain
from recpolicy.ope.rounds import Units, refuse

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """How estimates of slates and sessions are made; kept with them."""

    level: float = LEVEL
    """Probability with which an interval holds the truth."""
    resamples: int = RESAMPLES
    """Bootstrap resamples of the users."""
    seed: int = 0
    """Of the resamples and the folds."""
    folds: int = 2
    """Parts into which the users are dealt for cross-fitting; 2 or 3 are usual."""
    reward_range: tuple[float, float] | None = None
    """Least and largest possible reward of a whole slate, or discounted sum of rewards of a whole session, known
    beforehand; empirical Bernstein asks it."""
    weight_bound: float = np.inf
    """Largest possible weight, known beforehand: for `ips` of a whole slate, the product of pi / mu over its slots; for
    `trajectory_is` of a whole session, the same over its steps; for `pi` G, which that product bounds, too. With
    probabilities of 1/10 or more in each of K slots it is 10^K. Empirical Bernstein asks it."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"SequenceConfig.level is {self.level}; expected between 0 and 1, such as 0.95")
        if self.resamples < 1:
            raise ConfigError(f"SequenceConfig.resamples is {self.resamples}; expected 1 or more, 1000 are usual")
        if self.folds < 2:
            raise ConfigError(f"SequenceConfig.folds is {self.folds}; expected 2 or more: no row may predict itself")
        if self.reward_range is not None and not self.reward_range[0] < self.reward_range[1]:
            raise ConfigError(f"SequenceConfig.reward_range is {self.reward_range}; expected (least, largest)")
        if not self.weight_bound >= 1:  # false for NaN, too
            raise ConfigError(
                f"SequenceConfig.weight_bound is {self.weight_bound}; expected 1 or more: weights average 1"
            )


def folds_of(units: Units, config: SequenceConfig) -> NDArray[np.int64]:
    """Deal users to folds and return each row's fold [N]. Raises DataError when there are fewer users than folds."""
    users = len(units)
    if users < config.folds:
        raise DataError(f"cross-fitting: {users} users cannot be dealt to {config.folds} folds; it needs one each")
    dealt = generator(config.seed, "off_policy/folds").permutation(users) % config.folds
    return dealt[units.index]


def check_rewards(reward: Array, config: SequenceConfig) -> None:
    """Raise DataError unless the rewards [N] of whole slates or sessions are in the range said to be known."""
    if config.reward_range is not None:
        low, high = config.reward_range
        refuse("reward", reward, (reward >= low) & (reward <= high), f"within reward_range {low:g}..{high:g}")


def check_weights(weight: Array, config: SequenceConfig) -> None:
    """Raise DataError unless the weights [N] are at most the bound said to be known."""
    bound = config.weight_bound
    refuse("weight", weight, weight <= bound * (1 + 1e-9), f"at most weight_bound {bound:g}")


class SeenLog(Protocol):
    """A log of slates or sessions, seen through the weights of one policy."""

    @property
    def units(self) -> Units:
        """The users."""

    @property
    def earned(self) -> Array:
        """Reward of each whole slate or session [N]."""

    @property
    def columns(self) -> Mapping[str, object]:
        """What other policies must have been put on as well, column by column; None is a column that is missing."""


_Log = TypeVar("_Log", bound=SeenLog)


def paired_gains(
    make: Callable[..., list[dict[str, Estimation]]], candidate: _Log, incumbent: _Log | None, config: SequenceConfig
) -> dict[str, Gain]:
    """Gains of the candidate over the incumbent, paired row by row; None is the policy that logged.

    make: estimations by name of each log that it is given. Raises DataError where the two are not one log.
    """
    if incumbent is None:
        made = make(candidate)[0]
        return gains_of(made, dict.fromkeys(made, _as_logged(candidate.earned, config)), candidate.units, config)
    _check_same_log(candidate.columns, incumbent.columns)
    made, other = make(candidate, incumbent)
    return gains_of(made, other, candidate.units, config)


def refuse_model_alone(gains: str, incumbent: object, incumbent_model: object) -> None:
    """Raise ConfigError for a model of an incumbent that is not there; `gains` is the function that was asked."""
    if incumbent is None and incumbent_model is not None:
        raise ConfigError(f"{gains}: incumbent_model without an incumbent; the logging policy needs no model")


def _as_logged(reward: Array, config: SequenceConfig) -> Estimation:
    """The logging policy itself: the mean of the rewards [N], all weights being 1."""
    one, span = np.ones(len(reward)), config.reward_range
    bracket = None if span is None else weighted_bracket(one, reward, span, 1.0)
    return Estimation(mean_form(reward), one, one, bracket)


def _check_same_log(candidate: Mapping[str, object], incumbent: Mapping[str, object]) -> None:
    """Raise DataError unless both policies were put on one log."""
    for name, found in candidate.items():
        one, other = np.asarray(found), np.asarray(incumbent[name])
        if np.array_equal(one, other):
            continue
        if found is None or incumbent[name] is None:
            where = "is there for one only"
        elif one.shape != other.shape:
            where = f"is {one.shape} and {other.shape}"
        elif one.ndim == 0:
            where = f"is {one} and {other}"
        else:
            cell = tuple(np.argwhere(one != other)[0])
            where = f"differs, first in row {cell[0]}: {one[cell]} and {other[cell]}"
        raise DataError(f"gain: {name} of candidate and incumbent {where}; expected one log, seen with two target_prob")
