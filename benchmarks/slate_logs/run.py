"""Does top-K REINFORCE that learns from logged slates show better slates than the policy that logged them?

python benchmarks/slate_logs/run.py --out benchmarks/slate_logs/results.json

A softmax over the rating model fills slates of 5 in the training world of u1, and users like each item by itself. What
was learned from them is evaluated by the expected likes of a slate in the evaluation world, at the begin of a session.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import arguments, context, write_results

from recpolicy.core.seeds import generator
from recpolicy.core.statistics import mean_interval
from recpolicy.data.loaders import load_ratings
from recpolicy.data.splits import split
from recpolicy.inference.predictor import Policy
from recpolicy.training import tensorflow_export
from recpolicy.training.rollout_slates import independent_clicks, rollout_slates
from recpolicy.workflows.logging_policies import make_logging_policy
from recpolicy.workflows.policy_training import TrainConfig
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds
from recpolicy.workflows.session_training import train_sessions
from recpolicy.workflows.slate_logs import SlateLogConfig, _probabilities, rollout_slate_log
from recpolicy.workflows.training_data import prepare_features

SLATE, ITEMS, SEEDS, SLATES, EPOCHS = 5, 200, (0, 1, 2), 20_000, 2
PER_USER = 40
"""Drawn slates of each user."""
AGENTS: Mapping[str, dict[str, Any]] = {
    "learned": {}, "learned_k5": {"k": SLATE}, "no_baseline": {"baseline": False},
    "untrained": {"learning_rate": 1e-12},
}  # fmt: skip
"""Settings of the agents; the last one keeps its first weights, and so draws by the rating model."""
COMPARED = (
    ("learned", "logging"), ("learned", "untrained"), ("learned_k5", "logging"), ("learned_k5", "learned"),
    ("no_baseline", "learned"), ("untrained", "logging"), ("learned_best", "untrained_best"),
    ("learned_k5_best", "untrained_best"), ("learned_k5", "untrained"),
)  # fmt: skip


def main() -> None:
    asked = arguments("Does learning from logged slates pay?")
    tensorflow_export.write_saved_models = lambda *_: None  # type: ignore[assignment] - nobody reads them here
    slates, seeds = (1_000, SEEDS[:1]) if asked.quick else (SLATES, SEEDS)
    parts = split(load_ratings("ml-100k"), "u1")
    settings = {"items": ITEMS, "epochs": EPOCHS}
    config = SessionTrainConfig(**settings)
    worlds, features = make_worlds(parts, config, 0), prepare_features(parts.train, config)
    log_config = SlateLogConfig(slates=slates, slots=SLATE, layout="list")
    policy = make_logging_policy("rating_model", parts.train, TrainConfig(items=ITEMS), features.model, None, 0)
    world = worlds.evaluation_world
    like = 1 / (1 + np.exp(-world.like[:, features.action_items].astype(np.float64)))  # [W, A]
    by_user: dict[str, list[Any]] = defaultdict(list)
    start = time.perf_counter()
    for seed in seeds:
        log = rollout_slate_log(policy, worlds.training_world, parts, log_config, seed, show_progress=False)
        fill = partial(_probabilities, policy.score, log_config)
        clicks, shape = independent_clicks(world, features.action_items, seed), (PER_USER * len(world.users), SLATE)
        shown = rollout_slates(world, fill, clicks, None, shape, len(features.action_items), seed, False)
        row = np.searchsorted(world.users, shown.user)
        likes = np.take_along_axis(like[row], shown.arm, axis=1).sum(axis=1)
        by_user["logging"].append(np.bincount(row, likes, len(like)) / np.bincount(row, minlength=len(like)))
        for name, agent in AGENTS.items():
            with tempfile.TemporaryDirectory() as folder:
                learned = train_sessions(
                    "topk_reinforce", parts, Path(folder, name), config=settings, agent_config=agent, log=log,
                    model=features.model, seed=seed, show_progress=False,
                )  # fmt: skip
            by_user[name].append(drawn_likes(learned, world.users, like, seed))
            by_user[f"{name}_best"].append(drawn_likes(learned, world.users, like, None))
            print(seed, name, round(time.perf_counter() - start), "s", by_user[name][-1].mean(), flush=True)
        figures = summary(by_user)
        print(seed, {name: round(value, 3) for name, value in figures.items()}, flush=True)
        done = {name: [float(each.mean()) for each in values] for name, values in by_user.items()}
        extra = {"slates": slates, "items": ITEMS, "slate_size": SLATE, "epochs": EPOCHS, "users": len(like)}
        write_results(asked.out, figures, context(seeds[: len(by_user["logging"])], **extra), done)


def drawn_likes(policy: Policy, users: Any, like: Any, seed: int | None) -> Any:
    """Expected likes [W] of a first slate: drawn without replacement, or the best one where there is no seed."""
    ids = [policy.scorer.user_ids[user] for user in users]
    score = np.concatenate([block.score for block in policy.scorer.score_batches(ids)])  # [W, A] log-odds
    if seed is None:
        best = np.argsort(-score, axis=1)[:, :SLATE]
        return np.take_along_axis(like, best, axis=1).sum(axis=1)
    rng, total = generator(seed, "benchmark/slate_logs"), np.zeros(len(score))
    for _ in range(PER_USER):
        drawn = np.argsort(-(score + rng.gumbel(size=score.shape)), axis=1)[:, :SLATE]
        total += np.take_along_axis(like, drawn, axis=1).sum(axis=1)
    return total / PER_USER


def summary(by_user: Mapping[str, Any]) -> dict[str, float]:
    """Likes per slate by name and paired differences, with 95 % intervals by user, and over the seeds (t)."""
    mean, figures = {name: np.mean(values, axis=0) for name, values in by_user.items()}, {}

    def add(name: str, values: Any, by_seed: list[float]) -> None:
        interval = mean_interval(values, generator(0, "benchmark/slate_logs"))
        figures.update({name: interval.value, f"{name}_lo": interval.lo, f"{name}_hi": interval.hi})
        figures.update({f"{name}_lowest_seed": min(by_seed), f"{name}_highest_seed": max(by_seed)})
        if len(by_seed) > 1:  # over the seeds of log and training
            reach = student.ppf(0.975, len(by_seed) - 1) * np.std(by_seed, ddof=1) / np.sqrt(len(by_seed))
            figures.update({f"{name}_seeds_lo": interval.value - reach, f"{name}_seeds_hi": interval.value + reach})

    for name, values in mean.items():
        add(f"likes_{name}", values, [each.mean() for each in by_user[name]])
    for first, second in COMPARED:
        apart = [a.mean() - b.mean() for a, b in zip(by_user[first], by_user[second], strict=True)]
        add(f"difference_{first}_{second}", mean[first] - mean[second], apart)
    return figures


if __name__ == "__main__":
    main()
