"""Predict with a loaded policy: rating estimates, recommendations and exact probabilities as tables.

Its Scorer (scorer.py) computes them; a server, which has no pandas, uses the Scorer directly.
"""

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.inference.artifact import Artifact, read_artifact
from recpolicy.inference.artifact_files import artifact_errors
from recpolicy.inference.block_prediction import (
    USERS_AT_ONCE,
    BatchPrediction,
    Shown,
    UserInput,
    arms_except,
    estimate_rewards,
    policy_input,
    policy_values,
    predict_among,
    predict_block,
)
from recpolicy.inference.candidate_generation import candidate_mask, guarded_candidates
from recpolicy.inference.guarded_draw import GuardedSlate
from recpolicy.inference.guarded_lists import guarded_sample, guarded_slates
from recpolicy.inference.guardrails import GuardrailConfig, Guardrails, bind, check_places, unknown_ids_notice
from recpolicy.inference.predictions import (
    as_list,
    conditional_propensities,
    drawn_arms,
    estimates_frame,
    most_probable,
)
from recpolicy.inference.reward_estimators import ESTIMATORS
from recpolicy.inference.scorer import FoldIn, History, Scorer
from recpolicy.inference.self_test import self_test
from recpolicy.inference.slate_selection import ExplorationConfig, greedy_slate
from recpolicy.inference.tuned_scorer import with_layer

Array = NDArray[np.floating]
_LIKE_AT = 0.75  # of the scale: 4 of 1 to 5


