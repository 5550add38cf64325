"""The log of a feature policy: contexts and actions with features, propensities and rewards.

N rounds, K offers of all rounds, M distinct actions, C context features. A round offers a list of actions in the order
of its request, without the excluded ones, and shows one of them. Features of actions are stored once per content hash;
offers are row numbers of that table. Files: feature_log_files.py. Values of features: feature_columns.py.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import Repeated, content_digest
from recpolicy.core.seeds import generator
from recpolicy.data.feature_columns import Columns, as_column, canonical_texts, is_missing, take_rows

MAX_ACTIONS = 10_000
"""Largest number of actions of a round."""
_CELLS = 1 << 22
LOWEST_LOG_PROPENSITY = float(np.log(np.finfo(np.float64).tiny))


@dataclass(frozen=True)
class FeatureLog:
    """N checked rounds."""

    event_id: NDArray[np.object_]  # [N] str, unique
    time: NDArray[np.int64]  # [N], milliseconds since 1970
    context: Columns  # columns [N] of the features of the contexts
    action_id: NDArray[np.object_]  # [M] str or int, ids of the distinct actions
    actions: Columns  # columns [M] of the features of the distinct actions
    action_digest: NDArray[np.object_]  # [M] str, content hash of id and features (feature_columns.action_digest)
    start: NDArray[np.int64]  # [N + 1], where the offers of each round begin
    offered: NDArray[np.int32]  # [K], rows of the actions, in the order of each request
    chosen: NDArray[np.int32]  # [N], position of the shown action within its round, from 0
    log_propensity: NDArray[np.float64]  # [N], logarithm of the probability with which it was shown
    reward: NDArray[np.float64]  # [N], NaN: not known yet
    policy: NDArray[np.object_]  # [N] str, logging policy
    version: NDArray[np.object_]  # [N] str, digest of the logging policy
    name: str
    reward_range: tuple[float, float] | None = None
    """Lowest and highest reward; None: unknown, and there are no verdicts."""
    user: NDArray[np.object_] | None = None  # [N] str or int; None: every round is of another person
    weight: NDArray[np.float64] | None = None  # [N] > 0, events that a round stands for; None: 1 each

    def __post_init__(self) -> None:
        for label, columns in (("context", self.context), ("action", self.actions)):
            checked = {name: as_column(column, f"{label} feature {name}") for name, column in columns.items()}
            object.__setattr__(self, "context" if label == "context" else "actions", checked)
        self._check_lengths()
        self._check_offers()
        self._check_numbers()

    def _check_lengths(self) -> None:
        rounds: list[NDArray[Any]] = [
            self.time,
            self.chosen,
            self.log_propensity,
            self.reward,
            self.policy,
            self.version,
            self.start[1:],
        ]
        rounds += [column for column in (self.user, self.weight) if column is not None]
        actions = [self.action_digest, *self.actions.values()]
        lengths = {len(column) for column in (*rounds, *self.context.values(), self.event_id)}
        if len(lengths) != 1:
            raise DataError(f"{self.name}: columns of rounds of different lengths: {sorted(lengths)}")
        lengths = {len(column) for column in (*actions, self.action_id)}
        if len(lengths) != 1:
            raise DataError(f"{self.name}: columns of actions of different lengths: {sorted(lengths)}")

    def _check_offers(self) -> None:
        count = np.diff(self.start)
        if self.start[0] != 0 or self.start[-1] != len(self.offered):
            raise DataError(f"{self.name}: the offers of the rounds do not cover the {len(self.offered)} offers")
        self._refuse(
            (count < 1) | (count > MAX_ACTIONS), count, f"{{}} actions: expected 1 to {MAX_ACTIONS:,}"
        )  # fmt: skip
        self._refuse(
            (self.chosen < 0) | (self.chosen >= count), self.chosen, "the shown position {} is none of its actions"
        )
        if len(self.offered) and not 0 <= int(self.offered.min()) <= int(self.offered.max()) < len(self.action_id):
            raise DataError(f"{self.name}: an offer is none of the {len(self.action_id)} actions")

    def _check_numbers(self) -> None:
        possible = (self.log_propensity >= LOWEST_LOG_PROPENSITY) & (self.log_propensity <= 0)
        self._refuse(~possible, self.log_propensity, "log-propensity {}: expected that of a probability in (0, 1]")
        self._refuse(np.isinf(self.reward), self.reward, "reward {}: expected a finite number")
        if self.reward_range is not None:
            low, high = self.reward_range
            if not (np.isfinite([low, high]).all() and low < high):
                raise DataError(f"{self.name}: rewards in {low:g}..{high:g}; expected the lowest, then a higher one")
            self._refuse(
                (self.reward < low) | (self.reward > high),
                self.reward,
                f"reward {{}}: expected within {low:g}..{high:g}",
            )
        if self.weight is not None:
            possible = np.isfinite(self.weight) & (self.weight > 0)
            self._refuse(~possible, self.weight, "weight {}: expected a positive number")

    def _refuse(self, wrong: NDArray[np.bool_], values: NDArray[Any], what: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"{self.name}: round {row}: {what.format(values[row])}")

    def __len__(self) -> int:
        return len(self.event_id)

    @property
    def propensity(self) -> NDArray[np.float64]:
        """Probability [N], in (0, 1], with which the action was shown."""
        return np.exp(self.log_propensity)

    @property
    def count(self) -> NDArray[np.int64]:
        """Actions [N] of each round."""
        return np.diff(self.start)

    @property
    def round_of_offer(self) -> NDArray[np.int64]:
        """The round [K] of each offer."""
        return np.repeat(np.arange(len(self)), self.count)

    @property
    def chosen_offer(self) -> NDArray[np.int64]:
        """The offer [N], 0..K-1, that each round showed."""
        return self.start[:-1] + self.chosen

    @property
    def chosen_action(self) -> NDArray[np.int32]:
        """The row of the actions [N] that each round showed."""
        return self.offered[self.chosen_offer]

    @property
    def has_reward(self) -> NDArray[np.bool_]:
        """The mask [N] of the rounds with a known reward."""
        return ~np.isnan(self.reward)

    @cached_property
    def units(self) -> NDArray[np.int64]:
        """Numbers [N] of the independent parts: users, or rounds; a round without a user is a part of its own."""
        if self.user is None:
            return np.arange(len(self))
        missing = is_missing(self.user)
        ids = _typed_ids(self.user)
        ids[missing] = None
        codes = pd.factorize(ids)[0].astype(np.int64)
        codes[missing] = codes.max(initial=-1) + 1 + np.arange(int(missing.sum()))
        return codes

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that was logged, in order; the name and the numbering of the actions play no part."""
        columns: list[Any] = []
        for name in sorted(self.context):
            column = self.context[name]
            if not is_missing(column).all():
                columns += [name, column if column.dtype != object else _repeated_texts(column)]
        user = None if self.user is None else _repeated_texts(self.user)
        return content_digest(
            self.event_id, self.time, Repeated(self.action_digest, self.offered), self.start, self.chosen,
            self.log_propensity, self.reward, self.policy, self.version, user, self.weight,
            None if self.reward_range is None else list(self.reward_range), *columns,
        )  # fmt: skip

    def take(self, first: int, last: int, name: str) -> "FeatureLog":
        """Return rounds first..last-1 with the actions that they offer."""
        return self.select(np.arange(first, last), name)

    def select(self, rows: NDArray[np.integer[Any]], name: str) -> "FeatureLog":
        """Return the rounds `rows`, in this order, with the actions that they offer, in order of first occurrence."""
        count = self.count[rows]
        start = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        place = np.repeat(self.start[:-1][rows] - start[:-1], count) + np.arange(start[-1])
        offered, used = pd.factorize(self.offered[place])
        columns = ("event_id", "time", "chosen", "log_propensity", "reward", "policy", "version", "user", "weight")
        parts: dict[str, Any] = {column: getattr(self, column) for column in columns}
        parts = {column: None if part is None else part[rows] for column, part in parts.items()}
        return replace(
            self, name=name, start=start, offered=offered.astype(np.int32), action_id=self.action_id[used],
            actions=take_rows(self.actions, used), action_digest=self.action_digest[used],
            context=take_rows(self.context, rows), **parts,
        )  # fmt: skip

    def split_by_time(self, share: float) -> tuple["FeatureLog", "FeatureLog"]:
        """Return the earlier rounds and the latest `share` of them, each in order of time.

        Rounds of one moment stay together, in the later part. Raises DataError if a part would have no round.
        """
        order = np.argsort(self.time, kind="stable")
        time, cut = self.time[order], len(self) - round(len(self) * share)
        if 0 < cut < len(self):
            cut = int(np.searchsorted(time, time[cut]))
        return self._two_parts(order[:cut], order[cut:], f"the latest {share:.0%}")

    def split_by_user(self, share: float, seed: int) -> tuple["FeatureLog", "FeatureLog"]:
        """Return the rounds of most users and those of a random `share` of the users; rounds keep their order.

        Raises DataError if a part would have no round.
        """
        units, of_unit = np.unique(self.units, return_inverse=True)
        drawn = generator(seed, "split of a feature log by user").permutation(len(units))[: round(len(units) * share)]
        later = np.isin(of_unit, drawn)
        return self._two_parts(np.flatnonzero(~later), np.flatnonzero(later), f"{share:.0%} of the users")

    def _two_parts(
        self, first: NDArray[np.intp], second: NDArray[np.intp], what: str
    ) -> tuple["FeatureLog", "FeatureLog"]:
        if not len(first) or not len(second):
            raise DataError(
                f"{self.name}: {len(self)} rounds cannot be divided: {what} leaves {len(first)} and {len(second)}"
            )
        return self.select(first, f"{self.name}/training"), self.select(second, f"{self.name}/evaluation")


