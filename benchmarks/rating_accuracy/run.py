"""How near do predicted ratings come to real ones? RMSE and MAE on MovieLens 100K, contender by contender.

Folds: the official u1..u5 (their mean is the headline), ua and ub, and one seeded random 80/20. Every contender sees
the train part only; predictions are clipped to 1..5 and never rounded. On u1..u5 the figures of the rating model and
the policy are means over three seeds.

    python benchmarks/rating_accuracy/run.py [--quick] --out results.json
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import arguments, context, write_results

from recpolicy.data.loaders import load_ratings
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import Split, split
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.workflows.policy_training import train

OFFICIAL = ("u1", "u2", "u3", "u4", "u5")
FOLDS = (*OFFICIAL, "ua", "ub", "random")
SEED = 0
MORE_SEEDS = (1, 2)  # of the SEEDED contenders on the official folds

Contender = Callable[[Split, bool, int], NDArray[np.floating]]
"""Takes the split, whether to be quick, and a seed; fits on split.train and returns predictions [N] for split.test."""


def own(model: str, **quick_config: Any) -> Contender:
    """A rating model of RATING_MODELS at its default settings; `quick_config` in a quick run.

    `policy` reads the fit from the cache.
    """

    def predict(parts: Split, quick: bool, seed: int) -> NDArray[np.floating]:
        fitted = fit_rating_model(parts.train, model, quick_config if quick else None, seed)
        return fitted.mean[parts.test.user, parts.test.item]

    return predict


def surprise_svdpp(parts: Split, quick: bool, seed: int) -> NDArray[np.floating]:
    """Surprise's SVD++ at its defaults: 20 factors, 20 epochs."""
    from surprise import SVDpp

    return _surprise(SVDpp(n_epochs=2 if quick else 20, random_state=seed), parts)


def surprise_item_knn(parts: Split, _quick: bool, _seed: int) -> NDArray[np.floating]:
    """Surprise's KNNBaseline between items: pearson_baseline, k = 40, shrinkage 100."""
    from surprise import KNNBaseline

    similarity = {"name": "pearson_baseline", "user_based": False, "shrinkage": 100}
    return _surprise(KNNBaseline(k=40, sim_options=similarity, verbose=False), parts)


def _surprise(algorithm: Any, parts: Split) -> NDArray[np.floating]:
    from surprise import Dataset, Reader

    table = Dataset.load_from_df(_frame(parts.train), Reader(rating_scale=parts.train.scale))
    algorithm.fit(table.build_full_trainset())
    pairs = zip(parts.test.user.tolist(), parts.test.item.tolist(), strict=True)
    return np.array([algorithm.predict(user, item).est for user, item in pairs])


def _frame(ratings: Ratings) -> pd.DataFrame:
    return pd.DataFrame({"user": ratings.user, "item": ratings.item, "rating": ratings.rating.astype(float)})


def policy(parts: Split, quick: bool, seed: int) -> NDArray[np.floating]:
    """What `predict` says of LinUCB, trained offline on the train part: the rating model's estimates."""
    sweeps = {"sweeps": 60} if quick else None
    with tempfile.TemporaryDirectory() as folder:
        trained = train(
            "linucb", parts, Path(folder) / "policy", config={"mode": "offline"}, model_config=sweeps, seed=seed
        )
    return np.asarray(trained.ratings()[0][parts.test.user, parts.test.item])


CONTENDERS: Mapping[str, Contender] = {
    "rating_model": own("bayesian_fm", sweeps=60),
    "policy": policy,
    "svd": own("svd"),
    "item_knn": own("item_knn"),
    "bias": own("bias"),
    "item_mean": own("item_mean"),
    "surprise_svdpp": surprise_svdpp,
    "surprise_item_knn": surprise_item_knn,
}
"""Who is measured; each gets the figures NAME_rmse_FOLD, NAME_mae_FOLD and their means over u1..u5."""
SEEDED = ("rating_model", "policy")


def errors(predicted: NDArray[np.floating], test: Ratings) -> tuple[float, float]:
    """RMSE and MAE of predictions [N], clipped to the scale."""
    gap = np.clip(predicted, *test.scale).astype(np.float64) - test.rating
    return float(np.sqrt(np.mean(np.square(gap)))), float(np.mean(np.abs(gap)))


def measure(ratings: Ratings, quick: bool) -> tuple[dict[str, float], dict[str, float], dict[str, list[float]]]:
    """Figures, the seconds that a fit of each contender took on u1 with its predictions, and RMSE by seed."""
    figures: dict[str, float] = {}
    by_seed: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for fold in OFFICIAL[:1] if quick else FOLDS:
        parts = split(ratings, fold, seed=SEED)
        for name, contender in CONTENDERS.items():
            start = time.perf_counter()
            more = MORE_SEEDS if name in SEEDED and fold in OFFICIAL and not quick else ()
            each = np.array([errors(contender(parts, quick, seed), parts.test) for seed in (SEED, *more)])
            rmse, mae = each.mean(axis=0)
            by_seed[f"{name}_rmse_{fold}"] = [round(float(one), 5) for one in each[:, 0]]
            figures[f"{name}_rmse_{fold}"], figures[f"{name}_mae_{fold}"] = rmse, mae
            took = (time.perf_counter() - start) / len(each)
            seconds.setdefault(name, round(took, 2))
            print(f"{fold:6} {name:18} RMSE {rmse:.4f}  MAE {mae:.4f}  {took:6.1f} s", flush=True)
    return figures, seconds, {name: values for name, values in by_seed.items() if len(values) > 1}


def summarise(figures: dict[str, float]) -> dict[str, dict[str, float]]:
    """Add the means over the official folds to `figures`; return the standard deviation of RMSE over them."""
    spread = {}
    for name in CONTENDERS:
        for kind in ("rmse", "mae"):
            values = [figures[key] for fold in OFFICIAL if (key := f"{name}_{kind}_{fold}") in figures]
            figures[f"{name}_{kind}_mean"] = float(np.mean(values))
            if kind == "rmse" and len(values) > 1:
                spread[name] = round(float(np.std(values, ddof=1)), 5)
    return {"rmse_std_over_official_folds": spread}


def main() -> None:
    """Measure everyone."""
    options = arguments(__doc__ or "")
    ratings = load_ratings("ml-100k")
    figures, seconds, by_seed = measure(ratings, options.quick)
    spread: dict[str, Any] = {**summarise(figures), "rmse_by_seed": by_seed}
    seeds = [SEED] if options.quick else [SEED, *MORE_SEEDS]
    told = context(seeds, data={"name": ratings.name, "digest": ratings.digest}, seconds_u1=seconds, spread=spread)
    write_results(options.out, figures, {**told, "quick": options.quick})


if __name__ == "__main__":
    main()
