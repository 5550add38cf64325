"""Does an agent that learns from slates show better slates than the best k of single scores?

python benchmarks/slates/run.py --out benchmarks/slates/results.json

Top-K REINFORCE learns in the training world from slates of 5, and from single items; both show their 5 best in sessions
of slates of the evaluation world. Control: with slates of 1 both ways of learning are the same problem.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import arguments, context, write_results

from recpolicy.core.seeds import generator
from recpolicy.core.statistics import mean_interval
from recpolicy.data.loaders import load_ratings
from recpolicy.data.splits import Split, split
from recpolicy.training import tensorflow_export
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds, slate_environment
from recpolicy.workflows.session_training import train_sessions
from recpolicy.workflows.slate_evaluation import evaluate_slates
from recpolicy.workflows.training_data import prepare_features

SLATE, ITEMS, SEEDS = 5, 200, (0, 1, 2)
STEPS = 50_000
"""Slates, or single items, from which each policy learns."""
CONTENDERS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "slates": ({"slate_size": SLATE}, {"k": SLATE}),
    "single": ({}, {"k": 1}),
    "slates_k1": ({"slate_size": SLATE}, {"k": 1}),
}
"""Settings of the training and of the agent: learning from slates with and without lambda_K, and from single items."""

COMPARED = (
    ("slates", "single"), ("slates", "rating_model"), ("slates", "slates_k1"), ("single", "rating_model"),
    ("slates_sampled", "single_sampled"),
)  # fmt: skip


def main() -> None:
    asked: argparse.Namespace = arguments("Does learning from slates pay?")
    tensorflow_export.write_saved_models = lambda *_: None  # type: ignore[assignment] - nobody reads them here
    steps, seeds = (5_000, SEEDS[:1]) if asked.quick else (STEPS, SEEDS)
    parts = split(load_ratings("ml-100k"), "u1")
    settings = {"items": ITEMS, "total_timesteps": steps}
    config = SessionTrainConfig(**settings)
    worlds = make_worlds(parts, config, 0)
    features = prepare_features(parts.train, config)
    by_user: dict[str, list[Any]] = defaultdict(list)
    lengths: dict[str, list[float]] = defaultdict(list)
    start = time.perf_counter()
    for seed in seeds:
        policies = {}
        for name, (train, agent) in CONTENDERS.items():
            with tempfile.TemporaryDirectory() as folder:
                policies[name] = train_sessions(
                    "topk_reinforce", parts, Path(folder, name), config=settings | train, agent_config=agent,
                    model=features.model, worlds=worlds, seed=seed, show_progress=False,
                )  # fmt: skip
            print(seed, name, round(time.perf_counter() - start), "s", flush=True)
        shared = {"slate_size": SLATE, "seed": seed}
        greedy = evaluate_slates(policies, parts, worlds.evaluation_world, **shared)
        sampled = evaluate_slates(policies, parts, worlds.evaluation_world, sample=True, **shared)
        played = greedy | {f"{name}_sampled": sampled[name] for name in policies}
        ones = evaluate_slates(
            {"single_of_1": policies["single"]}, parts, worlds.evaluation_world, slate_size=1, seed=seed
        )
        played["single_of_1"] = ones["single_of_1"]
        for name, results in played.items():
            by_user[name].append(results.by_user)
            lengths[name].append(results.length)
        by_user["slates_of_1"].append(likes_of_one(worlds, features, parts, settings, seed))
        lengths["slates_of_1"].append(float("nan"))
        figures = summary(by_user, lengths)
        print(seed, {name: round(value, 3) for name, value in figures.items()}, flush=True)
        extra = {"steps": steps, "items": ITEMS, "slate_size": SLATE, "users": len(by_user["slates"][0])}
        done = {name: [float(each.mean()) for each in values] for name, values in by_user.items()}
        write_results(asked.out, figures, context(seeds[: len(by_user["slates"])], **extra), done)


def likes_of_one(worlds: Any, features: Any, parts: Split, settings: Mapping[str, Any], seed: int) -> Any:
    """The control: likes per session by user of an agent that learns from slates of 1 through the code of slates."""
    from recpolicy.agents import agent_entry
    from recpolicy.agents.item_features import compute_item_features
    from recpolicy.evaluation.sessions import SessionRunner, best_slate
    from recpolicy.training.session_loop import SessionLoop

    config = SessionTrainConfig(**settings)
    environment = slate_environment(worlds.training_world, features, config, seed)
    arms = compute_item_features(features.action_items, features.embeddings, parts.train)
    entry = agent_entry("topk_reinforce")
    agent = entry.make(environment.time_step_spec(), environment.item_spec, entry.config(), arms, seed)
    loop = SessionLoop(environment, agent)
    blocks = -(-config.total_timesteps // loop.block_size)
    for _ in range(blocks):
        loop.run(1)
    judge = slate_environment(worlds.evaluation_world, features, config, seed, 4 * len(worlds.evaluation_world.users))

    def choose(_: Any, observation: Any, mask: Any, rng: Any) -> Any:
        return best_slate(agent.learner.scores(observation, mask).numpy(), mask, 1, rng)

    played = SessionRunner(judge).run(choose, seed)
    return played.by_user(played.reward)


def summary(by_user: Mapping[str, Any], lengths: Mapping[str, list[float]]) -> dict[str, float]:
    """Likes per session by name and paired differences, with 95 % intervals by user, over the seeds."""
    mean = {name: np.mean(values, axis=0) for name, values in by_user.items()}
    figures: dict[str, float] = {}

    def add(name: str, values: Any) -> None:
        interval = mean_interval(values, generator(0, "benchmark/slates"))
        figures.update({name: interval.value, f"{name}_lo": interval.lo, f"{name}_hi": interval.hi})

    for name, values in mean.items():
        add(f"likes_{name}", values)
        seeds = [each.mean() for each in by_user[name]]
        figures[f"likes_{name}_lowest_seed"], figures[f"likes_{name}_highest_seed"] = min(seeds), max(seeds)
        if np.isfinite(lengths[name]).all():
            figures[f"slates_per_session_{name}"] = float(np.mean(lengths[name]))
    for first, second in (*COMPARED, ("slates_of_1", "single_of_1")):
        add(f"difference_{first}_{second}", mean[first] - mean[second])
        apart = [a.mean() - b.mean() for a, b in zip(by_user[first], by_user[second], strict=True)]
        key = f"difference_{first}_{second}"
        figures[f"{key}_lowest_seed"], figures[f"{key}_highest_seed"] = min(apart), max(apart)
    return figures


if __name__ == "__main__":
    main()
