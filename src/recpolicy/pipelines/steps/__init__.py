"""The steps of the pipelines as plain functions of paths, without Kubeflow.

A step reads and writes files and returns its figures as plain numbers and text, which the component stores as metadata.
An output folder appears complete or not at all.
"""

from recpolicy.pipelines.steps.data import (
    fetch_data_step,
    find_log_step,
    fit_embeddings_step,
    ingest_log_step,
    simulate_log_step,
)
from recpolicy.pipelines.steps.evaluation import (
    evaluate_policy_step,
    gate_policy_step,
    report_step,
    validate_simulator_step,
)
from recpolicy.pipelines.steps.policies import (
    find_champion_step,
    find_incumbent_step,
    predict_batch_step,
    register_policy_step,
    train_policy_step,
)
from recpolicy.pipelines.steps.sweeping import compare_policies_step, plan_sweep_step
from recpolicy.pipelines.steps.values import write_metrics

__all__ = [
    "compare_policies_step",
    "evaluate_policy_step",
    "fetch_data_step",
    "find_champion_step",
    "find_incumbent_step",
    "find_log_step",
    "fit_embeddings_step",
    "gate_policy_step",
    "ingest_log_step",
    "plan_sweep_step",
    "predict_batch_step",
    "register_policy_step",
    "report_step",
    "simulate_log_step",
    "train_policy_step",
    "validate_simulator_step",
    "write_metrics",
]
