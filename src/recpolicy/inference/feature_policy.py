"""A policy that ranks actions with features in a context with features, in NumPy.

n rounds, A actions of a request, K offers of all rounds of a log. A feature policy is an encoder, a reward model and a
head: the encoder makes numbers of raw features, the model estimates the reward of each action, and the head turns
estimates into the probability that an action comes first. Excluded actions have probability 0.

The draw of a request depends on its seed, such as the event id, and on the probabilities only. So the same request
with the same id has the same answer from the same policy in every process.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError, unknown_name_error
from recpolicy.core.files import content_digest
from recpolicy.core.hashes import Hashes
from recpolicy.core.types import Array
from recpolicy.data.feature_columns import object_array
from recpolicy.data.features.encoder import FeatureEncoder
from recpolicy.data.features.records import encode_records
from recpolicy.data.features.schema import ACTION_ID, PARTS
from recpolicy.inference.action_distributions import HEADS, squarecb_gamma, with_uniform_mix
from recpolicy.inference.rank_request import Action, ActionId, check_request, draw
from recpolicy.inference.recurring_actions import RecurringActions
from recpolicy.inference.reward_estimators import Estimate
from recpolicy.models.reward_model import PairEstimate, Pairs, RewardModel

if TYPE_CHECKING:
    from recpolicy.data.feature_log import FeatureLog

WIDTH_HEADS = ("upper_confidence", "thompson")
"""Heads that need the width of estimates."""
_COUNT = ""
"""Name of a column that tells the encoder the number of rows where there are no features."""
_CELLS = 1 << 16
"""Rounds times actions at once; the Thompson head needs 65 numbers for each."""


_TAUGHT_AT_ONCE = 64
"""Rounds that are compared with the policy before it learns from them."""


@dataclass(frozen=True)
class Ranking:
    """The answer to a request with A actions."""

    order: NDArray[np.int64]  # [A] positions in the request, best first; the drawn action is the first
    probability: Array  # [A] of being first, in the order of the request; sums to 1, excluded actions have 0
    score: Array  # [A] expected reward
    chosen: int
    """Position of the first action in the request."""


@dataclass(frozen=True)
class ImportanceWeights:
    """The weights of logged rounds in training: 1 / propensity, at most `max_weight`, over the mean of the first log.

    The weight of a round does not depend on the rounds that come with it, so learning in parts equals learning at once.
    """

    max_weight: float
    mean: float

    def weight(self, log: "FeatureLog") -> Array:
        """Return the weights [N] of rounds."""
        events = np.ones(len(log)) if log.weight is None else log.weight
        return np.minimum(np.exp(-log.log_propensity), self.max_weight) * events / self.mean


@dataclass(frozen=True)
class FeaturePolicy:
    """A trained policy over features; immutable, so several threads may share it."""

    encoder: FeatureEncoder
    model: RewardModel
    agent: str
    head: str
    """A key of inference.action_distributions.HEADS."""
    settings: Mapping[str, float]
    """The head's parameters."""
    uniform_mix: float
    """Share of uniform choices."""
    reward_range: tuple[float, float] | None
    """Lowest and highest reward; None if nobody knows them."""
    importance: ImportanceWeights
    reward_std: float
    """Unit of rewards in the model: 1, or their standard deviation if `[reward]` says normalize. Scores are in the
    original unit."""
    metadata: Mapping[str, Any]
    """Origin: log, configs, seed, versions, figures of the training."""
    learned_events: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))
    """[n], ascending: the logged events that the policy and its ancestors learned from (data/learned_events.py)."""

    @cached_property
    def policy_digest(self) -> str:
        """SHA-256 of everything that determines the policy's choices; equal policies have equal digests."""
        arrays = {name: np.asarray(array) for name, array in self.model.arrays.items()}
        return content_digest(
            self.agent, self.model.name, dict(self.model.settings), self.head, dict(self.settings), self.uniform_mix,
            self.reward_std, self.encoder.digest, sorted(arrays), *(arrays[name] for name in sorted(arrays)),
        )  # fmt: skip

    @property
    def learns_online(self) -> bool:
        """True if `updated` takes in further rounds."""
        return self.model.learns_online

    def rank(
        self, context: Mapping[str, Any], actions: Sequence[Action], excluded: Collection[ActionId] = (),
        seed: int | str | None = None, *, strict: bool = True,
    ) -> Ranking:  # fmt: skip
        """Draw the first action from the policy's probabilities and order the rest by expected reward.

        Excluded actions are the last ones.

        Args:
            context: Features of the context.
            actions: Id and features of each action.
            excluded: Ids of actions that must not come first; ids that are not offered have no effect.
            seed: Seed of the draw, such as the event id; None draws at random.
            strict: Reject features that the training log did not have; False ignores them.

        Raises:
            DataError: What `probabilities` raises.
        """
        probability, score = self.probabilities(context, actions, excluded, strict=strict)
        chosen = draw(probability, seed)
        barred = np.array([identifier in excluded for identifier, _ in actions])
        first = np.arange(len(actions)) == chosen
        order = np.lexsort((-score, barred, ~first))
        return Ranking(order, probability, score, chosen)

    def probabilities(
        self, context: Mapping[str, Any], actions: Sequence[Action], excluded: Collection[ActionId] = (),
        *, strict: bool = True, keys: Sequence[bytes] | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Return the probability [A] that each action comes first, and its expected reward [A].

        Args:
            context: Features of the context.
            actions: Id and features of each action.
            excluded: Ids of actions that must not come first.
            strict: Reject features that the training log did not have; False ignores them.
            keys: A digest of the id and the features of each action. With them, actions of earlier requests need not
                be encoded again.

        Raises:
            DataError: No or too many actions, an action id that occurs twice or is no id, no action that is not
                excluded, or a feature that the training log did not have or that has the wrong type.
        """
        allowed = check_request(context, actions, excluded)
        if strict:
            self._check_names("context", [context])
        return self.answer(self.encoded(context, actions, strict=strict, keys=keys), allowed)

    def estimate_stds(
        self, context: Mapping[str, Any], actions: Sequence[Action], *, keys: Sequence[bytes] | None = None
    ) -> Array | None:
        """Return the standard deviation [A] of each action's expected reward; None if the model knows none.

        Args:
            context: Features of the context; those that the training log did not have are ignored.
            actions: Id and features of each action.
            keys: A digest of each action, as for `probabilities`.

        Raises:
            DataError: A feature has the wrong type.
        """
        return self._estimate(self.encoded(context, actions, keys=keys), widths=True).width

    def encoded(
        self, context: Mapping[str, Any], actions: Sequence[Action], *, strict: bool = False,
        keys: Sequence[bytes] | None = None,
    ) -> Pairs:  # fmt: skip
        """Return the encoded pairs [A] of a request; raise DataError for a value of the wrong type."""

        def encode(places: Sequence[int]) -> Any:
            return self._encoded_actions([actions[place] for place in places], strict)

        if keys is None:
            rows = self._encoded_actions(actions, strict)
        else:
            rows = self._recurring_actions[strict].rows(keys, encode)
        ids = object_array([identifier for identifier, _ in actions])
        contexts = encode_records(self.encoder, "context", [context], sparse=self.model.sparse)
        return Pairs(contexts, rows, ids, np.zeros(len(actions), np.int64), np.arange(len(actions)))

    def _encoded_actions(self, actions: Sequence[Action], strict: bool) -> Any:
        """Return the encoded actions; raise DataError for a feature that is unknown or has the wrong type."""
        records = [features for _, features in actions]
        if strict:
            self._check_names("action", records)
        ids = object_array([identifier for identifier, _ in actions])
        return encode_records(self.encoder, "action", records, sparse=self.model.sparse, ids=ids)

    @cached_property
    def _recurring_actions(self) -> Mapping[bool, RecurringActions]:
        """Encoded actions, those apart whose features were checked strictly."""
        return {True: RecurringActions(), False: RecurringActions()}

    def answer(self, pairs: Pairs, allowed: NDArray[np.bool_]) -> tuple[Array, Array]:
        """Return the probability [A] and the expected reward [A] of A encoded pairs of one context.

        Args:
            pairs: The context with each action.
            allowed: [A], True for actions that are not excluded.
        """
        estimate = self._estimate(pairs, self._needs_widths)
        return self._distribution(estimate, None if allowed.all() else allowed[np.newaxis])[0], estimate.mean

    def probabilities_of(self, log: "FeatureLog") -> Array:
        """Return the probability [K] of each offer of a log."""
        parts = []
        for mask, estimate in self._blocks(log, self._needs_widths):
            padded = PairEstimate(_padded(estimate.mean, mask), _padded(estimate.width, mask))
            parts.append(self._distribution(padded, None if mask.all() else mask)[mask])
        return np.concatenate(parts)

    def scores_of(self, log: "FeatureLog") -> Array:
        """Return the expected reward [K] of each offer of a log."""
        return np.concatenate([estimate.mean for _, estimate in self._blocks(log, widths=False)])

    def updated(self, log: "FeatureLog") -> "FeaturePolicy":
        """Return the policy after learning the rounds of a log in their order; those without a reward are left out.

        The result is the same for the same rounds, in one log or in several.

        Raises:
            ConfigError: The model does not learn online.
            DataError: The log lacks a feature, or has a value of the wrong type.
        """
        from recpolicy.data.learned_events import log_events, merge

        rewarded = ~np.isnan(log.reward)
        log = log if rewarded.all() else log.select(np.flatnonzero(rewarded), log.name)
        pairs = chosen_pairs(self.encoder, self.model.sparse, log)
        return replace(
            self,
            model=self.model.updated(pairs, log.reward / self.reward_std, self.importance.weight(log)),
            settings=_after_rounds(self.settings, len(log)),
            learned_events=merge(self.learned_events, log_events(log)),
        )

    def imitating(self, log: "FeatureLog") -> "FeaturePolicy":
        """Return the policy after learning to prefer the chosen action of each round of a log, whatever its reward.

        It learns the rounds of which it would prefer another action: the highest reward for the chosen action and the
        lowest for the others, which together weigh as much as the chosen one. Rounds of which it prefers the chosen
        action teach nothing. So the estimates move no further than the agreement needs, and later rewards can move them
        back.

        Raises:
            ConfigError: The model does not learn online.
            DataError: The log lacks a feature, or has a value of the wrong type.
        """
        policy = self
        for first in range(0, len(log), _TAUGHT_AT_ONCE):
            rounds = log.take(first, min(first + _TAUGHT_AT_ONCE, len(log)), log.name)
            start, probability = rounds.start, policy.probabilities_of(rounds)
            best = np.maximum.reduceat(probability, start[:-1])
            differs = np.flatnonzero(probability[start[:-1] + rounds.chosen] < best)
            if len(differs):
                policy = policy._corrected(rounds.select(differs, log.name))
        return policy

    def _corrected(self, log: "FeatureLog") -> "FeaturePolicy":
        """Return the policy after the highest reward of each chosen action of a log, and the lowest of the others."""
        from recpolicy.data.learned_events import log_events, merge

        count, row = np.diff(log.start), np.repeat(np.arange(len(log)), np.diff(log.start))
        offered, offer = np.unique(log.offered, return_inverse=True)
        chosen = np.arange(len(row)) == (log.start[:-1] + log.chosen)[row]
        lowest, highest = self.reward_range or log.reward_range or (0.0, 1.0)
        events = np.ones(len(log)) if log.weight is None else log.weight
        pairs = _log_pairs(self.encoder, self.model.sparse, log, slice(0, len(log)), offered, row, offer)
        weight = events[row] / np.where(chosen, 1, count[row] - 1)
        return replace(
            self,
            model=self.model.updated(pairs, np.where(chosen, highest, lowest) / self.reward_std, weight),
            settings=_after_rounds(self.settings, len(log)),
            learned_events=merge(self.learned_events, log_events(log)),
        )

    def _blocks(self, log: "FeatureLog", widths: bool) -> Iterator[tuple[NDArray[np.bool_], PairEstimate]]:
        """Yield the places [n, A] of the offers of some rounds, and the estimates [k] of these offers."""
        count = np.diff(log.start)
        first = 0
        while first < len(count):
            cells = np.maximum.accumulate(count[first : first + _CELLS]) * np.arange(1, 1 + len(count[first:][:_CELLS]))
            last = first + max(1, int(np.searchsorted(cells, _CELLS, side="right")))
            offered, offer = np.unique(log.offered[log.start[first] : log.start[last]], return_inverse=True)
            row = np.repeat(np.arange(last - first), count[first:last])
            rounds = slice(first, last)
            pairs = _log_pairs(self.encoder, self.model.sparse, log, rounds, offered, row, offer)
            mask = np.arange(count[first:last].max()) < count[first:last, np.newaxis]  # [n, A]
            yield mask, self._estimate(pairs, widths)
            first = last

    def _estimate(self, pairs: Pairs, widths: bool) -> PairEstimate:
        """Return the estimates of pairs in the original unit of rewards."""
        estimate = self.model.estimate(pairs, widths)
        width = None if estimate.width is None else estimate.width * self.reward_std
        return PairEstimate(estimate.mean * self.reward_std, width)

    def _distribution(self, estimate: PairEstimate, mask: NDArray[np.bool_] | None) -> Array:
        """Return the probabilities [n, A] of estimates [n, A] or [A]."""
        mean = np.atleast_2d(estimate.mean)
        width = None if estimate.width is None else np.atleast_2d(estimate.width)
        probability = HEADS[self.head](Estimate(mean, width, mean), self.settings, mask)
        probability = with_uniform_mix(probability, self.uniform_mix, mask)
        return probability / probability.sum(axis=-1, keepdims=True)

    @property
    def _needs_widths(self) -> bool:
        return self.head in WIDTH_HEADS and self.settings.get("alpha") != 0

    def _check_names(self, part: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Raise DataError for a feature that the training log did not have."""
        known = self._known[part]
        for record in records:
            unknown = record.keys() - known
            if unknown:
                error = unknown_name_error(f"{part} feature", str(min(map(str, unknown))), known)
                raise DataError(f"{part}: {error} The policy was trained without it.")

    @cached_property
    def _known(self) -> dict[str, set[str]]:
        """Names of the features of each part: those of the schema, and others of the training log."""
        ignored = self.metadata.get("ignored_features", {})
        return {part: {*self.encoder.names(part), *ignored.get(part, ())} for part in PARTS}


def chosen_pairs(encoder: FeatureEncoder, sparse: bool, log: "FeatureLog") -> Pairs:
    """Return the context and the chosen action of each round [N] of a log.

    Args:
        encoder: The encoder of raw features.
        sparse: Return hashed features, otherwise dense ones.
        log: The rounds.
    """
    chosen, offer = np.unique(log.chosen_action, return_inverse=True)
    return _log_pairs(encoder, sparse, log, slice(0, len(log)), chosen, np.arange(len(log)), offer)


def _log_pairs(
    encoder: FeatureEncoder, sparse: bool, log: "FeatureLog", rounds: slice, actions: NDArray[Any],
    row: NDArray[Any], offer: NDArray[Any],
) -> Pairs:  # fmt: skip
    """Return pairs of some rounds and some rows of the log's actions."""
    context = {name: log.context[name][rounds] for name in encoder.names("context") if name in log.context}
    of_actions = {name: log.actions[name][actions] for name in encoder.names("action") if name in log.actions}
    count = rounds.stop - rounds.start
    ids = log.action_id[actions]
    contexts = encoder.encode("context", {**context, _COUNT: np.zeros(count)}, sparse=sparse)
    return Pairs(contexts, encoder.encode("action", {**of_actions, ACTION_ID: ids}, sparse=sparse), ids, row, offer)


def squarecb_settings(rounds: float, scale: float, exponent: float, span: float) -> dict[str, float]:
    """Return the settings of the SquareCB head after some rounds, and those that give them after further rounds.

    Args:
        rounds: Rounds that the policy has learned.
        scale: gamma after the first round, for rewards in [0, 1].
        exponent: Growth of gamma with the rounds.
        span: Highest minus lowest reward.
    """
    gamma = squarecb_gamma(rounds, scale, exponent) / span
    return {"gamma": gamma, "rounds": rounds, "gamma_scale": scale, "gamma_exponent": exponent, "reward_span": span}


def _after_rounds(settings: Mapping[str, float], rounds: int) -> Mapping[str, float]:
    """Return the head's settings after further rounds; only those of SquareCB change."""
    if "rounds" not in settings:
        return settings
    names = ("gamma_scale", "gamma_exponent", "reward_span")
    return squarecb_settings(settings["rounds"] + rounds, *(settings[name] for name in names))


def _padded(values: Array | None, mask: NDArray[np.bool_]) -> Any:
    """Return the values of offers [K] as rounds [n, A], 0 where there is no offer."""
    if values is None:
        return None
    padded = np.zeros(mask.shape)
    padded[mask] = values
    return padded
