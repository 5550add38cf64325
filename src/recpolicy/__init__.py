"""From a table of ratings to a recommendation policy that can be trusted.

from recpolicy import load_ratings, split, train

parts = split(load_ratings("ml-100k"), "u1")
policy = train("linucb", parts, "runs/linucb")
policy.predict(196)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recpolicy.core.tensorflow_setup import prepare_environment

if TYPE_CHECKING:
    from recpolicy.core.errors import RecpolicyError
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.splits import split
    from recpolicy.inference.predictor import Policy, load_policy
    from recpolicy.models.rating_models import fit_rating_model
    from recpolicy.workflows.evaluate import evaluate
    from recpolicy.workflows.evaluate_sessions import evaluate_sessions
    from recpolicy.workflows.train import TrainConfig, train
    from recpolicy.workflows.train_sessions import SessionTrainConfig
    from recpolicy.workflows.validate_simulator import validate_simulator

prepare_environment()

__all__ = [
    "Policy",
    "RecpolicyError",
    "SessionTrainConfig",
    "TrainConfig",
    "evaluate",
    "evaluate_sessions",
    "fit_rating_model",
    "load_policy",
    "load_ratings",
    "split",
    "train",
    "validate_simulator",
]

_HOME = {
    "Policy": "recpolicy.inference.predictor",
    "RecpolicyError": "recpolicy.core.errors",
    "SessionTrainConfig": "recpolicy.workflows.train_sessions",
    "TrainConfig": "recpolicy.workflows.train",
    "evaluate": "recpolicy.workflows.evaluate",
    "evaluate_sessions": "recpolicy.workflows.evaluate_sessions",
    "fit_rating_model": "recpolicy.models.rating_models",
    "load_policy": "recpolicy.inference.predictor",
    "load_ratings": "recpolicy.data.loaders",
    "split": "recpolicy.data.splits",
    "train": "recpolicy.workflows.train",
    "validate_simulator": "recpolicy.workflows.validate_simulator",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import recpolicy` and `recpolicy --help` answer at once."""
    if name not in _HOME:
        raise AttributeError(f"module 'recpolicy' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
