"""The log of a contextual bandit: impressions, their propensities and rewards.

N rounds. As in the ratings table, users and items are row numbers of tables that the log shares with the policy; ids
appear only in files (bandit_log_files.py). A round is one choice: `item` out of `action_items`, or out of the round's
candidates (candidates.py) if the log has them. Propensities are stored as float64 logarithms, because exploration makes
small ones.

The context of a round is the user's row of the context table [U, D], or a vector [D] in the log: for a cold-start user,
who is not in the user table, or for a user whose features were different at that time.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import content_digest
from recpolicy.data.candidates import CandidateSets, digest_parts

NO_GUARDRAILS = ""
"""In `guardrails`: the list had none."""


@dataclass(frozen=True)
class ColdStartUsers:
    """Users of a log who are not in the user table: V of them, with the rows known, known + 1, ..."""

    known: int
    """U: rows of the user table."""
    ids: NDArray[np.object_]  # [V]


@dataclass(frozen=True)
class BanditLog:
    """N checked rounds in the order of time."""

    event_id: NDArray[np.object_]  # [N] str, unique
    time: NDArray[np.int64]  # [N], milliseconds since 1970
    user: NDArray[np.int32]  # [N], row of the user table, or of a cold-start user
    item: NDArray[np.int32]  # [N], row of the item table; in the catalog
    log_propensity: NDArray[np.float64]  # [N], <= 0 and finite
    reward: NDArray[np.float64]  # [N], finite and within scale
    action_items: NDArray[np.int32]  # [A], item rows, ascending
    scale: tuple[float, float]
    name: str
    policy: NDArray[np.object_]  # [N] str, logging policy
    version: NDArray[np.object_]  # [N] str, digest of the logging policy
    candidates: CandidateSets | None = None  # of N rounds over action_items; None: the whole catalog in every round
    context: NDArray[np.float32] | None = None  # [N, D], context vectors; NaN, or None: the row of the user
    cold_start_users: ColdStartUsers | None = None  # each of their rounds has a context; None: the table has all users
    guardrails: NDArray[np.object_] | None = None  # [N] str, digest of those of the list; None: no list had any
    slate_digest: str | None = None
    """Digest of the slate log whose slots these rounds are; the digest of the rounds ignores it."""
    features: str | None = None
    """Digest of the table of contexts (features_digest) of the vectors; None: unknown."""
    exporter: str | None = None
    """Name of the exporter that keeps adding rounds to this log; None: the log is complete."""
    simulator: str | None = None
    """Name of the simulated world that paid the rewards; None: people gave them."""
    unit: str | None = None
    """round: every round is of another person, and users are contexts; slate: every slate is, and its rounds (events
    SLATE:SLOT) belong together; None: the rounds of a user do."""

    def __post_init__(self) -> None:
        columns = (self.event_id, self.time, self.user, self.item, self.log_propensity, self.reward, self.guardrails)
        lengths = {len(column) for column in (*columns, self.policy, self.version) if column is not None}
        if len(lengths) != 1:
            raise DataError(f"{self.name}: columns of different lengths: {sorted(lengths)}")
        self._refuse(
            ~(np.isfinite(self.log_propensity) & (self.log_propensity <= 0)), self.log_propensity,
            "log-propensity {}: expected finite and <= 0",
        )  # fmt: skip
        low, high = self.scale
        within = (self.reward >= low) & (self.reward <= high)  # not so for NaN
        self._refuse(~within, self.reward, f"reward {{}}: expected within {low:g}..{high:g}")
        if not (np.diff(self.action_items) > 0).all():
            raise DataError(f"{self.name}: the catalog must list item rows in ascending order, each once")
        self._refuse(~np.isin(self.item, self.action_items), self.item, "item row {}: not in the catalog")
        self._check_candidates()
        self._check_context()

    @property
    def units(self) -> NDArray[np.integer]:
        """Numbers [N] of the independent parts that the rounds belong to: users, slates, or the rounds themselves."""
        if self.unit == "slate":
            return pd.factorize(np.array([event.rpartition(":")[0] for event in self.event_id], object))[0]
        return np.arange(len(self)) if self.unit == "round" else self.user

    def _check_candidates(self) -> None:
        if self.candidates is None:
            return
        if (len(self.candidates), self.candidates.actions) != (len(self), len(self.action_items)):
            raise DataError(
                f"{self.name}: candidates of {len(self.candidates)} rounds and {self.candidates.actions} actions; "
                f"expected {len(self)} and {len(self.action_items)}"
            )
        self._refuse(~self.candidates.contain(self.arm()), self.item, "item row {}: not among the candidates")

    def _check_context(self) -> None:
        if self.context is not None:
            shape, kind = self.context.shape, self.context.dtype
            if kind != np.float32 or len(shape) != 2 or len(self.context) != len(self) or not shape[1]:
                raise DataError(f"{self.name}: contexts {shape} of {kind}; expected ({len(self)}, D) of float32")
            part = ~self.with_context & ~np.isnan(self.context).all(axis=1)
            finite = np.isfinite(self.context).sum(axis=1)
            self._refuse(
                part, finite, f"context with {{}} of {shape[1]} numbers finite: expected all, or NaN throughout"
            )
        if self.cold_start_users is not None:
            known, end = self.cold_start_users.known, self.cold_start_users.known + len(self.cold_start_users.ids)
            self._refuse(
                self.user >= end, self.user, f"user row {{}}: cold-start users have the rows {known}..{end - 1}"
            )
            self._refuse(
                (self.user >= known) & ~self.with_context, self.user, "user row {}: a cold-start user has no context"
            )

    def _refuse(self, wrong: NDArray[np.bool_], values: NDArray[np.generic], what: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"{self.name}: round {row}: {what.format(values[row])}")

    def __len__(self) -> int:
        return len(self.item)

    @property
    def propensity(self) -> NDArray[np.float64]:
        """Probability [N], in (0, 1], with which the logged item was shown."""
        return np.exp(self.log_propensity)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that was logged, in order, without the name, the form of the candidates and the names of the
        guardrails."""
        vectors: list[Any] = []
        if self.context is not None:
            vectors.append(np.where(self.with_context[:, np.newaxis], self.context, np.float32(np.nan)))
        if self.cold_start_users is not None:
            vectors += [self.cold_start_users.known, self.cold_start_users.ids]
        return content_digest(
            self.event_id, self.time, self.user, self.item, self.log_propensity, self.reward, self.action_items,
            list(self.scale), self.policy, self.version,
            *((None, None) if self.candidates is None else digest_parts(self.candidates, self.action_items)), *vectors,
        )  # fmt: skip

    @property
    def with_context(self) -> NDArray[np.bool_]:
        """Return a mask [N] of the rounds with a context vector."""
        if self.context is None:
            return np.zeros(len(self), bool)
        return np.asarray(np.isfinite(self.context).all(axis=1))

    def contexts(self, table: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the context of each round [N, D]: its vector, or the user's row of the table [U, D].

        Raises DataError for vectors of another length than the table's rows, or for vectors of other features, if the
        log names them.
        """
        table, row = self.distinct_contexts(table)
        return np.asarray(table[row], np.float32)

    def distinct_contexts(self, table: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.int32]]:
        """Return the table [U + V, D] with the V distinct vectors of the log below it, and each round's row [N].

        Computations per context then run once, however many rounds have it. Raises what `contexts` raises.
        """
        if self.context is None:
            return table, self.user
        self.check_features(table)
        has_context = self.with_context
        vectors, place = _distinct(self.context[has_context])
        row = self.user.copy()
        row[has_context] = len(table) + place
        return np.concatenate([table, vectors]), row

    def check_features(self, table: NDArray[np.floating]) -> None:
        """Raise DataError where the log has vectors that do not lie in the space of the policy's contexts [U, D]."""
        if self.context is None:
            return
        what = None
        if self.context.shape[1] != table.shape[1]:
            what = f"contexts of {self.context.shape[1]} numbers, but the policy's have {table.shape[1]}"
        elif self.features not in (None, features_digest(table)):
            what = "contexts from the features of another training; they do not fit the policy"
        if what is not None:
            raise DataError(
                f"{self.name}: {what}; use a policy with the logged features (`retrain` keeps them), or exclude these"
                " rounds (contexts = false in the ingest)"
            )

    def arm(self) -> NDArray[np.int32]:
        """Return the index [N] of each logged item in the catalog."""
        return np.searchsorted(self.action_items, self.item).astype(np.int32)

    def allowed(self, rows: slice) -> NDArray[np.bool_] | None:
        """Return a mask [n, A] of the candidates of these rounds; None if all items were."""
        return None if self.candidates is None else self.candidates.mask(rows)

    def take(self, first: int, last: int, name: str) -> "BanditLog":
        """Return rounds first..last-1."""
        return self._chosen(slice(first, last), name)

    def select(self, rows: NDArray[np.int64], name: str) -> "BanditLog":
        """Return the rounds `rows`, in ascending order."""
        return self._chosen(rows, name)

    def _chosen(self, rows: slice | NDArray[np.int64], name: str) -> "BanditLog":
        columns = ("event_id", "time", "item", "log_propensity", "reward", "policy", "version")
        chosen = {column: getattr(self, column)[rows] for column in columns}
        chosen |= taken_users(self.user, self.context, self.cold_start_users, rows)
        chosen["guardrails"] = None if self.guardrails is None else some_guardrails(self.guardrails[rows])
        chosen["candidates"] = None if self.candidates is None else self.candidates.take(rows)
        return replace(self, name=name, **chosen)


def some_guardrails(digests: NDArray[np.object_]) -> NDArray[np.object_] | None:
    """Return the digests [N] of guardrails; None if no list had any."""
    return digests if (digests != NO_GUARDRAILS).any() else None


def features_digest(table: NDArray[np.floating]) -> str:
    """Return the digest of a context table [U, D]; a log stores it to name the features of its vectors."""
    return content_digest(np.asarray(table, np.float32))


def within_catalog(log: BanditLog, action_items: NDArray[np.int32]) -> BanditLog:
    """Return the rounds whose candidates, and the items at earlier positions, are all in a smaller catalog [B].

    Args:
        log: The rounds, over a catalog [A].
        action_items: Item rows, ascending.
    """
    known = np.isin(log.action_items, action_items)
    if known.all():
        return log
    sets = log.candidates or CandidateSets.all_items(len(log), len(log.action_items))
    able = np.zeros(len(log), bool)
    for rows in sets.blocks():
        able[rows] = ~sets.mask(rows)[:, ~known].any(axis=1)
    strange = np.repeat(np.arange(len(log)), np.diff(sets.excluded_start))[~known[sets.excluded]]
    able[strange] = False
    part = log.select(np.flatnonzero(able), log.name)
    chosen = sets.take(np.flatnonzero(able)).compact()
    bits = np.unpackbits(chosen.sets, axis=1, count=chosen.actions)[:, known]
    place = np.cumsum(known, dtype=np.int32) - 1
    smaller = replace(
        chosen, actions=int(known.sum()), sets=np.packbits(bits, axis=1), excluded=place[chosen.excluded]
    )  # fmt: skip
    return replace(part, action_items=log.action_items[known], candidates=smaller)


def taken_users(
    user: NDArray[np.int32], context: NDArray[np.float32] | None, cold_start_users: ColdStartUsers | None,
    rows: slice | NDArray[np.int64],
) -> dict[str, Any]:  # fmt: skip
    """Return `user`, `context` and `cold_start_users` of chosen rounds, cold-start users renumbered in order.

    A part cut from a log then equals the same part read from a file.
    """
    chosen: dict[str, Any] = {"user": user[rows], "context": None, "cold_start_users": None}
    if context is None or np.isnan(context[rows]).all():
        return chosen
    chosen["context"] = context[rows]
    if cold_start_users is not None and (new := chosen["user"] >= cold_start_users.known).any():
        place, old = pd.factorize(chosen["user"][new])
        chosen["user"] = np.where(new, 0, chosen["user"])
        chosen["user"][new] = cold_start_users.known + place
        chosen["cold_start_users"] = ColdStartUsers(
            cold_start_users.known, cold_start_users.ids[old - cold_start_users.known]
        )
    return chosen


def _distinct(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return the distinct vectors [V, D] among [n, D], and which of them each is [n]."""
    width = vectors.shape[1]
    whole = np.ascontiguousarray(vectors).view(np.dtype((np.void, width * vectors.itemsize)))[:, 0]
    distinct, place = np.unique(whole, return_inverse=True)
    return distinct.view(np.float32).reshape(-1, width), place
