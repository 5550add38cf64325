"""List the files of src/recpolicy that one job executes.

    scripts/trace [train | recommend | estimate] ...

train      recpolicy train linucb --split u1
recommend  one POST /v1/recommend, parsing and storing included
estimate   recpolicy ope estimate POLICY --log ROUNDS

Each job runs twice on a miniature data set and the second run is traced, so imports do not count. Functions that
TensorFlow compiles count when TensorFlow traces them. Three counts:

path  files on the call stack when the work of the job is done: the update of the posterior; the estimate of the ratings
      and the insertion of the event; the terms of an estimator and their resampling
job   files with at least one executed function, without core/ (files, JSON, configs, seeds, progress)
all   the same with core/

Files stand in the order of their first call.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "recpolicy"
MODEL = '[train]\nrating_model = "bias"\nrank = 4\n'


class Trace:
    """A profile function that notes each executed file, and the stack at the first call of each of `leaves`."""

    def __init__(self, leaves: tuple[str, ...]) -> None:
        self.files: dict[str, None] = {}
        self.path: set[str] = set()
        self.on = False
        self.missing = set(leaves)

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Note the file of a called function."""
        if not self.on or event != "call" or (name := file_of(frame)) is None:
            return
        self.files.setdefault(name)
        if frame.f_code.co_name in self.missing:
            self.missing.remove(frame.f_code.co_name)
            self.path.update(_stack(frame))


def file_of(frame: FrameType) -> str | None:
    """Return the file of a frame below the package, None for other code."""
    path = Path(frame.f_code.co_filename)
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else None


def _stack(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        if (name := file_of(frame)) is not None:
            yield name
        frame = frame.f_back


def run_command(*arguments: str) -> None:
    """Run `recpolicy ARGUMENTS` in this process."""
    from recpolicy.cli.main import main

    sys.argv = ["recpolicy", *arguments]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main()


def train(folder: Path, number: int) -> Path:
    """Train LinUCB on the miniature."""
    from tiny_dataset import write_miniature

    data, out = write_miniature(folder / "data"), folder / f"policy-{number}"
    (folder / "train.toml").write_text(MODEL, encoding="utf-8")
    options = ["--data", str(data), "--split", "u1", "--config", str(folder / "train.toml")]
    run_command("train", "linucb", *options, "--out", str(out))
    return out


def prepare_train(folder: Path) -> Callable[[int], Any]:
    """Return the job of `recpolicy train linucb`."""
    return lambda number: train(folder, number)


def prepare_recommend(folder: Path) -> Callable[[int], Any]:
    """Return the job of one request to a server of a small policy."""
    import httpx

    from recpolicy.server import asgi

    os.environ["RECPOLICY_SERVE"] = json.dumps({"source": str(train(folder, 0)), "state": str(folder / "state")})
    with contextlib.redirect_stdout(io.StringIO()):
        app = asgi.app()

    async def ask(user: int) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            answer = await client.post("/v1/recommend", json={"user": user, "k": 3})
            assert answer.status_code == 200, answer.text

    return lambda number: asyncio.run(ask(number + 1))


def prepare_estimate(folder: Path) -> Callable[[int], Any]:
    """Return the job of `recpolicy ope estimate` on a simulated log."""
    policy = train(folder, 0)
    log, rounds = str(folder / "log"), str(folder / "rounds")
    run_command("log", "simulate", "--data", str(folder / "data"), "--split", "u1", "--rounds", "4000", "--out", log)
    run_command("log", "ingest", log, "--policy", str(policy), "--out", rounds)
    return lambda _number: run_command("ope", "estimate", str(policy), "--log", rounds)


JOBS: dict[str, tuple[Callable[[Path], Callable[[int], Any]], tuple[str, ...]]] = {
    "train": (prepare_train, ("recursive_step",)),
    "recommend": (prepare_recommend, ("quadratic", "insert_events")),
    "estimate": (prepare_estimate, ("dr_terms", "resampled_means")),
}
"""Name of each job, its preparation, and the functions in which its work is done."""


def trace(name: str) -> Trace:
    """Run a job twice and return the trace of the second run."""
    prepare, leaves = JOBS[name]
    tracer = Trace(leaves)
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    try:
        with tempfile.TemporaryDirectory() as folder:
            job = prepare(Path(folder))
            job(1)
            os.environ["RECPOLICY_CACHE"] = f"{folder}/cold"
            tracer.on = True
            job(2)
            tracer.on = False
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    if tracer.missing:
        sys.exit(f"{name}: no call of {', '.join(sorted(tracer.missing))}; rename it in JOBS of {__file__}")
    return tracer


def main() -> None:
    """Print the traces of the jobs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", nargs="*", choices=[*JOBS, []], help="train, recommend, estimate; all by default")
    for name in parser.parse_args().job or list(JOBS):
        found = trace(name)
        own = [file for file in found.files if not file.startswith("core/")]
        print(f"{name}: path {len(found.path)}, job {len(own)}, all {len(found.files)} files")
        for file in found.files:
            print(f"  {'path' if file in found.path else 'core' if file.startswith('core/') else '    '}  {file}")


if __name__ == "__main__":
    os.environ["RECPOLICY_CACHE"] = tempfile.mkdtemp()
    sys.path.insert(0, str(ROOT / "tests"))
    main()
