"""One call per job: train, evaluate, estimate, gate, retrain, report; simulate, import and ingest logs.

from recpolicy.workflows import ingest_log, retrain

A name is imported at its first use, so `import recpolicy.workflows` is quick and does not import TensorFlow.
"""

from typing import TYPE_CHECKING, Any

from recpolicy.core.public_names import load_public_name

if TYPE_CHECKING:
    from recpolicy.workflows.candidate_evaluation import CandidateEvaluation, evaluate_candidate
    from recpolicy.workflows.demo import run_demo
    from recpolicy.workflows.estimator_benchmark import benchmark_estimators
    from recpolicy.workflows.evaluation_files import read_candidate_evaluation, write_candidate_evaluation
    from recpolicy.workflows.evaluation_rounds import read_evaluation_rounds
    from recpolicy.workflows.feature_training import train_feature_policy
    from recpolicy.workflows.gating import gate_candidate, gate_evaluation, get_incumbent, register, write_gate
    from recpolicy.workflows.held_out_evaluation import HeldOutEvaluation, evaluate
    from recpolicy.workflows.imported_logs import ImportReport, import_log
    from recpolicy.workflows.interaction_logs import LogConfig, ingest_log, read_rounds, simulate_log
    from recpolicy.workflows.policy_estimation import estimate
    from recpolicy.workflows.policy_report import write_policy_report
    from recpolicy.workflows.policy_training import TrainConfig, train
    from recpolicy.workflows.reports import write_evaluation_page
    from recpolicy.workflows.retraining import retrain
    from recpolicy.workflows.session_evaluation import SessionEvaluation, evaluate_sessions
    from recpolicy.workflows.session_logs import SessionLogConfig, read_log, simulate_session_log
    from recpolicy.workflows.session_settings import SessionTrainConfig
    from recpolicy.workflows.session_training import train_sessions
    from recpolicy.workflows.simulator_validation import validate_simulator
    from recpolicy.workflows.slate_logs import SlateLogConfig, read_slate_log, simulate_slate_log

__all__ = [
    "CandidateEvaluation",
    "HeldOutEvaluation",
    "ImportReport",
    "LogConfig",
    "SessionEvaluation",
    "SessionLogConfig",
    "SessionTrainConfig",
    "SlateLogConfig",
    "TrainConfig",
    "benchmark_estimators",
    "estimate",
    "evaluate",
    "evaluate_candidate",
    "evaluate_sessions",
    "gate_candidate",
    "gate_evaluation",
    "get_incumbent",
    "import_log",
    "ingest_log",
    "read_candidate_evaluation",
    "read_evaluation_rounds",
    "read_log",
    "read_rounds",
    "read_slate_log",
    "register",
    "retrain",
    "run_demo",
    "simulate_log",
    "simulate_session_log",
    "simulate_slate_log",
    "train",
    "train_feature_policy",
    "train_sessions",
    "validate_simulator",
    "write_candidate_evaluation",
    "write_evaluation_page",
    "write_gate",
    "write_policy_report",
]

_MODULES = {
    "CandidateEvaluation": "candidate_evaluation",
    "HeldOutEvaluation": "held_out_evaluation",
    "ImportReport": "imported_logs",
    "LogConfig": "interaction_logs",
    "SessionEvaluation": "session_evaluation",
    "SessionLogConfig": "session_logs",
    "SessionTrainConfig": "session_settings",
    "SlateLogConfig": "slate_logs",
    "TrainConfig": "policy_training",
    "benchmark_estimators": "estimator_benchmark",
    "estimate": "policy_estimation",
    "evaluate": "held_out_evaluation",
    "evaluate_candidate": "candidate_evaluation",
    "evaluate_sessions": "session_evaluation",
    "gate_candidate": "gating",
    "gate_evaluation": "gating",
    "get_incumbent": "gating",
    "import_log": "imported_logs",
    "ingest_log": "interaction_logs",
    "read_candidate_evaluation": "evaluation_files",
    "read_evaluation_rounds": "evaluation_rounds",
    "read_log": "session_logs",
    "read_rounds": "interaction_logs",
    "read_slate_log": "slate_logs",
    "register": "gating",
    "retrain": "retraining",
    "run_demo": "demo",
    "simulate_log": "interaction_logs",
    "simulate_session_log": "session_logs",
    "simulate_slate_log": "slate_logs",
    "train": "policy_training",
    "train_feature_policy": "feature_training",
    "train_sessions": "session_training",
    "validate_simulator": "simulator_validation",
    "write_candidate_evaluation": "evaluation_files",
    "write_evaluation_page": "reports",
    "write_gate": "gating",
    "write_policy_report": "policy_report",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use.

    Raises:
        AttributeError: There is no such name.
    """
    return load_public_name(globals(), name, {key: f"{__name__}.{module}" for key, module in _MODULES.items()})
