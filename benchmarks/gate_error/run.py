"""How often does the gate pass a policy that is worse, and how often does it pass one that is better?

    python benchmarks/gate_error/run.py --out benchmarks/gate_error/results.json

Every log goes through the product's own functions: `LogComparison.figures` and `gate`. A cell is a situation and a
number of rounds. It is run in parts of 250 logs, the first part of all cells first. Finished parts are read from the
folder --parts, so the run can be interrupted; `--report` writes the figures of what is there.
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

SIZES = (1_000, 5_000, 400, 2_000, 20_000)
LOGS = {size: 2_000 if size <= 2_000 else 1_000 for size in SIZES}
CHUNK = 250  # logs of a part of a cell
POWER_AT, BETTER = 5_000, 0.1
MAX_FALSE_PASS, MIN_COVERAGE = 0.04, 0.93
WILSON_Z = 2.5758  # 99 %
KEYS = ("situation", "rounds", "true_gain")
Counts = Mapping[str, float]


def judge(log: Log, interval: str) -> tuple[str, float, float, float]:
    """Return the gate's verdict on the log's criteria, and the gain with its limits."""
    feedback = BanditFeedback(log.action, log.reward, log.prob, log.user, log.actions)
    candidate = TargetPolicy.from_table(feedback, log.candidate)
    incumbent = None if log.incumbent is None else TargetPolicy.from_table(feedback, log.incumbent)
    config = OffPolicyConfig(reward_range=(0.0, 1.0))
    comparison = LogComparison(feedback, candidate, incumbent, None, config, log.user)
    figures = comparison.figures("the incumbent")
    config = GateConfig(interval=interval, group_loss=None, min_diversity=None, latency_ms=None)
    result = gate({"policy": {}, "off_policy": figures}, config)
    gain = figures["gain"][interval]
    return result.verdict, gain["value"], gain["lo"], gain["hi"]


def run_part(name: str, size: int, better: bool, part: int, logs: int) -> dict[str, Any]:
    """Return the counts of one part of a cell."""
    situation = SITUATIONS[name]
    gain = BETTER if better else situation.gain
    looks = [round(size * (look + 1) / situation.looks) for look in range(situation.looks)]
    interval = "t" if situation.looks == 1 else "sequence"
    counts = dict.fromkeys(("passed", "verdicts", "covered", "too_high", "too_low"), 0)
    errors, start = [], time.process_time()
    for number in range(part * CHUNK, part * CHUNK + logs):
        rng = np.random.default_rng([list(SITUATIONS).index(name), size, int(better), number])
        log = situation.draw(gain, size, rng)
        judged = [judge(log.first(look), interval) for look in looks]
        sound = [limits for verdict, _, *limits in judged if verdict != "no_verdict"]
        counts["passed"] += any(verdict == "pass" for verdict, *_ in judged)
        counts["verdicts"] += bool(sound)
        counts["covered"] += bool(sound) and all(lo <= gain <= hi for lo, hi in sound)
        counts["too_high"] += any(lo > gain for lo, _ in sound)
        counts["too_low"] += any(hi < gain for _, hi in sound)
        errors.append(judged[-1][1] - gain)
    return {
        "situation": name, "rounds": size, "true_gain": gain, "logs": logs, **counts,
        "error": float(np.sum(errors)), "square_error": float(np.sum(np.square(errors))),
        "cpu_seconds": time.process_time() - start,
    }  # fmt: skip


def merged(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells from their parts."""
    cells: dict[tuple[str, int, float], dict[str, Any]] = {}
    for part in parts:
        key = (part["situation"], part["rounds"], part["true_gain"])
        if key not in cells:
            cells[key] = dict(part)
            continue
        cells[key] |= {name: cells[key][name] + part[name] for name in part if name not in KEYS}
    return sorted(cells.values(), key=lambda cell: (cell["rounds"], list(SITUATIONS).index(cell["situation"])))


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return Wilson's 99 % interval of a rate; 0..1 without data."""
    if total == 0:
        return 0.0, 1.0
    rate, square = hits / total, WILSON_Z**2
    middle = (rate + square / (2 * total)) / (1 + square / total)
    half = WILSON_Z / (1 + square / total) * np.sqrt(rate * (1 - rate) / total + square / (4 * total**2))
    return float(middle - half), float(middle + half)


