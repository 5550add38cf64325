"""A feature policy on a log of rounds with features, as off-policy estimators read it.

N rounds, K offers of all rounds, A offers of the longest round. The action of a round is the position in its request;
shorter rounds are padded with positions of probability 0. The reward model of the doubly robust estimators is a linear
model of the features of context and action, cross-fitted over users: it is fitted without the policies, and no round
is predicted by a model that was fitted on it. The baselines come from the same folds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.core.errors import DataError
from recpolicy.core.memory import check_memory
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval
from recpolicy.core.types import Array
from recpolicy.data.feature_log import FeatureLog
from recpolicy.evaluation.diversity import ActionDiversity, action_diversity
from recpolicy.evaluation.groups import MIN_USERS, GroupFigure, Groups, group_figures
from recpolicy.evaluation.relative_gain import gain_on_hits, relative_gain
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.ope.config import OffPolicyConfig
from recpolicy.ope.engine import value_differences_from_inputs, value_limits_from_inputs
from recpolicy.ope.feedback import BanditFeedback, TargetPolicy
from recpolicy.ope.inputs import BanditInputs
from recpolicy.ope.results import PolicyComparison
from recpolicy.ope.terms import dr_terms
from recpolicy.workflows.artifacts import check_not_learned
from recpolicy.workflows.cross_fitted_rewards import CrossFittedRewards, cross_fitted_rewards

ESTIMATOR = "dr"
EXPLORING, GREEDY = "exploring", "greedy"
MODES = (EXPLORING, GREEDY)
"""exploring: with the probabilities that the policy serves; greedy: always the best score; ties share."""
BASELINES = ("random", "first action", "highest mean", "greedy reward model")
"""random over the offered actions; the first action of the request; the id with the highest mean reward; the greedy
choice of the cross-fitted reward model."""
MAX_GROUPS = 20
_ROUND_BYTES, _OFFER_BYTES = 800, 64


class OfferTable:
    """Values [K] of offers as rows [n, A] of a slice of rounds, padded with 0."""

    def __init__(self, log: FeatureLog, values: Array):
        self.start, self.values, self.width = log.start, values, int(log.count.max())

    def __call__(self, part: slice) -> Array:
        """Return the rows [stop - start, A] of a slice of rounds."""
        first, last, _ = part.indices(len(self.start) - 1)
        count = np.diff(self.start[first : last + 1])
        rows = np.zeros((last - first, self.width))
        rows[np.arange(self.width) < count[:, np.newaxis]] = self.values[self.start[first] : self.start[last]]
        return rows


def greedy_probabilities(log: FeatureLog, scores: Array) -> Array:
    """Return probability 1 [K] for the best score of each round; ties share it."""
    best = np.maximum.reduceat(scores, log.start[:-1])
    is_best = scores == best[log.round_of_offer]
    ties = np.add.reduceat(is_best.astype(np.float64), log.start[:-1])
    return np.asarray(is_best / ties[log.round_of_offer])


def evenly_sampled(log: FeatureLog, seed: int) -> FeatureLog:
    """Return rounds that stand for equally many events: each with probability weight / largest weight.

    Such a thinned log is a sample of the events like one without weights, so all intervals hold.
    """
    if log.weight is None:
        return log
    drawn = generator(seed, "even sample of a feature log").random(len(log)) < log.weight / log.weight.max()
    return replace(log.select(np.flatnonzero(drawn), log.name), weight=None)


@dataclass(frozen=True)
class FeatureComparison:
    """A candidate on one feature log; figures are computed at their first use."""

    log: FeatureLog
    feedback: BanditFeedback
    candidate: TargetPolicy
    candidate_prob: Array  # [K]
    incumbent: TargetPolicy | None
    """None is the logging policy."""
    rewards: CrossFittedRewards
    config: OffPolicyConfig
    notes: tuple[str, ...] = ()
    _inputs: dict[str, Any] = field(default_factory=dict, repr=False)

    def inputs(self, config: OffPolicyConfig | None = None) -> BanditInputs:
        """Return the candidate's inputs, with the cross-fitted model and the settings of the comparison by default."""
        table = OfferTable(self.log, self.rewards.q)
        shared: Any = SimpleNamespace(fitted=SimpleNamespace(rows=table))
        return BanditInputs(self.feedback, self.candidate, config or self.config, shared_fit=shared)

    @cached_property
    def compared_inputs(self) -> tuple[BanditInputs, BanditInputs | None]:
        """The inputs of both policies without a bootstrap; None is the logging policy."""
        candidate = self.inputs(replace(self.config, resamples=0))
        return candidate, None if self.incumbent is None else candidate.with_target(self.incumbent)

    @cached_property
    def gain(self) -> PolicyComparison:
        """The candidate's value per round minus the incumbent's."""
        return value_differences_from_inputs(*self.compared_inputs, [ESTIMATOR])[ESTIMATOR]

    @cached_property
    def gain_over_logging(self) -> PolicyComparison:
        """The candidate's value per round minus the logging policy's."""
        return value_differences_from_inputs(self.compared_inputs[0], None, [ESTIMATOR])[ESTIMATOR]

    @cached_property
    def mean_reward(self) -> Mapping[str, Interval]:
        """The candidate's value per round, by kind of interval; actions without support earn the least."""
        return value_limits_from_inputs(self.compared_inputs[0], ESTIMATOR)

    @cached_property
    def relative_gain(self) -> Mapping[str, Interval] | None:
        """The candidate's value relative to the logging policy's, minus 1; None where rewards can be negative."""
        limits = self.compared_inputs[0].reward_limits
        if self.has_signed_rewards:
            return None
        return relative_gain(self.feedback, self.candidate, limits, self.config.level)

    @property
    def has_signed_rewards(self) -> bool:
        """True if a reward can be negative: shares of a mean have no meaning then."""
        low = self.log.reward.min() if self.log.reward_range is None else self.log.reward_range[0]
        return bool(low < 0)

    @cached_property
    def gain_on_hits(self) -> float | None:
        """The relative gain over the rounds in which the candidate acts as logged."""
        return None if self.has_signed_rewards else gain_on_hits(self.feedback, self.candidate)

    @cached_property
    def actions(self) -> ActionDiversity:
        """Diversity of the ids that the candidate shows in these rounds."""
        ids = pd.factorize(pd.Series([(type(value).__name__, value) for value in self.log.action_id.tolist()]))[0]
        share = np.bincount(ids[self.log.offered], self.candidate_prob, ids.max() + 1).astype(np.float64)
        return action_diversity(share)

    def baselines(self) -> dict[str, PolicyComparison]:
        """Return the candidate's value minus that of each of BASELINES."""
        candidate = self.compared_inputs[0]
        return {
            name: value_differences_from_inputs(candidate, candidate.with_target(target), [ESTIMATOR])[ESTIMATOR]
            for name, target in self.baseline_targets().items()
        }

    def baseline_targets(self) -> dict[str, TargetPolicy]:
        """Return each of BASELINES as a policy."""
        log, count = self.log, self.log.count
        first = np.zeros(len(log.offered))
        first[log.start[:-1]] = 1.0
        tables = (
            1 / np.repeat(count, count).astype(np.float64), first, greedy_probabilities(log, self.rewards.mean),
            greedy_probabilities(log, self.rewards.q),
        )  # fmt: skip
        return {
            name: TargetPolicy.from_table(self.feedback, OfferTable(log, table))
            for name, table in zip(BASELINES, tables, strict=True)
        }

    def group_gains(self, feature: str) -> dict[str, GroupFigure]:
        """Return the gain by the values of a context feature; values of fewer than MIN_USERS users are left out.

        Raises:
            DataError: The log has no such context feature, or it has too many values.
        """
        if feature not in self.log.context:
            raise DataError(f"{self.log.name}: no context feature {feature!r}; found {', '.join(self.log.context)}")
        values = pd.Series(self.log.context[feature]).map(str, na_action="ignore")
        code, names = pd.factorize(values)
        if len(names) > MAX_GROUPS:
            raise DataError(
                f"{self.log.name}: the context feature {feature!r} has {len(names):,} values; expected at most"
                f" {MAX_GROUPS} for groups"
            )
        candidate, incumbent = self.compared_inputs
        ones = np.ones(len(self.log))
        terms = _terms(candidate) - (self.feedback.reward if incumbent is None else _terms(incumbent))
        columns = (terms, ones, candidate.weight, ones if incumbent is None else incumbent.weight)
        low, high = candidate.reward_limits
        users, figures = int(self.log.units.max()) + 1, dict[str, GroupFigure]()
        for number, name in enumerate(names):
            rows = np.flatnonzero(code == number)
            total, size, *weights = (np.bincount(self.log.units[rows], column[rows], users) for column in columns)
            if np.count_nonzero(size) >= MIN_USERS:
                group = Groups((f"{feature} {name}",), np.ones((1, users), bool))
                figures |= group_figures(group, total, size, high - low, self.config.level, weights)
        return figures


