"""Reference pages, made from the components and the compiled pipelines themselves.

docs/reference/components.md is written whole. In docs/reference/pipelines.md only the tables are, which stand between
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
import yaml

from recpolicy.core.files import write_text
from recpolicy.core.optional_deps import require_extra
from recpolicy.pipelines.compile import pipeline_parameters, pipeline_yaml

COMPONENTS_PAGE, PIPELINES_PAGE = "components.md", "pipelines.md"
_BLOCK = re.compile(r"(<!-- (steps|parameters) of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_CHANNEL = re.compile(r"inputs\.parameter_values\['pipelinechannel--([\w-]+)'\]")
_AT_THE_END = "always, at the end"
_KINDS = {
    "NUMBER_INTEGER": "whole number", "NUMBER_DOUBLE": "number", "STRING": "text", "BOOLEAN": "true or false",
    "STRUCT": "mapping", "LIST": "list",
    "Integer": "whole number", "Float": "number", "String": "text", "Boolean": "true or false", "Dict": "mapping",
    "List": "list", "PipelineTaskFinalStatus": "final status",
}  # fmt: skip
_INTRODUCTION = """\
# Components

Every component wraps one function of `recpolicy.pipelines.steps`; the pipelines are made of these
([pipelines.md](pipelines.md)). Inputs and outputs are artifacts: a folder or a file each. Figures are also noted as
metadata of the artifacts. This page is made from the components themselves:

    python -m recpolicy.pipelines.reference docs/reference
"""


@dataclass(frozen=True)
class Port:
    """What goes into a component or comes out of it."""

    name: str
    kind: str
    """input, parameter or output."""
    type: str
    default: str
    """As JSON; "needed", or "optional" for an artifact that may be left out; empty for outputs."""
    description: str


def ports_of(component: Any) -> list[Port]:
    """Inputs, parameters and outputs of a component, in this order, with the words of its docstring."""
    spec = component.component_spec
    said = _descriptions(component)
    inputs = [
        Port(
            name, "input" if _is_artifact(one.type) else "parameter", _type(one.type, one.is_artifact_list),
            _default(one), said.get(name, ""),
        )
        for name, one in (spec.inputs or {}).items()
    ]  # fmt: skip
    outputs = [
        Port(name, "output", _type(one.type, one.is_artifact_list), "", said.get(name, ""))
        for name, one in (spec.outputs or {}).items()
    ]
    return sorted(inputs, key=lambda port: port.kind) + outputs  # input before parameter, else as written


def components_page() -> str:
    """docs/reference/components.md: what each component takes and gives."""
    require_extra("pipelines", "the page of components")
    from recpolicy.pipelines.components import COMPONENTS

    ports = {component.python_func.__name__: ports_of(component) for component in COMPONENTS}
    overview = [
        (f"[`{name}`](#{name})", COMPONENTS[number].component_spec.description, _names(own, "input"),
         _names(own, "output"))
        for number, (name, own) in enumerate(ports.items())
    ]  # fmt: skip
    parts = [_INTRODUCTION, _markdown(("component", "what it does", "takes", "gives"), overview)]
    for component, (name, own) in zip(COMPONENTS, ports.items(), strict=True):
        rows = [(f"`{port.name}`", port.kind, port.type, _code(port.default), port.description) for port in own]
        table = _markdown(("name", "kind", "type", "default", "what it is"), rows)
        parts.append(f"## {name}\n\n{component.component_spec.description}\n\n{table}")
    return "\n".join(parts)


def parameters_table(name: str) -> str:
    """The parameters of a pipeline as a Markdown table. Raises ConfigError for an unknown name."""
    rows = [
        (
            f"`{one.name}`", _KINDS[one.kind], "needed" if one.required else f"`{json.dumps(_plain(one.default))}`",
            one.description,
        )
        for one in pipeline_parameters(name)
    ]  # fmt: skip
    return _markdown(("parameter", "type", "default", "what it is"), rows)


def steps_table(name: str) -> pd.DataFrame:
    """The steps of a pipeline, a row each: what they wait for, when they run, what they may take, if they are cached.

    Raises ConfigError for an unknown pipeline.
    """
    spec = next(yaml.safe_load_all(pipeline_yaml(name)))
    return pd.DataFrame(_steps(spec, spec["root"]["dag"]["tasks"], after="", when="")).set_index("step")


def with_tables(text: str) -> str:
    """Return the page with the tables between its marks made anew."""

    def made(match: re.Match[str]) -> str:
        table = parameters_table(match[3]) if match[2] == "parameters" else _of_frame(steps_table(match[3]))
        return f"{match[1]}{table}{match[4]}"

    return _BLOCK.sub(made, text)


def main(docs: Path) -> None:
    """Write both pages into the folder."""
    write_text(docs / COMPONENTS_PAGE, components_page())
    page = docs / PIPELINES_PAGE
    write_text(page, with_tables(page.read_text(encoding="utf-8")))


def _descriptions(component: Any) -> dict[str, str]:
    """What the docstring says of every name; KFP itself keeps the words on inputs only."""
    from docstring_parser import parse  # comes with kfp

    read = parse(component.python_func.__doc__ or "")
    said = {one.arg_name: " ".join((one.description or "").split()) for one in read.params}
    if read.returns is not None:
        said["Output"] = " ".join((read.returns.description or "").split())
    return said


def _steps(spec: Mapping[str, Any], tasks: Mapping[str, Any], after: str, when: str) -> Iterator[dict[str, str]]:
    """Rows of the tasks and, in their place, of what is inside groups of tasks; `after` and `when` are the group's."""
    names = {key: task["taskInfo"]["name"] for key, task in tasks.items()}
    components = {key: spec["components"][task["componentRef"]["name"]] for key, task in tasks.items()}
    for key in _in_order(tasks, groups={key for key, component in components.items() if "dag" in component}):
        task, component = tasks[key], components[key]
        own = _when(task) or when
        waits = ", ".join(names[other] for other in _waits(task)) or after
        if "dag" in component:
            yield from _steps(spec, component["dag"]["tasks"], waits, own)
            continue
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]].get("container")
        asked = (container or {}).get("resources", {})
        yield {
            "step": names[key],
            "after": "all others" if own == _AT_THE_END else waits,
            "when": own,
            "cpus": asked.get("resourceCpuLimit", ""),
            "memory": asked.get("resourceMemoryLimit", ""),
            "retries": str(task.get("retryPolicy", {}).get("maxRetryCount", 0)),
            "cached": "" if container is None else _yes(task.get("cachingOptions", {}).get("enableCache")),
        }


