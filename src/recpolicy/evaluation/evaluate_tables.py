"""Evaluation of policies on a split: every number for every policy, over the same users and the same resamples.

N test ratings, U users, I items, U' users with two or more test ratings. Per policy:

- rmse, mae: over all N test ratings (rating_accuracy.py);
- ndcg: nDCG@k within a user's test ratings, mean over U' users with a user-bootstrap interval (ranking.py);
- held_out_choice, normalized_choice: mean rating of the held-out choice over U' users, and its place between the
  random choice (0) and the oracle (1) (held_out_choice.py);
- coverage, novelty: of the k best items that a user has not rated in the train part, all U users (ranking.py);
- genre_diversity, embedding_diversity, gini: how unlike those items are, and how unequally shown (diversity.py);
- groups: the held-out choice by age band, gender and activity (groups.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import LEVEL, RESAMPLES, Interval, mean_interval
from recpolicy.data.ratings import Ratings, genre_directions
from recpolicy.data.splits import Split
from recpolicy.evaluation.candidates import Candidates, find_candidates
from recpolicy.evaluation.diversity import gini, list_diversity, unit_rows
from recpolicy.evaluation.evaluation import Evaluation, PolicyResult
from recpolicy.evaluation.groups import Groups, group_figures, make_groups
from recpolicy.evaluation.held_out_choice import (
    greedy_weights,
    held_out_choice,
    oracle_values,
    random_values,
    restricted_weights,
)
from recpolicy.evaluation.policy_scores import PolicyTables
from recpolicy.evaluation.ranking import coverage, grades, ndcg, novelty, self_information, top_items
from recpolicy.evaluation.rating_accuracy import mae, rmse


def evaluate_tables(
    split: Split,
    tables: Mapping[str, PolicyTables],
    seed: int,
    *,
    k: int = 10,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    embedding: NDArray[np.floating] | None = None,
) -> Evaluation:
    """Evaluate the named policies on the test part of `split`.

    The seed fixes the resampled users, which are the same for every policy; a policy's numbers do not depend on which
    others are evaluated with it. k is capped at the number of items. `embedding` [I, D] describes the items for the
    diversity of lists: one description for all policies, or they cannot be compared. Raises DataError when fit and
    test share a (user, item) pair, when no user has two test ratings, and when a table has a wrong shape or numbers
    that are not finite.
    """
    check_overlap(split)
    for name, table in tables.items():
        _check(name, table, split.train.shape)
    evaluator = _split_evaluator(split, seed, min(k, len(split.train.items)), resamples, level, embedding)
    candidates = evaluator.candidates
    return Evaluation(
        split=split.name,
        train_digest=split.train.digest,
        test_digest=split.test.digest,
        seed=seed,
        k=evaluator.k,
        resamples=resamples,
        test_ratings=len(split.test),
        users=len(candidates.start),
        rating_range=evaluator.rating_range,
        random=evaluator.interval(random_values(candidates)),
        oracle=evaluator.interval(oracle_values(candidates)),
        policies={name: evaluator.result(table) for name, table in tables.items()},
        groups=evaluator.groups,
    )


@dataclass(frozen=True)
class _SplitEvaluator:
    """The data and settings that all policies on one split share."""

    test: Ratings
    candidates: Candidates
    grade: NDArray[np.float64]  # [N]
    rated: NDArray[np.bool_]  # [U, I], rated in the train part
    information: NDArray[np.float64]  # [I], bits
    directions: Mapping[str, NDArray[np.float64]]  # [I, D] each, rows of length 1 or 0
    groups: Groups  # of U' users
    seed: int
    k: int
    resamples: int
    level: float

    @property
    def rating_range(self) -> float:
        """Width of the rating scale."""
        low, high = self.test.scale
        return float(high - low)

    def rng(self) -> np.random.Generator:
        """Return a fresh generator of the same draws, so that all intervals use the same resamples of users."""
        return generator(self.seed, "evaluation/bootstrap")

    def interval(self, values: NDArray[np.float64]) -> Interval:
        return mean_interval(values, self.rng(), self.resamples, self.level)

    def result(self, table: PolicyTables) -> PolicyResult:
        if table.probability is None:
            weight = greedy_weights(self.candidates, self.candidates.look_up(table.score))
        else:
            weight = restricted_weights(self.candidates, self.candidates.look_up(table.probability))
        choice = held_out_choice(self.candidates, weight, self.rng(), self.resamples, self.level)
        top = top_items(table.score, self.rated, self.k)
        unlike = list_diversity(table.score, self.rated, self.directions, self.k)
        by_user = choice.by_user
        predicted = None if table.rating is None else table.rating[self.test.user, self.test.item]  # [N]
        return PolicyResult(
            rmse=None if predicted is None else rmse(predicted, self.test.rating),
            mae=None if predicted is None else mae(predicted, self.test.rating),
            ndcg=self.interval(ndcg(self.candidates, self.grade, self.candidates.look_up(table.score), self.k)),
            held_out_choice=choice.policy,
            normalized_choice=choice.normalized,
            coverage=coverage(top),
            novelty=novelty(top, self.information),
            genre_diversity=unlike["genres"],
            embedding_diversity=unlike.get("embeddings"),
            gini=gini(top.count),
            groups=group_figures(self.groups, by_user, np.ones(len(by_user)), self.rating_range, self.level),
            choice_by_user=by_user,
        )


def _split_evaluator(
    split: Split, seed: int, k: int, resamples: int, level: float, embedding: NDArray[np.floating] | None
) -> _SplitEvaluator:
    candidates = find_candidates(split.test)
    rated = split.train.rated()
    grade = grades(candidates.rating, split.test.scale)
    information = self_information(split.train)
    directions = {"genres": genre_directions(split.train.items).astype(np.float64)}
    if embedding is not None:
        _check_embedding(embedding, len(split.train.items))
        directions["embeddings"] = unit_rows(embedding)
    groups = make_groups(split.train.users, np.bincount(split.train.user, minlength=len(split.train.users))).of(
        candidates.user[candidates.start]
    )
    return _SplitEvaluator(
        split.test, candidates, grade, rated, information, directions, groups, seed, k, resamples, level
    )  # fmt: skip


def _check_embedding(embedding: NDArray[np.floating], items: int) -> None:
    if embedding.ndim != 2 or len(embedding) != items or not np.isfinite(embedding).all():
        raise DataError(f"embedding {embedding.shape} of items: expected ({items}, D) finite numbers")


def check_overlap(split: Split) -> None:
    """Raise DataError, with an example, if a (user, item) pair is in both parts of the split."""
    items = len(split.train.items)
    train, test = (part.user.astype(np.int64) * items + part.item for part in (split.train, split.test))
    shared = np.intersect1d(train, test)
    if len(shared):
        user, item = divmod(int(shared[0]), items)
        raise DataError(
            f"split {split.name}: {len(shared)} ratings of the test part are in the train part too, for instance user "
            f"{split.train.users['user_id'].iloc[user]}, item {split.train.items['item_id'].iloc[item]}; a policy must "
            "not be evaluated on ratings it has seen: make the parts disjoint"
        )


def _check(name: str, table: PolicyTables, shape: tuple[int, int]) -> None:
    for kind, values in (("score", table.score), ("rating", table.rating), ("probability", table.probability)):
        if values is None:
            continue
        if values.shape != shape:
            raise DataError(f"policy {name!r}: its {kind} table is {values.shape}; expected {shape}, users by items")
        if not np.isfinite(values).all():
            raise DataError(f"policy {name!r}: its {kind} table has numbers that are not finite")
