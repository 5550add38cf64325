"""Runs peer.py in its own interpreter, which has PyTorch and Stable-Baselines3 beside recpolicy's packages."""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
VARIABLE = "RECPOLICY_PEER_PYTHON"
BEFORE_TENSORFLOW = {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
"""PyTorch imports TensorFlow (for TensorBoard) before recpolicy can set these."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark take `--peer-python`."""
    parser.add_argument(
        "--peer-python",
        default=os.environ.get(VARIABLE),
        help=f"the peer's Python, else ${VARIABLE}; see README.md",
    )


def measure_peer(python: str | None, settings: Mapping[str, Any], limit_s: float = 1800.0) -> dict[str, Any]:
    """What peer.py measures with `settings` (its Settings, as JSON-able values); the run is a process of its own."""
    if not python:
        raise SystemExit(f"no Python for the peer: give --peer-python or set {VARIABLE}; README.md makes one")
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder, "settings.json"), Path(folder, "result.json")
        asked.write_text(json.dumps(dict(settings)), encoding="utf-8")
        words = [python, str(HERE / "peer.py"), str(asked), str(told)]
        environment = {**os.environ, **BEFORE_TENSORFLOW, "PYTHONPATH": str(SOURCE)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=limit_s, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    return result
