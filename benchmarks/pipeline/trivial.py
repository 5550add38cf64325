"""A pipeline whose steps do nothing: what is left is the runner."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

from kfp import compiler, dsl
from kfp.dsl import Dataset, Output

from recpolicy.pipelines.kfp_runner import EVENTS


@dsl.component(base_image="none", install_kfp_package=False)
def nothing(made: Output[Dataset], number: int):
    """Write a file, as a step does."""
    with open(made.path, "w") as stream:  # noqa: PTH123  the body travels alone
        stream.write(str(number))


def seconds_a_step(folder: Path, steps: int) -> list[float]:
    """Run `steps` steps that do nothing, in the process that runs pipelines; seconds from one step's begin to the next.

    Caching is on: asking the cache and noting the result belongs to the runner.
    """

    @dsl.pipeline(name="trivial")
    def pipeline():
        before = None
        for number in range(steps):
            task = nothing(number=number)
            if before is not None:
                task.after(before)
            before = task

    folder.mkdir(parents=True)
    compiler.Compiler().compile(pipeline, str(folder / "pipeline.yaml"))
    (folder / "parameters.json").write_text("{}", encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    words = [
        sys.executable,
        "-m",
        "recpolicy.pipelines.kfp_runner",
        *(str(folder / name) for name in (".", "made", "cache")),
    ]
    with (folder / "runner.log").open("wb") as log:  # the worker lives as long as its stdin is open
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, "PATH": path},
            start_new_session=True,
        )
        if process.wait() != 0:
            raise RuntimeError((folder / "runner.log").read_text(encoding="utf-8"))
    events = [json.loads(line) for line in (folder / EVENTS).read_text(encoding="utf-8").splitlines()]
    begins = [event["time"] for event in events if event["state"] == "running"]
    return [after - before for before, after in itertools.pairwise(begins)]
