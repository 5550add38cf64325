"""All agents over features, each tuned over a small grid on other contexts than those of its figures.

Each learns 100,000 rounds of a world. The grid is tried on the world of the first seed, and the best settings learn the
worlds of all seeds. Values are true ones: 0 is the uniform policy, 1 the best one.

    python benchmarks/own_features/agents.py [--quick] [--world NAME] [--agent NAME] --out agents.json
"""

import argparse
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import context, write_results
from run import GAMMAS, NEW, SEEDS, TUNING, learn, log_of, parts, schema_of, values
from worlds import WORLDS, World

from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.inference.feature_policy import FeaturePolicy, squarecb_settings

RATES, EPOCHS = (0.001, 0.003, 0.01), (2, 5)
NETWORK = {"learning_rate": RATES, "epochs": EPOCHS}


@dataclass(frozen=True)
class Grid:
    """The settings that are tried for an agent."""

    agent: str
    model: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Settings that need another training."""
    head: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Settings of the exploration, which do not."""

    def models(self) -> Iterator[dict[str, Any]]:
        """Yield all settings that need a training."""
        for chosen in itertools.product(*self.model.values()):
            yield {"agent": self.agent, **dict(zip(self.model, chosen, strict=True))}

    def heads(self) -> Iterator[dict[str, float]]:
        """Yield all settings of the exploration."""
        for chosen in itertools.product(*self.head.values()):
            yield dict(zip(self.head, chosen, strict=True))


GRIDS: dict[str, Grid] = {
    "squarecb, hashed model": Grid(
        "squarecb", {"model": ("hashed",), "hashed_learning_rate": (0.02, 0.05, 0.1, 0.2)}, {"gamma_scale": GAMMAS}
    ),
    "squarecb, linear model": Grid("squarecb", {"precision": (1.0, 10.0, 100.0)}, {"gamma_scale": GAMMAS}),
    "squarecb, network": Grid("squarecb", {"model": ("neural",), **NETWORK}, {"gamma_scale": GAMMAS}),
    "linucb_shared": Grid("linucb_shared", {"precision": (1.0, 10.0, 100.0)}, {"alpha": (0.0, 0.01, 0.1, 1.0)}),
    "linucb_hybrid": Grid("linucb_hybrid", {"arm_precision": (1.0, 10.0, 100.0)}, {"alpha": (0.0, 0.01, 0.1, 1.0)}),
    "lints": Grid("lints", {"precision": (1.0, 10.0, 100.0)}, {"scale": (0.01, 0.1, 1.0)}),
    "eps_greedy": Grid("eps_greedy", NETWORK, {"epsilon": (0.01, 0.05, 0.1)}),
    "boltzmann": Grid("boltzmann", NETWORK, {"temperature": (0.001, 0.005, 0.02, 0.1)}),
    "neural_linucb": Grid("neural_linucb", NETWORK, {"alpha": (0.0, 0.01, 0.1, 1.0)}),
}

WORLD_GRIDS: dict[tuple[str, str], Grid] = {
    ("open_bandit", "linucb_hybrid"): Grid("linucb_hybrid", {"arm_precision": (1.0, 10.0, 100.0)}, {"alpha": (0.0,)}),
}
"""Smaller grids: a pair of this world has some 1,600 columns, and their widths take too long."""


def with_head(policy: FeaturePolicy, settings: Mapping[str, float]) -> FeaturePolicy:
    """Return the policy with other settings of its exploration."""
    if policy.head != "squarecb":
        return replace(policy, settings={**policy.settings, **settings})
    old = policy.settings
    scale, exponent, span = settings["gamma_scale"], old["gamma_exponent"], old["reward_span"]
    return replace(policy, settings=squarecb_settings(old["rounds"], scale, exponent, span))


def trained(world: World, settings: Mapping[str, Any]) -> FeaturePolicy:
    """Return what an agent learns from the log of a world."""
    plain = dict(settings)
    return learn(log_of(world), schema_of(world), plain, epochs=plain.pop("epochs", EPOCHS[0]))


def tune(grid: Grid, world: World, new: World) -> tuple[dict[str, Any], dict[str, float], list[dict[str, Any]]]:
    """Return the best settings of the model and of the exploration, and what each pair gave."""
    tried: list[dict[str, Any]] = []
    for model in grid.models():
        policy = trained(world, model)
        tried += [{"model": model, "head": head, **values(with_head(policy, head), new)} for head in grid.heads()]
        print(model, max(row["value"] for row in tried), flush=True)
    best = max(tried, key=lambda row: row["value"])
    return best["model"], best["head"], tried


def measure(name: str, quick: bool, told: dict[str, Any], wanted: list[str]) -> Iterator[None]:
    """Measure the agents of one world; adds to `told` those that it lacks, and yields after each.

    Args:
        name: Name of the world.
        quick: Measure a small part.
        told: The results so far.
        wanted: Labels of agents; none: all.
    """
    rounds = TUNING // 10 if quick else TUNING
    worlds = [WORLDS[name](rounds + 2 * NEW, seed) for seed in SEEDS]
    learned, chooses, new = zip(*([world.take(*part) for part in parts(rounds)] for world in worlds), strict=True)
    for label, grid in GRIDS.items():
        if label in told or (wanted and label not in wanted):
            continue
        grid = WORLD_GRIDS.get((name, label), grid)
        start = time.process_time()
        model, head, tried = tune(grid, learned[0], chooses[0])
        found = [
            values(with_head(trained(world, model), head), contexts)
            for world, contexts in zip(learned, new, strict=True)
        ]
        told[label] = {"model": model, "head": head, "seeds": found, "tried": tried}
        told[label]["cpu_s"] = time.process_time() - start
        print(name, label, model, head, found, told[label]["cpu_s"], flush=True)
        yield


def figures_of(measured: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return mean, lowest and highest seed of all agents."""
    figures = {}
    for world, agents in measured.items():
        for label, told in agents.items():
            for kind in ("value", "greedy"):
                found = [seed[kind] for seed in told["seeds"]]
                for statistic in (np.mean, np.min, np.max):
                    figures[f"{world}: {label}: {kind} {statistic.__name__}"] = float(statistic(found))
    return figures


def main() -> None:
    """Measure, and write after each agent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small part, to see that it runs; not for agents.json")
    parser.add_argument("--out", type=Path, required=True, help="results, as JSON; an existing file gets more of them")
    parser.add_argument("--world", choices=list(WORLDS), help="one world only")
    parser.add_argument("--agent", action="append", default=[], choices=list(GRIDS), help="an agent; may be repeated")
    options = parser.parse_args()
    silence_libraries()
    logging.disable(logging.WARNING)
    load, told = os.getloadavg()[0], dict[str, Any]()
    if options.out.exists():
        told = json.loads(options.out.read_text(encoding="utf-8"))["context"]["measured"]
    for name in [options.world] if options.world else list(WORLDS):
        for _ in measure(name, options.quick, told.setdefault(name, {}), options.agent):
            metadata = context(SEEDS, rounds=TUNING, quick=options.quick, load_average_at_start=load, measured=told)
            write_results(options.out, figures_of(told), metadata)


if __name__ == "__main__":
    main()
