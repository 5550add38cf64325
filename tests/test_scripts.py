"""The scripts' set-up, with stand-ins for Python, Poetry and uv that write down how they were called."""

import os
import shutil
import subprocess

import pytest
from conftest import ROOT

SCRIPTS = ("demo", "test", "check", "lock")

# One program for all parts: it logs its name and words, and makes the folders that the real one would make.
STAND_IN = r"""#!/bin/bash
me=${0##*/}; here=${0%/*}; target=${*: -1}
[ "$1" = -c ] && { echo "$0"; exit; }
[ "$2 $3" = "pip config" ] && { echo https://packages.invalid/simple; exit; }
echo "$me $*" >> "$LOG"
case "$me $1 $2" in
  *"-m venv"*) rm -rf "$target"; mkdir -p "$target/bin"; cp "$0" "$target/bin/python"
               for tool in poetry uv; do cp "$0" "$target/bin/$tool"; done ;;
  "uv venv "*) rm -rf "$target"; mkdir -p "$target/bin"
               for tool in python recpolicy pytest; do cp "$0" "$target/bin/$tool"; done ;;
  "uv pip install") echo "$UV_DEFAULT_INDEX" > "$LOG.index"; [ ! -e "$FAIL" ] || exit 1 ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A clone with nothing installed, in a folder whose name has a space."""
    clone = tmp_path / "a clone"
    shutil.copytree(ROOT / "scripts", clone / "scripts")
    (clone / "poetry.lock").write_text("lock")
    (clone / "pyproject.toml").write_text("project")
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3.11"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    return clone


def run(project, script, *words, python=True):
    """Run a script from another folder; return how it ended and what was called."""
    log = project.parent / "log"
    log.write_text("")
    path = [*([str(project.parent / "bin")] if python else []), str(_basics(project.parent))]
    environment = {"PATH": os.pathsep.join(path), "LOG": str(log), "FAIL": str(project.parent / "fail")}
    command = [shutil.which("bash"), str(project / "scripts" / script), *words]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=60)
    return done, log.read_text().splitlines()


def _basics(folder):
    """A folder with the few programs that the scripts may take for granted, and no Python."""
    basics = folder / "basics"
    if not basics.exists():
        basics.mkdir()
        for name in ("bash", "cat", "cp", "cut", "dirname", "env", "flock", "mkdir", "rm", "sed", "sha256sum"):
            (basics / name).symlink_to(shutil.which(name))
    return basics


def test_demo_installs_everything_and_passes_its_words_on(project):
    done, calls = run(project, "demo", "--seed", "3")
    assert done.returncode == 0, done.stderr
    order = [
        "-m venv",
        "-m pip install",
        "poetry export",
        "uv venv",
        "uv pip install",
        "-m ipykernel",
        "poetry install",
    ]
    assert [next(part for part in order if part in call) for call in calls[:-1]] == order
    assert all("--require-hashes" in call for call in calls if "pip install" in call)
    assert calls[-1] == "recpolicy demo --seed 3"


def test_second_start_installs_nothing_and_needs_no_python(project):
    run(project, "demo")
    done, calls = run(project, "demo", python=False)
    assert done.returncode == 0, done.stderr
    assert calls == ["recpolicy demo"]


def test_tests_come_after_the_data(project):
    _, calls = run(project, "test", "tests/core", "-x")
    assert calls[-2:] == ["recpolicy data fetch", "pytest -n 2 --dist loadfile tests/core -x"]


def test_packages_come_from_the_index_that_pip_is_set_up_with(project):
    run(project, "demo")
    assert (project.parent / "log.index").read_text() == "https://packages.invalid/simple\n"


def test_new_lock_replaces_the_environment_and_a_new_pyproject_only_the_package(project):
    run(project, "demo")
    (project / "pyproject.toml").write_text("other")
    assert [call.split()[:2] for call in run(project, "demo")[1]] == [["poetry", "install"], ["recpolicy", "demo"]]
    (project / "poetry.lock").write_text("other")
    calls = run(project, "demo")[1]
    assert any(call.startswith("uv venv --quiet --clear") for call in calls)
    assert not any("-m venv" in call for call in calls)  # the tools are the same


def test_interrupted_installation_is_made_anew(project):
    (project.parent / "fail").touch()
    done, calls = run(project, "demo")
    assert done.returncode != 0
    assert "recpolicy demo" not in calls
    (project.parent / "fail").unlink()
    done, calls = run(project, "demo")
    assert done.returncode == 0, done.stderr
    assert [call.split()[1] for call in calls] == ["export", "venv", "pip", "-m", "install", "demo"]


def test_moved_project_is_installed_anew(project):
    run(project, "demo")
    moved = project.rename(project.with_name("moved"))
    assert any(call.startswith("uv venv") for call in run(moved, "demo")[1])


def test_missing_python_is_said_with_its_remedy(project):
    done, calls = run(project, "demo", python=False)
    assert (done.returncode, calls) == (1, [])
    assert "Python 3.11 was not found" in done.stderr
    assert "apt-get install python3.11 python3.11-venv" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_the_usage_and_installs_nothing(project, script):
    done, calls = run(project, script, "--help", python=False)
    assert (done.returncode, done.stderr, calls) == (0, "", [])
    assert f"Usage: scripts/{script}" in done.stdout


@pytest.mark.parametrize("path", [*(f"scripts/{name}" for name in SCRIPTS), ".ci/run"])
def test_script_can_be_executed(path):
    assert os.access(ROOT / path, os.X_OK)
