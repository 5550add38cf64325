"""How often does the gate pass a policy that is worse, and how often does it pass one that is better?

    python benchmarks/gate_error/run.py --out benchmarks/gate_error/results.json

Every log goes through the product's own functions: `LogComparison.figures` and `gate`. A cell is a situation and a
number of rounds; finished cells are read from the folder of --cells, so the run can be interrupted.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from situations import SITUATIONS, Log

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import context, write_results

from recpolicy.core.files import write_json
from recpolicy.evaluation.gate import GateConfig, gate
from recpolicy.ope import BanditFeedback, OffPolicyConfig, TargetPolicy
from recpolicy.workflows.log_evaluation import LogComparison

SIZES = (400, 1_000, 2_000, 5_000, 20_000)
LOGS = {size: 2_000 if size <= 2_000 else 1_000 for size in SIZES}
POWER_AT, BETTER = 5_000, 0.1
MAX_FALSE_PASS, MIN_COVERAGE = 0.04, 0.93
WILSON_Z = 2.5758  # 99 %
Counts = Mapping[str, float]


def judge(log: Log, interval: str) -> tuple[str, float, float, float]:
    """Return the gate's verdict on the log's criteria, and the gain with its limits."""
    feedback = BanditFeedback(log.action, log.reward, log.prob, log.user, log.actions)
    candidate = TargetPolicy.from_table(feedback, log.candidate)
    incumbent = None if log.incumbent is None else TargetPolicy.from_table(feedback, log.incumbent)
    comparison = LogComparison(feedback, candidate, incumbent, None, OffPolicyConfig(reward_range=(0.0, 1.0)))
    figures = comparison.figures("the incumbent")
    config = GateConfig(interval=interval, group_loss=None, min_diversity=None, latency_ms=None)
    result = gate({"policy": {}, "off_policy": figures}, config)
    gain = figures["gain"][interval]
    return result.verdict, gain["value"], gain["lo"], gain["hi"]


def run_cell(name: str, size: int, better: bool, logs: int) -> dict[str, Any]:
    """Return the counts of one cell."""
    situation = SITUATIONS[name]
    gain = BETTER if better else situation.gain
    looks = [round(size * (look + 1) / situation.looks) for look in range(situation.looks)]
    interval = "t" if situation.looks == 1 else "sequence"
    passed = verdicts = covered = above = below = 0
    errors = []
    start = time.perf_counter()
    for number in range(logs):
        rng = np.random.default_rng([list(SITUATIONS).index(name), size, int(better), number])
        log = situation.draw(gain, size, rng)
        found = [judge(log.first(look), interval) for look in looks]
        passed += any(verdict == "pass" for verdict, *_ in found)
        sound = [one for one in found if one[0] != "no_verdict"]
        verdicts += bool(sound)
        covered += bool(sound) and all(lo <= gain <= hi for _, _, lo, hi in sound)
        above += any(lo > gain for _, _, lo, _ in sound)
        below += any(hi < gain for *_, hi in sound)
        errors.append(found[-1][1] - gain)
    return {
        "situation": name, "rounds": size, "true_gain": gain, "logs": logs, "passed": passed, "verdicts": verdicts,
        "covered": covered, "too_high": above, "too_low": below, "mean_error": float(np.mean(errors)),
        "error_std": float(np.std(errors)), "seconds": time.perf_counter() - start,
    }  # fmt: skip


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return Wilson's 99 % interval of a rate; 0..1 without data."""
    if total == 0:
        return 0.0, 1.0
    rate, square = hits / total, WILSON_Z**2
    middle = (rate + square / (2 * total)) / (1 + square / total)
    half = WILSON_Z / (1 + square / total) * np.sqrt(rate * (1 - rate) / total + square / (4 * total**2))
    return float(middle - half), float(middle + half)


def summary(cells: list[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of all cells."""
    worse = [cell for cell in cells if cell["true_gain"] <= 0]
    better = [cell for cell in cells if cell["true_gain"] > 0]
    judged = [cell for cell in cells if cell["verdicts"]]
    healthy = [c for c in worse if SITUATIONS[c["situation"]].healthy and c["rounds"] == POWER_AT] + better
    false_pass = [cell["passed"] / cell["logs"] for cell in worse]
    coverage = [cell["covered"] / cell["verdicts"] for cell in judged if cell["verdicts"] >= 100]
    verdict = [cell["verdicts"] / cell["logs"] for cell in healthy]
    power = [cell["passed"] / cell["logs"] for cell in better]
    return {
        "false_pass_failed_cells": sum(wilson(c["passed"], c["logs"])[0] > MAX_FALSE_PASS for c in worse),
        "false_pass_max": max(false_pass), "cells": len(cells),
        "coverage_failed_cells": sum(wilson(c["covered"], c["verdicts"])[1] < MIN_COVERAGE for c in judged),
        "coverage_min": min(coverage), "coverage_max": max(coverage),
        "verdict_fraction": float(np.mean(verdict)), "verdict_fraction_min": min(verdict),
        "power_median": float(np.median(power)), "power_min": min(power), "power_max": max(power),
    }  # fmt: skip


def main() -> None:
    """Run all cells that are not yet there, and write the figures."""
    parser = argparse.ArgumentParser(description="error rates of the gate")
    parser.add_argument("--out", type=Path, required=True, help="where the figures are written, as JSON")
    parser.add_argument("--cells", type=Path, default=Path("/tmp/gate_error"), help="folder of finished cells")
    parser.add_argument("--logs", type=int, help="logs a cell; default 2,000 up to 2,000 rounds, 1,000 above")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rounds of a log")
    parser.add_argument("--situations", nargs="+", default=list(SITUATIONS), help="names of situations")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args()
    options.cells.mkdir(parents=True, exist_ok=True)
    jobs = [(name, size, False) for size in options.sizes for name in options.situations]
    if POWER_AT in options.sizes:
        jobs += [(name, POWER_AT, True) for name in options.situations if SITUATIONS[name].healthy]
    cells, pending = [], {}
    with ProcessPoolExecutor(options.workers) as pool:
        for name, size, better in jobs:
            logs = options.logs or LOGS[size]
            path = options.cells / f"{name}-{size}-{'better' if better else 'worse'}-{logs}.json"
            if path.exists():
                cells.append(json.loads(path.read_text(encoding="utf-8")))
            else:
                pending[path] = pool.submit(run_cell, name, size, better, logs)
        for path, job in pending.items():
            cells.append(job.result())
            write_json(path, cells[-1])
            print(describe(cells[-1]), flush=True)
    figures = summary(cells)
    write_results(options.out, figures, context([0], cells=cells))
    print(figures)


def describe(cell: Mapping[str, Any]) -> str:
    """Return a cell as a line."""
    cover = cell["covered"] / cell["verdicts"] if cell["verdicts"] else float("nan")
    passed, verdicts = cell["passed"] / cell["logs"], cell["verdicts"] / cell["logs"]
    return (
        f"{cell['situation']:<28}{cell['rounds']:>7}  gain {cell['true_gain']:+.4f}  pass {passed:.4f}"
        f"  verdict {verdicts:.3f}  covers {cover:.4f}  high {cell['too_high']} low {cell['too_low']}"
        f"  error {cell['mean_error']:+.4f} ± {cell['error_std']:.4f}  {cell['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