def _in_order(tasks: Mapping[str, Any], groups: set[str]) -> list[str]:
    """Every task behind those it waits for, single steps before groups; the YAML has them by name."""
    done: list[str] = []
    while len(done) < len(tasks):
        ready = [key for key, task in tasks.items() if key not in done and set(_waits(task)) <= set(done)]
        done += sorted(ready, key=lambda key: key in groups)
    return done


def _waits(task: Mapping[str, Any]) -> list[str]:
    return list(task.get("dependentTasks", []))


def _yes(flag: object) -> str:
    return "yes" if flag else "no"


def _when(task: Mapping[str, Any]) -> str:
    if "parameterIterator" in task:
        return "for each trial"
    trigger = task.get("triggerPolicy", {})
    if trigger.get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED":
        return _AT_THE_END
    return _CHANNEL.sub(r"\1", trigger["condition"]) if "condition" in trigger else ""


def _is_artifact(kind: str) -> bool:
    return kind.startswith("system.")


def _type(kind: str, several: bool) -> str:
    name = kind.removeprefix("system.").partition("@")[0] if _is_artifact(kind) else _KINDS[kind]
    return f"list of {name}" if several else name


def _default(given: Any) -> str:
    if not given.optional:
        return "needed"
    return "optional" if given.default is None else json.dumps(given.default)


def _plain(value: Any) -> Any:
    """Whole numbers as such: YAML may hold 0 as 0.0."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _code(default: str) -> str:
    return default if default in ("", "needed", "optional") else f"`{default}`"


def _names(ports: Iterable[Port], kind: str) -> str:
    return ", ".join(f"`{port.name}` ({port.type})" for port in ports if port.kind == kind)


def _of_frame(frame: pd.DataFrame) -> str:
    flat = frame.reset_index()
    return _markdown(list(flat.columns), flat.itertuples(index=False))


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(str(one).replace("|", r"\|") for one in line) + " |\n" for line in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
