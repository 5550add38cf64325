"""Off-policy evaluation in one call: value and intervals of a target, or of its gain over an incumbent.

    rounds = LoggedChoices(action, reward, logged_prob, user, actions=100, context=context)
    estimates = estimate(rounds, target_of(rounds, target_probs))
    print(estimates.table())

Who asks several things of one target makes its `evidence` once, and reads the tables of all actions no more than once:

    candidate = evidence(rounds, target_of(rounds, target_probs), config)
    estimates = estimates_from(candidate, None, config)
    won = gains_from(candidate, candidate.seen_by(other), ("snips", "dr"), config)

N rounds, A actions. Everything random follows from the seed in the config; the order of estimators changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.statistics import LEVEL, RESAMPLES
from recpolicy.ope.estimator_specs import ESTIMATORS, Evidence, Recipe
from recpolicy.ope.inference import Estimation, gains_of, results_of
from recpolicy.ope.inputs import Sources
from recpolicy.ope.intervals import Bracket
from recpolicy.ope.results import Estimates, Gain
from recpolicy.ope.reward_model import RewardModelConfig
from recpolicy.ope.rounds import ActionTable, LoggedChoices, Target, refuse
from recpolicy.ope.tuning import METHODS, Choice, choose, given

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig:
    """How estimates are made; kept with them."""

    level: float = LEVEL
    """Probability with which an interval holds the truth."""
    resamples: int = RESAMPLES
    """Bootstrap resamples of the users."""
    seed: int = 0
    """Of the resamples, the folds and the draws of replay."""
    tuning: str = "bound"
    """How clip, tau and lambda are chosen where `settings` is silent: bound or slope (tuning.py)."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Clip, tau or lambda by estimator, for instance {"clipped_ips": 10}."""
    reward_range: tuple[float, float] | None = None
    """Least and largest possible reward, known beforehand: reward models are cut to it, empirical Bernstein asks it."""
    weight_bound: float = np.inf
    """Largest possible weight, known beforehand (1 / the smallest probability the logging policy gives any action)."""
    model: RewardModelConfig = field(default_factory=RewardModelConfig)
    """The reward model fitted where none is given."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"OffPolicyConfig.level is {self.level}; expected between 0 and 1, such as 0.95")
        if self.resamples < 1:
            raise ConfigError(f"OffPolicyConfig.resamples is {self.resamples}; expected 1 or more, 1000 are usual")
        if self.tuning not in METHODS:
            raise unknown_name_error("way to choose a setting", self.tuning, METHODS)
        for name in self.settings:
            if name not in ESTIMATORS or ESTIMATORS[name].taming is None:
                tamed = [known for known, recipe in ESTIMATORS.items() if recipe.taming]
                raise unknown_name_error("estimator with a setting", name, tamed)
        if self.reward_range is not None and not self.reward_range[0] < self.reward_range[1]:
            raise ConfigError(f"OffPolicyConfig.reward_range is {self.reward_range}; expected (least, largest)")


def estimate(
    rounds: LoggedChoices,
    target: Target,
    estimators: Sequence[str] | None = None,
    config: OffPolicyConfig | None = None,
    *,
    q: ActionTable | None = None,
    clusters: NDArray[np.integer] | None = None,
) -> Estimates:
    """Estimate what the target would have earned per round.

    estimators: names in ESTIMATORS; None takes all that the inputs allow. q [N, A]: predicted rewards that owe nothing
    to these rounds; None cross-fits a ridge regression. clusters [A]: number of each action's cluster, for mips.
    Raises DataError for missing support, rewards outside reward_range, a weight above weight_bound, fewer than two
    users, and replay on a log that is not uniform; ConfigError for what an estimator lacks.
    """
    config = config or OffPolicyConfig()
    return estimates_from(evidence(rounds, target, config, q=q, clusters=clusters), estimators, config)


def gain(
    rounds: LoggedChoices,
    candidate: Target,
    incumbent: Target | None,
    estimator: str = "snips",
    config: OffPolicyConfig | None = None,
    *,
    q: ActionTable | None = None,
    clusters: NDArray[np.integer] | None = None,
) -> Gain:
    """Estimate by how much the candidate earns more per round than the incumbent, by one estimator; see `gains`."""
    return gains(rounds, candidate, incumbent, [estimator], config, q=q, clusters=clusters)[estimator]


def gains(
    rounds: LoggedChoices,
    candidate: Target,
    incumbent: Target | None,
    estimators: Sequence[str],
    config: OffPolicyConfig | None = None,
    *,
    q: ActionTable | None = None,
    clusters: NDArray[np.integer] | None = None,
) -> dict[str, Gain]:
    """Estimate by how much the candidate earns more per round than the incumbent, paired round by round.

    What is easy about a user is easy for both, so the interval is sharper than those of two separate values. Incumbent
    None is the logging policy itself: its value is the mean logged reward. Tables are read and users resampled once for
    all estimators, whose gains are those that each would give alone. Arguments and errors as `estimate`.
    """
    config = config or OffPolicyConfig()
    first = evidence(rounds, candidate, config, q=q, clusters=clusters)
    return gains_from(first, None if incumbent is None else first.seen_by(incumbent), estimators, config)


def evidence(
    rounds: LoggedChoices,
    target: Target,
    config: OffPolicyConfig,
    *,
    q: ActionTable | None = None,
    clusters: NDArray[np.integer] | None = None,
) -> Sources:
    """What estimators read of one target on one log, made when first asked for. Arguments as `estimate`."""
    return Sources(rounds, target, q, clusters, config.model, config.reward_range, config.seed)


def estimates_from(sources: Sources, estimators: Sequence[str] | None, config: OffPolicyConfig) -> Estimates:
    """`estimate` from evidence made before, under the same config."""
    _check_bounds(sources, config)
    names = (
        [name for name, recipe in ESTIMATORS.items() if sources.has(recipe.source)]
        if estimators is None
        else estimators
    )
    made = _make(names, sources, config)
    return Estimates(results_of(made, sources.rounds.units, config), asdict(config))


def gains_from(
    candidate: Sources, incumbent: Sources | None, estimators: Sequence[str], config: OffPolicyConfig
) -> dict[str, Gain]:
    """`gains` from evidence made before, under the same config; of two policies, `incumbent` is made by `seen_by`."""
    _check_bounds(candidate, config)
    if incumbent is None:
        logging = candidate.seen_by(Target(candidate.rounds.logged_prob))  # weights of 1: the mean reward
        second = dict.fromkeys(estimators, _estimation("ips", logging, config))
    else:
        _check_bounds(incumbent, config)
        second = _make(estimators, incumbent, config)
    first = _make(estimators, candidate, config)
    return gains_of(first, second, candidate.rounds.units, config)


def _make(names: Sequence[str], sources: Sources, config: OffPolicyConfig) -> dict[str, Estimation]:
    for name in names:
        if name not in ESTIMATORS:
            raise unknown_name_error("estimator", name, ESTIMATORS)
    sources.read({ESTIMATORS[name].source for name in names})
    return {name: _estimation(name, sources, config) for name in names}


def _estimation(name: str, sources: Sources, config: OffPolicyConfig) -> Estimation:
    recipe = ESTIMATORS[name]
    found = sources.get(recipe.source)
    used, choice = found.weight, None
    if recipe.taming is not None:
        if name in config.settings:
            choice = given(recipe.taming, config.settings[name])
        else:
            choice = choose(recipe, recipe.taming, found, sources.rounds.units, config.tuning)
        used = recipe.taming.tame(found.weight, choice.value)
    return Estimation(
        recipe.form(found, used), found.weight, used, _bracket(recipe, found, used, choice, config), choice,
        sources.fits.get(recipe.source),
    )  # fmt: skip


def _bracket(
    recipe: Recipe, found: Evidence, used: Array, choice: Choice | None, config: OffPolicyConfig
) -> Bracket | None:
    """Bounds for empirical Bernstein; None where rewards, weights or model are not bounded or fixed beforehand."""
    if recipe.bracket is None or config.reward_range is None or not found.foreknown:
        return None
    largest = config.weight_bound
    if choice is not None and recipe.taming is not None:
        largest = min(largest, recipe.taming.largest(choice.value))
    if not np.isfinite(largest):
        return None
    bracket = recipe.bracket(found, used, config.reward_range, largest)
    looks = 1 if choice is None else len(choice.candidates)
    return replace(bracket, looks=looks)


def _check_bounds(sources: Sources, config: OffPolicyConfig) -> None:
    """What was said to be known beforehand must hold."""
    if config.reward_range is not None:
        low, high = config.reward_range
        reward = sources.rounds.reward
        refuse("reward", reward, (reward >= low) & (reward <= high), f"within reward_range {low:g}..{high:g}")
    weight = sources.log.weight
    refuse(
        "weight", weight, weight <= config.weight_bound * (1 + 1e-9), f"at most weight_bound {config.weight_bound:g}"
    )
