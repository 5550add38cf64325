"""Evaluate policies on the test part of their split, together with the baselines.

U users, I items, D length of an embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError, MissingExtraError
from recpolicy.core.files import write_json
from recpolicy.core.memory import FEWER_CELLS, check_memory
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.seeds import generator, integer_seed
from recpolicy.core.statistics import Interval, mean_interval
from recpolicy.core.text import format_table
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import Split
from recpolicy.evaluation.evaluate_tables import evaluate_tables
from recpolicy.evaluation.evaluation import Evaluation
from recpolicy.evaluation.policy_scores import PolicyTables, baseline_tables, regret_by_user
from recpolicy.inference.predictor import Policy
from recpolicy.models.embeddings import embed
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.models.world import World, world_from_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS_FILE = "metrics.json"
EVALUATION_MODEL = "item_knn"
"""Model class of the evaluation world; features and the default training world use other classes."""
WORLD_MODEL = "svd"
"""Model class of the default training world."""
BASELINES = ("random", "most_popular", "highest_mean", "rating_model", WORLD_MODEL)
"""Names of the baselines in every evaluation."""
_RANK = 20
"""Length of the embeddings that measure the diversity of lists, the same for all policies."""
_CELL_BYTES, _POLICY_CELL_BYTES = 80, 20
"""Bytes of an evaluation at its peak for each user and item: of the worlds and baselines, and of each policy."""


@dataclass(frozen=True)
class HeldOutEvaluation:
    """An evaluation on the test part, with the regret in the evaluation world."""

    evaluation: Evaluation
    regret: Mapping[str, Interval]
    """Mean regret per choice in the evaluation world among items that the user had not rated, per policy, with
    user-bootstrap intervals."""
    evaluation_world: str
    notes: Sequence[str] = ()
    """Sentences about baselines that are left out, because this installation cannot fit them."""

    def table(self) -> pd.DataFrame:
        """Return all figures as text, one row per policy."""
        table = self.evaluation.table()
        regret = [str(self.regret[name]) if name in self.regret else "0.000" for name in table.index]
        table.insert(5, "evaluation regret", regret)
        return table

    def show(self) -> None:
        """Print all figures, then the differences of the first policy to each other one, paired by user."""
        first = next(iter(self.evaluation.policies))
        print(format_table(self.table(), f"Held-out ratings of {self.evaluation.split}, 95 % intervals over users"))
        print()
        title = f"Held-out choice of {first} minus that of the policy, paired by user"
        print(format_table(self.evaluation.difference_table(first), title))
        for note in self.notes:
            print(f"\n{note}")

    def plot(self) -> "Figure":
        """Return a plot of the held-out choice of every policy between random and oracle.

        Raises:
            MissingExtraError: The extra `report`, which draws the plots, is not installed.
        """
        require_extra("report", "a plot")
        from recpolicy.evaluation.plots import held_out_choice_figure

        choices = {name: result.held_out_choice for name, result in self.evaluation.policies.items()}
        return held_out_choice_figure(choices, self.evaluation.random, self.evaluation.oracle)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = self.evaluation.as_dict()
        for name, regret in self.regret.items():
            plain["policies"][name]["evaluation_regret"] = regret.as_dict()
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {**plain, "evaluation_world": self.evaluation_world, **notes}


def evaluate(
    policies: Mapping[str, Policy], split: Split, *, seed: int = 0, out: Path | None = None
) -> HeldOutEvaluation:
    """Evaluate policies on held-out ratings, together with the baselines.

    Without the extra `train` only a cached rating model can be read: where it has to be fitted, the baseline
    rating_model is left out, and `notes` of the result says so.

    Args:
        policies: The policies by name.
        split: The split that all of them were trained on.
        seed: Seed of the intervals and of the evaluation world.
        out: A folder that gets metrics.json.

    Returns:
        Held-out choice, ranking and rating figures, and the regret in the evaluation world, in rating units.

    Raises:
        DataError: A policy was trained on another train part, so it may have seen test ratings.
    """
    for name, policy in policies.items():
        check_trained_on(name, policy, split)
    users, items = split.train.shape
    check_memory(
        users * items * (_CELL_BYTES + _POLICY_CELL_BYTES * len(policies)),
        f"{split.name}: an evaluation of {len(policies)} policies on {users:,} users x {items:,} items",
        FEWER_CELLS,
    )
    model, notes = _rating_model(policies, split.train)
    tables = {name: _tables(policy) for name, policy in policies.items()} | all_baseline_tables(split, model, seed)
    embedding = None if model is None else embed(model, min(_RANK, *split.train.shape)).item
    result = replace(evaluate_score_tables(split, tables, seed, embedding), notes=notes)
    if out is not None:
        write_json(out / METRICS_FILE, result.as_dict())
    return result


def _rating_model(policies: Mapping[str, Policy], train: Ratings) -> tuple[RatingModel | None, list[str]]:
    """Return the rating model of the first policy, or None and the reason if it cannot be fitted here."""
    try:
        if not policies:
            return fit_rating_model(train), []
        return get_rating_model(next(iter(policies.values())), train), []
    except MissingExtraError as error:
        return None, [f"The baseline rating_model and the embedding diversity are left out: {error}"]


def evaluate_score_tables(
    split: Split, tables: Mapping[str, PolicyTables], seed: int, embedding: NDArray[np.floating] | None = None
) -> HeldOutEvaluation:
    """Evaluate tables of scores [U, I] on held-out ratings and in the evaluation world.

    Args:
        split: The split; the tables are made from its train part.
        tables: The tables by name of the policy.
        seed: Seed of the intervals and of the evaluation world.
        embedding: Embeddings [I, D] of the items, which measure the diversity of lists.
    """
    world, rated = evaluation_world(split, seed), split.train.rated()
    regret = {
        name: mean_interval(regret_by_user(world.expected, table.score, rated), generator(seed, "evaluation/regret"))
        for name, table in tables.items()
    }
    return HeldOutEvaluation(evaluate_tables(split, tables, seed, embedding=embedding), regret, world.name)


def all_baseline_tables(split: Split, model: RatingModel | None, seed: int) -> dict[str, PolicyTables]:
    """Return the baselines of every comparison, the greedy policy of the default training world included.

    Args:
        split: The split; the tables are made from its train part.
        model: The rating model behind the policies' features; None leaves its baseline out.
        seed: Seed of the training world's model.

    Returns:
        Tables of scores [U, I] by name: random, most_popular, highest_mean, rating_model and svd.
    """
    svd = fit_rating_model(split.train, WORLD_MODEL, seed=integer_seed(seed, "world"))
    return baseline_tables(split.train, model) | {WORLD_MODEL: PolicyTables(svd.mean, rating=svd.mean)}


def evaluation_world(split: Split, seed: int) -> World:
    """Return a world of another model class than the training world, fitted on train and test ratings.

    It rewards the real ratings of the test part where they exist. No policy is trained in it.
    """
    train_ratings, test = split.train, split.test
    both = Ratings(
        user=np.concatenate([train_ratings.user, test.user]),
        item=np.concatenate([train_ratings.item, test.item]),
        rating=np.concatenate([train_ratings.rating, test.rating]),
        timestamp=None,
        users=train_ratings.users,
        items=train_ratings.items,
        name=f"{split.name}, all ratings",
        scale=train_ratings.scale,
    )
    return world_from_model(fit_rating_model(both, EVALUATION_MODEL, seed=integer_seed(seed, "judge"))).paying(test)


def check_trained_on(name: str, policy: Policy, split: Split) -> None:
    """Raise DataError unless the policy was trained on exactly this split's train part."""
    recorded = policy.metadata["split"]
    if recorded["train"] != split.train.digest:
        raise DataError(
            f"{name} was fitted on the train part of {recorded['name']!r} (digest {recorded['train'][:12]}), not on"
            f" that of {split.name!r} (digest {split.train.digest[:12]}): it may have seen test ratings;"
            " evaluate it on its own split"
        )


def _tables(policy: Policy) -> PolicyTables:
    """Return scores and ratings [U, I] of the items of the training; nobody rated those that were added later."""
    trained = policy.artifact.trained_items
    return PolicyTables(policy.scores()[0][:, :trained], rating=policy.ratings()[0][:, :trained])


def get_rating_model(policy: Policy, train_ratings: Ratings) -> RatingModel:
    """Return the rating model behind the policy's features, from the cache if it is still there."""
    rating_model = policy.metadata["rating_model"]
    config = policy.metadata["config"]["rating_model"]
    if rating_model["name"] == "bayesian_fm":
        config = {"ordinal": False, **config}  # artifacts from before there was an ordered probit do not say so
    return fit_rating_model(train_ratings, rating_model["name"], config, seed=rating_model["seed"])
