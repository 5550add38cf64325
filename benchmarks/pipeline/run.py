"""What does a pipeline cost on this machine: the whole chain, the same again, a step, a batch of predictions, a sweep?

Whole commands, `recpolicy pipeline run ...`, from start to exit, each into a fresh folder unless said otherwise.

    python benchmarks/pipeline/run.py [--quick] --out results.json
"""

import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import chain
from common import ROOT, arguments, context, write_results

COMMAND = Path(sys.executable).with_name("recpolicy")
SEED = 0
RUNS = 1
TRIVIAL_STEPS = 20
QUICK = {"rating_model": "bias", "log_rounds": 2000, "items": 100}
BATCHES = {"predict_batch": 64, "predict_batch_all": 943}
"""Users at once: the default, and all."""
AGENTS = ["linucb", "lints"]
"""Of the sweep, each with two seeds: four trials."""


@dataclass(frozen=True)
class Command:
    """One command that has ended."""

    seconds: float
    cores: float
    """CPU seconds of it and all it started, per second."""
    run: Mapping[str, Any]

    @property
    def work(self) -> float:
        """Seconds from the first step's begin to the last one's end."""
        steps = self.run["steps"]
        return max(step["started"] + step["seconds"] for step in steps) - min(step["started"] for step in steps)


def run_pipeline(name: str, root: Path, cache: Path, parameters: Mapping[str, Any]) -> Command:
    """Run the command; raises RuntimeError where the run is not done."""
    words = [str(COMMAND), "pipeline", "run", name, "--root", str(root), "--json"]
    for key, value in parameters.items():
        words += ["--param", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    before, start = _cpu_of_children(), time.perf_counter()
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "RECPOLICY_CACHE": str(cache)}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
    command = Command(seconds, (_cpu_of_children() - before) / seconds, json.loads(done.stdout))
    states = [step["state"] for step in command.run["steps"]]
    print(f"{name:8} {seconds:7.1f} s, {command.cores:.2f} cores, {states.count('cached')} cached", flush=True)
    return command


def measure_train(folder: Path, parameters: Mapping[str, Any], runs: int) -> dict[str, list[Command]]:
    """`train` with no rating model cached, then with it, and each of those again with nothing changed."""
    taken: dict[str, list[Command]] = {"cold": [], "warm": [], "again": []}
    cache = folder / "cache"
    for number in range(1 + runs):
        root = folder / f"train-{number}"
        given = {**parameters, "registry": str(root / "registry")}
        taken["warm" if number else "cold"].append(run_pipeline("train", root, cache, given))
        if number:
            taken["again"].append(run_pipeline("train", root, cache, given))
    return taken


def measure_sweep(folder: Path, parameters: Mapping[str, Any], runs: int) -> list[Command]:
    """Four trials after `train` in the same root, so that data, features and log come from its cache.

    Every sweep has seeds of its own, and so nothing to take from the one before.
    """
    root = folder / "train-1"
    shared = {**parameters, "agents": AGENTS, "registry": str(root / "sweep-registry")}
    return [
        run_pipeline("sweep", root, folder / "cache", {**shared, "seeds": [2 * number, 2 * number + 1]})
        for number in range(runs)
    ]


def measure_predictions(folder: Path, policy: str, runs: int) -> dict[str, list[dict[str, float]]]:
    """The step alone, in a process of its own, with few and with all users at once."""
    return {
        name: [alone(chain.predict_all, policy, str(folder), batch) for _ in range(runs)]
        for name, batch in BATCHES.items()
    }


def alone(function: Callable[..., Any], *parameters: Any) -> Any:
    """Call the function in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *parameters).result()


def trials_of(command: Command) -> tuple[float, float]:
    """Seconds of the loop of a sweep, from the first trial's begin to the last one's end; and the sum of its steps."""
    steps = [step for step in command.run["steps"] if step["name"].startswith(("train-policy", "evaluate-policy"))]
    window = max(step["started"] + step["seconds"] for step in steps) - min(step["started"] for step in steps)
    return window, sum(step["seconds"] for step in steps)


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Every measurement, one after the other."""
    runs = 1 if quick else RUNS
    parameters = {"seed": SEED, **(QUICK if quick else {})}
    train = measure_train(folder, parameters, runs)
    policy = train["warm"][0].run["steps"]
    artifact = next(step["artifacts"]["policy"] for step in policy if step["name"] == "train-policy")
    os.environ["RECPOLICY_CACHE"] = str(folder / "cache")
    os.chdir(ROOT)
    return {
        **train,
        "one_process": [
            alone(chain.train_in_one_process, str(folder / f"one-{number}"), parameters, SEED) for number in range(runs)
        ],
        "trivial": alone(trivial_steps, str(folder / "trivial")),
        "predictions": measure_predictions(folder, artifact, runs),
        "predict": [
            run_pipeline("predict", folder / f"predict-{number}", folder / "cache", {"policy": artifact})
            for number in range(runs)
        ],
        "sweep": measure_sweep(folder, parameters, runs),
    }


