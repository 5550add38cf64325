"""What logged rounds say of a policy, beside an incumbent or the policy that logged.

N rounds, U users, A movies of the log's catalogue. Policies are taken without exploration: the best movie that could be
shown, ties sharing alike. Rewards are predicted by the candidate's own rating estimates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator
from recpolicy.data.logged_rounds import LoggedRounds
from recpolicy.evaluation.bootstrap import Interval
from recpolicy.evaluation.diversity import ActionDiversity, action_diversity
from recpolicy.evaluation.groups import GroupFigure, Groups, group_figures
from recpolicy.evaluation.off_policy.estimate import OffPolicyConfig, estimate, gain
from recpolicy.evaluation.off_policy.estimators import dr_terms
from recpolicy.evaluation.off_policy.evidence import Sources, logged_predictions
from recpolicy.evaluation.off_policy.results import Estimates, Gain
from recpolicy.evaluation.off_policy.rounds import LoggedChoices, Target, target_of
from recpolicy.evaluation.relative_gain import gain_on_hits, relative_gain
from recpolicy.serving.heads import greedy
from recpolicy.serving.predictor import Policy

ESTIMATOR = "dr"
"""Doubly robust: unbiased with true propensities, and sharper than weighting alone."""
COMPARED = ("ips", "snips", "beta_ips", "clipped_ips", "dm", "dr", "sndr", "switch_dr", "dros")
"""Estimators that a page puts side by side: all that read the log once and fit no model of their own."""
Rows = Callable[[slice], NDArray[np.floating]]


@dataclass(frozen=True)
class LogTrial:
    """One candidate on one log; figures are made when first asked for."""

    choices: LoggedChoices
    candidate: Target
    incumbent: Target | None
    """None: the policy that logged."""
    q: Rows
    """Rewards that the candidate's rating estimates predict [n, A]."""
    config: OffPolicyConfig

    @cached_property
    def gain(self) -> Gain:
        """What the candidate earns per round beyond the incumbent."""
        return gain(self.choices, self.candidate, self.incumbent, ESTIMATOR, self.config, q=self.q)

    @cached_property
    def relative_gain(self) -> Interval | None:
        """By which share the candidate earns more than who logged; see evaluation/relative_gain.py."""
        rng = generator(self.config.seed, "judge/relative_gain")
        return relative_gain(self.choices, self.candidate, rng, self.config.resamples, self.config.level)

    @cached_property
    def gain_on_hits(self) -> float | None:
        """The same over the rounds where the candidate would have shown what was shown."""
        return gain_on_hits(self.choices, self.candidate)

    @cached_property
    def actions(self) -> ActionDiversity:
        """How the candidate's choices in these rounds spread over the catalogue."""
        assert self.candidate.table is not None, "judge_log makes targets from tables"
        share = np.zeros(self.choices.actions)
        for _, rows in self.choices.blocks(self.candidate.table, "target probabilities"):
            share += rows.sum(axis=0)
        return action_diversity(share)

    def group_gains(self, groups: Groups) -> dict[str, GroupFigure]:
        """The gain within each group of the user table's users [U], paired round by round."""
        terms = self._terms(self.candidate)
        terms = terms - (self.choices.reward if self.incumbent is None else self._terms(self.incumbent))
        users = groups.member.shape[1]
        total = np.bincount(self.choices.user, terms, users).astype(np.float64)
        size = np.bincount(self.choices.user, minlength=users)
        rng = generator(self.config.seed, "judge/groups")
        return group_figures(groups, total, size, rng, self.config.resamples, self.config.level)

    def estimates(self) -> Estimates:
        """What all of COMPARED say the candidate earns."""
        return estimate(self.choices, self.candidate, COMPARED, self.config, q=self.q)

    def predictions(self) -> NDArray[np.float64]:
        """Predicted rewards of the logged movies [N]."""
        return logged_predictions(self.choices, self.q)

    def _terms(self, target: Target) -> NDArray[np.float64]:
        config = self.config
        sources = Sources(self.choices, target, self.q, None, config.model, config.reward_range, config.seed)
        found = sources.get("model")
        return dr_terms(found.direct, found.weight, found.reward, found.predicted)


def trial_on(policy: Policy, incumbent: Policy | None, log: LoggedRounds, seed: int = 0) -> LogTrial:
    """Put the policy on the rounds of `log`; raises DataError where it, or a policy before it, has learnt from them.

    Raises DataError, too, for an incumbent of other users or movies.
    """
    learnt = {policy.about.get("log"), *(one.get("log") for one in policy.about.get("parents", []))}
    if log.digest in learnt:
        raise DataError(f"{log.name}: the policy has learnt from these very rounds; evaluate on others")
    if incumbent is not None:
        _refuse_other_ids(policy, incumbent)
    score, rating = policy.scores()
    choices = LoggedChoices(
        action=log.arm(), reward=log.reward, logged_prob=log.propensity, user=log.user, actions=len(log.catalogue),
    )  # fmt: skip
    return LogTrial(
        choices,
        target_of(choices, _greedy_table(score, log)),
        None if incumbent is None else target_of(choices, _greedy_table(incumbent.scores()[0], log)),
        _rating_table(rating, log),
        OffPolicyConfig(seed=seed, reward_range=log.scale),
    )


def off_policy_gain(policy: Policy, incumbent: Policy | None, log: LoggedRounds, seed: int = 0) -> Gain:
    """By how much the policy, without exploring, earns more per round than the incumbent, or than who logged."""
    return trial_on(policy, incumbent, log, seed).gain


def _refuse_other_ids(policy: Policy, incumbent: Policy) -> None:
    one, other = policy.artifact, incumbent.artifact
    for kind, column, here, there in (
        ("users", "user_id", one.users, other.users), ("movies", "movie_id", one.movies, other.movies)
    ):  # fmt: skip
        if not np.array_equal(here[column].to_numpy(), there[column].to_numpy()):
            raise DataError(
                f"the incumbent ({incumbent.artifact.agent}) knows other {kind} than the candidate"
                f" ({policy.artifact.agent}): only policies of the same data can be compared"
            )


def _greedy_table(score: NDArray[np.floating], log: LoggedRounds) -> Rows:
    """The greedy policy's probabilities [n, A] of a slice of rounds; ties share alike."""
    among = score[:, log.catalogue]

    def rows(part: slice) -> NDArray[np.floating]:
        return greedy(among[log.user[part]], log.allowed(part))

    return rows


def _rating_table(rating: NDArray[np.floating], log: LoggedRounds) -> Rows:
    among = np.clip(rating[:, log.catalogue], *log.scale)

    def rows(part: slice) -> NDArray[np.floating]:
        return np.asarray(among[log.user[part]])

    return rows
