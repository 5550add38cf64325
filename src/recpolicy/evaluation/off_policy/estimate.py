"""Off-policy evaluation in one call: value and intervals of a target, or of its gain over an incumbent.

    rounds = LoggedChoices(action, reward, logged_prob, user, actions=100, context=context)
    estimates = estimate(rounds, target_of(rounds, target_probs))
    print(estimates.table())

N rounds, A actions. Everything random follows from the seed in the config; the order of estimators changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, unknown_name
from recpolicy.core.seeds import generator
from recpolicy.evaluation.bootstrap import LEVEL, RESAMPLES, Interval, percentile_interval
from recpolicy.evaluation.off_policy.catalogue import ESTIMATORS, Evidence, Recipe
from recpolicy.evaluation.off_policy.diagnostics import diagnose
from recpolicy.evaluation.off_policy.evidence import Sources
from recpolicy.evaluation.off_policy.forms import Form, bootstrap
from recpolicy.evaluation.off_policy.intervals import Bracket, confidence_sequence, empirical_bernstein, student_t
from recpolicy.evaluation.off_policy.results import Estimates, Gain, OffPolicyResult
from recpolicy.evaluation.off_policy.reward_model import RewardModelConfig
from recpolicy.evaluation.off_policy.rounds import ActionTable, LoggedChoices, Target, Units, refuse
from recpolicy.evaluation.off_policy.tuning import METHODS, Choice, choose, given

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
            raise unknown_name("way to choose a setting", self.tuning, METHODS)
        for name in self.settings:
            if name not in ESTIMATORS or ESTIMATORS[name].taming is None:
                tamed = [known for known, recipe in ESTIMATORS.items() if recipe.taming]
                raise unknown_name("estimator with a setting", name, tamed)
        if self.reward_range is not None and not self.reward_range[0] < self.reward_range[1]:
            raise ConfigError(f"OffPolicyConfig.reward_range is {self.reward_range}; expected (least, largest)")


@dataclass(frozen=True)
class _Estimation:
    """One estimator on one log, before its intervals."""

    recipe: Recipe
    evidence: Evidence
    used: Array  # [N]
    choice: Choice | None
    form: Form


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
    sources = Sources(rounds, target, q, clusters, config.model, config.reward_range, config.seed)
    _check_bounds(sources, config)
    names = (
        [name for name, recipe in ESTIMATORS.items() if sources.has(recipe.source)]
        if estimators is None
        else estimators
    )
    found = {name: _make(name, sources, config) for name in names}
    resampled = bootstrap([one.form for one in found.values()], rounds.units, _rng(config), config.resamples)
    results = {
        name: _result(name, one, values, sources, config)
        for (name, one), values in zip(found.items(), resampled, strict=True)
    }
    return Estimates(results, asdict(config))


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
    """Estimate by how much the candidate earns more per round than the incumbent, paired round by round.

    What is easy about a user is easy for both, so the interval is sharper than those of two separate values. Incumbent
    None is the logging policy itself: its value is the mean logged reward. Arguments and errors as `estimate`.
    """
    config = config or OffPolicyConfig()
    made, sources = [], []
    logging = (Target(rounds.logged_prob), "ips")  # weights of 1: the mean reward
    for target, name in ((candidate, estimator), logging if incumbent is None else (incumbent, estimator)):
        source = Sources(rounds, target, q, clusters, config.model, config.reward_range, config.seed)
        _check_bounds(source, config)
        sources.append(source)
        made.append(_make(name, source, config))
    resampled = bootstrap([one.form for one in made], rounds.units, _rng(config), config.resamples)
    results = [
        _result(estimator, one, values, source, config)
        for one, values, source in zip(made, resampled, sources, strict=True)
    ]
    first, second = (_bracket(one, config) for one in made)
    bracket = None
    if first is not None and second is not None:
        bracket = first.minus(second)
    terms = made[0].form.terms - made[1].form.terms
    intervals = _intervals(terms, resampled[0] - resampled[1], bracket, rounds.units, config)
    return Gain(estimator, float(terms.mean()), intervals, results[0], results[1])


def _make(name: str, sources: Sources, config: OffPolicyConfig) -> _Estimation:
    if name not in ESTIMATORS:
        raise unknown_name("estimator", name, ESTIMATORS)
    recipe = ESTIMATORS[name]
    evidence = sources.get(recipe.source)
    used, choice = evidence.weight, None
    if recipe.taming is not None:
        if name in config.settings:
            choice = given(recipe.taming, config.settings[name])
        else:
            choice = choose(recipe, recipe.taming, evidence, sources.rounds.units, config.tuning)
        used = recipe.taming.tame(evidence.weight, choice.value)
    return _Estimation(recipe, evidence, used, choice, recipe.form(evidence, used))


def _result(
    name: str, one: _Estimation, resampled: Array, sources: Sources, config: OffPolicyConfig
) -> OffPolicyResult:
    units = sources.rounds.units
    return OffPolicyResult(
        estimator=name,
        value=one.form.value,
        intervals=_intervals(one.form.terms, resampled, _bracket(one, config), units, config),
        diagnostics=diagnose(one.evidence.weight, one.used, units),
        choice=one.choice,
        model=sources.fits.get(one.recipe.source),
    )


def _intervals(
    terms: Array, resampled: Array, bracket: Bracket | None, units: Units, config: OffPolicyConfig
) -> dict[str, Interval]:
    value = float(terms.mean())
    defined = resampled[np.isfinite(resampled)]  # a resample may hold no round that replay keeps
    found = {
        "bootstrap": percentile_interval(value, defined, config.level),
        "t": student_t(terms, units, config.level),
        "sequence": confidence_sequence(terms, units, config.level),
    }
    if bracket is not None:
        found["bernstein"] = empirical_bernstein(value, bracket, units, config.level)
    return found


def _bracket(one: _Estimation, config: OffPolicyConfig) -> Bracket | None:
    """Bounds for empirical Bernstein; None where rewards, weights or model are not bounded or fixed beforehand."""
    if one.recipe.bracket is None or config.reward_range is None or not one.evidence.foreknown:
        return None
    largest = config.weight_bound
    if one.choice is not None and one.recipe.taming is not None:
        largest = min(largest, one.recipe.taming.largest(one.choice.value))
    if not np.isfinite(largest):
        return None
    bracket = one.recipe.bracket(one.evidence, one.used, config.reward_range, largest)
    looks = 1 if one.choice is None else len(one.choice.candidates)
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


def _rng(config: OffPolicyConfig) -> np.random.Generator:
    return generator(config.seed, "off_policy/bootstrap")
