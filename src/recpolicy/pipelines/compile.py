"""Compile pipelines to YAML for Kubeflow, Vertex AI and the local runner; deterministic."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.files import write_text
from recpolicy.core.optional_deps import require_extra
from recpolicy.pipelines.compiled_graph import read_spec
from recpolicy.pipelines.kfp_import import import_kfp
from recpolicy.pipelines.parameters import check_values, convert_value
from recpolicy.pipelines.volumes import Volume, with_volumes


@dataclass(frozen=True)
class Parameter:
    """One parameter of a pipeline."""

    name: str
    type: str
    """KFP's name of the type, such as NUMBER_INTEGER."""
    default: Any
    """None if the parameter is required."""
    required: bool
    description: str


def pipeline_descriptions() -> dict[str, str]:
    """Return the description of each pipeline by name."""
    return {name: definition.description for name, definition in _pipelines().items()}


@cache
def pipeline_yaml(name: str, image: str | None = None, volumes: tuple[Volume, ...] = ()) -> str:
    """Return the compiled pipeline; raise ConfigError for an unknown name.

    Args:
        name: Name of the pipeline.
        image: Image of the steps; None takes the default.
        volumes: Volumes that every step mounts; a second YAML document has them, the first stays the same.
    """
    known = _pipelines()
    if name not in known:
        raise unknown_name_error("pipeline", name, known)
    from kfp import compiler

    from recpolicy.pipelines.definitions import build_pipeline
    from recpolicy.pipelines.image import IMAGE

    pipeline = build_pipeline(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(_with_volumes(pipeline, volumes) if volumes else pipeline, str(path))
        text = path.read_text(encoding="utf-8")
    return text if image is None else text.replace(f"image: {IMAGE}\n", f"image: {image}\n")


def compile_pipeline(name: str, path: Path, image: str | None = None, volumes: tuple[Volume, ...] = ()) -> None:
    """Write the compiled pipeline to `path`, atomically."""
    write_text(path, pipeline_yaml(name, image, volumes))


def pipeline_parameters(name: str) -> list[Parameter]:
    """Return the parameters of a pipeline in the order of its definition; raise ConfigError for an unknown name."""
    spec = read_spec(pipeline_yaml(name))
    definitions = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    order = list(_pipelines()[name].function.__annotations__)
    return [_parameter(key, definitions[key]) for key in order if key in definitions]


def checked_parameters(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with the types of the parameters, after checking them together with the defaults of the rest.

    Text is converted. The result has only the parameters in `values`. Raises ConfigError.
    """
    known = {parameter.name: parameter for parameter in pipeline_parameters(name)}
    for key in values:
        if key not in known:
            raise unknown_name_error(f"parameter of {name}", key, known)
    for key, parameter in known.items():
        if parameter.required and key not in values:
            raise ConfigError(f"{name} needs the parameter {key}: {parameter.description}")
    converted = {key: convert_value(key, value, known[key].type) for key, value in values.items()}
    check_values(converted, {key: item.default for key, item in known.items() if key not in converted})
    return converted


def _with_volumes(pipeline: Any, volumes: tuple[Volume, ...]) -> Any:
    """Return the pipeline, built again: KFP sets the volumes of a step only while it builds the pipeline."""
    from kfp import dsl

    return dsl.pipeline(name=pipeline.name, description=pipeline.description)(
        with_volumes(pipeline.pipeline_func, volumes)
    )


def _parameter(name: str, definition: Mapping[str, Any]) -> Parameter:
    type, default = definition["parameterType"], definition.get("defaultValue")
    if type == "NUMBER_INTEGER" and default is not None:
        default = int(default)  # the YAML has 200000.0
    return Parameter(name, type, default, not definition.get("isOptional", False), definition.get("description", ""))


def _pipelines() -> Mapping[str, Any]:
    require_extra("pipelines", "compiling a pipeline")
    import_kfp()
    from recpolicy.pipelines.definitions import PIPELINES

    return PIPELINES
