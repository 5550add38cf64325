"""Do 95 % intervals of single ratings contain 95 % of the test ratings? MovieLens 100K, every agent's `predict`.

Every agent is trained on the train part of u1 (bandits and session agents in simulation, LinUCB also offline and from a
log of real ratings), then `predict` gives `low` and `high` for the 20,000 test ratings. The rating model is measured on
u1 to u5 with three seeds. LinUCB's log of real ratings is one half of the test part; the other half evaluates it.

    python benchmarks/calibration/run.py [--quick] --out results.json
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import arguments, context, write_results

from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.loaders import load_ratings
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import Split, split
from recpolicy.inference.block_prediction import rating_interval
from recpolicy.inference.predictor import Policy
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.workflows.policy_training import train

FOLDS, SEEDS = ("u1", "u2", "u3", "u4", "u5"), (0, 1, 2)
BANDITS = (
    "linucb", "linucb_shared", "linucb_hybrid", "lints", "squarecb", "eps_greedy", "boltzmann", "neural_linucb", "ucb1",
    "exp3", "random", "popular", "highest_mean", "rating_model",
)  # fmt: skip
SESSION_AGENTS = ("ppo", "a2c", "reinforce", "topk_reinforce", "dqn", "q_learning")
STEPS = {"bandits": 50_000, "sessions": 20_000}
_Z = 1.96
FIFTHS = 5


def coverage(low: NDArray[np.floating], high: NDArray[np.floating], test: Ratings) -> float:
    """Return the fraction of test ratings [N] within [low, high], both [U, I]."""
    cells = test.user, test.item
    return float(np.mean((low[cells] <= test.rating) & (test.rating <= high[cells])))


def of_model(model: RatingModel, test: Ratings) -> tuple[float, NDArray[np.floating]]:
    """Return the coverage of the rating model's intervals, and that by fifths of the expected rating."""
    cells = test.user, test.item
    mean, std = model.mean[cells], model.std[cells]
    spread = np.hypot(std, model.noise_std) if model.levels is None else model.levels.spread(mean, std)
    inside = np.abs(test.rating - mean) <= _Z * spread
    fifth = np.argsort(np.argsort(mean, kind="stable")) * FIFTHS // len(mean)
    return float(inside.mean()), np.array([inside[fifth == place].mean() for place in range(FIFTHS)])


def of_policy(policy: Policy, test: Ratings) -> tuple[float, float]:
    """Return coverage and RMSE of `predict`."""
    rating, std = policy.ratings()
    low, high = rating_interval(policy.artifact, rating, std)
    error = rating[test.user, test.item].astype(np.float64) - test.rating
    return coverage(low, high, test), float(np.sqrt(np.mean(np.square(error))))


def real_log(ratings: Ratings) -> BanditLog:
    """Return ratings as logged rounds; LinUCB does not use the propensities."""
    count = len(ratings)
    return BanditLog(
        event_id=np.array([str(row) for row in range(count)], object), time=np.arange(count), user=ratings.user,
        item=ratings.item, log_propensity=np.full(count, -np.log(ratings.shape[1])),
        reward=ratings.rating.astype(np.float64), action_items=np.arange(ratings.shape[1], dtype=np.int32),
        scale=ratings.scale, name="half of the test ratings", policy=np.full(count, "people", object),
        version=np.full(count, "1", object),
    )  # fmt: skip


def train_agent(
    name: str, parts: Split, model: RatingModel, folder: Path, config: Mapping[str, Any], **words: Any
) -> Policy:
    """Train one agent on the rating model's features."""
    return train(name, parts, folder, config=dict(config), model=model, show_progress=False, **words)


def measure_agents(parts: Split, model: RatingModel, quick: bool) -> dict[str, float]:
    """Return the coverage and RMSE of every agent on u1."""
    figures: dict[str, float] = {}
    bandits, sessions = (("linucb", "ucb1"), ("ppo",)) if quick else (BANDITS, SESSION_AGENTS)
    runs: list[tuple[str, str, dict[str, Any]]] = [("linucb_offline", "linucb", {"mode": "offline"})]
    runs += [(name, name, {"total_timesteps": 3_200 if quick else STEPS["bandits"]}) for name in bandits]
    runs += [(name, name, {"total_timesteps": 1_280 if quick else STEPS["sessions"]}) for name in sessions]
    with tempfile.TemporaryDirectory() as root:
        for label, name, config in runs:
            start = time.perf_counter()
            policy = train_agent(name, parts, model, Path(root) / label, config)
            covered, rmse = of_policy(policy, parts.test)
            figures[f"coverage_{label}"], figures[f"rmse_{label}"] = covered, rmse
            print(f"{label:18} covers {covered:.4f}  RMSE {rmse:.4f}  {time.perf_counter() - start:.0f} s", flush=True)
        half = np.random.default_rng(0).random(len(parts.test)) < 0.5
        log = real_log(parts.test.take(half))
        other = replace(parts, test=parts.test.take(~half))
        policy = train_agent("linucb", other, model, Path(root) / "real", {"mode": "log"}, log=log)
        assert policy.artifact.learned_real_rewards
        figures["coverage_linucb_real"], figures["rmse_linucb_real"] = of_policy(policy, other.test)
        cells = other.test.user, other.test.item
        figures["coverage_linucb_real_before"] = of_model(model, other.test)[0]
        figures["rmse_linucb_real_before"] = float(np.sqrt(np.mean(np.square(model.mean[cells] - other.test.rating))))
        print({key: round(value, 4) for key, value in figures.items() if "real" in key}, flush=True)
    return figures


def measure_models(ratings: Ratings, quick: bool) -> dict[str, float]:
    """Return the coverage of the rating model on every fold and seed, and the extremes by fifths of its estimate."""
    figures: dict[str, float] = {}
    fifths = []
    for fold in FOLDS[:1] if quick else FOLDS:
        parts = split(ratings, fold)
        for seed in SEEDS[:1] if quick else SEEDS:
            model = fit_rating_model(parts.train, seed=seed)
            figures[f"coverage_rating_model_{fold}_seed{seed}"], by_fifth = of_model(model, parts.test)
            fifths.append(by_fifth)
            print(f"{fold} seed {seed}: {figures[f'coverage_rating_model_{fold}_seed{seed}']:.4f}", flush=True)
    figures["coverage_by_fifth_min"], figures["coverage_by_fifth_max"] = np.min(fifths), np.max(fifths)
    return figures


def main() -> None:
    """Measure the rating model, then every agent."""
    options = arguments(__doc__ or "")
    ratings = load_ratings("ml-100k")
    figures = measure_models(ratings, options.quick)
    parts = split(ratings, "u1")
    figures |= measure_agents(parts, fit_rating_model(parts.train), options.quick)
    covered = [
        value for name, value in figures.items()
        if name.startswith("coverage_") and not name.startswith("coverage_by_fifth")
    ]  # fmt: skip
    extremes = {"coverage_min": min(covered), "coverage_max": max(covered)}
    seeds = SEEDS[:1] if options.quick else SEEDS
    told = context(seeds, data={"name": ratings.name, "digest": ratings.digest}, quick=options.quick, steps=STEPS)
    write_results(options.out, extremes | figures, told)


if __name__ == "__main__":
    main()
