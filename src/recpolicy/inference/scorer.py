"""Score with a loaded policy, as arrays, for known users, new users and raw contexts, without pandas and TensorFlow.

n users, U users known, I items, A arms, C context columns of which the first D are the embedding, G genres. A user the
policy does not know is folded in from a few ratings (models/fold_in.py). A server gets its
scorer from load_scorer.py; `predictor.Policy` makes tables of the same answers.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, UnknownIdError, UnknownUserError
from recpolicy.core.ids import type_hint
from recpolicy.core.lru import LRUCache
from recpolicy.inference.artifact import Artifact, InferenceArtifact
from recpolicy.inference.block_prediction import (
    NOTHING_SHOWN,
    USERS_AT_ONCE,
    BatchPrediction,
    BatchScores,
    Shown,
    UserInput,
    WeightChoice,
    arms_except,
    predict_block,
    score_block,
)
from recpolicy.inference.catalog_features import CatalogFeatures
from recpolicy.inference.lookup_tables import row_index
from recpolicy.inference.predictions import as_list
from recpolicy.inference.user_vectors import LearnedUser, UserVectors
from recpolicy.models.embeddings import Embeddings, item_std, mean_std
from recpolicy.models.fold_in import expected_variance, fold_in_user
from recpolicy.models.user_posterior import UserPosterior, pack, pack_covariance

FoldIn = Mapping[Hashable, Mapping[Hashable, float]]
"""New users' ratings: {user id: {item id: rating}}."""
Learned = Mapping[Hashable, LearnedUser]
"""Users that a posterior describes, by id; the others are known, or in the fold-in."""
History = Mapping[Hashable, Sequence[tuple[Hashable, bool]]]
"""Sessions so far: {user id: [(item id, whether it was liked), ...]}, in the order shown."""
Array = NDArray[Any]
Block = TypeVar("Block", BatchScores, BatchPrediction)
CACHE_BYTES = 48 << 20
"""1,200 users of 1,682 items."""
LIST_SIZE = 10
"""Items of a list by default, unless the policy learned from slates of another size."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one user, or for several with a leading axis [n]; arrays are shared: do not write to them."""

    rating: Array  # [I] within the scale
    std: Array  # [I] of the expected rating, without the noise of one rating
    value: Array | None  # [I] the policy's own estimate, within the scale; None for session policies
    probability: NDArray[np.float64]  # [I] that the exploring policy shows the item; sums to 1, 0 outside the catalog
    score: NDArray[np.float64]  # [A] what the policy is greedy in
    session_value: Any  # float, or [n], for session policies: the reward that it expects of the rest of the session
    choice: WeightChoice | None = None
    """The weights behind the scores of a tuned layer; None without one."""


