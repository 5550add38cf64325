"""Do export, training and evaluation of a large store fit a small machine?

A state folder of 10^6 events with ten items each, out of about 1,480 candidates of 1,682, and 333,000 rewards
(synthetic_store.py). `recpolicy log export` of all of it, and the jobs `retrain` and `evaluate` as a server starts
them.
The peak is that of the resident memory of a process and all its children.

    python benchmarks/store/run.py [--events 100000] [--policy FOLDER] --out results.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, context, write_results

EVENTS, SEED = 1_000_000, 0
_POLL_SECONDS = 0.02
_MIB = 1 << 10
"""Kilobytes of /proc in a MiB."""


@dataclass(frozen=True)
class Run:
    """What a command took."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    """Largest sum of the peaks (VmHWM) of the processes that lived at one time."""
    output: str


def measure(command: list[str], line: str = "") -> Run:
    """Run a command, with a line on its stdin; read the memory of its processes until it ends."""
    start, before = time.perf_counter(), os.times()
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=output)
        assert child.stdin is not None
        child.stdin.write(line.encode())
        child.stdin.flush()
        peak = 0
        while child.poll() is None:
            peak = max(peak, sum(_peak_kib(process) for process in _tree(child.pid)))
            time.sleep(_POLL_SECONDS)
        seconds, after = time.perf_counter() - start, os.times()
        output.seek(0)
        text = output.read().decode()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {child.returncode}\n{text}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(seconds, cpu, peak / _MIB, text)


def _tree(process: int) -> list[int]:
    """Return a process and all that it started."""
    found = [process]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:  # it has ended
                continue
    return found


def _peak_kib(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def job(name: str, state: Path) -> Run:
    """Run a job with the request that a server sends to its process."""
    work = state / "jobs"
    work.mkdir(exist_ok=True)
    request = {
        "database": f"sqlite:///{state / 'server.db'}", "registry": str(state / "registry"), "folder": str(work),
        "settings": {"jobs": {}}, "parameters": {},
    }  # fmt: skip
    run = measure([sys.executable, "-m", "recpolicy.server.jobs.job_process", name], json.dumps(request) + "\n")
    body = json.loads(run.output)
    if "error" in body or body["status"] != "done":
        raise SystemExit(f"{name}: {run.output}")
    return run


def train(folder: Path) -> Path:
    words = ["train", "linucb", "--split", "u1", "--seed", SEED, "--total-timesteps", 6400, "--out", folder]
    subprocess.run(["recpolicy", *map(str, words)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def store(state: Path, policy: Path | None, events: int) -> dict[str, int]:
    """Write the state folder in a process of its own, whose memory is gone afterwards."""
    folder = train(state.with_name("policy")) if policy is None else policy
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path;"
        " from synthetic_store import write_store; import json;"
        f" print(json.dumps(write_store(Path({str(folder)!r}), Path({str(state)!r}), {events})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    sizes: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return sizes


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS, help="fewer than 10^6: to see that it runs")
    parser.add_argument("--policy", type=Path, help="folder of a trained policy; by default, one is trained")
    parser.add_argument("--state", type=Path, help="folder that write_store wrote; by default, one is written")
    parser.add_argument("--out", type=Path, required=True, help="where the figures are written, as JSON")
    options = parser.parse_args()
    load, told, figures = os.getloadavg()[0], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        state = options.state or Path(folder, "state")
        sizes: dict[str, Any] = {} if options.state else store(state, options.policy, options.events)
        log = Path(folder, "log")
        runs = {"export": measure(["recpolicy", "log", "export", str(state), "--out", str(log), "--json"])}
        sizes["log_mib"] = round(sum(path.stat().st_size for path in log.iterdir()) / 2**20)
        sizes["parts"] = len(list(log.glob("events*.parquet")))
        for name in ("evaluate", "retrain"):
            print(name, flush=True)
            runs[name] = job(name, state)
        for name, run in runs.items():
            told[name] = asdict(run) | {"output": json.loads(run.output)}
            figures[f"{name}_1e6_s"], figures[f"{name}_1e6_cpu_s"] = run.seconds, run.cpu_seconds
            figures[f"{name}_1e6_peak_mib"] = run.peak_mib
    if options.events != EVENTS:
        figures = {name.replace("1e6", f"{options.events:.0e}".replace("e+0", "e")): figures[name] for name in figures}
    print(json.dumps(figures, indent=2))
    metadata = context([SEED], events=options.events, sizes=sizes, load_average_at_start=round(load, 2), measured=told)
    write_results(options.out, figures, metadata)


if __name__ == "__main__":
    main()
