"""What logged rounds say of a policy, beside an incumbent or the policy that logged.

N rounds, U users, An items of the log's catalogue. Policies are taken without exploration: the best item that could be
shown, ties sharing alike. Rewards are predicted by the candidate's own rating estimates. Both are those of the
vector that a round was logged with, where it has one, and of the user as the policy knows them elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval
from recpolicy.data.bandit_log import BanditLog
from recpolicy.evaluation.diversity import ActionDiversity, action_diversity
from recpolicy.evaluation.groups import GroupFigure, Groups, group_figures
from recpolicy.evaluation.relative_gain import gain_on_hits, relative_gain
from recpolicy.inference.action_distributions import greedy
from recpolicy.inference.predictor import Policy
from recpolicy.ope.config import OffPolicyConfig
from recpolicy.ope.engine import estimate_from_inputs, value_differences_from_inputs
from recpolicy.ope.feedback import BanditFeedback, TargetPolicy
from recpolicy.ope.inputs import BanditInputs, logged_predictions
from recpolicy.ope.results import Estimates, PolicyComparison
from recpolicy.ope.terms import dr_terms
from recpolicy.workflows.compatibility import refuse_learnt, refuse_other_ids, refuse_other_kind

ESTIMATOR = "dr"
"""Doubly robust: unbiased with true propensities, and sharper than weighting alone."""
COMPARED = ("ips", "snips", "beta_ips", "clipped_ips", "dm", "dr", "sndr", "switch_dr", "dros")
"""Estimators that a page puts side by side: all that read the log once and fit no model of their own."""
Rows = Callable[[slice], NDArray[np.floating]]

_CELLS_KEPT = 1 << 27
"""Of users and vectors times items: more would not fit into memory, and are scored whenever they are read."""


@dataclass(frozen=True)
class LogComparison:
    """One candidate on one log; figures are made when first asked for."""

    feedback: BanditFeedback
    candidate: TargetPolicy
    incumbent: TargetPolicy | None
    """None: the policy that logged."""
    q: Rows
    """Rewards that the candidate's rating estimates predict [n, A]."""
    config: OffPolicyConfig

    @cached_property
    def gain(self) -> PolicyComparison:
        """The candidate's value per round minus the incumbent's."""
        return value_differences_from_inputs(*self._inputs, [ESTIMATOR])[ESTIMATOR]

    @cached_property
    def relative_gain(self) -> Interval | None:
        """By which share the candidate earns more than who logged; see evaluation/relative_gain.py."""
        rng = generator(self.config.seed, "judge/relative_gain")
        return relative_gain(self.feedback, self.candidate, rng, self.config.resamples, self.config.level)

    @cached_property
    def gain_on_hits(self) -> float | None:
        """The same over the rounds where the candidate would have shown what was shown."""
        return gain_on_hits(self.feedback, self.candidate)

    @cached_property
    def actions(self) -> ActionDiversity:
        """How the candidate's choices in these rounds spread over the catalogue."""
        assert self.candidate.table is not None, "judge_log makes targets from tables"
        share = np.zeros(self.feedback.actions)
        for _, rows in self.feedback.blocks(self.candidate.table, "target probabilities"):
            share += rows.sum(axis=0)
        return action_diversity(share)

    def group_gains(self, groups: Groups) -> dict[str, GroupFigure]:
        """The gain within each group of the user table's users [U], paired round by round; newcomers are in none."""
        candidate, incumbent = self._inputs
        terms = _terms(candidate) - (self.feedback.reward if incumbent is None else _terms(incumbent))
        users = groups.member.shape[1]
        total = np.bincount(self.feedback.user, terms, users).astype(np.float64)[:users]
        size = np.bincount(self.feedback.user, minlength=users)[:users]
        rng = generator(self.config.seed, "judge/groups")
        return group_figures(groups, total, size, rng, self.config.resamples, self.config.level)

    def estimates(self) -> Estimates:
        """What all of COMPARED say the candidate earns."""
        return estimate_from_inputs(self._inputs[0], COMPARED)

    def predictions(self) -> NDArray[np.float64]:
        """Predicted rewards of the logged items [N]."""
        return logged_predictions(self.feedback, self.q)

    @cached_property
    def _inputs(self) -> tuple[BanditInputs, BanditInputs | None]:
        """The estimators' inputs of both policies, each read once; None is the logging policy."""
        candidate = BanditInputs(self.feedback, self.candidate, self.config, self.q)
        return candidate, None if self.incumbent is None else candidate.with_target(self.incumbent)


def _terms(inputs: BanditInputs) -> NDArray[np.float64]:
    return dr_terms(inputs.model.expected_q, inputs.weight, inputs.reward, inputs.model.logged_q)


def compare_on_log(policy: Policy, incumbent: Policy | None, log: BanditLog, seed: int = 0) -> LogComparison:
    """Put the policy on the rounds of `log`; raises DataError where it, or a policy before it, has learnt from them.

    Raises DataError, too, for an incumbent of other users or items, and for vectors that the policy, or the incumbent,
    cannot read.
    """
    refuse_other_kind(policy, False, log.name)
    refuse_learnt("the policy", policy, log.name, log.digest)
    if incumbent is not None:
        refuse_other_ids(policy, incumbent)
        _refuse_other_features(policy, incumbent, log)
    choice, rating = _tables(policy, log)
    feedback = BanditFeedback(
        action=log.arm(), reward=log.reward, behavior_prob=log.propensity, user=log.user, actions=len(log.catalogue),
    )  # fmt: skip
    return LogComparison(
        feedback,
        TargetPolicy.from_table(feedback, choice),
        None if incumbent is None else TargetPolicy.from_table(feedback, _tables(incumbent, log)[0]),
        rating,
        OffPolicyConfig(seed=seed, reward_range=log.scale),
    )


def off_policy_gain(policy: Policy, incumbent: Policy | None, log: BanditLog, seed: int = 0) -> PolicyComparison:
    """By how much the policy, without exploring, earns more per round than the incumbent, or than who logged."""
    return compare_on_log(policy, incumbent, log, seed).gain


def _refuse_other_features(policy: Policy, incumbent: Policy, log: BanditLog) -> None:
    if log.context is not None and not np.array_equal(policy.artifact.context, incumbent.artifact.context):
        raise DataError(
            f"{log.name}: has context vectors, and the incumbent ({incumbent.artifact.agent}) was trained on other"
            f" features than the candidate ({policy.artifact.agent}): not both can read them; leave these rounds out"
            " (contexts = false of the ingest)"
        )


def _tables(policy: Policy, log: BanditLog) -> tuple[Rows, Rows]:
    """The greedy policy's probabilities, ties sharing alike, and its rating estimates [n, A] of a slice of rounds."""
    situations, row = log.situations(policy.artifact.context)  # [U + V, C], [N]

    def of(contexts: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        score, rating = (table[:, log.catalogue] for table in policy.scores(contexts))
        return score, np.clip(rating, *log.scale)

    if len(situations) * len(log.catalogue) > _CELLS_KEPT:
        return (
            lambda part: greedy(of(situations[row[part]])[0], log.allowed(part)),
            lambda part: of(situations[row[part]])[1],
        )
    scores, ratings = of(situations)
    if log.candidate is not None:
        return lambda part: greedy(scores[row[part]], log.allowed(part)), lambda part: ratings[row[part]]
    choice = greedy(scores, None).astype(np.float32)  # the same in all rounds of a user; 1 or a share among ties
    return lambda part: choice[row[part]], lambda part: ratings[row[part]]
