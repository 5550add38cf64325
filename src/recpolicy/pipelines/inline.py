"""Run a pipeline in this process, for a debugger: no Kubeflow runner, no subprocess, no cache.

The compiled graph gives the order, the conditions and the inputs; the components are called as plain functions. Loops
run one item after the other. The exit handler runs last, after a failure too. A failing step raises its own exception.
"""

import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ConfigError
from recpolicy.core.files import write_json, write_text
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.pipelines.artifact_uris import is_address
from recpolicy.pipelines.compile import pipeline_yaml
from recpolicy.pipelines.compiled_graph import dependencies, get_component, ordered_tasks, read_spec, runs_at_the_end
from recpolicy.pipelines.local import ROOT, complete_parameters, copy_pages, new_run_folder, parameter_defaults
from recpolicy.pipelines.runs import PipelineRun, Step

_CONDITION = re.compile(r"inputs\.parameter_values\['([^']+)'\] (==|!=) (?:'([^']*)'|(true|false))")
_FIELD = re.compile(r'parseJson\(string_value\)\["(\w+)"\]')
_NOTE = "an inline run has no cache"


def run_inline(name: str, parameters: Mapping[str, Any] | None = None, *, root: Path = ROOT) -> PipelineRun:
    """Run the steps of a pipeline in this process, in order, and return the run, as `run_pipeline` does.

    Raises:
        ConfigError: A parameter is wrong, or the pipeline has a construct that only Kubeflow can run.
        Exception: The exception of the failed step.
    """
    silence_libraries()
    values = complete_parameters(name, parameters or {})
    root = root.resolve()
    folder = new_run_folder(root, name)
    write_text(folder / "pipeline.yaml", pipeline_yaml(name))
    write_json(folder / "parameters.json", values)
    began, state = time.time(), "failed"
    graph = _InlineGraph(name, root / "artifacts" / folder.name)
    try:
        graph.run({**parameter_defaults(name), **values})
        state = "done"
    finally:
        run = PipelineRun(name, folder, values, state, time.time() - began, tuple(graph.steps), _NOTE)
        write_json(folder / "run.json", run.as_dict())
        copy_pages(run)
    return run


