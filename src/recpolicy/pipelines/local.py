"""Run a pipeline on this machine, without a cluster and without Docker, by Kubeflow's own local runner.

    runs/pipelines/
      train-20260105-101500/   pipeline.yaml, parameters.json, events.jsonl, logs/, pages/, run.json
      artifacts/               what the steps wrote, one folder a run and step
      cache/                   which step gave what, one folder for each state of recpolicy's code and of the inputs

Every step is a process of its own in the current environment. A step whose code, parameters and inputs have not changed
is answered from the cache. What a killed run leaves behind is never taken up: only finished steps are in the cache.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import recpolicy
from recpolicy.core.files import content_digest, file_digest, write_json, write_text
from recpolicy.core.optional_deps import require_extra
from recpolicy.pipelines.compile import checked_parameters, pipeline_parameters, pipeline_yaml
from recpolicy.pipelines.kfp_runner import EVENTS, LOGS, RUN_LOG
from recpolicy.pipelines.live_table import Watcher

ROOT = Path("runs/pipelines")
REGISTRY = Path("runs/registry")
PAGES = "pages"
_POLL = 0.1  # seconds
_PATHS = ("data", "policy", "incumbent", "log")
"""Parameters that name what a run reads."""
_RAISED = re.compile(r"(?:[a-z_]\w*\.)*([A-Z]\w*(?:Error|Exception|Interrupt)\b.*)")


@dataclass
class Step:
    """One step of a run."""

    name: str
    state: str = "running"
    """running, done, cached, failed, skipped, retrying or killed."""
    started: float = 0.0
    seconds: float = 0.0
    log: str = ""
    artifacts: dict[str, str] = field(default_factory=dict)
    """Output name to path."""


@dataclass(frozen=True)
class PipelineRun:
    """A finished run."""

    pipeline: str
    folder: Path
    parameters: Mapping[str, Any]
    state: str
    """done, failed, or killed."""
    seconds: float
    steps: tuple[Step, ...]
    note: str = ""
    """Why no step could be answered from the cache, where that is so."""

    @property
    def failed(self) -> Step | None:
        """The first step that failed."""
        return next((step for step in self.steps if step.state == "failed"), None)

    def artifact(self, step: str, name: str) -> Path:
        """Where a step's output lies; raises KeyError for a step or an output that the run has not."""
        found = next((one for one in self.steps if one.name == step), None)
        if found is None or name not in found.artifacts:
            known = [f"{one.name}/{key}" for one in self.steps for key in one.artifacts]
            raise KeyError(f"{step}/{name}; the run has {', '.join(known)}")
        return Path(found.artifacts[name])

    @property
    def pages(self) -> list[Path]:
        """The pages of the steps, under names that a browser opens."""
        return sorted((self.folder / PAGES).glob("*.html"))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return {**asdict(self), "folder": str(self.folder), "steps": [asdict(step) for step in self.steps]}


def run_pipeline(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    root: Path = ROOT,
    caching: bool = True,
    show: bool | None = None,
) -> PipelineRun:
    """Run the pipeline and return what became of its steps; the run's folder keeps the same as run.json.

    Parameters are checked before anything starts: ConfigError. A failing step is no error here: the run says so. With
    `show`, steps are shown as they go (None: on a terminal as a live table, else silently). Interrupted, the run stops
    with its steps.
    """
    require_extra("pipelines", "running a pipeline")
    given = dict(parameters or {})
    if any(one.name == "registry" for one in pipeline_parameters(name)):
        given.setdefault("registry", str(REGISTRY.resolve()))
    values = checked_parameters(name, given)
    root = root.resolve()
    cached = _cache_folder(root, _paths_read(name, values))
    folder = _new_folder(root, name)
    write_text(folder / "pipeline.yaml", pipeline_yaml(name))
    write_json(folder / "parameters.json", values)
    began = time.time()
    steps: dict[str, Step] = {}
    state, note = "killed", _why_not_cached(cached, caching)
    try:
        with Watcher(name, show) as watcher, _worker(folder, root, cached, caching) as process:
            for event in _events(folder / EVENTS, process):
                if event:
                    _apply(event, steps)
                watcher.update(list(steps.values()))
        state = {0: "done", 1: "failed"}.get(process.returncode, "killed")
    finally:  # an interrupted run says so, too
        for step in steps.values():
            if step.state in ("running", "retrying"):
                step.state, step.seconds = ("failed" if state == "failed" else "killed"), time.time() - step.started
        run = PipelineRun(name, folder, values, state, time.time() - began, tuple(steps.values()), note)
        write_json(folder / "run.json", run.as_dict())
        _copy_pages(run)
    return run


