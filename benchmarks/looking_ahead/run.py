"""Does looking ahead pay? Session agents at several discounts, and baselines, evaluated in a world they never saw.

python benchmarks/looking_ahead/run.py --out benchmarks/looking_ahead/results.json
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import arguments, context, write_results

from recpolicy.core.tensorflow_setup import silence_libraries

silence_libraries()  # before TF-Agents is imported

import tensorflow as tf  # noqa: E402

from recpolicy.agents import SESSION_AGENTS, agent_entry  # noqa: E402
from recpolicy.agents.item_features import compute_item_features  # noqa: E402
from recpolicy.data.loaders import load_ratings  # noqa: E402
from recpolicy.data.splits import Split, split  # noqa: E402
from recpolicy.evaluation.policy_scores import baseline_tables  # noqa: E402
from recpolicy.evaluation.sessions import SessionRunner, best, session_baselines  # noqa: E402
from recpolicy.models.user_model import SessionWorldConfig  # noqa: E402
from recpolicy.training.session_loop import SessionLoop  # noqa: E402
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds, session_environment  # noqa: E402
from recpolicy.workflows.training_data import prepare_features  # noqa: E402

AGENTS = [name for name, entry in SESSION_AGENTS.items() if entry.learns_from_simulation]
GAMMAS = (0.0, 0.5, 0.75, 0.9, 0.99)
CONTROL_GAMMAS = (0.0, 0.9)
SEEDS = (0, 1, 2, 3, 4)
ITEMS = 400
"""The most rated items: 71 % of the ratings of the train part of u1 are of them."""
STEPS = 150_000
SESSIONS_PER_USER = 4


@dataclass(frozen=True)
class Bench:
    """One fatigue setting: the worlds and what plays in them."""

    settings: SessionTrainConfig
    parts: Split
    features: Any
    worlds: Any
    runner: SessionRunner
    environment: Any


def bench(parts: Split, fatigue: bool) -> Bench:
    simulator = SessionWorldConfig() if fatigue else SessionWorldConfig(fatigue_genre=0.0, fatigue_misses=0.0)
    settings = SessionTrainConfig(items=ITEMS, simulator=simulator)
    features = prepare_features(parts.train, settings)
    worlds = make_worlds(parts, settings, 0)
    world = worlds.evaluation_world
    environment = session_environment(world, features, settings, 1234, SESSIONS_PER_USER * len(world.users))
    return Bench(settings, parts, features, worlds, SessionRunner(environment), environment)


def returns_of_baselines(here: Bench, seeds: tuple[int, ...]) -> dict[str, list[float]]:
    tables = baseline_tables(here.parts.train, here.features.model)
    scores = {name: table.score[:, here.features.action_items] for name, table in tables.items()}
    policies = session_baselines(here.environment, scores)
    return {name: [here.runner.run(choose, seed).reward.mean() for seed in seeds] for name, choose in policies.items()}


def returns_of_agent(here: Bench, name: str, gamma: float, seeds: tuple[int, ...], steps: int) -> list[float]:
    """Returns in the evaluation world, one per seed; the loop is compiled once and starts anew for each seed."""
    environment = session_environment(here.worlds.training_world, here.features, here.settings, 0)
    arms = compute_item_features(here.features.action_items, here.features.embeddings, here.parts.train)
    entry = agent_entry(name)

    def make(seed: int) -> Any:
        config = entry.config(gamma=gamma)
        return entry.make(environment.time_step_spec(), environment.action_spec(), config, arms, seed)

    agent = make(seeds[0])
    loop = SessionLoop(environment, agent)
    blocks = -(-steps // (4 * loop.block_size))
    choose = greedy(agent)
    earned = []
    for seed in seeds:
        fresh = make(seed)
        fresh.learner.prepare(loop.block_size)
        for old, new in zip(agent.learner.variables, fresh.learner.variables, strict=True):
            old.assign(new)
        loop.block.assign(1_000_000 * seed)  # other users, other luck
        loop.running.assign(tf.zeros_like(loop.running))
        for _ in range(4):
            loop.run(blocks)
        earned.append(float(here.runner.run(choose, seed).reward.mean()))
    return earned


def greedy(agent: Any) -> Callable[..., Any]:
    scores = tf.function(agent.learner.scores, jit_compile=True, autograph=False)

    def choose(_: Any, observation: Any, mask: Any, rng: np.random.Generator) -> Any:
        return best(scores(observation, mask).numpy(), mask, rng)

    return choose


def told(name: str, earned: list[float]) -> dict[str, float]:
    """Mean return and its 95 % Student interval over seeds."""
    values = np.array(earned)
    mean = float(values.mean())
    half = 0.0
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    print(f"{name:40s} {mean:7.3f} [{mean - half:.3f}, {mean + half:.3f}]", flush=True)
    return {f"{name}_return": mean, f"{name}_lo": mean - half, f"{name}_hi": mean + half}


def looking_ahead_gain(figures: dict[str, float], seeds: int) -> dict[str, float]:
    """The best agent with a discount against the best agent without: the difference with its 95 % Welch interval.

    The best of four discounts was picked after the fact, so the interval flatters looking ahead.
    """
    cells = {(name, gamma): f"{name}_gamma_{gamma}" for name in AGENTS for gamma in GAMMAS}
    ahead = max((cell for (_, gamma), cell in cells.items() if gamma > 0), key=lambda cell: figures[f"{cell}_return"])
    myopic = max((cell for (_, gamma), cell in cells.items() if gamma == 0), key=lambda cell: figures[f"{cell}_return"])
    gain = figures[f"{ahead}_return"] - figures[f"{myopic}_return"]
    half = 0.0
    if seeds > 1:
        quantile = stats.t.ppf(0.975, seeds - 1)
        variance = (
            np.array([(figures[f"{cell}_hi"] - figures[f"{cell}_return"]) / quantile for cell in (ahead, myopic)]) ** 2
        )
        degrees = variance.sum() ** 2 / (variance**2).sum() * (seeds - 1)
        half = float(stats.t.ppf(0.975, degrees) * np.sqrt(variance.sum()))
    print(f"{ahead} minus {myopic}: {gain:.3f} [{gain - half:.3f}, {gain + half:.3f}]", flush=True)
    return {"gain_best_ahead": gain, "gain_best_ahead_lo": gain - half, "gain_best_ahead_hi": gain + half}


def plot(figures: dict[str, float], out: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for number, name in enumerate(AGENTS):
        mean = np.array([figures[f"{name}_gamma_{gamma}_return"] for gamma in GAMMAS])
        half = mean - np.array([figures[f"{name}_gamma_{gamma}_lo"] for gamma in GAMMAS])
        at = np.arange(len(GAMMAS)) + 0.06 * (number - 2.5)
        axes.errorbar(at, mean, yerr=half, marker="o", capsize=3, label=name)
    for name, style in (("rating_model", "--"), ("highest_mean", ":")):
        axes.axhline(figures[f"{name}_return"], color="0.35", linestyle=style, linewidth=1.2, label=name)
    axes.set_xticks(range(len(GAMMAS)), [str(gamma) for gamma in GAMMAS])
    axes.set_xlabel("discount gamma (0 looks at the next item only)")
    axes.set_ylabel("likes per session in the evaluation world")
    axes.legend(ncols=2, fontsize=8)
    figure.savefig(out, dpi=120)


def main() -> None:
    asked = arguments("Does looking ahead pay?")
    seeds, steps = (SEEDS[:2], 10_000) if asked.quick else (SEEDS, STEPS)
    parts = split(load_ratings("ml-100k"), "u1")
    figures: dict[str, float] = {}
    tired = bench(parts, fatigue=True)
    for name, earned in returns_of_baselines(tired, seeds).items():
        figures |= told(name, earned)
    for name in AGENTS:
        for gamma in GAMMAS:
            figures |= told(f"{name}_gamma_{gamma}", returns_of_agent(tired, name, gamma, seeds, steps))
    figures |= looking_ahead_gain(figures, len(seeds))
    rested = bench(parts, fatigue=False)
    for name, earned in returns_of_baselines(rested, seeds).items():
        figures |= told(f"no_fatigue_{name}", earned)
    for name in ("ppo", "a2c"):
        for gamma in CONTROL_GAMMAS:
            figures |= told(f"no_fatigue_{name}_gamma_{gamma}", returns_of_agent(rested, name, gamma, seeds, steps))
    if not asked.quick:
        plot(figures, asked.out.with_name("returns.png"))
    write_results(asked.out, figures, context(seeds, items=ITEMS, steps=steps))


if __name__ == "__main__":
    main()