def check_identities(log: FeatureLog) -> None:
    """Raise DataError where an event id occurs twice, or an action id occurs twice in a round."""
    twice = pd.Series(log.event_id).duplicated().to_numpy()
    if twice.any():
        raise DataError(f"{log.name}: event_id {log.event_id[int(twice.argmax())]!r} occurs twice")
    code = pd.factorize(_typed_ids(log.action_id))[0][log.offered]
    step = max(1, _CELLS * len(log) // max(len(code), 1))
    for first in range(0, len(log), step):
        last = min(first + step, len(log))
        offers = slice(int(log.start[first]), int(log.start[last]))
        rounds = np.repeat(np.arange(first, last), log.count[first:last])
        order = np.lexsort((code[offers], rounds))
        sorted_round, sorted_code = rounds[order], code[offers][order]
        same = (sorted_round[1:] == sorted_round[:-1]) & (sorted_code[1:] == sorted_code[:-1])
        if same.any():
            offer = offers.start + int(order[int(same.argmax())])
            round_number, action = int(sorted_round[int(same.argmax())]), log.action_id[log.offered[offer]]
            raise DataError(f"{log.name}: round {round_number}: action {action!r} is offered twice")


def _typed_ids(ids: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return ids [n] as texts in which 3 and "3" differ."""
    return np.array([f"'{value}" if isinstance(value, str) else f"#{value}" for value in ids.tolist()], object)


def _repeated_texts(column: NDArray[np.object_]) -> Repeated:
    """Return the canonical texts of a column, each distinct value once."""
    values = column.tolist()
    types = set(map(type, values))
    if types <= {str, type(None)}:
        rows, distinct = pd.factorize(column, use_na_sentinel=False)
        return Repeated(np.array(list(canonical_texts(distinct)), object), rows)
    rows, texts = pd.factorize(np.array(list(canonical_texts(column)), object))
    return Repeated(texts, rows)
