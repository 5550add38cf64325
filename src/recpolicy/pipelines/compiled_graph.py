"""The graph of a compiled pipeline: its tasks in an order in which they can run, their names and conditions."""

from collections.abc import Mapping
from typing import Any


def read_spec(text: str) -> dict[str, Any]:
    """Return the pipeline of a compiled YAML, without settings for a platform."""
    import yaml

    spec: dict[str, Any] = next(yaml.safe_load_all(text))
    return spec


def get_component(spec: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the component of a task; it has a `dag` if the task is a group of tasks."""
    component: dict[str, Any] = spec["components"][task["componentRef"]["name"]]
    return component


def dependencies(task: Mapping[str, Any]) -> list[str]:
    """Return the tasks that a task waits for."""
    return list(task.get("dependentTasks", []))


def runs_at_the_end(task: Mapping[str, Any]) -> bool:
    """Return True if a task is the exit handler, which runs last, also after a failure."""
    return task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"


def ordered_tasks(spec: Mapping[str, Any], tasks: Mapping[str, Any]) -> list[str]:
    """Return the tasks in topological order, single steps before groups; the YAML has them by name."""
    order: list[str] = []
    while len(order) < len(tasks):
        ready = [key for key in tasks if key not in order and set(dependencies(tasks[key])) <= set(order)]
        order += sorted(ready, key=lambda key: "dag" in get_component(spec, tasks[key]))
    return order


def task_labels(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the display names of all tasks: the key of a condition is only a number."""
    bodies = [spec["root"], *spec["components"].values()]
    tasks = [item for body in bodies for item in body.get("dag", {}).get("tasks", {}).items()]
    return {key: task["taskInfo"]["name"] for key, task in tasks if "name" in task.get("taskInfo", {})}
