"""The components: typed inputs and outputs around one step each (recpolicy.pipelines.steps).

A component's source travels inside the compiled pipeline, so its body imports what it needs; the image has recpolicy.
Figures are noted as the artifact's metadata and, for metrics, written to the artifact's file too: an artifact without
a file would not be found again in the local runner's cache.
"""

from recpolicy.pipelines.components.data import fetch_data, find_log, fit_embeddings, ingest_log, simulate_log
from recpolicy.pipelines.components.evaluation import evaluate_policy, gate_policy, report, validate_simulator
from recpolicy.pipelines.components.policies import find_incumbent, predict_batch, register_policy, train_policy
from recpolicy.pipelines.components.sweeping import compare_policies, plan_sweep, summarise_run

COMPONENTS = (
    fetch_data, fit_embeddings, simulate_log, find_incumbent, find_log, ingest_log, train_policy, evaluate_policy,
    validate_simulator, gate_policy, register_policy, predict_batch, report, plan_sweep, compare_policies,
    summarise_run,
)  # fmt: skip
"""All components, in the order of the chain."""

__all__ = [
    "COMPONENTS", "compare_policies", "evaluate_policy", "fetch_data", "find_incumbent", "find_log", "fit_embeddings",
    "gate_policy", "ingest_log", "plan_sweep", "predict_batch", "register_policy", "report", "simulate_log",
    "summarise_run", "train_policy", "validate_simulator",
]  # fmt: skip
