"""What every benchmark shares: the circumstances of a run, and the file that holds its figures."""

import argparse
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recpolicy.core.files import write_json

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = (
    "recpolicy", "numpy", "pandas", "scipy", "scikit-learn", "scikit-surprise", "myfm", "tensorflow", "tf-keras",
    "tf-agents", "tensorflow-probability", "numba",
)  # fmt: skip


def arguments(purpose: str, parts: Sequence[str] = ()) -> argparse.Namespace:
    """Parse what every run.py takes: `[--quick] --out FILE`; with the names of `parts`, also `--only PART`."""
    parser = argparse.ArgumentParser(description=purpose)
    if parts:
        parser.add_argument("--only", choices=parts, help="run one part; FILE keeps the figures of the others")
    parser.add_argument("--quick", action="store_true", help="a small part, to see that it runs; not for results.json")
    parser.add_argument("--out", type=Path, required=True, help="where the figures are written, as JSON")
    return parser.parse_args()


def context(seeds: Sequence[int], **extra: Any) -> dict[str, Any]:
    """Hardware, versions, seeds, commit and date of this run, and whatever else the benchmark wants told."""
    return {
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "memory_gb": round(_memory_bytes() / 2**30, 1)},
        "load_average_1_min": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **_versions()},
        "seeds": list(seeds),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **extra,
    }


def write_results(
    path: Path,
    figures: Mapping[str, float],
    context: Mapping[str, Any],
    trials: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write `{"figures": ..., "context": ...}` atomically; figures are rounded to six significant digits.

    Args:
        path: The file.
        figures: Numbers by name.
        context: What they were measured with.
        trials: The values of each trial behind a figure, in the order of the seeds, under the key `trials`.
    """
    body: dict[str, Any] = {"figures": {name: _rounded(value) for name, value in figures.items()}, "context": context}
    if trials is not None:
        body["trials"] = {name: [_rounded(value) for value in values] for name, values in trials.items()}
    write_json(path, body)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _versions() -> dict[str, str]:
    installed = {}
    for name in LIBRARIES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _commit() -> str:
    """The commit, with "+" when files differ from it; "none" outside a clone or before the first commit."""
    head = _git("rev-parse", "--verify", "HEAD")
    return head + ("+" if _git("status", "--porcelain") else "") if head else "none"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
