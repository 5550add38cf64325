"""Generate the reference pages from the components and the compiled pipelines.

docs/reference/components.md is generated completely. In docs/reference/pipelines.md only the tables are, between
`<!-- steps of NAME -->` or `<!-- parameters of NAME -->` and `<!-- end -->`.

    python -m recpolicy.pipelines.reference docs/reference
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recpolicy.core.files import write_text
from recpolicy.core.optional_deps import require_extra
from recpolicy.pipelines.compile import pipeline_parameters, pipeline_yaml
from recpolicy.pipelines.compiled_graph import dependencies, get_component, ordered_tasks, read_spec, runs_at_the_end

COMPONENTS_PAGE, PIPELINES_PAGE = "components.md", "pipelines.md"
_BLOCK = re.compile(r"(<!-- (steps|parameters) of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_CHANNEL = re.compile(r"inputs\.parameter_values\['pipelinechannel--([\w-]+)'\]")
_AT_THE_END = "always, at the end"
_TYPE_NAMES = {
    "NUMBER_INTEGER": "whole number", "NUMBER_DOUBLE": "number", "STRING": "text", "BOOLEAN": "true or false",
    "STRUCT": "mapping", "LIST": "list",
    "Integer": "whole number", "Float": "number", "String": "text", "Boolean": "true or false", "Dict": "mapping",
    "List": "list", "PipelineTaskFinalStatus": "final status",
}  # fmt: skip
_INTRODUCTION = """\
# Components

Every component wraps one function of `recpolicy.pipelines.steps`; the [pipelines](pipelines.md) connect them. Inputs
and outputs are artifacts: a folder or a file each. Figures are also metadata of the artifacts. This page is generated:

    python -m recpolicy.pipelines.reference docs/reference
"""


@dataclass(frozen=True)
class Port:
    """An input, parameter or output of a component."""

    name: str
    kind: str
    """input, parameter or output."""
    type: str
    default: str
    """The default as JSON; "required" without one; "optional" for an optional artifact; empty for outputs."""
    description: str


def get_ports(component: Any) -> list[Port]:
    """Return the inputs, parameters and outputs of a component, in this order, with the texts of its docstring."""
    spec = component.component_spec
    descriptions = _descriptions(component)
    inputs = [
        Port(
            name, "input" if _is_artifact(item.type) else "parameter", _type(item.type, item.is_artifact_list),
            _default(item), descriptions.get(name, ""),
        )
        for name, item in (spec.inputs or {}).items()
    ]  # fmt: skip
    outputs = [
        Port(name, "output", _type(item.type, item.is_artifact_list), "", descriptions.get(name, ""))
        for name, item in (spec.outputs or {}).items()
    ]
    return sorted(inputs, key=lambda port: port.kind) + outputs  # inputs before parameters, else in order


def components_page() -> str:
    """Return docs/reference/components.md: the inputs and outputs of each component."""
    require_extra("pipelines", "generating the page of components")
    from recpolicy.pipelines.components import COMPONENTS

    ports = {component.python_func.__name__: get_ports(component) for component in COMPONENTS}
    overview = [
        (f"[`{name}`](#{name})", COMPONENTS[number].component_spec.description, _names(own, "input"),
         _names(own, "output"))
        for number, (name, own) in enumerate(ports.items())
    ]  # fmt: skip
    parts = [_INTRODUCTION, _markdown(("component", "description", "inputs", "outputs"), overview)]
    for component, (name, own) in zip(COMPONENTS, ports.items(), strict=True):
        rows = [(f"`{port.name}`", port.kind, port.type, _code(port.default), port.description) for port in own]
        table = _markdown(("name", "kind", "type", "default", "description"), rows)
        parts.append(f"## {name}\n\n{component.component_spec.description}\n\n{table}")
    return "\n".join(parts)


def parameters_table(name: str) -> str:
    """Return the parameters of a pipeline as a Markdown table; raise ConfigError for an unknown name."""
    rows = [
        (
            f"`{item.name}`", _TYPE_NAMES[item.type],
            "required" if item.required else f"`{json.dumps(_plain(item.default))}`", item.description,
        )
        for item in pipeline_parameters(name)
    ]  # fmt: skip
    return _markdown(("parameter", "type", "default", "description"), rows)


def steps_table(name: str) -> pd.DataFrame:
    """Return the steps of a pipeline, one row each: dependencies, condition, resources, retries, caching.

    Raises ConfigError for an unknown pipeline.
    """
    spec = read_spec(pipeline_yaml(name))
    return pd.DataFrame(_steps(spec, spec["root"]["dag"]["tasks"], after="", when="")).set_index("step")


def update_tables(text: str) -> str:
    """Return the page with new tables between its marks."""

    def update(match: re.Match[str]) -> str:
        table = parameters_table(match[3]) if match[2] == "parameters" else _frame_table(steps_table(match[3]))
        return f"{match[1]}{table}{match[4]}"

    return _BLOCK.sub(update, text)


def main(docs: Path) -> None:
    """Write both pages into the folder."""
    write_text(docs / COMPONENTS_PAGE, components_page())
    page = docs / PIPELINES_PAGE
    write_text(page, update_tables(page.read_text(encoding="utf-8")))


def _descriptions(component: Any) -> dict[str, str]:
    """Return the docstring's text on each name; KFP keeps only those of inputs."""
    from docstring_parser import parse  # comes with kfp

    docstring = parse(component.python_func.__doc__ or "")
    texts = {item.arg_name: " ".join((item.description or "").split()) for item in docstring.params}
    if docstring.returns is not None:
        texts["Output"] = " ".join((docstring.returns.description or "").split())
    return texts


