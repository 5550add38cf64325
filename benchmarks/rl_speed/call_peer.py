"""Runs each measurement in a process of its own: ours, that of Stable-Baselines3 and that of rejax."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
VARIABLE = "RECPOLICY_PEER_PYTHON"
JAX_VARIABLE = "RECPOLICY_JAX_PYTHON"
BEFORE_TENSORFLOW = {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
"""PyTorch imports TensorFlow (for TensorBoard) before recpolicy can set these."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark take `--peer-python`."""
    parser.add_argument(
        "--peer-python",
        default=os.environ.get(VARIABLE),
        help=f"the peer's Python, else ${VARIABLE}; see README.md",
    )


def add_jax_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark take `--jax-python`."""
    parser.add_argument(
        "--jax-python",
        default=os.environ.get(JAX_VARIABLE),
        help=f"the JAX peer's Python, else ${JAX_VARIABLE}; see README.md",
    )


def measure_peer(python: str | None, settings: Mapping[str, Any], limit_s: float = 1800.0) -> dict[str, Any]:
    """What peer.py measures with `settings` (its Settings, as JSON-able values); the run is a process of its own."""
    if not python:
        raise SystemExit(f"no Python for the peer: give --peer-python or set {VARIABLE}; README.md makes one")
    environment = {**os.environ, **BEFORE_TENSORFLOW, "PYTHONPATH": str(SOURCE)}
    return _measure([python, str(HERE / "peer.py")], settings, environment, limit_s)


def measure_jax(python: str | None, settings: Mapping[str, Any], limit_s: float = 900.0) -> dict[str, Any]:
    """What jax_peer.py measures with `settings`."""
    if not python:
        raise SystemExit(f"no Python for the JAX peer: give --jax-python or set {JAX_VARIABLE}; README.md makes one")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return _measure([python, str(HERE / "jax_peer.py")], settings, environment, limit_s)


def measure_ours(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ours.py measures with `settings`."""
    return _measure([sys.executable, str(HERE / "ours.py")], settings, dict(os.environ), None)


def _measure(
    words: list[str], settings: Mapping[str, Any], environment: Mapping[str, str], limit_s: float | None
) -> dict[str, Any]:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder, "settings.json"), Path(folder, "result.json")
        asked.write_text(json.dumps(dict(settings)), encoding="utf-8")
        words = [*words, str(asked), str(told)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=limit_s, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    return result
