"""How far are off-policy estimates from the true value, and do their intervals contain it?

The benchmark of the estimators (`recpolicy ope benchmark`) on the 100 most rated items of u1: the world is an SVD, the
policies rank by the Bayesian factorization machine, which is also the reward model.

    python benchmarks/ope_accuracy/run.py [--quick] --out results.json
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, arguments, context, write_results

from recpolicy.core.config import as_dict
from recpolicy.data.loaders import load_ratings
from recpolicy.data.splits import split
from recpolicy.ope.benchmark.scores import BenchmarkResult
from recpolicy.ope.results import INTERVALS
from recpolicy.workflows.estimator_benchmark import QUICK, EstimatorBenchmarkConfig, benchmark_estimators

SEED = 0
FAMILY = ("dr", "sndr", "switch_dr", "dros", "mrdr")


def figures_of(result: BenchmarkResult, size: int) -> dict[str, float]:
    """Return the figures at one log size; for the DR family those of the worst estimator on the worse log."""
    cells = [result.cell(name, size) for name in result.logging_policies]
    figures = {
        f"dr_relative_error_{size:.0e}".replace("e+0", "e"): max(
            cell.scores[name].error for cell in cells for name in FAMILY
        ),
        "dr_rmse_by_gain": max(
            cell.scores[name].rmse / abs(result.true_value - result.logged_values[cell.logging_policy])
            for cell in cells
            for name in FAMILY
        ),
    }
    for kind in INTERVALS:
        figures[f"coverage_{kind}"] = result.coverage(kind, size)
        figures[f"coverage_{kind}_lowest"] = result.coverage(kind, size, lowest=True)
    return figures


def by_size(result: BenchmarkResult) -> dict[str, dict[str, float]]:
    """Return the same figures at every log size, for the context."""
    sizes = sorted({cell.rounds for cell in result.cells})
    return {str(size): {name: round(value, 5) for name, value in figures_of(result, size).items()} for size in sizes}


def main() -> None:
    """Draw, estimate, count, write."""
    options = arguments(__doc__ or "")
    settings = EstimatorBenchmarkConfig(**(QUICK if options.quick else {}))
    train_ratings = split(load_ratings(ROOT / "ml-100k"), "u1").train
    start = time.perf_counter()
    result = benchmark_estimators(train_ratings, config=settings, seed=SEED)
    seconds = time.perf_counter() - start
    figures = figures_of(result, min(100_000, max(settings.sizes)))
    repetitions = min(cell.repetitions for cell in result.cells if cell.rounds <= 100_000)
    told = context(
        [SEED], data=train_ratings.digest, config=as_dict(settings), seconds=round(seconds, 1), quick=options.quick,
        standard_error_of_a_coverage=round(float(np.sqrt(0.95 * 0.05 / repetitions)), 4),
        by_size=by_size(result), benchmark=result.as_dict(),
    )  # fmt: skip
    for name, value in figures.items():
        print(f"{name:28} {value:9.4f}")
    for name in result.logging_policies:
        print(result.error_table(name).to_string())
        for cell in result.get_cells(name):
            print(f"{name}, {cell.repetitions} logs of {cell.rounds:,} rounds")
            print(result.coverage_table(name, cell.rounds).to_string())
            print(cell.recommend())
    write_results(options.out, figures, told)


if __name__ == "__main__":
    main()
