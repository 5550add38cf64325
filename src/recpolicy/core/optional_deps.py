"""Name a missing optional dependency and the command that installs it."""

import importlib.util

from recpolicy.core.errors import MissingExtraError

# One module that stands for each extra of pyproject.toml.
_WITNESS = {
    "train": "tf_agents",
    "pipelines": "kfp",
    "serve": "fastapi",
    "gymnasium": "gymnasium",
    "vertex": "google.cloud.aiplatform",
    "notebook": "notebook",
}


def require_extra(extra: str, purpose: str) -> None:
    """Raise MissingExtraError unless the packages of `extra` are installed; imports nothing."""
    if not _is_there(_WITNESS[extra]):
        raise MissingExtraError(
            f"{purpose} needs the extra {extra!r}, which is not installed. Install it: pip install 'recpolicy[{extra}]'"
            f" (in a clone: poetry install --extras {extra})."
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would lie in
        return False
