"""The process in which Kubeflow's local runner runs a pipeline; started by recpolicy.pipelines.local.

It writes what happens to `events.jsonl` in the run's folder and what every step prints to a file of its own. The
runner tells what happens in log records only, so those are read; its own streams of several steps at once would mix.
When the process that started it goes away, so does this one, with the step it is running.
"""

import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import yaml

from recpolicy.pipelines.kfp_import import import_kfp

EVENTS, LOGS, RUN_LOG = "events.jsonl", "logs", "run.log"
_COLOUR = re.compile(r"\x1b\[\d+m")
_OUTPUT = re.compile(r"^ {4}(\w+): (\w+)\( name=.*?uri='([^']*)'", re.MULTILINE | re.DOTALL)
_RULES = (
    ("running", re.compile(r"^Executing task '([\w-]+)'")),
    ("done", re.compile(r"^Task '([\w-]+)' finished with status SUCCESS")),
    ("failed", re.compile(r"^Task '([\w-]+)' finished with status FAILURE")),
    ("outputs", re.compile(r"^Task '([\w-]+)' outputs:")),
    ("cached", re.compile(r"^Task ([\w-]+) cache hit \(key=(\w+)\)")),
    ("retrying", re.compile(r"^Task ([\w-]+) failed \(attempt")),
    ("skipped", re.compile(r"^Skipping (?:conditional )?task ([\w-]+)")),
)


class Recorder:
    """Turns the runner's records into events, and sends what is printed to the file of the step that prints it."""

    def __init__(self, folder: Path, cache: Path, labels: Mapping[str, str]):
        self._folder, self._cache, self._labels = folder, cache, labels
        self._lock = threading.Lock()
        self._here = threading.local()
        self._count: dict[str, int] = {}
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
        self._events = (folder / EVENTS).open("a", encoding="utf-8")
        self._run_log = (folder / LOGS / RUN_LOG).open("a", encoding="utf-8")

    def read(self, message: str) -> None:
        """Note the event that a record of the runner tells of, if it tells of one."""
        text = _COLOUR.sub("", message)
        for kind, pattern in _RULES:
            match = pattern.match(text)
            if match is None:
                continue
            if kind == "running":
                self._begin(match[1])
            elif kind == "cached":
                self._write("cached", step=self._number(match[1]), artifacts=self._cached(match[2]))
            elif kind == "outputs":
                found = {name: uri for name, _, uri in _OUTPUT.findall(text)}
                self._write("outputs", step=self._here.step, artifacts=found)
            else:
                label = self._labels.get(match[1], match[1])
                self._write(kind, step=label if kind == "skipped" else getattr(self._here, "step", label))
            return

    def write(self, text: str) -> int:
        """Take what is printed, as a text stream does."""
        stream: TextIO = getattr(self._here, "log", self._run_log)
        stream.write(text)
        stream.flush()
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def _begin(self, task: str) -> None:
        step = self._number(task)
        log = self._folder / LOGS / f"{step}.log"
        self._here.step = step
        self._here.log = log.open("a", encoding="utf-8")
        self._write("running", step=step, log=str(log))

    def _number(self, task: str) -> str:
        """The steps of a loop have the same name; the second and further ones get a number."""
        task = self._labels.get(task, task)
        with self._lock:
            self._count[task] = self._count.get(task, 0) + 1
            return task if self._count[task] == 1 else f"{task}-{self._count[task]}"

    def _cached(self, key: str) -> dict[str, str]:
        for entry in self._cache.glob(f"{key}*.json"):
            outputs = json.loads(entry.read_text(encoding="utf-8"))
            return {name: one["uri"] for name, one in outputs.items() if isinstance(one, dict) and "uri" in one}
        return {}

    def _write(self, state: str, **words: Any) -> None:
        with self._lock:
            self._events.write(json.dumps({"time": time.time(), "state": state, **words}) + "\n")
            self._events.flush()


def labels_of(pipeline: Path) -> dict[str, str]:
    """What tasks of a compiled pipeline are called where it says so: a condition has no name of its own."""
    spec = next(yaml.safe_load_all(pipeline.read_text(encoding="utf-8")))
    parts = [spec["root"], *spec["components"].values()]
    tasks = [one for part in parts for one in part.get("dag", {}).get("tasks", {}).items()]
    return {name: task["taskInfo"]["name"] for name, task in tasks if "name" in task.get("taskInfo", {})}


def main() -> int:
    """Run the pipeline of the folder named on the command line; exit code 1 when a step fails."""
    folder, root, cache = (Path(word) for word in sys.argv[1:4])
    threading.Thread(target=_die_with_parent, daemon=True).start()
    recorder = Recorder(folder, cache, labels_of(folder / "pipeline.yaml"))
    sys.stdout = recorder
    make_record = logging.getLogRecordFactory()

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make_record(*args, **kwargs)
        if made.name == "root":
            recorder.read(made.getMessage())
        return made

    logging.setLogRecordFactory(record)
    logging.getLogger().setLevel(logging.INFO)
    import_kfp()
    from kfp import components, local

    local.init(
        runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root),
        enable_caching=os.environ.get("RECPOLICY_PIPELINE_CACHE") != "off", cache_root=str(cache),
    )  # fmt: skip
    pipeline = components.load_component_from_file(str(folder / "pipeline.yaml"))
    parameters = json.loads((folder / "parameters.json").read_text(encoding="utf-8"))
    try:
        pipeline(**parameters)
    except RuntimeError as error:  # the runner's word for a failed step
        print(_COLOUR.sub("", str(error)), file=sys.stderr)
        return 1
    return 0


def _die_with_parent() -> None:
    """The parent holds the other end of stdin, and writes nothing: the end of the stream is the end of the parent."""
    os.read(sys.stdin.fileno(), 1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