def _terms(inputs: BanditInputs) -> Array:
    return dr_terms(inputs.model.expected_q, inputs.weight, inputs.reward, inputs.model.logged_q)


def compare_on_feature_log(
    policy: FeaturePolicy,
    incumbent: FeaturePolicy | None,
    log: FeatureLog,
    *,
    policy_mode: str = EXPLORING,
    config: OffPolicyConfig | None = None,
    seed: int = 0,
) -> FeatureComparison:
    """Return the comparison of a policy with the incumbent, or the logging policy, on logged rounds.

    Rounds without a reward are left out.

    Args:
        policy: The candidate.
        incumbent: The policy in service; None is the logging policy.
        log: The rounds.
        policy_mode: A name in MODES.
        config: Settings; None takes the defaults with the range of the log's rewards.
        seed: Seed of the intervals and folds.

    Raises:
        DataError: A policy or one of its ancestors has learned from some of these rounds, or the log lacks a feature.
        MemoryLimitError: The rounds are too many for the memory of this machine.
    """
    notes = []
    rewarded = np.flatnonzero(log.has_reward)
    if not len(rewarded):
        raise DataError(f"{log.name}: no round has a reward; ingest the log first")
    if len(rewarded) < len(log):
        notes.append(f"{len(log) - len(rewarded):,} of {len(log):,} rounds have no reward yet and are left out")
        log = log.select(rewarded, log.name)
    check_memory(
        len(log) * _ROUND_BYTES + len(log.offered) * _OFFER_BYTES, f"{log.name}: an evaluation on {len(log):,} rounds",
        "evaluate on fewer rounds (a smaller evaluation_share, or a shorter log)",
    )  # fmt: skip
    check_not_learned(log, {"the policy": policy} | ({} if incumbent is None else {"the incumbent": incumbent}))
    if log.weight is not None:
        even = evenly_sampled(log, seed)
        notes.append(f"rounds have weights: {len(even):,} of {len(log):,} are drawn, each for equally many events")
        log = even
    if config is None:
        config = OffPolicyConfig(seed=seed, reward_range=log.reward_range)
    feedback = BanditFeedback(
        action=log.chosen, reward=log.reward, behavior_prob=log.propensity, user=log.units, actions=int(log.count.max())
    )
    prob = _probabilities(policy, log, policy_mode)
    rewards = cross_fitted_rewards(log, policy.encoder, config.model.folds, config.seed)
    notes.append(f"reward model of the doubly robust estimators: {rewards.model}, cross-fitted")
    return FeatureComparison(
        log, feedback, TargetPolicy.from_table(feedback, OfferTable(log, prob)), prob,
        None if incumbent is None else TargetPolicy.from_table(
            feedback, OfferTable(log, _probabilities(incumbent, log, policy_mode))
        ),
        rewards, config, tuple(notes),
    )  # fmt: skip


def _probabilities(policy: FeaturePolicy, log: FeatureLog, policy_mode: str) -> Array:
    if policy_mode == GREEDY:
        return greedy_probabilities(log, policy.scores_of(log))
    return np.asarray(policy.probabilities_of(log), np.float64)