def trivial_steps(folder: str) -> list[float]:
    import trivial  # here, so that kfp is in no other process that is measured

    return trivial.seconds_a_step(Path(folder), TRIVIAL_STEPS)


def figures_of(taken: Mapping[str, Any]) -> dict[str, float]:
    """Medians over the runs; memory is the highest."""
    train = _median([one.seconds for one in taken["warm"]])
    chained = _median(taken["one_process"])
    processes = sum(step["state"] == "done" for step in taken["warm"][0].run["steps"])
    figures = {
        "train_s": train,
        "train_cold_s": taken["cold"][0].seconds,
        "rerun_s": _median([one.seconds for one in taken["again"]]),
        "train_in_one_process_s": chained,
        "step_overhead_s": _median(taken["trivial"]),
        "step_process_s": (train - chained) / processes,
        "start_s": _median([one.seconds - one.work for one in taken["warm"]]),
        "predict_s": _median([one.seconds for one in taken["predict"]]),
        "sweep_s": _median([one.seconds for one in taken["sweep"]]),
        "sweep_cores": _median([one.cores for one in taken["sweep"]]),
        "sweep_side_by_side": _median([sum_of / window for window, sum_of in map(trials_of, taken["sweep"])]),
    }
    for name, measured in taken["predictions"].items():
        figures[f"{name}_s"] = _median([one["s"] for one in measured])
        figures[f"{name}_peak_gib"] = max(one["peak_gib"] for one in measured)
    return figures


def spread_of(taken: Mapping[str, Any]) -> dict[str, Any]:
    """What stands behind the medians."""
    spread: dict[str, Any] = {
        name: {"s": _rounded(one.seconds for one in taken[name]), "cores": _rounded(one.cores for one in taken[name])}
        for name in ("cold", "warm", "again", "predict", "sweep")
    }
    spread["sweep"]["trials_s"] = _rounded(trials_of(one)[0] for one in taken["sweep"])
    spread["one_process_s"] = _rounded(taken["one_process"])
    trivial = taken["trivial"]
    spread["trivial_step_s"] = {"fastest": min(trivial), "slowest": max(trivial), "steps": len(trivial)}
    for name, measured in taken["predictions"].items():
        spread[name] = [{key: round(value, 3) for key, value in one.items()} for one in measured]
    return spread


def main() -> None:
    """Measure, write."""
    from recpolicy.data.loaders import load_ratings  # here: the processes that are measured import this page, too

    options = arguments(__doc__ or "")
    ratings = load_ratings(ROOT / "ml-100k")
    with tempfile.TemporaryDirectory() as temporary:
        taken = measure(Path(temporary), options.quick)
    notes = {one.run["note"] for one in taken["again"]} - {""}
    if notes and not options.quick:
        sys.exit(f"nothing written, for nothing was reused: {', '.join(notes)}")
    figures = figures_of(taken)
    steps = {step["name"]: [step["state"], round(step["seconds"], 2)] for step in taken["warm"][0].run["steps"]}
    told = context(
        [SEED], data={"name": ratings.name, "digest": ratings.digest}, spread=spread_of(taken), steps_of_train=steps,
        steps_again={step["name"]: step["state"] for step in taken["again"][0].run["steps"]},
        sweep_agents=AGENTS, kfp=importlib.metadata.version("kfp"),
        batches=BATCHES, quick=options.quick,
    )  # fmt: skip
    for name, value in figures.items():
        print(f"{name:28} {value:9.3f}")
    write_results(options.out, figures, told)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _median(values: Any) -> float:
    return float(np.median(list(values)))


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 2) for value in values]


if __name__ == "__main__":
    main()
