"""From a table of ratings to a recommendation policy that can be trusted.

from recpolicy import load_ratings, split, train

parts = split(load_ratings("ml-100k"), "u1")
policy = train("linucb", parts, "runs/linucb")
policy.predict(196)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recpolicy.core.public_names import load_public_name
from recpolicy.core.tensorflow_setup import prepare_environment

if TYPE_CHECKING:
    from recpolicy.core.errors import RecpolicyError
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.splits import split
    from recpolicy.inference.predictor import Policy, load_policy
    from recpolicy.models.rating_models import fit_rating_model
    from recpolicy.workflows.held_out_evaluation import evaluate
    from recpolicy.workflows.policy_training import TrainConfig, train
    from recpolicy.workflows.session_evaluation import evaluate_sessions
    from recpolicy.workflows.session_settings import SessionTrainConfig
    from recpolicy.workflows.simulator_validation import validate_simulator

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

_MODULES = {
    "Policy": "recpolicy.inference.predictor",
    "RecpolicyError": "recpolicy.core.errors",
    "SessionTrainConfig": "recpolicy.workflows.session_settings",
    "TrainConfig": "recpolicy.workflows.policy_training",
    "evaluate": "recpolicy.workflows.held_out_evaluation",
    "evaluate_sessions": "recpolicy.workflows.session_evaluation",
    "fit_rating_model": "recpolicy.models.rating_models",
    "load_policy": "recpolicy.inference.predictor",
    "load_ratings": "recpolicy.data.loaders",
    "split": "recpolicy.data.splits",
    "train": "recpolicy.workflows.policy_training",
    "validate_simulator": "recpolicy.workflows.simulator_validation",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `import recpolicy` and `recpolicy --help` are quick.

    `__version__` is the version of the installed package.

    Raises:
        AttributeError: There is no such name.
    """
    if name == "__version__":
        return import_module("importlib.metadata").version("recpolicy")
    return load_public_name(globals(), name, _MODULES)