class Scorer:
    """A trained policy that predicts for one user or for many at once; several threads may share it."""

    def __init__(self, artifact: Artifact | InferenceArtifact, cache_bytes: int = CACHE_BYTES):
        self.artifact = artifact
        self.metadata: Mapping[str, Any] = {"agent": artifact.agent, **artifact.metadata}
        """The origin of the policy: agent, data, split and digests, config, seed, versions."""
        self.sequential = artifact.sequential
        self.scale = artifact.scale
        self.action_items = artifact.action_items  # [A] item rows
        tables = artifact.tables
        self.user_ids, self.item_ids, self.titles = tables.user_ids, tables.item_ids, tables.titles
        self.genre_names, self.genres, self.years = tables.genre_names, tables.genres, tables.years
        self._user_row, self._item_row = row_index(tables.user_ids), row_index(tables.item_ids)
        self._cache: LRUCache[Prediction] = LRUCache(cache_bytes)

    @property
    def tuned(self) -> bool:
        """True if a tuned layer ranks the items (tuned_scorer.py)."""
        return False

    @property
    def base(self) -> "Scorer":
        """The policy without a tuned layer."""
        return self

    def rank(  # the arguments are for TunedScorer
        self, block: Block, users: Sequence[Hashable], inputs: UserInput,  # noqa: ARG002
        fold_in: FoldIn | None = None, learned: Learned | None = None, allowed: Array | None = None,  # noqa: ARG002
    ) -> Block:  # fmt: skip
        """Return a block with the scores that rank items: as they are, unless a tuned layer weighs them."""
        return block

    @property
    def list_size(self) -> int:
        """Number of items of a list by default: the slate size of a policy that learned from slates, or LIST_SIZE."""
        return slate_size(self.metadata) or LIST_SIZE

    def weights(self, choice: WeightChoice) -> dict[str, float]:  # noqa: ARG002
        """Return the weights of one user by head; none without a tuned layer."""
        return {}

    def prepare(self) -> None:
        """Compute now what the first requests would wait for."""
        _ = self._rated_by_user, self._mean_context, self.embeddings, self.directions, self.user_vectors.unknown_user

    def with_policy(self, policy: Mapping[str, Array], metadata: Mapping[str, Any]) -> "Scorer":
        """Return a scorer with other arrays of the policy; it shares all tables, but no cached predictions."""
        other = copy(self)
        other.artifact = replace(self.artifact, policy=policy, metadata=metadata)
        other.metadata = {"agent": self.artifact.agent, **metadata}
        other._cache = LRUCache(self._cache.max_size)
        return other

    def forget_predictions(self) -> None:
        """Drop the cached predictions: another scorer answers in place of this one."""
        self._cache.clear()

    def user_row(self, user: Hashable) -> int | None:
        """Return the row of a user; None for a user that the policy does not know."""
        return self._user_row.get(user)

    def arm(self, item: Hashable) -> int | None:
        """Return the arm of an item; None for an item outside of the catalog."""
        row = self._item_row.get(item)
        arm = -1 if row is None else int(self.artifact.arm_by_row[row])
        return None if arm < 0 else arm

    def knows(self, user: Hashable) -> bool:
        """Return True if the policy was trained with this user."""
        return user in self._user_row

    def unknown_user_error(self, users: Sequence[Hashable], advice: str) -> UnknownUserError:
        """Return the error of users that the policy does not know; the advice applies unless only their type is
        wrong."""
        hint = type_hint(users, self._user_row) or f"; {advice}"
        return UnknownUserError(f"no user with id {_first_ids(users)} in this policy{hint}")

    def is_mistyped(self, user: Hashable) -> bool:
        """Return True for an unknown user whose id is known with the other type (7 and "7")."""
        return not self.knows(user) and bool(type_hint([user], self._user_row))

    def find_item(self, item: Hashable) -> int | None:
        """Return the row of an item; None for one that the policy does not know."""
        return self._item_row.get(item)

    def item_row(self, item: Hashable) -> int:
        """Return the row of an item id; raises UnknownIdError."""
        return int(self.item_rows([item])[0])

    def item_rows(self, items: Sequence[Hashable]) -> NDArray[np.int32]:
        """Return the rows [M] of item ids; raises UnknownIdError that names up to five unknown ones."""
        unknown = [item for item in items if item not in self._item_row]
        if unknown:
            hint = type_hint(unknown, self._item_row)
            raise UnknownIdError(f"no item with id {_first_ids(unknown)} in this policy's catalog{hint}")
        return np.array([self._item_row[item] for item in items], np.int32)

    @cached_property
    def user_vectors(self) -> UserVectors:
        """The posteriors of users who rate items while this policy serves."""
        return UserVectors(self)

    def context_of(self, posterior: UserPosterior, row: int | None) -> NDArray[np.float32]:
        """Return the context [C] of a user with a posterior.

        The agents that read a posterior get all of it, and others its mean, with the other columns of the known user in
        `row`. Demographics of an unknown user (None) are those of the average user.
        """
        if self.artifact.posterior_contexts:
            return pack(posterior).astype(np.float32)
        rest = self._mean_context if row is None else self.artifact.context[row]
        return np.concatenate([posterior.mean, rest[len(posterior.mean) :]]).astype(np.float32)

    @cached_property
    def directions(self) -> NDArray[np.float32]:
        """Item embeddings of length 1 [I, D], so that products are cosines; 0 where there is none."""
        length = np.linalg.norm(self.artifact.item, axis=1, keepdims=True)
        return self.artifact.item / np.where(length > 0, length, np.float32(1))

    @cached_property
    def catalog_features(self) -> CatalogFeatures:
        """Attributes of the items that guardrails look at; the same for all policies over these tables."""
        arms = self.action_items
        rated = np.bincount(self.artifact.rated_item, minlength=len(self.item_ids))
        return CatalogFeatures.of(
            self.genre_names,
            np.asarray(self.genres)[arms],
            rated[arms],
            int(rated.max(initial=0)),
            self.directions[arms],
        )

    def rated(self, user: Hashable, fold_in: FoldIn | None = None, learned: Learned | None = None) -> NDArray[np.int32]:
        """Return rows of the items that the user rated in the train part, in `fold_in` or before a state in `learned`;
        none of a user it does not know."""
        if fold_in and user in fold_in:
            return self.item_rows(list(fold_in[user]))
        if learned and user in learned:
            return learned[user].rated
        if user not in self._user_row:
            return np.empty(0, np.int32)
        items, start = self._rated_by_user
        row = self._user_row[user]
        return items[start[row] : start[row + 1]]

    def predict_one(
        self,
        user: Hashable,
        fold_in: FoldIn | None = None,
        history: History | None = None,
        context: Array | None = None,
        learned: Learned | None = None,
    ) -> Prediction:
        """Predict for one user; predictions for known users without history are cached.

        A user in `fold_in` or `learned` need not be known. One with a raw `context` ([C], or [D] for average
        demographics) need not either, and their std is that of a typical user. `history` tells a session policy what
        was shown so far: items shown have probability 0. Raises UnknownIdError, DataError for ratings off the scale, a
        context of another length or a history of the whole catalog, ConfigError for a history that the policy would
        not look at.
        """
        described = (fold_in and user in fold_in) or (learned and user in learned)
        cacheable = context is None and not history and not described
        cached = self._cache.get(user) if cacheable else None
        if cached is not None:
            return cached
        contexts = None if context is None else np.asarray(context)[np.newaxis]
        several = self.predict([user], fold_in, history, contexts, learned)
        answer = Prediction(
            rating=several.rating[0],
            std=several.std[0],
            value=None if several.value is None else several.value[0],
            probability=several.probability[0],
            score=several.score[0],
            session_value=None if several.session_value is None else float(several.session_value[0]),
            choice=several.choice,
        )
        if cacheable and not (answer.choice is not None and answer.choice.fallback.any()):
            self._cache.put(user, answer, sum(part.nbytes for part in _arrays(answer)))
        return answer

    def predict(
        self,
        users: Sequence[Hashable],
        fold_in: FoldIn | None = None,
        history: History | None = None,
        contexts: Array | None = None,
        learned: Learned | None = None,
    ) -> Prediction:
        """Predict for n users, in blocks of one matrix product each; contexts [n, C] or [n, D] replace what is known.

        About 28 bytes a user and item are held at once. Raises what `answer` raises.
        """
        blocks = list(self.predict_batches(users, fold_in, history, contexts=contexts, learned=learned))
        probability = np.concatenate([block.probability for block in blocks]).astype(np.float64)
        probability /= probability.sum(axis=1, keepdims=True)  # heads of single precision are off by 1e-7
        answer = Prediction(
            rating=np.concatenate([block.rating for block in blocks]),
            std=np.concatenate([block.std for block in blocks]),
            value=None if self.sequential else np.concatenate([block.value for block in blocks]),
            probability=probability,
            score=np.concatenate([block.score for block in blocks]).astype(np.float64),
            session_value=np.concatenate([block.session_value for block in blocks]) if self.sequential else None,
            choice=_joined_choice([block.choice for block in blocks]),
        )
        for part in _arrays(answer):
            part.flags.writeable = False
        return answer

    def predict_batches(
        self,
        users: Sequence[Hashable],
        fold_in: FoldIn | None = None,
        history: History | None = None,
        at_once: int = USERS_AT_ONCE,
        contexts: Array | None = None,
        learned: Learned | None = None,
    ) -> Iterator[BatchPrediction]:
        """Yield predictions, `at_once` users at a time; memory does not grow with the number of users.

        Ids are checked before the first block. Raises what `answer` raises.
        """
        ids = as_list(users)
        histories = self.histories(ids, history)
        inputs = self.contexts(ids, fold_in or {}, at_once, contexts, learned)
        starts = range(0, len(ids), at_once)
        groups = [(ids[start : start + at_once], histories[start : start + at_once]) for start in starts]
        blocks = self._answered(inputs, [past for _, past in groups], bool(history))
        return (
            self.rank(block, some, user, fold_in, learned, allowed)
            for (some, _), (user, allowed, block) in zip(groups, blocks, strict=True)
        )

    def _answered(
        self, inputs: Iterator[UserInput], groups: list[list[Shown]], seen: bool
    ) -> Iterator[tuple[UserInput, Array | None, BatchPrediction]]:
        for user, histories in zip(inputs, groups, strict=True):
            allowed = np.stack([arms_except(self.artifact, shown) for shown, _ in histories]) if seen else None
            if allowed is not None and not allowed.any(axis=1).all():
                raise DataError("the history contains every item of the catalog: no item is left")
            yield user, allowed, predict_block(self.artifact, user, allowed, histories)

    def score_batches(
        self, users: Sequence[Hashable], at_once: int = USERS_AT_ONCE, learned: Learned | None = None
    ) -> Iterator[BatchScores]:
        """Yield what lists for known and learned users need, `at_once` users at a time; raises UnknownIdError."""
        ids = as_list(users)
        inputs = self.contexts(ids, {}, at_once, learned=learned)
        groups = (ids[start : start + at_once] for start in range(0, len(ids), at_once))
        return (
            self.rank(score_block(self.artifact, user), some, user, learned=learned)
            for some, user in zip(groups, inputs, strict=True)
        )

    def histories(self, ids: list[Hashable], history: History | None) -> list[Shown]:
        """Return for each user the item rows of the session so far, and whether the user liked each."""
        if not history:
            return [NOTHING_SHOWN] * len(ids)
        if not self.sequential:
            raise ConfigError(
                f"{self.artifact.agent} does not use the session; leave out `history`, or train a session"
                " policy such as ppo"
            )
        histories = [history.get(user, ()) for user in ids]
        return [(self.item_rows([item for item, _ in past]), [bool(liked) for _, liked in past]) for past in histories]

    def contexts(
        self,
        ids: list[Hashable],
        fold_in: FoldIn,
        at_once: int,
        contexts: Array | None = None,
        learned: Learned | None = None,
    ) -> Iterator[UserInput]:
        """Yield what is known of the users, `at_once` at a time; ids are checked at once.

        Contexts come first, then the fold-in, then `learned`, then what the policy knows.
        """
        starts = range(0, len(ids), at_once)
        if contexts is not None:
            rows = self._raw(contexts, len(ids))
            return (
                UserInput(part, self._typical(len(part)))
                for part in (rows[start : start + at_once] for start in starts)
            )
        described = {**learned, **fold_in} if learned else fold_in
        unknown = [user for user in ids if user not in self._user_row and user not in described]
        if unknown:
            raise self.unknown_user_error(unknown, "describe a new user by some ratings")
        return (self._stacked(ids[start : start + at_once], fold_in, learned or {}) for start in starts)

    def _stacked(self, ids: list[Hashable], fold_in: FoldIn, learned: Learned) -> UserInput:
        rows = [self._input_of(user, fold_in, learned) for user in ids]
        ratings = [rating for _, _, rating in rows if rating is not None]
        return UserInput(
            context=np.stack([context for context, _, _ in rows]),
            std=np.stack([std for _, std, _ in rows]),
            rating=np.stack(ratings) if len(ratings) == len(rows) else None,
        )

    def _input_of(self, user: Hashable, fold_in: FoldIn, learned: Learned) -> tuple[Array, Array, Array | None]:
        """Return context [C], std [I] and expected rating [I] of a user; the last is None if the embeddings have it."""
        if user in fold_in:
            return self._fold(fold_in[user])
        described = learned.get(user)
        return self._known(user) if described is None else (described.context, described.std, described.rating)

    def _known(self, user: Hashable) -> tuple[Array, Array, Array | None]:
        """Return context [C], std [I] and, if the artifact has one, the expected rating [I] of a known user."""
        row, mean = self._user_row[user], self.artifact.rating_mean
        return self.artifact.context[row], self.artifact.rating_std[row], None if mean is None else mean[row]

    def _fold(self, ratings: Mapping[Hashable, float]) -> tuple[Array, Array, Array]:
        rows = self.item_rows(list(ratings))
        embedding, covariance = fold_in_user(self.embeddings, rows, np.array(list(ratings.values()), np.float64))
        # Demographics are unknown: those of the average user stand in.
        rest = pack_covariance(covariance) if self.artifact.posterior_contexts else self._mean_context[len(embedding) :]
        std = np.sqrt(expected_variance(self.embeddings, covariance))
        return np.concatenate([embedding, rest]), std, embedding @ self.artifact.item.T + self.artifact.offset

    def _raw(self, contexts: Array, count: int) -> Array:
        """Return checked contexts [n, C]."""
        width, rank = self.artifact.context.shape[1], self.artifact.item.shape[1]
        rows = np.asarray(contexts, np.float32)
        if rows.ndim != 2 or len(rows) != count or rows.shape[1] not in (width, rank):
            wanted = f"{rank}" if width == rank else f"{rank} or {width}"
            raise DataError(f"context: shape {rows.shape}; expected {count} rows of {wanted} numbers each")
        if not np.isfinite(rows).all():
            raise DataError("context: contains numbers that are not finite")
        rest = np.broadcast_to(self._mean_context[rows.shape[1] :], (count, width - rows.shape[1]))
        return np.concatenate([rows, rest], axis=1)

    def _typical(self, count: int) -> Array:
        return np.repeat(self._typical_std[np.newaxis], count, axis=0)

    @cached_property
    def _typical_std(self) -> Array:
        """The root of the mean variance over users [I]: nothing is known of how well a bare context is known."""
        return mean_std(self.artifact.rating_std)

    @cached_property
    def embeddings(self) -> Embeddings:
        """The embeddings of users and items, with the noise of a rating."""
        artifact, rank = self.artifact, self.artifact.item.shape[1]
        return Embeddings(
            artifact.context[:, :rank], artifact.item, artifact.offset, artifact.scale, artifact.noise_std, np.nan,
            item_std(artifact.rating_std),
        )  # fmt: skip

    @cached_property
    def _mean_context(self) -> Array:
        return np.asarray(self.artifact.context.mean(axis=0))

    @cached_property
    def _rated_by_user(self) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        """The items rated [N], user after user, and where each user's begin [U + 1]."""
        rows = self.artifact.rated_user
        # NumPy sorts numbers of 16 bits by radix, several times as fast.
        order = np.argsort(rows.astype(np.uint16) if len(self.user_ids) <= 1 << 16 else rows, kind="stable")
        count = np.bincount(rows, minlength=len(self.user_ids))
        return self.artifact.rated_item[order], np.concatenate([[0], np.cumsum(count)])


def slate_size(metadata: Mapping[str, Any]) -> int | None:
    """Return the number of items of the slates that a policy learned from; None if it learned from single items."""
    train = (metadata.get("config") or {}).get("train") or {}
    size = int(train.get("slate_size", 1))
    return size if size > 1 else None


def _first_ids(ids: Sequence[Hashable]) -> str:
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return ", ".join(map(str, ids[:5])) + more


def _joined_choice(choices: Sequence[WeightChoice | None]) -> WeightChoice | None:
    """Return the weights of several blocks together; None without a tuned layer."""
    known = [choice for choice in choices if choice is not None]
    if not known:
        return None
    return WeightChoice(
        np.concatenate([choice.action for choice in known]), np.concatenate([choice.fallback for choice in known])
    )


def _arrays(answer: Prediction) -> tuple[Array, ...]:
    arrays = (answer.rating, answer.std, answer.value, answer.probability, answer.score)
    return tuple(part for part in arrays if part is not None)