def _steps(spec: Mapping[str, Any], tasks: Mapping[str, Any], after: str, when: str) -> Iterator[dict[str, str]]:
    """Yield a row for each task, groups replaced by their tasks; `after` and `when` are those of the group."""
    names = {key: task["taskInfo"]["name"] for key, task in tasks.items()}
    components = {key: get_component(spec, task) for key, task in tasks.items()}
    for key in ordered_tasks(spec, tasks):
        task, component = tasks[key], components[key]
        own = _when(task) or when
        waits = ", ".join(names[other] for other in dependencies(task)) or after
        if "dag" in component:
            yield from _steps(spec, component["dag"]["tasks"], waits, own)
            continue
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]].get("container")
        resources = (container or {}).get("resources", {})
        yield {
            "step": names[key],
            "after": "all others" if own == _AT_THE_END else waits,
            "when": own,
            "cpus": resources.get("resourceCpuLimit", ""),
            "memory": resources.get("resourceMemoryLimit", ""),
            "retries": str(task.get("retryPolicy", {}).get("maxRetryCount", 0)),
            "cached": "" if container is None else _yes(task.get("cachingOptions", {}).get("enableCache")),
        }


def _yes(flag: object) -> str:
    return "yes" if flag else "no"


def _when(task: Mapping[str, Any]) -> str:
    if "parameterIterator" in task:
        return "for each trial"
    if runs_at_the_end(task):
        return _AT_THE_END
    trigger = task.get("triggerPolicy", {})
    return _CHANNEL.sub(r"\1", trigger["condition"]) if "condition" in trigger else ""


def _is_artifact(type: str) -> bool:
    return type.startswith("system.")


def _type(type: str, is_list: bool) -> str:
    name = type.removeprefix("system.").partition("@")[0] if _is_artifact(type) else _TYPE_NAMES[type]
    return f"list of {name}" if is_list else name


def _default(definition: Any) -> str:
    if not definition.optional:
        return "required"
    return "optional" if definition.default is None else json.dumps(definition.default)


def _plain(value: Any) -> Any:
    """Return whole numbers as integers: the YAML may have 0.0 for 0."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _code(default: str) -> str:
    return default if default in ("", "required", "optional") else f"`{default}`"


def _names(ports: Iterable[Port], kind: str) -> str:
    return ", ".join(f"`{port.name}` ({port.type})" for port in ports if port.kind == kind)


def _frame_table(frame: pd.DataFrame) -> str:
    flat = frame.reset_index()
    return _markdown(list(flat.columns), flat.itertuples(index=False))


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