class _InlineGraph:
    """The tasks of a compiled pipeline; it calls their components and keeps a record of each step."""

    def __init__(self, name: str, folder: Path):
        from recpolicy.pipelines.components import COMPONENTS

        self.steps: list[Step] = []
        self._spec = read_spec(pipeline_yaml(name))
        self._functions = {component.python_func.__name__: component.python_func for component in COMPONENTS}
        self._name, self._folder, self._counts = name, folder, Counter[str]()
        self._error: BaseException | None = None

    def run(self, inputs: Mapping[str, Any]) -> None:
        tasks = self._spec["root"]["dag"]["tasks"]
        try:
            self._run_tasks({key: task for key, task in tasks.items() if not runs_at_the_end(task)}, inputs)
        except BaseException as error:
            self._error = error
            raise
        finally:
            for task in filter(runs_at_the_end, tasks.values()):
                self._run_step(task, self._arguments(task, inputs, {}))

    def _run_tasks(self, tasks: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Run the tasks of a group; return the outputs of each task that was not skipped."""
        outputs: dict[str, dict[str, Any]] = {}
        for key in ordered_tasks(self._spec, tasks):
            task, component = tasks[key], get_component(self._spec, tasks[key])
            available = set(dependencies(task)) <= set(outputs)  # else one of them was skipped
            arguments = self._arguments(task, inputs, outputs) if available else {}
            if not available or not _condition_holds(task, arguments):
                self.steps.append(Step(task["taskInfo"]["name"], "skipped"))
            elif "dag" not in component:
                outputs[key] = self._run_step(task, arguments)
            elif "parameterIterator" in task:
                items, item_input = _iterator(task)
                rounds = [self._run_group(component, {**arguments, item_input: item}) for item in arguments[items]]
                outputs[key] = {name: [results[name] for results in rounds] for name in (rounds[0] if rounds else {})}
            else:
                outputs[key] = self._run_group(component, arguments)
        return outputs

    def _run_group(self, component: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run an exit handler, a condition or one round of a loop; return the artifacts that later tasks read."""
        outputs = self._run_tasks(component["dag"]["tasks"], inputs)
        results = {}
        for name, selection in component["dag"].get("outputs", {}).get("artifacts", {}).items():
            if len(selection["artifactSelectors"]) > 1:
                raise _unsupported(f"{name} of one of several branches (OneOf)")
            (selector,) = selection["artifactSelectors"]
            results[name] = outputs[selector["producerSubtask"]][selector["outputArtifactKey"]]
        return results

    def _run_step(self, task: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call the function of a component with its inputs and with new artifacts for its outputs."""
        from kfp import dsl

        component, label = get_component(self._spec, task), task["taskInfo"]["name"]
        self._counts[label] += 1
        number = self._counts[label]  # the steps of a loop share a label
        step = Step(label if number == 1 else f"{label}-{number}", "failed", started=time.time())
        self.steps.append(step)
        folder = self._folder / step.name
        folder.mkdir(parents=True)
        artifacts = {
            name: getattr(dsl, output["artifactType"]["schemaTitle"].removeprefix("system."))(
                name=name, uri=str(folder / name), metadata={}
            )
            for name, output in component.get("outputDefinitions", {}).get("artifacts", {}).items()
        }
        executor, result = self._spec["deploymentSpec"]["executors"][component["executorLabel"]], None
        if "importer" in executor:
            artifacts["artifact"].uri = _local_path(arguments["uri"])
        else:
            words = executor["container"]["args"]
            result = self._functions[words[words.index("--function_to_execute") + 1]](**arguments, **artifacts)
        step.state, step.seconds = "done", time.time() - step.started
        step.artifacts = {name: artifact.uri for name, artifact in artifacts.items()}
        return {**artifacts, "Output": result}

    def _arguments(
        self, task: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the inputs of a task: inputs of its group, outputs of other tasks, constants, the state of the run."""
        definitions = get_component(self._spec, task).get("inputDefinitions", {}).get("parameters", {})
        arguments: dict[str, Any] = {}
        for name, source in task.get("inputs", {}).get("artifacts", {}).items():
            if producer := source.get("taskOutputArtifact"):
                arguments[name] = outputs[producer["producerTask"]][producer["outputArtifactKey"]]
            else:
                arguments[name] = inputs.get(source["componentInputArtifact"])
        for name, source in task.get("inputs", {}).get("parameters", {}).items():
            if producer := source.get("taskOutputParameter"):
                value = outputs[producer["producerTask"]][producer["outputParameterKey"]]
            elif "componentInputParameter" in source:
                value = inputs[source["componentInputParameter"]]
            elif "taskFinalStatus" in source:
                value = self._final_status(source["taskFinalStatus"]["producerTask"])
            else:
                value = source["runtimeValue"]["constant"]
            if selector := source.get("parameterExpressionSelector"):
                field = _FIELD.fullmatch(selector)
                if field is None:
                    raise _unsupported(f"the expression {selector}")
                value = value[field[1]]
            integer = definitions[name]["parameterType"] == "NUMBER_INTEGER"  # the YAML has 200000.0
            arguments[name] = int(value) if integer else value
        return arguments

    def _final_status(self, task: str) -> Any:
        from kfp.dsl import PipelineTaskFinalStatus

        error = self._error
        return PipelineTaskFinalStatus(
            state="FAILED" if error else "SUCCEEDED", pipeline_job_resource_name=self._name, pipeline_task_name=task,
            error_code=1 if error else None, error_message=str(error) if error else None,
        )  # fmt: skip


def _condition_holds(task: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
    condition = task.get("triggerPolicy", {}).get("condition")
    if condition is None:
        return True
    match = _CONDITION.fullmatch(condition)
    if match is None:
        raise _unsupported(f"the condition {condition}")
    name, operator, text, flag = match.groups()
    return (arguments[name] == (text if flag is None else flag == "true")) == (operator == "==")


def _iterator(task: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of a loop's input with all items and of its input for one item."""
    items = task["parameterIterator"]["items"]
    if "inputParameter" not in items:
        raise _unsupported("a loop over constants")
    return items["inputParameter"], task["parameterIterator"]["itemInput"]


def _local_path(uri: str) -> str:
    if is_address(uri):
        raise ConfigError(f"--inline cannot import {uri}; copy it to this machine and give its path")
    return uri


def _unsupported(construct: str) -> ConfigError:
    return ConfigError(f"--inline cannot run {construct}; run the pipeline without --inline")
