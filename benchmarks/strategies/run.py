"""How much does the strategy engine learn from 2,000 rounds? (speed.py measures its speed.)

python benchmarks/strategies/run.py --out benchmarks/strategies/results.json
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import arguments, context, write_results
from scipy.stats import t as student
from worlds import EFFECT, NOISE, World, draw_actions, draw_contexts, make_world, rounds_of, value

from recpolicy.core.seeds import generator
from recpolicy.strategies.config import ACTIONS, with_learning
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.strategies.state import state_codes, state_numbers

ROUNDS, BATCH = 2_000, 100
CHECKPOINTS = (500, 1_000, 2_000)
SMALL_EFFECT = 0.3
SIZES = (2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
LEARNERS: Mapping[str, dict[str, Any]] = {
    "factored": {"estimator": "factored"},
    "factored_by_action": {"estimator": "factored", "factors": "action"},
    "shrunk": {"estimator": "shrunk"},
    "full_table": {"estimator": "table"},
    "trait_blind": {"estimator": "factored"},
    "permuted": {"estimator": "factored"},
}


def greedy(name: str, policy: StrategyPolicy, states: np.ndarray) -> np.ndarray:
    """Return the greedy probabilities [N, A]: of Q alone, of the actions' means alone, or of the policy."""
    if name == "full_table":
        score = policy._cells(states)[0]
    elif name == "trait_blind":
        known = policy.factored.action_visits > 0
        score = np.tile(np.where(known, policy.factored.action_mean, 0.0), (len(states), 1))
    else:
        return policy.greedy_probabilities(states)
    best = score == score.max(axis=1, keepdims=True)
    return best / best.sum(axis=1, keepdims=True)


def judged(name: str, policy: StrategyPolicy, world: World, seed: int, count: int = 20_000) -> float:
    """Return the true value of the greedy choices on new profiles; 0 is a random choice and 1 the best one."""
    contexts = draw_contexts(world, count, seed, "judge")
    return value(world, greedy(name, policy, numbers(world, *contexts)), contexts)


def numbers(world: World, profile: np.ndarray, situation: np.ndarray) -> np.ndarray:
    return state_numbers(state_codes(profile, situation, world.config), world.config)


def learn_online(name: str, world: World, seed: int, rounds: int) -> dict[int, float]:
    """Let a learner act by its own epsilon-greedy choices and learn after every batch; return values by rounds."""
    policy = StrategyPolicy(with_learning(world.config, **LEARNERS[name]))
    profile, situation = draw_contexts(world, rounds, seed, "learn")
    rng = generator(seed, "strategies actions")
    means = world.means(profile, situation)
    noise = rng.normal(0, NOISE, rounds)
    if name == "permuted":
        profile = profile[rng.permutation(rounds)]
    values = {}
    for first in range(0, rounds, BATCH):
        rows = slice(first, min(first + BATCH, rounds))
        states = numbers(world, profile[rows], situation[rows])
        probability = (1 - policy.epsilon) * greedy(name, policy, states) + policy.epsilon / ACTIONS
        action = draw_actions(probability, rng)
        reward = means[np.arange(rows.start, rows.stop), action] + noise[rows]
        propensity = probability[np.arange(len(action)), action]
        policy = policy.updated(rounds_of(profile[rows], situation[rows], action, propensity, reward, first))
        if rows.stop in CHECKPOINTS:
            values[rows.stop] = judged(name, policy, world, seed)
    return values


