"""The choices of a policy on logged rounds under guardrails, which need not be those of the log.

N rounds, A items of the log's catalog, P earlier places. A round is a place of a list. The policy fills it with its
best item under the guardrails, given the items that the log has at the earlier places. Only items that were open in
the log can be evaluated: what the logged guardrails closed stays closed.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.types import Array, Bools, Floats
from recpolicy.data.bandit_log import NO_GUARDRAILS, BanditLog
from recpolicy.data.candidates import CandidateSets
from recpolicy.inference.action_distributions import greedy
from recpolicy.inference.block_prediction import USERS_AT_ONCE, score_block
from recpolicy.inference.guarded_lists import scores_after
from recpolicy.inference.guardrails import GuardrailConfig, Guardrails, bind
from recpolicy.inference.predictor import Policy

_NAMED = 3
"""Digests that a note names."""


def bind_to_log(config: GuardrailConfig, policy: Policy, log: BanditLog) -> Guardrails:
    """Return the guardrails over the catalog of a log [A].

    Raises:
        ConfigError: What `bind` raises, or a setting that single places of a list cannot evaluate.
        DataError: The log has items that the policy does not choose among.
    """
    if config.min_marked:
        raise ConfigError(
            "guardrails: min_marked reserves places, and a log of single places does not say how long its lists were;"
            " evaluate without min_marked"
        )
    arms = np.searchsorted(policy.artifact.action_items, log.action_items)
    arms = np.minimum(arms, len(policy.artifact.action_items) - 1)
    unknown = policy.artifact.action_items[arms] != log.action_items
    if unknown.any():
        raise DataError(
            f"{log.name}: {int(unknown.sum())} items of its catalog are not among those that {policy.artifact.agent}"
            " recommends; guardrails need a policy with the catalog of the log"
        )
    return bind(config, policy.scorer).of_arms(arms)


def evaluable_guardrails(config: GuardrailConfig) -> GuardrailConfig | None:
    """Return the guardrails under which a server evaluates; None without any, and where places are reserved."""
    return config if config.active and not config.min_marked else None


def served_ratings(policy: Policy, log: BanditLog) -> Callable[[slice], Floats]:
    """Return the ratings [n, A] that the policy serves in a slice of rounds, not clipped; `min_rating` bounds these."""
    scorer, users = policy.scorer, len(policy.artifact.context)
    distinct, row = log.distinct_contexts(policy.artifact.context)

    def ratings(part: slice) -> Floats:
        contexts, place = np.unique(row[part], return_inverse=True)
        known, vectors = contexts[contexts < users], contexts[contexts >= users]
        blocks = [scores.rating for scores in scorer.score_batches([scorer.user_ids[number] for number in known])]
        if len(vectors):
            inputs = scorer.contexts(vectors.tolist(), {}, USERS_AT_ONCE, distinct[vectors])
            blocks += [score_block(policy.artifact, user).rating for user in inputs]
        return np.concatenate(blocks)[:, log.action_items][place]

    return ratings


class GuardedRounds:
    """The places of a log, with what came before each."""

    def __init__(self, log: BanditLog):
        self.log = log

    @cached_property
    def _candidates(self) -> CandidateSets:
        log = self.log
        everything = CandidateSets.all_items(len(log), len(log.action_items))
        return everything if log.candidates is None else log.candidates

    @cached_property
    def _first_of_list(self) -> NDArray[np.intp]:
        """The first logged place [N] of each round's list: a row of the log."""
        place = np.diff(self._candidates.excluded_start)
        if not place.any():
            return np.arange(len(self.log))
        lists = pd.factorize(np.array([event.rpartition(":")[0] or event for event in self.log.event_id], object))[0]
        order = np.lexsort((place, lists))
        begin = np.flatnonzero(np.diff(lists[order], prepend=-1))
        first = np.empty(len(order), np.intp)
        first[order] = np.repeat(order[begin], np.diff(np.append(begin, len(order))))
        return first

    def could_be_first(self, part: slice) -> Bools:
        """Return the items [n, A] that could take the first place of each round's list, as far as the log says."""
        rows = self._first_of_list[part]
        sets = self._candidates.take(rows)
        mask = CandidateSets.without_exclusions(sets.sets, sets.index, sets.actions).mask(slice(0, len(rows)))
        before = self.earlier(part)
        row, column = np.nonzero(before >= 0)
        mask[row, before[row, column]] = True
        return mask

    def earlier(self, part: slice) -> NDArray[np.int32]:
        """Return the arms [n, P] at the earlier places of each round, -1 after the last one."""
        sets = self._candidates.take(part)
        count = np.diff(sets.excluded_start)
        arms = np.full((len(count), int(count.max(initial=0))), -1, np.int32)
        arms[np.arange(arms.shape[1]) < count[:, np.newaxis]] = sets.excluded
        return arms

    def scores(self, part: slice, score: Floats, rating: Floats, guardrails: Guardrails) -> Array:
        """Return the scores [n, A] under the guardrails, -inf for items that they or the log close.

        Args:
            part: The rounds.
            score: [n, A], the policy's scores.
            rating: [n, A], predicted ratings, not clipped.
            guardrails: Over the catalog of the log.
        """
        base = guardrails.base_mask(self.could_be_first(part), np.asarray(rating, np.float64))
        scores = scores_after(np.asarray(score, np.float64), base, self.earlier(part), guardrails)
        return np.where(self._candidates.mask(part), scores, -np.inf)

    def probabilities(self, part: slice, score: Floats, rating: Floats, guardrails: Guardrails) -> Array:
        """Return the probabilities [n, A] of the greedy choice under the guardrails; what `scores` takes."""
        scores = self.scores(part, score, rating, guardrails)
        return np.asarray(greedy(scores, np.isfinite(scores)), np.float64)

    def with_choice(self, part: slice, rating: Floats, guardrails: Guardrails) -> Bools:
        """Return a mask [n] of the rounds in which the guardrails leave an item."""
        bounds = replace(guardrails, diversity=0.0, novelty=0.0, bonus=None)
        return np.asarray(np.isfinite(self.scores(part, np.zeros(rating.shape), rating, bounds)).any(axis=1))


def guardrail_notes(log: BanditLog, config: GuardrailConfig | None) -> list[str]:
    """Return what the guardrails of a log mean for an evaluation under `config`; None evaluates without any."""
    if log.guardrails is None:
        return []
    expected = {NO_GUARDRAILS} if config is None else {NO_GUARDRAILS, config.digest}
    strange = ~np.isin(log.guardrails, list(expected))
    if not strange.any():
        return []
    digests = sorted(set(log.guardrails[strange].tolist()))
    names = ", ".join(digest[:8] for digest in digests[:_NAMED])
    if len(digests) > _NAMED:
        names += f" and {len(digests) - _NAMED} more"
    rounds = f"{int(strange.sum()):,} of {len(log):,} rounds were logged under"
    if config is None:
        return [
            f"{rounds} guardrails ({names}): the value is that of the policy's best items among those that they left;"
            " name guardrails to evaluate it under them (--guardrails)"
        ]
    return [
        f"{rounds} other guardrails ({names}) than those of the evaluation ({config.digest[:8]}): what they closed"
        " stays closed"
    ]
