"""Do the agents learn, how much do they lose on the way, and does it help on real held-out ratings?

Three parts, all on u1: regret of every agent on ItemBandit (the 200 most rated items), sweeps of alpha and epsilon
there, and the held-out choice of policies trained by `recpolicy.train` on the whole catalog.

    python benchmarks/learning/run.py [--quick] --out results.json
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import arguments, context, write_results

from recpolicy import load_ratings, split, train
from recpolicy.agents import AGENTS, BASELINES
from recpolicy.agents.item_features import compute_item_features
from recpolicy.core.files import atomic_path
from recpolicy.core.plotting import to_png
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import mean_interval
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.splits import Split
from recpolicy.evaluation.plots import Curve, regret_figure
from recpolicy.evaluation.policy_scores import PolicyTables, regret_by_user
from recpolicy.training.compiled_loop import OnlineLoop
from recpolicy.workflows.held_out_evaluation import HeldOutEvaluation, all_baseline_tables, evaluate_score_tables
from recpolicy.workflows.policy_training import TrainConfig, make_environment, prepare_features, training_world

SPLIT = "u1"
FIGURE = Path(__file__).with_name("regret.png")
ROUNDS_APART = 1_000_000
"""Seed s plays the rounds from s times this on: other users, noise and actions, and the loop is compiled once."""
LATE = 0.1
"""Share of a run whose regret counts as what an agent ends with."""
SWEEPS: Mapping[str, tuple[str, str, tuple[float, ...]]] = {
    "alpha": ("linucb", "alpha", (0.0, 0.1, 0.3, 1.0, 3.0)),
    "epsilon": ("eps_greedy", "epsilon", (0.0, 0.01, 0.05, 0.1, 0.3)),
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run."""

    rounds: int
    """Rounds of 64 interactions of each agent in the arena."""
    items: int = 200
    """Catalog of the arena: the most rated items."""
    seeds: tuple[int, ...]
    sweep_seeds: tuple[int, ...]
    agents: tuple[str, ...]
    """Who plays in the arena."""
    trained: tuple[str, ...]
    """Who is trained by `recpolicy.train` and judged on held-out ratings."""
    interactions: int
    """Of each of those trainings."""
    values: int
    """How many values of each sweep."""


FULL = Size(
    rounds=1000, seeds=(0, 1, 2, 3, 4), sweep_seeds=(0, 1, 2), agents=tuple(AGENTS),
    trained=tuple(name for name in AGENTS if name not in BASELINES), interactions=50_000, values=5,
)  # fmt: skip
QUICK = Size(
    rounds=50, seeds=(0, 1), sweep_seeds=(0,), agents=("linucb", "ucb1"), trained=("linucb",), interactions=3200,
    values=1,
)  # fmt: skip


class Arena:
    """One ItemBandit in which every agent plays the same rounds."""

    def __init__(self, parts: Split, size: Size):
        settings = TrainConfig(items=size.items)
        features = prepare_features(parts.train, settings)
        self.environment = make_environment(training_world(parts.train, settings, 0), features, settings, seed=0)
        self.arms = compute_item_features(features.action_items, features.embeddings, parts.train)
        self.rounds, self.batch = size.rounds, settings.batch_size

    def play(self, name: str, seeds: tuple[int, ...], **settings: float) -> NDArray[np.float64]:
        """Mean regret of each round [S, R] of fresh agents, one a seed."""
        agent = self._make(name, 0, settings)
        loop = OnlineLoop(self.environment, agent)
        regret = []
        for seed in seeds:
            copy_state(self._make(name, seed, settings), agent)
            self.environment.round.assign(seed * ROUNDS_APART)
            regret.append(loop.run(self.rounds).regret.astype(np.float64))
        return np.stack(regret)

    def _make(self, name: str, seed: int, settings: Mapping[str, float]) -> Any:
        entry = AGENTS[name]
        specs = self.environment.time_step_spec(), self.environment.action_spec()
        return entry.make(*specs, entry.config(**settings), self.arms, seed)


def copy_state(source: Any, target: Any) -> None:
    """Give the target's learner the variables of the source's, optimizer included."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        path = tf.train.Checkpoint(learner=source.learner).write(f"{folder}/learner")
        tf.train.Checkpoint(learner=target.learner).read(path).assert_consumed()


def measure_regret(arena: Arena, size: Size) -> dict[str, NDArray[np.float64]]:
    """Regret [S, R] of every agent."""
    curves = {}
    for name in size.agents:
        start = time.perf_counter()
        curves[name] = arena.play(name, size.seeds)
        print(f"{name:16} {describe(curves[name])}   {time.perf_counter() - start:5.1f} s", flush=True)
    return curves


def measure_sweeps(arena: Arena, size: Size) -> dict[str, NDArray[np.float64]]:
    """Regret [S, R] of every setting of every sweep, by the name that its figures get."""
    curves = {}
    for sweep, (agent, setting, values) in SWEEPS.items():
        for value in values[: size.values]:
            name = f"{sweep}_{value:g}"
            curves[name] = arena.play(agent, size.sweep_seeds, **{setting: value})
            print(f"{name:16} {describe(curves[name])}", flush=True)
    return curves


def describe(regret: NDArray[np.float64]) -> str:
    late = late_regret(regret)
    return f"regret {regret.mean():.4f} ± {regret.mean(axis=1).std():.4f}, late {late.mean():.4f} ± {late.std():.4f}"


def late_regret(regret: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean regret of the last rounds of each seed [S]."""
    last: NDArray[np.float64] = regret[:, -max(1, int(LATE * regret.shape[1])) :].mean(axis=1)
    return last


