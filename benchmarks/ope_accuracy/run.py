"""How far are off-policy estimates from the truth, and do their intervals hold it?

The report card of the estimators (`recpolicy ope report`) on the 100 most rated items of u1: the world is an SVD, the
policies rank by the Bayesian factorisation machine, which is also the reward model.

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
from recpolicy.ope.benchmark.scores import KINDS, EstimatorCard
from recpolicy.workflows.estimate import QUICK, ReportConfig, report_estimators

SEED = 0
FAMILY = ("dr", "sndr", "switch_dr", "dros", "mrdr")


def figures_of(card: EstimatorCard, size: int) -> dict[str, float]:
    """The figures at one log size; of the DR family the worst estimator on the worse of the two logs."""
    cells = [card.cell(logger, size) for logger in card.loggers]
    figures = {
        f"dr_relative_error_{size:.0e}".replace("e+0", "e"): max(
            cell.scores[name].error for cell in cells for name in FAMILY
        ),
        "dr_rmse_by_gain": max(
            cell.scores[name].rmse / abs(card.truth - card.logged_values[cell.logger])
            for cell in cells
            for name in FAMILY
        ),
    }
    for kind in KINDS:
        figures[f"coverage_{kind}"] = card.coverage(kind, size)
        figures[f"coverage_{kind}_lowest"] = card.coverage(kind, size, lowest=True)
    return figures


def by_size(card: EstimatorCard) -> dict[str, dict[str, float]]:
    """The same figures at every log size, for the context."""
    sizes = sorted({cell.rounds for cell in card.cells})
    return {str(size): {name: round(value, 5) for name, value in figures_of(card, size).items()} for size in sizes}


def main() -> None:
    """Draw, estimate, count, write."""
    options = arguments(__doc__ or "")
    settings = ReportConfig(**(QUICK if options.quick else {}))
    fit = split(load_ratings(ROOT / "ml-100k"), "u1").train
    start = time.perf_counter()
    card = report_estimators(fit, config=settings, seed=SEED)
    seconds = time.perf_counter() - start
    figures = figures_of(card, min(100_000, max(settings.sizes)))
    repetitions = min(cell.repetitions for cell in card.cells if cell.rounds <= 100_000)
    told = context(
        [SEED], data=fit.digest, config=as_dict(settings), seconds=round(seconds, 1), quick=options.quick,
        standard_error_of_a_coverage=round(float(np.sqrt(0.95 * 0.05 / repetitions)), 4),
        by_size=by_size(card), card=card.as_dict(),
    )  # fmt: skip
    for name, value in figures.items():
        print(f"{name:28} {value:9.4f}")
    for logger in card.loggers:
        print(card.error_table(logger).to_string())
        for cell in card.of(logger):
            print(
                f"{logger}, {cell.repetitions} logs of {cell.rounds:,} rounds, {cell.effective_rounds:,.0f} effective"
            )
            print(card.coverage_table(logger, cell.rounds).to_string())
            print(cell.recommend())
    write_results(options.out, figures, told)


if __name__ == "__main__":
    main()