def learn_uniform(world: World, seed: int, sizes: tuple[int, ...]) -> dict[str, list[float]]:
    """Return values after uniform logs of growing sizes, by estimator of the same rounds."""
    rng = generator(seed, "strategies uniform log")
    policy, values = StrategyPolicy(world.config), {name: [] for name in ("full_table", "factored", "shrunk")}
    for size, more in zip(sizes, np.diff((0, *sizes)), strict=True):
        profile, situation = rng.uniform(0, 100, (more, 5)), np.zeros((more, 3), int)
        action = rng.integers(ACTIONS, size=more)
        reward = world.means(profile, situation)[np.arange(more), action] + rng.normal(0, NOISE, more)
        states = numbers(world, profile, situation)
        table = policy.table.updated(states, action, reward, np.zeros(more, bool), policy.config.learning)
        policy = replace(policy, table=table)
        for name in values:
            learner = replace(policy, config=with_learning(world.config, **LEARNERS[name]))
            values[name].append(judged(name, learner, world, seed))
        print(f"interaction, seed {seed}, {size:,} rounds", {k: round(v[-1], 3) for k, v in values.items()}, flush=True)
    return values


def overtakes(sizes: tuple[int, ...], table: list[float], factored: list[float]) -> float:
    """Return the rounds at which the table overtakes, by linear interpolation in log n; infinite if it never does."""
    gap = np.array(table) - factored
    above = np.flatnonzero(gap >= 0)
    if not len(above):
        return float("inf")
    last = above[0]
    if last == 0:
        return float(sizes[0])
    share = -gap[last - 1] / (gap[last] - gap[last - 1])
    return float(np.exp(np.log(sizes[last - 1]) + share * np.log(sizes[last] / sizes[last - 1])))


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return mean and 95 % t interval over seeds."""
    mean = float(np.mean(values))
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def put(figures: dict[str, float], name: str, values: list[float]) -> None:
    figures[name], figures[f"{name}_lo"], figures[f"{name}_hi"] = interval(values)


def main() -> None:
    options = arguments(__doc__ or "")
    seeds = range(2 if options.quick else 10)
    few_seeds = range(2 if options.quick else 5)
    sizes = SIZES[:4] if options.quick else SIZES
    figures: dict[str, float] = {}
    runs: dict[str, dict[str, list[dict[int, float]]]] = {}
    plan = [
        ("linear", EFFECT, tuple(LEARNERS)), ("situations", EFFECT, ("factored", "shrunk", "full_table")),
        ("linear", SMALL_EFFECT, ("factored", "full_table")),
    ]  # fmt: skip
    for world, effect, names in plan:
        label = world if effect == EFFECT else f"{world}_small"
        for name in names:
            results = [learn_online(name, make_world(world, seed, effect), seed, ROUNDS) for seed in seeds]
            runs.setdefault(label, {})[name] = results
            for rounds in CHECKPOINTS:
                put(figures, f"{label}_{name}_{rounds}", [result[rounds] for result in results])
            print(
                label,
                name,
                {rounds: round(figures[f"{label}_{name}_{rounds}"], 3) for rounds in CHECKPOINTS},
                flush=True,
            )
    for name in ("factored", "full_table"):
        put(figures, f"{name}_share", [result[ROUNDS] for result in runs["linear"][name]])
    pairs = zip(runs["linear"]["permuted"], runs["linear"]["trait_blind"], strict=True)
    put(figures, "control_gain", [permuted[ROUNDS] - blind[ROUNDS] for permuted, blind in pairs])
    curves = [learn_uniform(make_world("interaction", seed), seed, sizes) for seed in few_seeds]
    for name in curves[0]:
        for place, size in enumerate(sizes):
            put(figures, f"interaction_{name}_{size}", [curve[name][place] for curve in curves])
    crossings = [overtakes(sizes, curve["full_table"], curve["factored"]) for curve in curves]
    if np.isfinite(crossings).all():
        mean, low, high = interval(np.log(crossings).tolist())
        figures |= {
            "overtakes_rounds": float(np.exp(mean)),
            "overtakes_rounds_lo": float(np.exp(low)),
            "overtakes_rounds_hi": float(np.exp(high)),
        }
    about = {"rounds": ROUNDS, "batch": BATCH, "effect": EFFECT, "small_effect": SMALL_EFFECT, "noise": NOISE}
    write_results(options.out, figures, context(list(seeds), interaction_seeds=list(few_seeds), **about))


if __name__ == "__main__":
    main()
