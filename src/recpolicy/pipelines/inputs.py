"""Inputs of a run on this machine: check that they exist, before any step, and compute their digests for the cache."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ConfigError
from recpolicy.core.files import content_digest, file_digest
from recpolicy.data.loaders import check_source
from recpolicy.data.read_options import reading_for
from recpolicy.pipelines.artifact_uris import is_address, log_folder
from recpolicy.pipelines.parameters import data_options
from recpolicy.registry.aliases import STATE
from recpolicy.registry.artifact_kinds import read_manifest
from recpolicy.registry.model_registry import Registry

_INPUTS = ("data", "policy", "incumbent", "log")
"""Parameters that name the inputs of a run."""


def check_inputs(name: str, values: Mapping[str, Any]) -> None:
    """Check all paths of a run; addresses (gs://) are the importer's.

    Args:
        name: Name of the pipeline.
        values: Its parameters, with the defaults.

    Raises:
        DataError: The ratings or the log do not exist, or the ratings lack a column.
        ArtifactError: A policy does not exist, or the registry of a retraining has no champion.
        ConfigError: The registry has a challenger, and `promote` is true.
    """
    if "data" in values:
        options = data_options(values.get("data_settings", {}))
        with reading_for("parameter"):
            check_source(values["data"], options)
    for key in ("policy", "incumbent"):
        path = values.get(key, "").strip()
        if path and not is_address(path):
            read_manifest(Path(path))
    registry = values.get("registry", "").strip()
    if name == "retrain" and not values["incumbent"].strip():
        _champion(registry)
    if values.get("log", "").strip() and not is_address(values["log"]):
        log_folder(values["log"])
    if values.get("promote") and registry and (Path(registry) / STATE).is_file():
        challenger = Registry(registry).routing().challenger
        if challenger is not None:
            raise ConfigError(
                f"promote is true, but version {challenger} of {registry} is the challenger, as during a rollout: end"
                " that first (recpolicy admin rollout stop, or recpolicy registry roll-back), or leave promote out"
            )


def input_paths(name: str, values: Mapping[str, Any]) -> dict[str, Path]:
    """Return the inputs of a run by parameter; for a retraining without an incumbent, the champion.

    Raises what `check_inputs` raises for a registry without a champion.
    """
    paths = {key: Path(values[key]) for key in _INPUTS if values.get(key, "").strip()}
    settings = values.get("data_settings", {})
    paths |= {f"data_settings.{key}": Path(settings[key]) for key in ("users", "items") if settings.get(key)}
    if name == "retrain" and "incumbent" not in paths:
        paths["incumbent"] = _champion(values["registry"])
    return paths


def inputs_digest(paths: Mapping[str, Path]) -> str:
    """Return the digest of all inputs; Kubeflow's runner itself knows an input only by its path."""
    return content_digest({name: _digest(path) for name, path in paths.items()})


def _champion(registry: str) -> Path:
    from recpolicy.workflows.gating import get_incumbent

    return get_incumbent("", registry)


def _digest(path: Path) -> str:
    """Return the digest of a file or of all files of a folder; of the text if neither exists (ml-100k, gs://)."""
    if path.is_file():
        return file_digest(path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    return content_digest(str(path), *((str(file.relative_to(path)), file_digest(file)) for file in files))
