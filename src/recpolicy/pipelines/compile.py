"""Pipelines as YAML: what Kubeflow and Vertex take, and what the local runner runs. Deterministic."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.files import write_text
from recpolicy.core.optional_deps import require_extra
from recpolicy.pipelines.kfp_import import import_kfp
from recpolicy.pipelines.parameters import check_values, typed
from recpolicy.pipelines.volumes import Volume, mounting


@dataclass(frozen=True)
class Parameter:
    """One parameter of a pipeline."""

    name: str
    kind: str
    """KFP's name of the type, such as NUMBER_INTEGER."""
    default: Any
    """None where it has none and must be given."""
    required: bool
    description: str


def pipeline_names() -> dict[str, str]:
    """What pipelines there are: name and description."""
    return {name: graph.description for name, graph in _pipelines().items()}


@cache
def pipeline_yaml(name: str, image: str | None = None, volumes: tuple[Volume, ...] = ()) -> str:
    """The compiled pipeline; `image` in place of the default one. Raises ConfigError for an unknown name.

    With `volumes`, which every step mounts, a second document tells Kubernetes of them; the first stays what it is.
    """
    known = _pipelines()
    if name not in known:
        raise unknown_name_error("pipeline", name, known)
    from kfp import compiler

    from recpolicy.pipelines.definitions import build
    from recpolicy.pipelines.image import IMAGE

    built = build(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(_with_volumes(built, volumes) if volumes else built, str(path))
        text = path.read_text(encoding="utf-8")
    return text if image is None else text.replace(f"image: {IMAGE}\n", f"image: {image}\n")


def compile_pipeline(name: str, path: Path, image: str | None = None, volumes: tuple[Volume, ...] = ()) -> None:
    """Write the compiled pipeline to `path`, atomically."""
    write_text(path, pipeline_yaml(name, image, volumes))


def pipeline_parameters(name: str) -> list[Parameter]:
    """The parameters of a pipeline, in its own order. Raises ConfigError for an unknown name."""
    spec = next(yaml.safe_load_all(pipeline_yaml(name)))
    given = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    order = list(_pipelines()[name].function.__annotations__)
    return [_parameter(key, given[key]) for key in order if key in given]


def checked_parameters(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given parameters as typed values, checked with the defaults of the rest; raises ConfigError.

    Text is read as the parameter's type. Only what was given is returned: the pipeline has the defaults.
    """
    known = {parameter.name: parameter for parameter in pipeline_parameters(name)}
    for key in given:
        if key not in known:
            raise unknown_name_error(f"parameter of {name}", key, known)
    values = {key: typed(key, value, known[key].kind) for key, value in given.items()}
    defaults = {key: one.default for key, one in known.items() if not one.required and key not in values}
    missing = [key for key, one in known.items() if one.required and key not in values]
    if missing:
        raise ConfigError(f"{name} needs the parameter {missing[0]}: {known[missing[0]].description}")
    check_values(values, defaults)
    return values


def _with_volumes(built: Any, volumes: tuple[Volume, ...]) -> Any:
    """The same pipeline, made anew: what a step mounts can be told only while the pipeline is being built."""
    from kfp import dsl

    return dsl.pipeline(name=built.name, description=built.description)(mounting(built.pipeline_func, volumes))


def _parameter(name: str, described: Mapping[str, Any]) -> Parameter:
    kind, default = described["parameterType"], described.get("defaultValue")
    if kind == "NUMBER_INTEGER" and default is not None:
        default = int(default)  # YAML has 200000.0
    required = not described.get("isOptional", False)
    return Parameter(name, kind, default, required, described.get("description", ""))


def _pipelines() -> Mapping[str, Any]:
    require_extra("pipelines", "compiling a pipeline")
    import_kfp()
    from recpolicy.pipelines.definitions import PIPELINES

    return PIPELINES
