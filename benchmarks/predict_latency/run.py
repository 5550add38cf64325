"""How long does one wait for predictions, for help, and for the demo?

Warm: `Policy.predict(user)`, all items, in a process that has loaded the policy. Cold: whole commands, each in a fresh
process, as a user starts them. The policy is LinUCB on u1; how well it was trained does not change its speed.

    python benchmarks/predict_latency/run.py [--quick] --out results.json
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, arguments, context, write_results

COMMAND = Path(sys.executable).with_name("recpolicy")
SEED = 0
COLD_RUNS = 5
WARM_UP = 50
HEAVY = ("tensorflow", "tf_agents", "scipy", "sklearn", "matplotlib")
"""What a process that only predicts should never import."""


def train_policy(folder: Path) -> None:
    """A LinUCB policy of all 1,682 items, by the command line, with a few interactions."""
    words = ("train", "linucb", "--split", "u1", "--seed", str(SEED), "--total-timesteps", "6400", "--out", str(folder))
    run_command(*words)


def warm(folder: str, calls: int) -> dict[str, Any]:
    """Milliseconds of each `predict` of one user, users in turn, and the heavy modules imported by then."""
    from recpolicy import load_policy

    policy = load_policy(folder)
    users = policy.artifact.users["user_id"].tolist()
    took = []
    for number in range(WARM_UP + calls):
        user = users[number % len(users)]
        start = time.perf_counter()
        frame = policy.predict(user)
        took.append(1e3 * (time.perf_counter() - start))
    return {
        "ms": took[WARM_UP:],
        "rows": len(frame),
        "heavy_modules": [name for name in HEAVY if name in sys.modules],
    }


def run_command(*words: str, environment: Mapping[str, str] | None = None) -> float:
    """Seconds that `recpolicy ...` takes, from start to exit."""
    start = time.perf_counter()
    subprocess.run(
        [str(COMMAND), *words], cwd=ROOT, env={**os.environ, **(environment or {})}, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - start


def demo(folder: Path, quick: bool) -> float:
    """Seconds of the whole demo: data present, but no rating model cached."""
    words = ("demo", "--out", str(folder / "demo"), *(("--total-timesteps", "6400") if quick else ()))
    return run_command(*words, environment={"RECPOLICY_CACHE": str(folder / "cache")})


def main() -> None:
    """Measure, write."""
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        policy = folder / "policy"
        train_policy(policy)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            warmed = pool.submit(warm, str(policy), 500 if options.quick else 5000).result()
        runs = 2 if options.quick else COLD_RUNS
        cold = {
            "predict_cold_s": [run_command("predict", str(policy), "--user", "196") for _ in range(runs)],
            "predict_json_cold_s": [
                run_command("predict", str(policy), "--user", "196", "--json") for _ in range(runs)
            ],
            "help_s": [run_command("--help") for _ in range(runs)],
        }
        figures = {name: float(np.median(seconds)) for name, seconds in cold.items()}
        figures["demo_s"] = demo(folder, options.quick)
    for share in (50, 95, 99):
        figures[f"predict_p{share}_ms"] = float(np.percentile(warmed["ms"], share))
    spread = {name: [round(one, 3) for one in seconds] for name, seconds in cold.items()}
    spread["predict_ms"] = {
        "fastest": round(min(warmed["ms"]), 4), "slowest": round(max(warmed["ms"]), 4), "calls": len(warmed["ms"])
    }  # fmt: skip
    told = context(
        [SEED], spread=spread, rows_of_one_prediction=warmed["rows"],
        heavy_modules_imported=warmed["heavy_modules"], quick=options.quick,
    )  # fmt: skip
    for name, value in figures.items():
        print(f"{name:22} {value:9.3f}")
    write_results(options.out, figures, told)


if __name__ == "__main__":
    main()
