"""From a table of ratings to a recommendation policy that can be trusted.

from recpolicy import load_ratings, split, fit_rating_model, train, load_policy

parts = split(load_ratings("ml-100k"), "u1")
policy = train("linucb", parts, "runs/linucb")
policy.predict(196)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recpolicy.core.tensorflow_setup import prepare_environment

if TYPE_CHECKING:
    from recpolicy.api.evaluate import evaluate
    from recpolicy.api.evaluate_sessions import evaluate_sessions
    from recpolicy.api.simulator import validate_simulator
    from recpolicy.api.train import TrainConfig, train
    from recpolicy.api.train_sessions import SessionTrainConfig
    from recpolicy.core.errors import RecpolicyError
    from recpolicy.data.load import load_ratings
    from recpolicy.data.splits import split
    from recpolicy.models.registry import fit_rating_model
    from recpolicy.serving.predictor import Policy, load_policy

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
    "Policy": "recpolicy.serving.predictor",
    "RecpolicyError": "recpolicy.core.errors",
    "SessionTrainConfig": "recpolicy.api.train_sessions",
    "TrainConfig": "recpolicy.api.train",
    "evaluate": "recpolicy.api.evaluate",
    "evaluate_sessions": "recpolicy.api.evaluate_sessions",
    "fit_rating_model": "recpolicy.models.registry",
    "load_policy": "recpolicy.serving.predictor",
    "load_ratings": "recpolicy.data.load",
    "split": "recpolicy.data.splits",
    "train": "recpolicy.api.train",
    "validate_simulator": "recpolicy.api.simulator",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import recpolicy` and `recpolicy --help` answer at once."""
    if name not in _HOME:
        raise AttributeError(f"module 'recpolicy' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
