"""Which estimator of the lift uses a held-out log of uniform weights best, and are its intervals right?

Many small worlds of ads. In each, a policy that personalizes at random is compared with static weights; its true lift
is known. For every estimator: half-width of the 95 % intervals, their coverage, and how often the lower limit lies
above the true lift, which for a policy without a lift is a false pass.

python benchmarks/drl_put/estimators.py --out benchmarks/drl_put/estimators.json
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import arguments, context, write_results

from recpolicy.core.statistics import Interval
from recpolicy.data.tuning_log import TuningFeatures, TuningLog
from recpolicy.evaluation.hit_values import Hits, HitValue, action_hits
from recpolicy.models.ads_world import AdsWorld, AdsWorldConfig
from recpolicy.models.ranking_formula import ActionGrid
from recpolicy.workflows.ads_logs import STATIC, draw_ads_log, draw_held_out

WORLDS, LOGS, REQUESTS, TRUTH = 24, 12, 20_000, 40_000
GRID = ActionGrid(("click", "long_click", "conversion", "reserve"), (0, 0, 1, 2), (0.0,) * 4, (2.0, 2.0, 2.0, 0.8), 4)
ESTIMATORS = (
    "action hits without fallbacks",
    "action hits",
    "doubly robust",
    "slate hits",
    "slate hits with a baseline",
)


def columns(features: TuningFeatures, action: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the products [n, P] of features of requests and of grid points: the value model is linear in them."""
    one_hot = [np.eye(size)[column] for size, column in zip(features.sizes, features.categorical.T, strict=True)]
    request = np.concatenate([*one_hot, features.numeric], axis=1)
    point = GRID.unit(action) - 0.5
    point = np.concatenate([np.ones((len(point), 1)), point, point**2], axis=1)
    return np.asarray((request[:, :, np.newaxis] * point[:, np.newaxis]).reshape(len(request), -1))


def fitted_values(log: TuningLog) -> NDArray[np.float64]:
    """Return the coefficients [P] of the value model."""
    x = columns(log.features, log.action)
    coefficients: NDArray[np.float64] = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ log.reward)
    return coefficients


def doubly_robust(log: TuningLog, action: NDArray[np.integer], coefficients: NDArray[np.float64]) -> HitValue:
    """Return the value by the model at the action served, corrected by the residuals of action hits."""
    residual = replace(log, reward=log.reward - columns(log.features, log.action) @ coefficients)
    model = columns(log.features, action) @ coefficients
    correction = HitValue.of_hits(residual, action_hits(log, action))
    return HitValue(
        float(model.mean()) + correction.value, correction.influence + model - model.mean(), correction.effective_count
    )


def main() -> None:
    """Draw the worlds and write widths, coverage and false passes."""
    asked = arguments(__doc__ or "")
    worlds, logs = (3, 4) if asked.quick else (WORLDS, LOGS)
    started, results = time.perf_counter(), {name: [] for name in ESTIMATORS}  # type: ignore[var-annotated]
    for number in range(worlds):
        rng = np.random.default_rng(number)
        world = AdsWorld(AdsWorldConfig(ads=6, slate_size=2, world_seed=number))
        table, fixed = rng.integers(GRID.size, size=(3, 6, 4)), int(rng.integers(GRID.size))
        requests = world.requests(TRUTH, rng)

        def served(features: TuningFeatures, table: NDArray[np.int64] = table) -> NDArray[np.int64]:
            return np.asarray(table[tuple(features.categorical.T)])

        values = [
            world.expected(requests, world.serve(requests, GRID.weights(action), STATIC)[0]).sum()
            for action in (served(requests.features), np.full(TRUTH, fixed))
        ]
        truth = values[0] / values[1] - 1
        coefficients = fitted_values(draw_ads_log(world, GRID, 20_000, rng))
        for _ in range(logs):
            held_out = draw_held_out(world, GRID, REQUESTS, rng)
            log = held_out.log
            actions = served(log.features), np.full(REQUESTS, fixed)
            every = np.arange(GRID.size)
            baseline = np.mean(
                [columns(log.features, np.full(REQUESTS, point)) @ coefficients for point in every[::6]], axis=0
            )
            slate = [held_out.hits(action) for action in actions]
            hits = [action_hits(log, action) for action in actions]
            kept = [Hits(part.match & ~log.fallback, part.propensity) for part in hits]
            pairs = {
                "action hits without fallbacks": [HitValue.of_hits(log, part) for part in kept],
                "action hits": [HitValue.of_hits(log, part) for part in hits],
                "doubly robust": [doubly_robust(log, action, coefficients) for action in actions],
                "slate hits": [HitValue.of_hits(log, part) for part in slate],
                "slate hits with a baseline": [HitValue.of_hits(log, part, baseline) for part in slate],
            }
            for name, (policy, static) in pairs.items():
                lift: Interval = policy.relative_to(static, log)
                results[name].append(
                    (lift.hi - lift.lo, lift.lo <= truth <= lift.hi, lift.lo > truth, lift.value - truth)
                )
    figures = {}
    for name, rows in results.items():
        width, inside, above, error = np.array(rows, np.float64).T
        print(
            f"{name:32s} half-width {np.median(width) / 2:.3f}  coverage {inside.mean():.3f}  lower limit too high"
            f" {above.mean():.3f}  median error {np.median(error):+.3f}"
        )
        key = name.replace(" ", "_")
        figures |= {
            f"{key}_half_width": float(np.median(width) / 2), f"{key}_coverage": float(inside.mean()),
            f"{key}_lower_limit_too_high": float(above.mean()), f"{key}_median_error": float(np.median(error)),
        }  # fmt: skip
    facts = {"worlds": worlds, "logs": logs, "requests": REQUESTS, "actions": GRID.size}
    write_results(
        asked.out, {**figures, "minutes": (time.perf_counter() - started) / 60}, context(range(worlds), **facts)
    )


if __name__ == "__main__":
    main()
