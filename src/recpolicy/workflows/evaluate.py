"""Evaluate policies on the held-out part of their split, each beside the baselines."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import write_json
from recpolicy.core.seeds import generator, integer_seed
from recpolicy.core.statistics import Interval, mean_interval
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import Split
from recpolicy.evaluation.evaluate_tables import evaluate_tables
from recpolicy.evaluation.evaluation import Evaluation
from recpolicy.evaluation.policy_scores import PolicyTables, baseline_tables, regret_by_user
from recpolicy.inference.predictor import Policy
from recpolicy.models.embeddings import embed
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.models.world import World, world_of

METRICS_FILE = "metrics.json"
EVALUATION_MODEL = "item_knn"
"""The model class of the evaluation world: none that features or the default training world are made of."""
_RANK = 20
"""Length of the rating model's embeddings by which the diversity of lists is measured: the same for all policies."""


@dataclass(frozen=True)
class HeldOutEvaluation:
    """An evaluation with the regret in the evaluation world."""

    evaluation: Evaluation
    regret: Mapping[str, Interval]
    """Mean regret per choice in the evaluation world, per policy, with user-bootstrap intervals."""
    evaluation_world: str

    def table(self) -> pd.DataFrame:
        """All figures as text, one row a policy."""
        table = self.evaluation.table()
        regret = [str(self.regret[name]) if name in self.regret else "0.000" for name in table.index]
        table.insert(5, "evaluation regret", regret)
        return table

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        plain = self.evaluation.as_dict()
        for name, regret in self.regret.items():
            plain["policies"][name]["evaluation_regret"] = {"value": regret.value, "lo": regret.lo, "hi": regret.hi}
        return {**plain, "evaluation_world": self.evaluation_world}


def evaluate(
    policies: Mapping[str, Policy], split: Split, *, seed: int = 0, out: Path | None = None
) -> HeldOutEvaluation:
    """Evaluate the named policies on `split`, beside the four baselines; writes metrics.json to the folder `out`.

    Raises DataError when a policy was fitted on another train part than this split's, for then test rows might be among
    those it has seen.
    """
    for name, policy in policies.items():
        refuse_seen_rows(name, policy, split)
    model = _rating_model_of(next(iter(policies.values())), split.train) if policies else fit_rating_model(split.train)
    tables = {name: _tables(policy) for name, policy in policies.items()} | baseline_tables(split.train, model)
    embedding = embed(model, min(_RANK, *split.train.shape)).item
    verdict = evaluate_score_tables(split, tables, seed, embedding)
    if out is not None:
        write_json(out / METRICS_FILE, verdict.as_dict())
    return verdict


def evaluate_score_tables(
    split: Split, tables: Mapping[str, PolicyTables], seed: int, embedding: NDArray[np.floating] | None = None
) -> HeldOutEvaluation:
    """Evaluate tables on held-out ratings and in the evaluation world; embedding [I, D] of the items."""
    world = evaluation_world(split, seed)
    regret = {
        name: mean_interval(regret_by_user(world.expected, table.score), generator(seed, "evaluation/regret"))
        for name, table in tables.items()
    }
    return HeldOutEvaluation(evaluate_tables(split, tables, seed, embedding=embedding), regret, world.name)


def evaluation_world(split: Split, seed: int) -> World:
    """Another model class than the training world's, fitted on all ratings; real held-out ratings are paid.

    No policy ever sees it: it may know the test part.
    """
    fit, test = split.train, split.test
    both = Ratings(
        user=np.concatenate([fit.user, test.user]), item=np.concatenate([fit.item, test.item]),
        rating=np.concatenate([fit.rating, test.rating]), timestamp=None, users=fit.users, items=fit.items,
        name=f"{split.name}, all ratings", scale=fit.scale,
    )  # fmt: skip
    return world_of(fit_rating_model(both, EVALUATION_MODEL, seed=integer_seed(seed, "judge"))).paying(test)


def refuse_seen_rows(name: str, policy: Policy, split: Split) -> None:
    """Raise DataError unless the policy was fitted on exactly this split's train part."""
    recorded = policy.metadata["split"]
    if recorded["train"] != split.train.digest:
        raise DataError(
            f"{name} was fitted on the train part of {recorded['name']!r} (digest {recorded['train'][:12]}), not on"
            f" that of {split.name!r} (digest {split.train.digest[:12]}): it may have seen ratings that would score it"
        )


def _tables(policy: Policy) -> PolicyTables:
    score, rating = policy.scores()
    return PolicyTables(score, rating=rating)


def _rating_model_of(policy: Policy, fit: Ratings) -> Any:
    """The rating model that the policy's features come from, from the cache where it is still there."""
    described = policy.metadata["rating_model"]
    config = policy.metadata["config"]["rating_model"]
    return fit_rating_model(fit, described["name"], config, seed=described["seed"])
