"""Compare a policy on logged rounds with an incumbent or with the logging policy, by off-policy evaluation.

N rounds, U users, A items of the log's catalog. Policies act without exploration: the best eligible item; ties share
the probability equally. Rounds with a context vector use that vector;
other rounds use the policy's features of the user.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.json import to_plain
from recpolicy.core.memory import check_memory
from recpolicy.core.statistics import Interval
from recpolicy.core.types import Bools
from recpolicy.data.bandit_log import BanditLog, within_catalog
from recpolicy.data.candidates import CandidateSets, blocks
from recpolicy.evaluation.diversity import ActionDiversity, action_diversity
from recpolicy.evaluation.groups import GroupFigure, Groups, group_figures
from recpolicy.evaluation.relative_gain import gain_on_hits, relative_gain
from recpolicy.inference.action_distributions import greedy
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.predictor import Policy
from recpolicy.ope.config import OffPolicyConfig
from recpolicy.ope.engine import estimate_from_inputs, value_differences_from_inputs, value_limits_from_inputs
from recpolicy.ope.feedback import BanditFeedback, TargetPolicy
from recpolicy.ope.inputs import BanditInputs, logged_predictions
from recpolicy.ope.results import Estimates, PolicyComparison
from recpolicy.ope.terms import dr_terms
from recpolicy.workflows.artifacts import check_not_learned
from recpolicy.workflows.guarded_targets import GuardedRounds, bind_to_log, guardrail_notes, served_ratings

ESTIMATOR = "dr"
"""Doubly robust: unbiased with true propensities, with less variance than weighting alone."""
GATE_INTERVALS = ("t", "sequence")
"""Intervals that a gate may read."""
COMPARED = ("ips", "snips", "beta_ips", "clipped_ips", "dm", "dr", "sndr", "switch_dr", "dros")
"""Estimators on a page: all that read the log once and fit no model."""
Rows = Callable[[slice], NDArray[np.floating]]

_ROUND_BYTES = 800
"""Memory of a round in the estimators."""
_MAX_CELLS = 1 << 23
"""Maximal number of contexts times items that are scored once and stored (8 bytes each); more are scored at each read.
"""


@dataclass(frozen=True)
class LogComparison:
    """A candidate on one log; figures are computed at their first use."""

    feedback: BanditFeedback
    candidate: TargetPolicy
    incumbent: TargetPolicy | None
    """None is the logging policy."""
    q: Rows | None
    """Rewards [n, A] predicted by the candidate's rating estimates, for `estimates` and `predictions`."""
    config: OffPolicyConfig
    user: NDArray[np.int32]
    """Row [N] of the table of users, for groups of users; the feedback has the units of the intervals."""
    notes: tuple[str, ...] = ()
    """Notes on the guardrails of the log and of the evaluation."""
    log: BanditLog | None = field(default=None, repr=False)
    """The rounds [N] that are compared."""

    @cached_property
    def gain(self) -> PolicyComparison:
        """The candidate's value per round minus the incumbent's.

        Its reward model is fitted on the log. The candidate's own model would favor the candidate.
        """
        return value_differences_from_inputs(*self.compared_inputs, [ESTIMATOR])[ESTIMATOR]

    @cached_property
    def mean_reward(self) -> Mapping[str, Interval]:
        """The candidate's value per round, by kind of interval; actions without support earn the least."""
        return value_limits_from_inputs(self.compared_inputs[0], ESTIMATOR)

    @cached_property
    def relative_gain(self) -> Mapping[str, Interval] | None:
        """The candidate's value relative to the logging policy's, minus 1, by kind of interval."""
        limits = self.compared_inputs[0].reward_limits
        return relative_gain(self.feedback, self.candidate, limits, self.config.level)

    @cached_property
    def gain_on_hits(self) -> float | None:
        """The relative gain over the rounds in which the candidate's item is the logged one."""
        return gain_on_hits(self.feedback, self.candidate)

    @cached_property
    def actions(self) -> ActionDiversity:
        """Diversity of the candidate's choices in these rounds."""
        assert self.candidate.table is not None, "compare_on_log makes targets from tables"
        share = np.zeros(self.feedback.actions)
        for _, rows in self.feedback.blocks(self.candidate.table, "target probabilities"):
            share += rows.sum(axis=0)
        return action_diversity(share)

    def group_gains(self, groups: Groups) -> dict[str, GroupFigure]:
        """Return the gain within each group of users [U], paired by round; cold-start users are in no group."""
        candidate, incumbent = self.compared_inputs
        terms = _terms(candidate) - (self.feedback.reward if incumbent is None else _terms(incumbent))
        users, ones = groups.member.shape[1], np.ones(len(self.feedback))
        columns = (terms, ones, candidate.weight, ones if incumbent is None else incumbent.weight)
        low, high = candidate.reward_limits
        total, size, *weights = (np.bincount(self.user, values, users)[:users] for values in columns)
        return group_figures(groups, total, size, high - low, self.config.level, weights)

    def figures(self, baseline: str) -> dict[str, Any]:
        """Return what the gate asks of a log, as plain values for JSON; `baseline` names what the gain is over."""
        return gate_figures(baseline, self.gain, self.mean_reward, self.relative_gain, self.gain_on_hits)

    def estimates(self) -> Estimates:
        """Return the estimates of the candidate's value by all of COMPARED."""
        return estimate_from_inputs(BanditInputs(self.feedback, self.candidate, self.config, self.q), COMPARED)

    def predictions(self) -> NDArray[np.float64]:
        """Return the predicted rewards [N] of the logged items."""
        assert self.q is not None, "compare_on_log gives the candidate's estimates"
        return logged_predictions(self.feedback, self.q)

    @cached_property
    def compared_inputs(self) -> tuple[BanditInputs, BanditInputs | None]:
        """The estimators' inputs of both policies, each read once; None is the logging policy.

        The reward model is cross-fitted on the log: the mean reward of each item, shrunk to the mean of all. There is
        no bootstrap, because the gate reads the t interval and the sequence.
        """
        candidate = BanditInputs(self.feedback, self.candidate, replace(self.config, resamples=0))
        return candidate, None if self.incumbent is None else candidate.with_target(self.incumbent)


