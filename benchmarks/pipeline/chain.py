"""The work of the pipeline `train` without a pipeline: the same functions, one after the other in one process."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recpolicy.core.tensorflow_setup import silence_libraries


def train_in_one_process(folder: str, parameters: Mapping[str, Any], seed: int) -> float:
    """Seconds of all steps of `train`, imports included; `parameters` are those that are not default."""
    start = time.perf_counter()
    silence_libraries()
    from recpolicy.pipelines import steps
    from recpolicy.pipelines.compile import pipeline_parameters

    given = {one.name: one.default for one in pipeline_parameters("train")} | dict(parameters)
    at = {
        name: str(Path(folder) / name)
        for name in (
            "ratings", "features", "log", "rounds", "policy", "evaluation", "evaluation", "record", "gate", "report",
            "registered", "registry",
        )
    }  # fmt: skip
    steps.fetch_data(at["ratings"], data=given["data"], split=given["split"], seed=seed)
    steps.fit_embeddings(
        at["ratings"], at["features"], rating_model=given["rating_model"], rank=int(given["rank"]),
        items=int(given["items"]), settings={}, seed=seed,
    )  # fmt: skip
    steps.simulate_log(
        at["ratings"], at["features"], at["log"], world=given["world"], logger=given["logging_policy"],
        rounds=int(given["log_rounds"]), settings={}, seed=seed,
    )  # fmt: skip
    steps.ingest_log(at["log"], at["rounds"], ratings=at["ratings"], policy=None, settings={})
    steps.train_policy(
        at["policy"], ratings=at["ratings"], features=at["features"], rounds=at["rounds"], incumbent=None,
        agent=given["agent"], learn_from=given["learn_from"], world=given["world"],
        interactions=int(given["interactions"]), epochs=1, settings={}, agent_settings={}, seed=seed,
    )  # fmt: skip
    steps.evaluate_policy(
        at["policy"], at["evaluation"], at["evaluation"], ratings=at["ratings"], rounds=at["rounds"], incumbent=None,
        seed=seed,
    )  # fmt: skip
    steps.report(at["policy"], at["ratings"], at["report"], user="", seed=seed)
    verdict = steps.gate_policy(at["evaluation"], at["record"], at["gate"], settings={})
    if verdict == "pass":
        steps.register_policy(at["policy"], at["record"], at["registered"], registry=at["registry"])
    return time.perf_counter() - start


def predict_all(policy: str, folder: str, batch: int) -> dict[str, float]:
    """Seconds and rows of `steps.predict_batch` for all users and items, and the peak memory of this process in GiB.

    The process must be a fresh one. The peak before the policy is loaded is what its imports take.
    """
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401

    from recpolicy.inference import batch_predict as _  # noqa: F401
    from recpolicy.pipelines import steps

    imported = peak_gib()
    start = time.perf_counter()
    made = steps.predict_batch(
        policy, str(Path(folder) / "all.parquet"), str(Path(folder) / "all.csv"), users="", items="", batch=batch
    )
    seconds = time.perf_counter() - start
    return {"s": seconds, "rows": made["rows"], "peak_gib": peak_gib(), "imported_gib": imported}


def peak_gib() -> float:
    """Peak resident memory of this process since it was started; unlike rusage, without that of the one before."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20
