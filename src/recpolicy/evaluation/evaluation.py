"""The record of an evaluation and its three forms: numbers to compute with, a table to read, JSON to keep."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import unknown_name_error
from recpolicy.core.statistics import Interval, ratio_interval
from recpolicy.evaluation.groups import GroupFigure, Groups, group_figures

MISSING = "–"


@dataclass(frozen=True)
class PolicyResult:
    """The figures of one policy; evaluate_tables.py defines them."""

    rmse: float | None
    mae: float | None
    ndcg: Interval
    held_out_choice: Interval
    normalized_choice: Interval | None
    coverage: float
    novelty: float
    genre_diversity: float | None
    embedding_diversity: float | None
    """None where no embeddings were given."""
    gini: float
    groups: Mapping[str, GroupFigure]
    """Held-out choice by group of users."""
    choice_by_user: NDArray[np.float64] = field(repr=False, compare=False)
    """Expected rating of the held-out choice for each user with candidates [U']; not part of the JSON."""


@dataclass(frozen=True)
class Evaluation:
    """The figures of several policies on one split, with the random choice and the oracle."""

    split: str
    train_digest: str
    test_digest: str
    seed: int
    k: int
    """Length of the lists behind nDCG, coverage, novelty, diversity and Gini."""
    resamples: int
    test_ratings: int
    users: int
    """Number of users with two or more test ratings: the users of nDCG and held-out choice."""
    rating_range: float
    """Width of the rating scale."""
    random: Interval
    oracle: Interval
    policies: Mapping[str, PolicyResult]
    groups: Groups = field(repr=False, compare=False)
    """Of the users with candidates [U']; not part of the JSON."""

    def rows(self) -> pd.DataFrame:
        """Return one row of numbers per policy, and one for the oracle; NaN where a policy has no such number."""
        names = [*self.policies, "oracle"]
        return pd.DataFrame(
            [*map(self._row, self.policies.values()), self._oracle_row()], index=pd.Index(names, name="policy")
        )

    def table(self) -> pd.DataFrame:
        """Return `rows` as text for people: intervals in one cell, a dash where there is no number."""
        k = self.k
        columns = {
            "RMSE": [_text(result.rmse) for result in self.policies.values()] + [MISSING],
            "MAE": [_text(result.mae) for result in self.policies.values()] + [MISSING],
            f"nDCG@{k}": [str(result.ndcg) for result in self.policies.values()] + ["1.000"],
            "held-out choice": [str(result.held_out_choice) for result in self.policies.values()] + [str(self.oracle)],
            "normalized": [_text(result.normalized_choice) for result in self.policies.values()]
            + [_text(self._oracle_normalized())],
            f"coverage@{k}": [_text(result.coverage) for result in self.policies.values()] + [MISSING],
            f"novelty@{k} (bits)": [f"{result.novelty:.2f}" for result in self.policies.values()] + [MISSING],
        }
        return pd.DataFrame(columns, index=pd.Index([*self.policies, "oracle"], name="policy"))

    def lists_table(self) -> pd.DataFrame:
        """Return the diversity of the k best items as text: number, popularity, dissimilarity, inequality."""
        results = self.policies.values()
        columns = {
            "coverage": [_text(result.coverage) for result in results],
            "novelty (bits)": [f"{result.novelty:.2f}" for result in results],
            "genre diversity": [_text(result.genre_diversity) for result in results],
            "embedding diversity": [_text(result.embedding_diversity) for result in results],
            "Gini": [_text(result.gini) for result in results],
        }
        return pd.DataFrame(columns, index=pd.Index(list(self.policies), name="policy"))

    def group_table(self) -> pd.DataFrame:
        """Return the held-out choice by group of users as text: one row a group, one column a policy."""
        names = [name for name in self.groups.names if any(name in policy.groups for policy in self.policies.values())]
        users = [next(iter(self.policies.values())).groups[name].users for name in names]
        columns = {
            policy: [str(result.groups[name].interval) for name in names] for policy, result in self.policies.items()
        }
        return pd.DataFrame({"users": users, **columns}, index=pd.Index(names, name="group"))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values; None where there is no number, never NaN."""
        plain = asdict(self)
        del plain["groups"]
        for result in plain["policies"].values():
            del result["choice_by_user"]
        return plain

    def difference(self, first: str, second: str) -> Interval:
        """Return the difference in held-out choice between `first` and `second`, paired by user.

        It is the t interval over users. Raises ConfigError for a policy that was not evaluated.
        """
        chosen_by_first, chosen_by_second = self._choices(first, second)
        return ratio_interval(
            chosen_by_first - chosen_by_second, np.ones(len(chosen_by_first)), self.rating_range, self.random.level
        )

    def difference_table(self, first: str) -> pd.DataFrame:
        """Return `difference` between `first` and each other policy as text; its last column says who is ahead."""
        others = [name for name in self.policies if name != first]
        differences = [self.difference(first, other) for other in others]
        ahead = ["yes" if gap.lo > 0 else "no" if gap.hi < 0 else "not shown" for gap in differences]
        columns = {"difference": list(map(str, differences)), f"{first} is better": ahead}
        return pd.DataFrame(columns, index=pd.Index(others, name="policy"))

    def group_difference(self, first: str, second: str) -> dict[str, GroupFigure]:
        """Return `difference` within each group of users; raises ConfigError for a policy that was not evaluated."""
        chosen_by_first, chosen_by_second = self._choices(first, second)
        return group_figures(
            self.groups,
            chosen_by_first - chosen_by_second,
            np.ones(len(chosen_by_first)),
            self.rating_range,
            self.random.level,
        )

    def _choices(self, *names: str) -> list[NDArray[np.float64]]:
        for name in names:
            if name not in self.policies:
                raise unknown_name_error("evaluated policy", name, self.policies)
        return [self.policies[name].choice_by_user for name in names]

    def _row(self, result: PolicyResult) -> dict[str, float | None]:
        normalized = result.normalized_choice
        return {
            "rmse": _number(result.rmse),
            "mae": _number(result.mae),
            "ndcg": result.ndcg.value,
            "ndcg_lo": result.ndcg.lo,
            "ndcg_hi": result.ndcg.hi,
            "held_out_choice": result.held_out_choice.value,
            "held_out_choice_lo": result.held_out_choice.lo,
            "held_out_choice_hi": result.held_out_choice.hi,
            "normalized_choice": np.nan if normalized is None else normalized.value,
            "normalized_choice_lo": np.nan if normalized is None else normalized.lo,
            "normalized_choice_hi": np.nan if normalized is None else normalized.hi,
            "coverage": result.coverage,
            "novelty": result.novelty,
            "genre_diversity": _number(result.genre_diversity),
            "embedding_diversity": _number(result.embedding_diversity),
            "gini": result.gini,
        }

    def _oracle_row(self) -> dict[str, float]:
        bounds = {
            "held_out_choice": self.oracle.value,
            "held_out_choice_lo": self.oracle.lo,
            "held_out_choice_hi": self.oracle.hi,
        }
        normalized = _number(self._oracle_normalized())
        return {
            **dict.fromkeys(("ndcg", "ndcg_lo", "ndcg_hi"), 1.0),
            **bounds,
            **dict.fromkeys(("normalized_choice", "normalized_choice_lo", "normalized_choice_hi"), normalized),
        }

    def _oracle_normalized(self) -> float | None:
        return 1.0 if self.oracle.value > self.random.value else None


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _text(value: float | Interval | None) -> str:
    if value is None:
        return MISSING
    return str(value) if isinstance(value, Interval) else f"{value:.3f}"
