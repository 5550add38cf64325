"""Run a pipeline with Kubeflow's local runner, in a process that recpolicy.pipelines.local starts.

It writes events to `events.jsonl` in the run's folder, and the output of each step to its own log file. The runner
reports events only as log records, so this module parses those. When the parent process ends, this one ends too,
together with its running step.
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

from recpolicy.pipelines.compiled_graph import read_spec, task_labels
from recpolicy.pipelines.kfp_import import import_kfp
from recpolicy.pipelines.runs import LOGS, RUN_LOG

EVENTS = "events.jsonl"
_COLOR = re.compile(r"\x1b\[\d+m")
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
    """A text stream that turns the runner's log records into events, and writes the output of each step to its log."""

    def __init__(self, folder: Path, cache: Path, labels: Mapping[str, str]):
        self._folder, self._cache, self._labels = folder, cache, labels
        self._lock = threading.Lock()
        self._thread = threading.local()
        self._count: dict[str, int] = {}
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
        self._events = (folder / EVENTS).open("a", encoding="utf-8")
        self._run_log = (folder / LOGS / RUN_LOG).open("a", encoding="utf-8")

    def read(self, message: str) -> None:
        """Write the event of a log record, if it reports one."""
        text = _COLOR.sub("", message)
        for kind, pattern in _RULES:
            match = pattern.match(text)
            if match is None:
                continue
            if kind == "running":
                self._begin(match[1])
            elif kind == "cached":
                self._write("cached", step=self._number(match[1]), artifacts=self._cached(match[2]))
            elif kind == "outputs":
                artifacts = {name: uri for name, _, uri in _OUTPUT.findall(text)}
                self._write("outputs", step=self._thread.step, artifacts=artifacts)
            else:
                label = self._labels.get(match[1], match[1])
                self._write(kind, step=label if kind == "skipped" else getattr(self._thread, "step", label))
            return

    def write(self, text: str) -> int:
        """Write printed text to the log of the current step."""
        stream: TextIO = getattr(self._thread, "log", self._run_log)
        stream.write(text)
        stream.flush()
        return len(text)

    def flush(self) -> None:
        """Do nothing: every write is flushed."""

    def _begin(self, task: str) -> None:
        step = self._number(task)
        log = self._folder / LOGS / f"{step}.log"
        self._thread.step = step
        self._thread.log = log.open("a", encoding="utf-8")
        self._write("running", step=step, log=str(log))

    def _number(self, task: str) -> str:
        """Return the step's name; the second and later steps of a loop get a number."""
        task = self._labels.get(task, task)
        with self._lock:
            self._count[task] = self._count.get(task, 0) + 1
            return task if self._count[task] == 1 else f"{task}-{self._count[task]}"

    def _cached(self, key: str) -> dict[str, str]:
        for entry in self._cache.glob(f"{key}*.json"):
            outputs = json.loads(entry.read_text(encoding="utf-8"))
            return {name: item["uri"] for name, item in outputs.items() if isinstance(item, dict) and "uri" in item}
        return {}

    def _write(self, state: str, **fields: Any) -> None:
        with self._lock:
            self._events.write(json.dumps({"time": time.time(), "state": state, **fields}) + "\n")
            self._events.flush()


def main() -> int:
    """Run the pipeline of the folder on the command line; return exit code 1 if a step fails."""
    folder, root, cache = (Path(word) for word in sys.argv[1:4])
    threading.Thread(target=_die_with_parent, daemon=True).start()
    recorder = Recorder(folder, cache, task_labels(read_spec((folder / "pipeline.yaml").read_text(encoding="utf-8"))))
    sys.stdout = recorder
    make_record = logging.getLogRecordFactory()

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        log_record = make_record(*args, **kwargs)
        if log_record.name == "root":
            recorder.read(log_record.getMessage())
        return log_record

    logging.setLogRecordFactory(record)
    logging.getLogger().setLevel(logging.INFO)
    import_kfp()
    from kfp import components, local

    local.init(
        runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root),
        enable_caching=os.environ.get("RECPOLICY_PIPELINE_CACHE") != "off", cache_root=str(cache),
    )  # fmt: skip
    pipeline = components.load_component_from_text(without_retries((folder / "pipeline.yaml").read_text("utf-8")))
    parameters = json.loads((folder / "parameters.json").read_text(encoding="utf-8"))
    try:
        pipeline(**parameters)
    except RuntimeError as error:  # the runner raises this for a failed step
        print(_COLOR.sub("", str(error)), file=sys.stderr)
        return 1
    return 0


def without_retries(text: str) -> str:
    """Return the compiled pipeline without retries: here a failed step would only fail again, as faulty data do."""
    spec = read_spec(text)
    for group in (spec["root"], *spec["components"].values()):
        for task in group.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
    return yaml.safe_dump(spec, sort_keys=False)


def _die_with_parent() -> None:
    """Kill this process group when stdin closes: the parent holds the other end and writes nothing."""
    os.read(sys.stdin.fileno(), 1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