def regret_figures(curves: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Mean regret per interaction and at the end, with the lowest and highest seed."""
    figures: dict[str, float] = {}
    for name, regret in curves.items():
        for kind, values in (("regret", regret.mean(axis=1)), ("late_regret", late_regret(regret))):
            figures |= {
                f"{kind}_{name}": values.mean(),
                f"{kind}_{name}_lo": values.min(),
                f"{kind}_{name}_hi": values.max(),
            }
    return figures


def draw(curves: Mapping[str, NDArray[np.float64]], batch: int) -> bytes:
    """The regret curves as PNG, the agent that loses most on top of the legend."""
    drawn = {}
    for name, regret in sorted(curves.items(), key=lambda item: -item[1].mean()):
        steps = np.linspace(0, regret.shape[1] - 1, 100).astype(int)
        drawn[name] = Curve((steps + 1) * batch, batch * np.cumsum(regret, axis=1)[:, steps])
    figure = regret_figure(drawn)
    figure.set_size_inches(8.0, 5.2)
    return to_png(figure, dpi=90)


def train_policies(parts: Split, size: Size) -> dict[str, PolicyTables]:
    """Tables of every trained agent, linucb once a seed, all from one rating model, beside the baselines'."""
    model = prepare_features(parts.train, TrainConfig()).model
    runs = [(name, seed) for name in size.trained for seed in (size.seeds if name == "linucb" else size.seeds[:1])]
    tables = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, seed in runs:
            start = time.perf_counter()
            config = TrainConfig(total_timesteps=size.interactions)
            policy = train(
                name, parts, Path(folder) / f"{name}-{seed}", config=config, model=model, seed=seed, show_progress=False
            )
            tables[f"{name}-{seed}"] = PolicyTables(policy.scores()[0], rating=policy.ratings()[0])
            print(f"trained {name} with seed {seed} in {time.perf_counter() - start:.1f} s", flush=True)
    return tables | all_baseline_tables(parts, model, seed=0)


def held_out_figures(verdict: HeldOutEvaluation, seeds: tuple[int, ...]) -> dict[str, float]:
    """Held-out choice with 95 % user-bootstrap intervals; linucb's is each user's mean over its seeds."""
    evaluation = verdict.evaluation
    by_seed = np.stack([evaluation.policies[f"linucb-{seed}"].choice_by_user for seed in seeds])  # [S, U']
    linucb = mean_interval(by_seed.mean(axis=0), generator(0, "evaluation/bootstrap"))
    intervals = {name.removesuffix("-0"): result.held_out_choice for name, result in evaluation.policies.items()}
    intervals = {name: interval for name, interval in intervals.items() if not name.startswith("linucb-")}
    intervals |= {"linucb": linucb, "oracle": evaluation.oracle}
    intervals["popular"] = intervals.pop("most_popular")
    figures: dict[str, float] = {}
    for name, interval in intervals.items():
        figures |= {
            f"held_out_{name}": interval.value,
            f"held_out_{name}_lo": interval.lo,
            f"held_out_{name}_hi": interval.hi,
        }
    figures |= {f"held_out_linucb_seed_{seed}": float(one.mean()) for seed, one in zip(seeds, by_seed, strict=True)}
    return figures


def world_gap(parts: Split, tables: Mapping[str, PolicyTables], verdict: HeldOutEvaluation) -> dict[str, float]:
    """Regret of the finished policies where they were trained, and in the evaluation world, which they never saw."""
    expected, rated = training_world(parts.train, TrainConfig(), seed=0).expected, parts.train.rated()
    figures = {}
    for name, table in tables.items():
        short = name.removesuffix("-0")
        figures[f"training_world_regret_{short}"] = float(regret_by_user(expected, table.score, rated).mean())
        figures[f"evaluation_world_regret_{short}"] = verdict.regret[name].value
    return figures


def main() -> None:
    """Play, sweep, train, judge, write."""
    options = arguments(__doc__ or "")
    silence_libraries()
    size = QUICK if options.quick else FULL
    ratings = load_ratings("ml-100k")
    parts = split(ratings, SPLIT)
    arena = Arena(parts, size)
    curves = measure_regret(arena, size)
    sweeps = measure_sweeps(arena, size)
    tables = train_policies(parts, size)
    verdict = evaluate_score_tables(parts, tables, seed=0)
    print(verdict.table().to_string())
    figures = regret_figures(curves) | regret_figures(sweeps)
    figures |= held_out_figures(verdict, size.seeds) | world_gap(parts, tables, verdict)
    told = context(
        size.seeds, data={"name": ratings.name, "digest": ratings.digest}, split=SPLIT,
        evaluation_world=verdict.evaluation_world,
        interactions={"regret": arena.rounds * arena.batch, "training": size.interactions},
        sweep_seeds=list(size.sweep_seeds), spread="_lo and _hi: over seeds for regret, 95 % over users for held_out",
        quick=options.quick,
    )  # fmt: skip
    write_results(options.out, {name: float(value) for name, value in figures.items()}, told)
    picture = options.out.with_suffix(".png") if options.quick else FIGURE
    with atomic_path(picture) as temporary:
        temporary.write_bytes(draw(curves, arena.batch))


if __name__ == "__main__":
    main()
