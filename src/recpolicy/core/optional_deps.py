"""Name a missing optional dependency and the command that installs it."""

import importlib.util
import sys

from recpolicy.core.errors import MissingExtraError

# One module that stands for each extra of pyproject.toml.
_WITNESS = {
    "train": "tf_agents",
    "report": "matplotlib",
    "pipelines": "kfp",
    "serve": "fastapi",
    "gymnasium": "gymnasium",
    "vertex": "google.cloud.aiplatform",
    "notebook": "notebook",
}
_MODULES = {
    "train": {
        "absl", "myfm", "numba", "sklearn", "tensorflow", "tensorflow_probability", "tf_agents", "tf_keras",
    },
    "report": {"jinja2", "matplotlib", "scipy"},
    "pipelines": {"kfp", "yaml"},
    "serve": {
        "alembic", "fastapi", "httptools", "httpx", "prometheus_client", "sqlalchemy", "starlette", "uvicorn", "uvloop",
    },
    "postgres": {"psycopg"},
    "gymnasium": {"gymnasium"},
    "vertex": {"google"},
    "notebook": {"IPython", "ipykernel", "notebook"},
}  # fmt: skip
"""Modules that recpolicy imports from the packages of each extra."""


_TRAINING_PYTHON = (3, 11)
_OF_TRAINING_PYTHON = {"absl", "myfm", "tensorflow", "tensorflow_probability", "tf_agents", "tf_keras"}
"""Modules of the extra `train` that newer versions of Python do not get."""


def require_extra(extra: str, purpose: str) -> None:
    """Raise MissingExtraError unless the packages of `extra` are installed; imports nothing."""
    if not _is_there(_WITNESS[extra]):
        raise _missing(extra, purpose, _WITNESS[extra])


def name_missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Return the error that names the extra whose module could not be imported; None for any other module."""
    module = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in _MODULES.items() if module in modules), None)
    return None if extra is None else _missing(extra, f"this (it imports {module})", module)


def _missing(extra: str, purpose: str, module: str) -> MissingExtraError:
    fact = f"{purpose} needs the extra {extra!r}, which is not installed"
    if module in _OF_TRAINING_PYTHON and sys.version_info[:2] > _TRAINING_PYTHON:
        version = ".".join(map(str, sys.version_info[:2]))
        return MissingExtraError(
            f"{fact}. Training needs Python 3.11, because TF-Agents ends there; this is {version}."
        )
    return MissingExtraError(
        f"{fact}. Install it: pip install 'recpolicy[{extra}]' (in a clone: poetry install --extras {extra})."
    )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would lie in
        return False