def summary(cells: list[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of all cells; rates by kind of cell, with their extremes."""
    worse = [cell for cell in cells if cell["true_gain"] <= 0]
    better = [cell for cell in cells if cell["true_gain"] > 0]
    judged = [cell for cell in cells if cell["verdicts"]]
    healthy = [c for c in worse if SITUATIONS[c["situation"]].healthy and c["rounds"] == POWER_AT] + better
    figures = {
        "cells": len(cells), "logs": sum(cell["logs"] for cell in cells),
        "false_pass_failed_cells": sum(wilson(c["passed"], c["logs"])[0] > MAX_FALSE_PASS for c in worse),
        "coverage_failed_cells": sum(wilson(c["covered"], c["verdicts"])[1] < MIN_COVERAGE for c in judged),
    }  # fmt: skip
    rates = {
        "false_pass": [cell["passed"] / cell["logs"] for cell in worse],
        "coverage": [cell["covered"] / cell["verdicts"] for cell in judged if cell["verdicts"] >= 100],
        "verdict_fraction": [cell["verdicts"] / cell["logs"] for cell in healthy],
        "power": [cell["passed"] / cell["logs"] for cell in better],
    }
    for name, values in rates.items():
        if values:
            figures |= {f"{name}_min": min(values), f"{name}_max": max(values), f"{name}_median": np.median(values)}
    if rates["verdict_fraction"]:
        figures["verdict_fraction"] = np.mean(rates["verdict_fraction"])
    return figures


def main() -> None:
    """Run the parts that are not yet there, and write the figures."""
    parser = argparse.ArgumentParser(description="error rates of the gate")
    parser.add_argument("--out", type=Path, required=True, help="where the figures are written, as JSON")
    parser.add_argument("--parts", type=Path, default=Path("/tmp/gate_error"), help="folder of finished parts")
    parser.add_argument("--logs", type=int, help="logs a cell; default 2,000 up to 2,000 rounds, 1,000 above")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rounds of a log")
    parser.add_argument("--situations", nargs="+", default=list(SITUATIONS), help="names of situations")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--report", action="store_true", help="write the figures of the finished parts only")
    options = parser.parse_args()
    options.parts.mkdir(parents=True, exist_ok=True)
    if not options.report:
        run_parts(options)
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.parts.glob("*.json"))]
    cells = merged(parts)
    for cell in cells:
        print(describe(cell))
    figures = summary(cells)
    write_results(options.out, figures, context([0], cells=cells))
    print(figures)


def run_parts(options: argparse.Namespace) -> None:
    """Run the parts that are not yet there, the first part of all cells first."""
    cells = [(name, size, False) for size in options.sizes for name in options.situations]
    if POWER_AT in options.sizes:
        cells += [(name, POWER_AT, True) for name in options.situations if SITUATIONS[name].healthy]
    jobs = {}
    with ProcessPoolExecutor(options.workers) as pool:
        for part in range(max(options.logs or 0, *LOGS.values()) // CHUNK + 1):
            for name, size, better in cells:
                logs = min(CHUNK, (options.logs or LOGS[size]) - part * CHUNK)
                path = options.parts / f"{name}-{size}-{'better' if better else 'worse'}-{part}-{logs}.json"
                if logs > 0 and not path.exists():
                    jobs[path] = pool.submit(run_part, name, size, better, part, logs)
        for path, job in jobs.items():
            write_json(path, job.result())


def describe(cell: Mapping[str, Any]) -> str:
    """Return a cell as a line."""
    cover = cell["covered"] / cell["verdicts"] if cell["verdicts"] else float("nan")
    passed, verdicts = cell["passed"] / cell["logs"], cell["verdicts"] / cell["logs"]
    return (
        f"{cell['situation']:<28}{cell['rounds']:>7}  gain {cell['true_gain']:+.4f}  pass {passed:.4f}"
        f"  verdict {verdicts:.3f}  covers {cover:.4f}  high {cell['too_high']} low {cell['too_low']}"
        f"  error {cell['error'] / cell['logs']:+.4f}  {cell['cpu_seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
