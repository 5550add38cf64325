"""Run a pipeline on this machine with Kubeflow's local runner, without a cluster and without Docker.

    runs/pipelines/
      train-20260105-101500/   pipeline.yaml, parameters.json, events.jsonl, logs/, pages/, run.json
      artifacts/               outputs of the steps, one folder for each run and step
      cache/                   cached outputs, one folder for each state of recpolicy's code and of the inputs

Each step is a process in the current environment. The cache answers a step whose code, parameters and inputs have not
changed. Only finished steps are in the cache, so a run never reuses leftovers of a killed one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import recpolicy
from recpolicy.core.files import content_digest, file_digest, write_json, write_text
from recpolicy.core.optional_deps import require_extra
from recpolicy.pipelines.compile import checked_parameters, pipeline_parameters, pipeline_yaml
from recpolicy.pipelines.inputs import check_inputs, input_paths, inputs_digest
from recpolicy.pipelines.kfp_runner import EVENTS
from recpolicy.pipelines.live_table import LiveTable
from recpolicy.pipelines.runs import LOGS, PAGES, RUN_LOG, PipelineRun, Step

ROOT = Path("runs/pipelines")
REGISTRY = Path("runs/registry")
_POLL_SECONDS = 0.1


def run_pipeline(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    root: Path = ROOT,
    caching: bool = True,
    show: bool | None = None,
) -> PipelineRun:
    """Run the pipeline and return the states and outputs of its steps; run.json in the run's folder has the same.

    A failing step raises nothing: the run has the state `failed`. An interruption stops the steps too.

    Args:
        name: Name of the pipeline.
        parameters: Parameters that differ from their defaults; text is converted.
        root: Folder of runs, artifacts and cache.
        caching: Whether to reuse the outputs of unchanged steps.
        show: Whether to draw a live table on stderr; None draws it on a terminal.

    Raises:
        ConfigError: A parameter is wrong; nothing was started.
        DataError, ArtifactError: An input does not exist; nothing was started.
    """
    require_extra("pipelines", "running a pipeline")
    values = complete_parameters(name, parameters or {})
    root = root.resolve()
    inputs = input_paths(name, {**parameter_defaults(name), **values})
    cache_folder = root / "cache" / content_digest(code_digest(), inputs_digest(inputs))[:16]
    folder = new_run_folder(root, name)
    write_text(folder / "pipeline.yaml", pipeline_yaml(name))
    write_json(folder / "parameters.json", values)
    began = time.time()
    steps: dict[str, Step] = {}
    state, note = "killed", _cache_note(cache_folder, caching)
    try:
        with LiveTable(name, show) as table, _runner(folder, root, cache_folder, caching) as process:
            for event in _events(folder / EVENTS, process):
                if event:
                    _apply(event, steps)
                table.update(list(steps.values()))
        state = {0: "done", 1: "failed"}.get(process.returncode, "killed")
    finally:  # an interrupted run writes run.json too
        for step in steps.values():
            if step.state in ("running", "retrying"):
                step.state, step.seconds = ("failed" if state == "failed" else "killed"), time.time() - step.started
        run = PipelineRun(name, folder, values, state, time.time() - began, tuple(steps.values()), note)
        write_json(folder / "run.json", run.as_dict())
        copy_pages(run)
    return run


def complete_parameters(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked parameters, with the registry of this machine as the default.

    Raises:
        ConfigError: A parameter is wrong.
        DataError, ArtifactError: An input does not exist.
    """
    registry, defaults = {"registry": str(REGISTRY.resolve())}, parameter_defaults(name)
    known = {key: value for key, value in registry.items() if key in defaults}
    complete = checked_parameters(name, {**known, **values})
    check_inputs(name, {**defaults, **complete})
    return complete


def parameter_defaults(name: str) -> dict[str, Any]:
    """Return the defaults of a pipeline's parameters; None for a required one."""
    return {parameter.name: parameter.default for parameter in pipeline_parameters(name)}


def copy_pages(run: PipelineRun) -> None:
    """Copy the steps' pages to files that end in .html, which browsers need; artifacts have no suffix."""
    for step in run.steps:
        for name in ("page", "card"):
            page = Path(step.artifacts.get(name, ""))
            if page.is_file():
                (run.folder / PAGES).mkdir(exist_ok=True)
                shutil.copyfile(page, run.folder / PAGES / f"{step.name}.html")


@cache
def code_digest() -> str:
    """Return the digest of recpolicy's source: the cache must not answer a changed step."""
    package = Path(recpolicy.__file__).parent
    return content_digest(
        *((str(path.relative_to(package)), file_digest(path)) for path in sorted(package.rglob("*.py")))
    )


def _cache_note(folder: Path, caching: bool) -> str:
    if not caching:
        return "caching is off"
    return "" if folder.exists() else "it is the first run with these inputs and this code"


def new_run_folder(root: Path, name: str) -> Path:
    """Create and return a folder for one run, however many start in the same second."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = root / (f"{name}-{stamp}" if number == 1 else f"{name}-{stamp}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("a thousand runs in one second")


@contextmanager
def _runner(folder: Path, root: Path, cache_folder: Path, caching: bool) -> "Iterator[subprocess.Popen[bytes]]":
    """Start the process that runs the pipeline; stop it with all its children when the block ends early."""
    (folder / LOGS).mkdir()
    words = [sys.executable, "-m", "recpolicy.pipelines.kfp_runner", str(folder), str(root / "artifacts")]
    words.append(str(cache_folder))
    environment = {**os.environ, "RECPOLICY_PIPELINE_CACHE": "on" if caching else "off"}
    # Steps call python3, which must be that of this environment, even if it is not activated.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    with (folder / LOGS / RUN_LOG).open("ab") as log:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            yield process
            process.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            if process.stdin is not None:  # the runner ends when this stream closes: close it last
                process.stdin.close()


def _events(path: Path, process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any] | None]:
    """Yield the events of a run, None after a pause, until the process ends."""
    while not path.exists() and process.poll() is None:
        time.sleep(_POLL_SECONDS)
        yield None
    if not path.exists():
        return
    with path.open(encoding="utf-8") as stream:
        ended = False
        while True:
            line = stream.readline()
            if line.endswith("\n"):
                yield json.loads(line)
            elif ended:
                return
            else:
                ended = process.poll() is not None  # then read the last lines once more
                if not ended:
                    time.sleep(_POLL_SECONDS)
                    yield None


def _apply(event: Mapping[str, Any], steps: dict[str, Step]) -> None:
    step = steps.setdefault(event["step"], Step(event["step"], started=event["time"]))
    if event["state"] == "outputs":
        step.artifacts.update(event["artifacts"])
        return
    step.state = event["state"]
    step.log = event.get("log", step.log)
    step.artifacts.update(event.get("artifacts", {}))
    if step.state != "running":
        step.seconds = event["time"] - step.started
