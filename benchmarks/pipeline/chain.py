"""Run the steps of the pipeline `train` without a pipeline, one after the other in one process."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recpolicy.core.tensorflow_setup import silence_libraries


def train_in_one_process(folder: str, parameters: Mapping[str, Any], seed: int) -> float:
    """Return the seconds of all steps of `train`, including imports; `parameters` differ from the defaults."""
    start = time.perf_counter()
    silence_libraries()
    from recpolicy.pipelines import steps
    from recpolicy.pipelines.compile import pipeline_parameters

    values = {parameter.name: parameter.default for parameter in pipeline_parameters("train")} | dict(parameters)
    paths = {
        name: str(Path(folder) / name)
        for name in (
            "ratings", "features", "log", "rounds", "policy", "evaluation", "evaluation", "record", "gate", "report",
            "registered", "registry",
        )
    }  # fmt: skip
    steps.fetch_data_step(paths["ratings"], data=values["data"], split=values["split"], seed=seed)
    steps.fit_embeddings_step(
        paths["ratings"], paths["features"], rating_model=values["rating_model"], rank=int(values["rank"]),
        items=int(values["items"]), settings={}, seed=seed,
    )  # fmt: skip
    steps.simulate_log_step(
        paths["ratings"], paths["features"], paths["log"], world=values["world"],
        logging_policy=values["logging_policy"],
        rounds=int(values["log_rounds"]), settings={}, seed=seed,
    )  # fmt: skip
    steps.ingest_log_step(paths["log"], paths["rounds"], ratings=paths["ratings"], policy=None, settings={})
    steps.train_policy_step(
        paths["policy"], ratings=paths["ratings"], features=paths["features"], rounds=paths["rounds"], incumbent=None,
        agent=values["agent"], learn_from=values["learn_from"], world=values["world"],
        total_timesteps=int(values["total_timesteps"]), epochs=1, settings={}, agent_settings={}, seed=seed,
    )  # fmt: skip
    steps.evaluate_policy_step(
        paths["policy"], paths["evaluation"], paths["evaluation"], ratings=paths["ratings"], rounds=paths["rounds"],
        incumbent=None,
        seed=seed,
    )  # fmt: skip
    steps.report_step(paths["policy"], paths["ratings"], paths["report"], user="", seed=seed)
    verdict = steps.gate_policy_step(paths["evaluation"], paths["record"], paths["gate"], settings={})
    if verdict == "pass":
        steps.register_policy_step(paths["policy"], paths["record"], paths["registered"], registry=paths["registry"])
    return time.perf_counter() - start


def predict_all(policy: str, folder: str, batch: int) -> dict[str, float]:
    """Return seconds and rows of the step predict_batch for all users and items, and the process's peak memory in GiB.

    The process must be fresh. The peak before the policy is loaded comes from imports.
    """
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401

    from recpolicy.inference import batch_predict as _  # noqa: F401
    from recpolicy.pipelines import steps

    imported = peak_gib()
    start = time.perf_counter()
    figures = steps.predict_batch_step(
        policy, str(Path(folder) / "all.parquet"), str(Path(folder) / "all.csv"), users="", items="", batch=batch
    )
    seconds = time.perf_counter() - start
    return {"s": seconds, "rows": figures["rows"], "peak_gib": peak_gib(), "imported_gib": imported}


def peak_gib() -> float:
    """Return the peak resident memory of this process since its start; unlike rusage, without its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20
