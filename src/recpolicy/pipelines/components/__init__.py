"""The components: typed inputs and outputs around the functions of recpolicy.pipelines.steps.

The compiled pipeline contains a component's source, so its body imports everything it needs; the image has recpolicy.
Figures become metadata of the artifacts. Metrics artifacts get a file too, because the local runner's cache does not
find an artifact without one.
"""

from recpolicy.pipelines.components.data import fetch_data, find_log, fit_embeddings, ingest_log, simulate_log
from recpolicy.pipelines.components.evaluation import evaluate_policy, gate_policy, report, validate_simulator
from recpolicy.pipelines.components.policies import (
    find_champion,
    find_incumbent,
    predict_batch,
    register_policy,
    train_policy,
)
from recpolicy.pipelines.components.sweeping import compare_policies, plan_sweep, summarize_run

COMPONENTS = (
    fetch_data, find_champion, fit_embeddings, simulate_log, find_incumbent, find_log, ingest_log, train_policy,
    evaluate_policy, validate_simulator, gate_policy, register_policy, predict_batch, report, plan_sweep,
    compare_policies, summarize_run,
)  # fmt: skip
"""All components, in the order of a pipeline."""

__all__ = [
    "COMPONENTS", "compare_policies", "evaluate_policy", "fetch_data", "find_champion", "find_incumbent", "find_log",
    "fit_embeddings",
    "gate_policy", "ingest_log", "plan_sweep", "predict_batch", "register_policy", "report", "simulate_log",
    "summarize_run", "train_policy", "validate_simulator",
]  # fmt: skip