class Policy:
    """A trained policy that predicts and recommends; made by `load_policy`."""

    def __init__(self, artifact: Artifact, scorer: Scorer | None = None):
        self.artifact = artifact
        self.scorer = scorer or Scorer(artifact)
        self._item_ids = artifact.items["item_id"].array
        self._titles = artifact.items["title"].array

    def __repr__(self) -> str:
        users, items = len(self.artifact.users), len(self.artifact.action_items)
        return f"Policy({self.artifact.agent} on {self.metadata['data']}: {users:,} users, {items:,} items)"

    @property
    def sequential(self) -> bool:
        """True if the policy recommends in sessions and sees the history of each."""
        return self.scorer.sequential

    @property
    def base(self) -> "Policy":
        """The policy without its tuned layer; itself if it has none."""
        return Policy(self.artifact, self.scorer.base) if self.scorer.tuned else self

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Origin of the policy: agent, data, split and digests, config, seed, versions."""
        return self.scorer.metadata

    def predict(
        self,
        users: Hashable | Sequence[Hashable],
        items: Sequence[Hashable] | None = None,
        fold_in: FoldIn | None = None,
        history: History | None = None,
    ) -> pd.DataFrame:
        """Return rating estimates of `items` for each user.

        Args:
            users: One user id or n of them.
            items: M item ids; by default all items in catalog order.
            fold_in: Ratings of users, known or not, that replace the training ratings: {user: {item: rating}}.
            history: For session policies: {user: [(item, liked), ...]}, the session so far. Its items get probability
                0.

        Returns:
            n * M rows, users one after the other, with the columns user_id, item_id and title;

            - rating: the expected rating, in units of the rating scale, never rounded. It comes from the rating model
              unless the policy learned from new, real rewards only;
            - std: the standard deviation of the expected rating, without the noise of a single rating;
            - low, high: the 95 % interval of a single rating, whose noise depends on the level;
            - value: the policy's own estimate of the reward, which it learned in its world; session policies have none;
            - probability: that the exploring policy shows the item when it chooses one of its whole catalog (0
              outside it);
            - session_value, for session policies: the expected discounted reward of the rest of the session, equal in
              all rows of a user.

        Raises:
            UnknownIdError: An id is unknown.
            DataError: A rating is off the scale, or the history holds the whole catalog.
        """
        ids = as_list(users)
        blocks = list(self.tables(ids, items, fold_in, history))
        columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        pick = self._pick(items)
        return estimates_frame(ids, self._item_ids[pick], self._titles[pick], columns)

    def tables(
        self,
        users: Hashable | Sequence[Hashable],
        items: Sequence[Hashable] | None = None,
        fold_in: FoldIn | None = None,
        history: History | None = None,
        at_once: int = USERS_AT_ONCE,
    ) -> Iterator[dict[str, Array]]:
        """Yield the columns behind `predict`, `at_once` users at a time; memory does not grow with the number of users.

        Args:
            users, items, fold_in, history: See `predict`.
            at_once: Users per block.

        Yields:
            The numeric columns [n, M] of `predict` by name.

        Raises:
            UnknownIdError: An id is unknown; raised before the first block.
        """
        ids, pick = as_list(users), self._pick(items)
        blocks = self.scorer.predict_batches(ids, fold_in, history, at_once)
        return (block.columns(self.artifact, pick) for block in blocks)

    def recommend(
        self,
        users: Hashable | Sequence[Hashable],
        k: int | None = None,
        exclude_rated: bool = True,
        fold_in: FoldIn | None = None,
        seed: int = 0,
        history: History | None = None,
        sample: bool = False,
        guardrails: GuardrailConfig | None = None,
        candidates: int | None = None,
    ) -> pd.DataFrame:
        """Return the k items that the policy values most, best first.

        Rank follows the score that the policy is greedy in; for policies with a `value` that is the value. A policy
        that explores may choose another item: the one with the largest `probability`.

        Args:
            users: One user id or n of them.
            k: Largest number of items per user; None takes the slate size of a policy that learned from slates, and 10
                for any other.
            exclude_rated: Leave out items that the user rated in the train part or in `fold_in`; probabilities are
                those of a policy that cannot show them.
            fold_in: Ratings of users, known or not, that replace the training ratings: {user: {item: rating}}.
            seed: Seed of random tie-breaks and of `sample`.
            history: For session policies: {user: [(item, liked), ...]}; its items are left out.
            sample: Draw the items from the probabilities, one by one without replacement, instead of the k best. The
                probability of an item is then its probability given the items before it; their product is that of
                the list, and a log of the list needs it.
            guardrails: Bounds that no list violates, and weights of diversity and novelty.
            candidates: Rank only as many items, those of the highest expected rating by embeddings that may be shown;
                for large catalogs. Probabilities are those of a policy that can show no other item. Where bounds of the
                guardrails leave fewer than k of them, all items are ranked.

        Returns:
            Up to k rows a user: user_id, rank (from 1), the other columns of `predict`, and most_probable: True for the
            item that the exploring policy shows with the largest probability, which may be none of the k. With
            guardrails, `attrs["guardrails"]` has their digest, and `attrs["short"]` the reason of each list that is
            shorter than k: {user: reason}. With a tuned layer, `attrs["weights"]` has the weights of each user by head,
            and `attrs["fallback"]` the users whom the layer failed: static weights, or the policy's own score.

        Raises:
            ConfigError: k is below 1, there are fewer candidates than k, or the guardrails name an unknown category, or
                a quota is larger than k; a sample of a tuned layer, which draws nothing.
            DataError: Nothing is left to recommend.
            UnknownIdError: An id is unknown.
        """
        k = self.scorer.list_size if k is None else k
        if k < 1:
            raise ConfigError(f"k is {k}; expected at least 1")
        if candidates is not None and candidates < k:
            raise ConfigError(f"candidates is {candidates}; expected at least k, {k}")
        ids, folded = as_list(users), fold_in or {}
        scorer, artifact = self.scorer, self.artifact
        if sample and scorer.tuned:
            raise ConfigError("a tuned layer ranks by its utility and draws nothing; leave out the sample")
        rails = None if guardrails is None else self._bound(guardrails, k)
        frames, short, weights = [], {}, {}
        fallback: list[Hashable] = []
        given_before: Array
        inputs = zip(ids, scorer.contexts(ids, folded, at_once=1), scorer.histories(ids, history), strict=True)
        for user, known, past in inputs:
            action_items = artifact.action_items
            rated = (scorer.rated(user, folded),) if exclude_rated else ()
            allowed = arms_except(artifact, past[0], *rated)
            if not allowed.any():
                continue
            if candidates is not None:
                allowed = self._candidates(known, past, allowed, candidates, k, rails)
            rows = action_items
            few = candidates is not None and rails is None and not scorer.tuned
            if few and not artifact.policy.get("dueling", False):
                arms = np.flatnonzero(allowed)
                block = predict_among(artifact, known, arms, [past])
                rows, action_items, allowed = rows[arms], np.arange(len(arms), dtype=np.int32), np.ones(len(arms), bool)
            else:
                block = predict_block(artifact, known, allowed, [past])
                block = scorer.rank(block, [user], known, folded, allowed=allowed[np.newaxis])
            if block.choice is not None:
                weights[user] = scorer.weights(block.choice)
                if block.choice.fallback[0]:
                    fallback.append(user)
            lot = generator(seed, f"recommend/{user}")
            if rails is not None:
                slate = _guarded(block, action_items, allowed, k, rails, lot, sample)
                if slate.reason is not None:
                    short[user] = slate.reason
                drawn, given_before = slate.arms, slate.propensity
            elif sample:
                drawn = drawn_arms(block.probability[0, action_items], k, lot)
                given_before = conditional_propensities(block.probability[0, action_items], drawn)
            else:
                drawn = greedy_slate(block.score[0].astype(np.float64), allowed, k, lot)
            shown, columns = rows[drawn], block.columns(artifact, action_items[drawn])
            if sample:
                columns |= {"probability": given_before[np.newaxis].astype(np.float32)}
            table = estimates_frame([user], self._item_ids[shown], self._titles[shown], columns)
            table.insert(1, "rank", np.arange(1, len(shown) + 1))
            table["most_probable"] = most_probable(block.probability[0])[action_items[drawn]]
            frames.append(table)
        if not any(map(len, frames)):
            if short:
                raise DataError(f"nothing to recommend under the guardrails: {next(iter(short.values()))}")
            raise DataError("nothing to recommend: the users have rated every item; use exclude_rated=False")
        result = pd.concat([table for table in frames if len(table)], ignore_index=True)
        if guardrails is not None:
            result.attrs = {"guardrails": guardrails.digest, "short": short}
        if scorer.tuned:
            result.attrs |= {"weights": weights, "fallback": fallback}
        return result

    def _candidates(
        self, known: UserInput, past: Shown, allowed: NDArray[np.bool_], count: int, k: int, rails: Guardrails | None
    ) -> NDArray[np.bool_]:
        """Return the mask [A] of the candidates of one user among the allowed arms."""
        artifact, context = self.artifact, known.context[0]
        if rails is None:
            return candidate_mask(artifact, context, allowed, count)
        block = predict_block(artifact, known, allowed, [past])
        score, rating = block.score[0].astype(np.float64), block.rating[0, artifact.action_items]
        return guarded_candidates(artifact, context, score, rating, allowed, count, k, rails)

    def _bound(self, guardrails: GuardrailConfig, k: int) -> Guardrails:
        """Return the guardrails over this policy's catalog; warn of ids that it does not know."""
        check_places(guardrails, k)
        rails = bind(guardrails, self.scorer)
        notice = unknown_ids_notice(rails.unknown)
        if notice is not None:
            warnings.warn(notice, stacklevel=3)
        return rails

    def scores(self, contexts: Array | None = None) -> tuple[Array, Array]:
        """Return scores and values of all items, for evaluation.

        Args:
            contexts: [U, C]; by default those of all users.

        Returns:
            Greedy scores [U, I] and the policy's estimates of the reward [U, I], within the scale. Outside the
            catalog, the score is the lowest in it and the estimate is the rating model's; so it is for session
            policies everywhere.

        Raises:
            ConfigError: Contexts for a tuned layer, which ranks for users.
        """
        artifact = self.artifact
        if self.scorer.tuned:
            return self._tuned_scores(contexts)
        contexts = artifact.context if contexts is None else contexts
        scores, values = [], []
        for start in range(0, len(contexts), USERS_AT_ONCE):
            block = contexts[start : start + USERS_AT_ONCE]
            estimate, rating = estimate_rewards(artifact, block, widths=False)
            score = np.repeat(estimate.score.min(axis=1, keepdims=True), len(artifact.items), axis=1)
            score[:, artifact.action_items] = estimate.score
            scores.append(score)
            values.append(policy_values(artifact, rating, estimate))
        return np.concatenate(scores), np.concatenate(values)

    def _tuned_scores(self, contexts: Array | None) -> tuple[Array, Array]:
        """Return utilities and the policy's estimates [U, I] of all users under the tuned layer; see `scores`."""
        if contexts is not None:
            raise ConfigError(
                "a tuned layer ranks for users, not for contexts; estimate the policy below it on logged rounds, and"
                " judge the layer with `recpolicy gate` on a log of weights"
            )
        scores = []
        for block in self.scorer.score_batches(list(self.scorer.user_ids)):
            score = np.repeat(block.score.min(axis=1, keepdims=True), len(self.artifact.items), axis=1)
            score[:, self.artifact.action_items] = block.score
            scores.append(score)
        return np.concatenate(scores), self.base.scores()[1]

    def predict_levels(
        self,
        users: Hashable | Sequence[Hashable],
        items: Sequence[Hashable] | None = None,
        fold_in: FoldIn | None = None,
    ) -> pd.DataFrame:
        """Return the probability of each level of the rating scale.

        Args:
            users, items, fold_in: See `predict`.

        Returns:
            n * M rows with user_id, item_id, title, a column per level ("1.0", ...) whose sum is 1, and `like`: the
            probability of a rating in the upper quarter of the scale, 4 or 5 of 1 to 5.

        Raises:
            ConfigError: The rating model of the policy has no levels (a continuous scale, or another model).
            UnknownIdError: An id is unknown.
        """
        levels = self.artifact.levels
        if levels is None:
            raise ConfigError(
                "the rating model of this policy has no distribution over levels; bayesian_fm has one if the ratings"
                " have 2 to 20 levels"
            )
        ids, pick = as_list(users), self._pick(items)
        blocks = list(self.scorer.predict_batches(ids, fold_in))
        rating, std = (
            np.concatenate([getattr(block, part)[:, pick] for block in blocks]) for part in ("rating", "std")
        )
        probability = levels.probabilities(rating, std)  # [n, M, L]
        low, high = self.artifact.scale
        liked = np.array(levels.values) >= low + _LIKE_AT * (high - low)
        columns = {str(value): probability[..., place] for place, value in enumerate(levels.values)}
        columns["like"] = probability[..., liked].sum(axis=-1)
        return estimates_frame(ids, self._item_ids[pick], self._titles[pick], columns)

    def ratings(self) -> tuple[Array, Array]:
        """Return `rating` and `std` of `predict` for all users and items, each [U, I]."""
        blocks = list(self.tables(self.scorer.user_ids))
        return np.concatenate([block["rating"] for block in blocks]), np.concatenate([block["std"] for block in blocks])

    def session_scores(self, context: Array, history_state: Array) -> Array:
        """Return scores [n, A] of a session policy for contexts [n, D] and memories [n, M] of running sessions."""
        situation, _ = policy_input(self.artifact, context, history_state)
        return ESTIMATORS[self.artifact.estimator](self.artifact.policy, situation).score

    def _pick(self, items: Sequence[Hashable] | None) -> "slice | NDArray[np.int32]":
        """Return the requested columns of [n, I]."""
        return slice(None) if items is None else self.scorer.item_rows(items)


def _guarded(
    block: BatchPrediction, action_items: NDArray[np.int32], allowed: NDArray[np.bool_], k: int, rails: Guardrails,
    lot: np.random.Generator, sample: bool,
) -> GuardedSlate:  # fmt: skip
    """Return the list of one user under guardrails: a sample of the probabilities, or the best items."""
    rating = block.rating[0, action_items]
    if sample:
        return guarded_sample(block.probability[0, action_items].astype(np.float64), rating, allowed, k, rails, lot)
    score = block.score[:1].astype(np.float64)
    best = ExplorationConfig(share=0.0)
    return guarded_slates(score, rating[np.newaxis], allowed[np.newaxis], k, rails, best, lot, np.array([False]))[0]


def load_policy(path: str | Path) -> Policy:
    """Load a policy artifact, without TensorFlow.

    Args:
        path: Folder that `train` or a registry wrote.

    Returns:
        The policy, ready to predict.

    Raises:
        ArtifactError: The folder is missing, damaged or not an artifact, or the policy cannot answer.
    """
    with artifact_errors(Path(path)):
        artifact = read_artifact(Path(path))
        policy = Policy(artifact, with_layer(Scorer(artifact), Path(path)))
        self_test(policy.scorer)
        return policy