def _copy_pages(run: PipelineRun) -> None:
    """Artifacts have no endings; a browser wants one."""
    for step in run.steps:
        for name in ("page", "card"):
            page = Path(step.artifacts.get(name, ""))
            if page.is_file():
                (run.folder / PAGES).mkdir(exist_ok=True)
                shutil.copyfile(page, run.folder / PAGES / f"{step.name}.html")


def failure_of(run: PipelineRun) -> str:
    """One line: which step failed, why, and where its log lies (the run's own log, where no step did)."""
    step = run.failed
    path = Path(step.log) if step is not None and step.log else run.folder / LOGS / RUN_LOG
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    raised = [match for line in lines if (match := _RAISED.match(line.strip()))]
    reason = f": {raised[-1][1]}" if raised else ""
    return f"{f'step {step.name}' if step else f'run {run.pipeline}'} {run.state}{reason}; its log: {path}"


@cache
def code_digest() -> str:
    """Digest of recpolicy's own source: a changed step must not be answered from the cache."""
    package = Path(recpolicy.__file__).parent
    return content_digest(
        *((str(path.relative_to(package)), file_digest(path)) for path in sorted(package.rglob("*.py")))
    )


def _paths_read(name: str, values: Mapping[str, Any]) -> dict[str, Path]:
    """What the run reads, by parameter. Raises as incumbent_of does where there is none to be found."""
    paths = {one: Path(values[one]) for one in _PATHS if values.get(one, "").strip()}
    if name == "retrain" and "incumbent" not in paths:
        from recpolicy.workflows.registration import incumbent_of

        paths["incumbent"] = incumbent_of("", values["registry"])
    return paths


def _cache_folder(root: Path, read: Mapping[str, Path]) -> Path:
    """The runner knows an input by its path alone, so that what lies there now belongs to the cache's name."""
    inputs = {name: _inputs_digest(path) for name, path in read.items()}
    return root / "cache" / content_digest(code_digest(), inputs)[:16]


def _inputs_digest(path: Path) -> str:
    """Digest of a file, or of all files of a folder; the words themselves where there is nothing (ml-100k, gs://)."""
    if path.is_file():
        return file_digest(path)
    found = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else []
    return content_digest(str(path), *((str(one.relative_to(path)), file_digest(one)) for one in found))


def _why_not_cached(cached: Path, caching: bool) -> str:
    if not caching:
        return "the cache was not asked"
    if cached.exists():
        return ""
    older = cached.parent.exists()
    return "recpolicy's code or the data have changed since: every step runs anew" if older else "the first run here"


def _new_folder(root: Path, name: str) -> Path:
    """A folder of this run alone, however many start in the same second."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = root / (f"{name}-{stamp}" if number == 1 else f"{name}-{stamp}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("a thousand runs in one second")


@contextmanager
def _worker(folder: Path, root: Path, cached: Path, caching: bool) -> "Iterator[subprocess.Popen[bytes]]":
    """The process that runs the pipeline; it and all it started are stopped when the block is left early."""
    (folder / LOGS).mkdir()
    words = [sys.executable, "-m", "recpolicy.pipelines.kfp_runner", str(folder), str(root / "artifacts")]
    words.append(str(cached))
    environment = {**os.environ, "RECPOLICY_PIPELINE_CACHE": "on" if caching else "off"}
    # Steps call python3: it must be the one of this environment, which need not be activated.
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
            if process.stdin is not None:  # the worker ends with this end of the stream: closed last
                process.stdin.close()


def _events(path: Path, process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any] | None]:
    """The events as they come, None where nothing has come for a while; ends with the process."""
    while not path.exists() and process.poll() is None:
        time.sleep(_POLL)
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
                ended = process.poll() is not None  # then whatever was written before is read once more
                if not ended:
                    time.sleep(_POLL)
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