def gate_figures(
    baseline: str, gain: PolicyComparison, mean_reward: Mapping[str, Interval],
    relative_gain: Mapping[str, Interval] | None, gain_on_hits: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Return what the gate asks of a comparison on a log, as plain values for JSON.

    Args:
        baseline: Name of the policy that the gain is over.
        gain: Value per round of the candidate minus that of the incumbent or the logging policy.
        mean_reward: Limits of the candidate's value, by kind of interval.
        relative_gain: Value relative to the logging policy's, minus 1, by kind of interval; None without a meaning.
        gain_on_hits: Relative gain over the rounds in which the candidate acts as logged.
    """
    both = [gain.candidate.diagnostics, gain.incumbent.diagnostics]
    figures: dict[str, Any] = to_plain(
        {
            "baseline": baseline,
            "estimator": gain.estimator,
            "gain": {kind: gain.limits[kind].as_dict() for kind in GATE_INTERVALS},
            "value": gain.candidate.intervals["t"].as_dict(),
            "mean_reward": {kind: mean_reward[kind].as_dict() for kind in GATE_INTERVALS},
            "effective_sample_size": min(policy.effective_sample_size for policy in both),
            "mean_weight_z": max(policy.mean_weight_z for policy in both),
            "tail_index": max(policy.tail_index for policy in both),
            "relative_gain": {kind: limits.as_dict() for kind, limits in (relative_gain or {}).items()},
            "gain_on_hits": gain_on_hits,
            "details": gain.as_dict(),
        }
    )
    return figures


def plain_groups(figures: Mapping[str, GroupFigure]) -> dict[str, dict[str, float]]:
    """Return figures by group as plain values for JSON."""
    return {name: {**group.interval.as_dict(), "users": group.users} for name, group in figures.items()}


def _terms(inputs: BanditInputs) -> NDArray[np.float64]:
    return dr_terms(inputs.model.expected_q, inputs.weight, inputs.reward, inputs.model.logged_q)


def compare_on_log(
    policy: Policy, incumbent: Policy | None, log: BanditLog, seed: int = 0, guardrails: GuardrailConfig | None = None
) -> LogComparison:
    """Return the comparison of a policy with the incumbent, or the logging policy, on logged rounds.

    Args:
        policy: The candidate.
        incumbent: The policy in service; None is the logging policy.
        log: The rounds.
        seed: Seed of the intervals.
        guardrails: Guardrails under which both policies choose; None: among all items that were open in the log. Rounds
            in which they leave no item are left out.

    Raises:
        ConfigError: The policy is one of sessions, or the guardrails do not fit the catalog.
        DataError: A policy or one of its ancestors has learned from some of these rounds, the incumbent has other users
            or items, or one of them cannot read the context vectors.
        MemoryLimitError: The rounds are too many for the memory of this machine.
    """
    check_log_type(policy, False, log.name)
    check_memory(
        len(log) * _ROUND_BYTES + 8 * _MAX_CELLS,
        f"{log.name}: an evaluation on {len(log):,} rounds",
        "evaluate on fewer rounds (a smaller evaluation_share, or a shorter log)",
    )
    policies = {"the policy": policy} | ({} if incumbent is None else {"the incumbent": incumbent})
    check_not_learned(log, policies)
    if incumbent is not None:
        check_same_ids(policy, incumbent)
        _check_same_features(policy, incumbent, log)
    notes = guardrail_notes(log, guardrails)
    log, changed = _with_arms(policies, log, guardrails is not None)
    notes += changed
    if guardrails is not None:
        log, left_out = _with_choice(policies, log, guardrails)
        notes += left_out
    choice, rating = _tables(policy, log, guardrails)
    feedback = BanditFeedback(
        action=log.arm(), reward=log.reward, behavior_prob=log.propensity, user=log.units,
        actions=len(log.action_items),
    )  # fmt: skip
    return LogComparison(
        feedback,
        TargetPolicy.from_table(feedback, choice),
        None if incumbent is None else TargetPolicy.from_table(feedback, _tables(incumbent, log, guardrails)[0]),
        rating,
        OffPolicyConfig(seed=seed, reward_range=log.scale),
        log.user,
        tuple(notes),
        log,
    )


def off_policy_gain(policy: Policy, incumbent: Policy | None, log: BanditLog, seed: int = 0) -> PolicyComparison:
    """Return the policy's value per round, without exploration, minus that of the incumbent or the logging policy."""
    return compare_on_log(policy, incumbent, log, seed).gain


def _check_same_features(policy: Policy, incumbent: Policy, log: BanditLog) -> None:
    if log.context is not None and not np.array_equal(policy.artifact.context, incumbent.artifact.context):
        raise DataError(
            f"{log.name}: has context vectors, and the incumbent ({incumbent.artifact.agent}) was trained on other"
            f" features than the candidate ({policy.artifact.agent}): only one of them can read the vectors;"
            " exclude these rounds (contexts = false of the ingest)"
        )


def _with_choice(
    policies: Mapping[str, Policy], log: BanditLog, guardrails: GuardrailConfig
) -> tuple[BanditLog, list[str]]:
    """Return the rounds in which the guardrails leave all policies an item, and a note if that is not all."""
    rounds, possible = GuardedRounds(log), np.ones(len(log), bool)
    for policy in policies.values():
        rails, rating = bind_to_log(guardrails, policy, log), served_ratings(policy, log)
        for part in blocks(len(log), len(log.action_items)):
            possible[part] &= rounds.with_choice(part, rating(part), rails)
    if possible.all():
        return log, []
    if not possible.any():
        raise DataError(f"{log.name}: the guardrails leave no item in any of its {len(log):,} rounds")
    note = f"{int((~possible).sum()):,} of {len(log):,} rounds are left out: the guardrails leave no item there"
    return log.select(np.flatnonzero(possible), log.name), [note]


def has_arms(policy: Policy, log: BanditLog) -> Bools:
    """Return a mask [A] of the log's items that the policy can choose; others have probability 0."""
    return np.isin(log.action_items, policy.artifact.action_items)


def _with_arms(policies: Mapping[str, Policy], log: BanditLog, guarded: bool) -> tuple[BanditLog, list[str]]:
    """Return the rounds in which every policy can choose, and a note if these are not all.

    A log may span versions of different catalogs. Candidates without an arm have probability 0; a round of only such
    candidates gives a policy no value. Under guardrails, whose bounds are over the catalog, rounds with any such
    candidate are left out. The candidates alone decide, so that the rest is an unbiased log of fewer rounds.
    """
    catalogs = [has_arms(policy, log) for policy in policies.values()]
    if all(catalog.all() for catalog in catalogs):
        return log, []
    rounds = len(log)
    if guarded:
        for policy in policies.values():
            log = within_catalog(log, policy.artifact.action_items)
    else:
        candidates = log.candidates or CandidateSets.all_items(len(log), len(log.action_items))
        able = np.ones(len(log), bool)
        for part in candidates.blocks():
            mask = candidates.mask(part)
            for catalog in catalogs:
                able[part] &= mask[:, catalog].any(axis=1)
        log = log if able.all() else log.select(np.flatnonzero(able), log.name)
    if not len(log):
        raise DataError(f"{log.name}: no round has its candidates in the catalog of the policy")
    why = "they have candidates that a policy lacks" if guarded else "a policy has none of their candidates"
    note = f"{rounds - len(log):,} of {rounds:,} rounds are left out: {why}"
    return log, [note] if len(log) < rounds else []


def _known_candidates(log: BanditLog, part: slice, in_catalog: Bools) -> Bools:
    """Return a mask [n, A] of the candidates of these rounds that are in a policy's catalog."""
    candidates = log.allowed(part)
    if candidates is None:
        return np.broadcast_to(in_catalog, (len(range(*part.indices(len(log)))), len(in_catalog)))
    return candidates & in_catalog


def _tables(policy: Policy, log: BanditLog, guardrails: GuardrailConfig | None = None) -> tuple[Rows, Rows]:
    """Return the greedy probabilities and the rating estimates [n, A], as functions of a slice of rounds."""
    score, rating = _score_rows(policy, log)

    def clipped(part: slice) -> NDArray[np.floating]:
        return np.clip(rating(part), *log.scale)

    if guardrails is not None:
        rounds, rails, served = GuardedRounds(log), bind_to_log(guardrails, policy, log), served_ratings(policy, log)
        return lambda part: rounds.probabilities(part, score(part), served(part), rails), clipped
    in_catalog = has_arms(policy, log)
    if not in_catalog.all():
        return lambda part: greedy(score(part), _known_candidates(log, part, in_catalog)), clipped
    if log.candidates is not None or not isinstance(score, partial):
        return lambda part: greedy(score(part), log.allowed(part)), clipped
    distinct, row = score.args
    choice = greedy(distinct, None).astype(np.float32)  # the same in all rounds of a user; 1 or a share among ties
    return lambda part: choice[row[part]], clipped


def _score_rows(policy: Policy, log: BanditLog) -> tuple[Rows, Rows]:
    """Return the scores and the rating estimates [n, A], as functions of a slice of rounds."""
    distinct_contexts, row = log.distinct_contexts(policy.artifact.context)  # [U + V, C], [N]

    items = np.where(log.action_items < len(policy.artifact.items), log.action_items, policy.artifact.action_items[0])

    def score(contexts: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        score, rating = (table[:, items] for table in policy.scores(contexts))
        return score, rating

    if len(distinct_contexts) * len(log.action_items) > _MAX_CELLS:

        def score_rounds(part: slice, table: int) -> NDArray[np.floating]:
            contexts, place = np.unique(row[part], return_inverse=True)  # the positions of an event share a context
            return score(distinct_contexts[contexts])[table][place]

        return lambda part: score_rounds(part, 0), lambda part: score_rounds(part, 1)
    scores, ratings = score(distinct_contexts)
    return partial(_rows_of, scores, row), partial(_rows_of, ratings, row)


def _rows_of(table: NDArray[np.floating], row: NDArray[np.integer], part: slice) -> NDArray[np.floating]:
    """Return the rows of a table [V, A] of some rounds, whose rows are `row` [N]."""
    return table[row[part]]


def check_log_type(policy: Policy, sequential: bool, log: str) -> None:
    """Raise ConfigError for a session policy on a log of anything else."""
    if policy.sequential and not sequential:
        raise ConfigError(
            f"{policy.artifact.agent} is a session policy, but {log} is not a log of sessions: evaluate it on one"
            " (recpolicy log simulate --sessions)"
        )


def check_same_ids(policy: Policy, incumbent: Policy) -> None:
    """Raise DataError if the incumbent has other users or items; one of them may know further items."""
    candidate, other = policy.artifact, incumbent.artifact
    for name, column in (("users", "user_id"), ("items", "item_id")):
        ids, other_ids = (getattr(artifact, name)[column].to_numpy() for artifact in (candidate, other))
        shared = min(len(ids), len(other_ids)) if name == "items" else None  # items may have been added since
        if not np.array_equal(ids[:shared], other_ids[:shared]):
            raise DataError(
                f"the incumbent ({other.agent}) knows other {name} than the candidate ({candidate.agent}): only"
                " policies of the same data can be compared"
            )
