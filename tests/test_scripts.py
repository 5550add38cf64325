"""The set-up of the scripts and of Binder, with stand-ins for Python, Poetry and uv that log how they were called."""

import json
import os
import re
import shutil
import subprocess
import tomllib

import pytest
from conftest import ROOT
from waiting import PATIENCE

SCRIPTS = ("attack", "demo", "test", "test-light", "check", "docs", "lock", "compile-pipelines")

# One program plays all parts: it logs its name and arguments, and makes the folders that the real one would make.
# Under the name `python3` it is a Python other than 3.11.
STAND_IN = r"""#!/bin/bash
me=${0##*/}; here=${0%/*}; target=${*: -1}
[ "$1" = -c ] && { case "$me $2" in "python3 "*"== (3, 11)"*) exit 1 ;; esac; echo "$0"; exit; }
[ "$2 $3" = "pip config" ] && { echo https://packages.invalid/simple; exit; }
echo "$me $*" >> "$LOG"
case "$me $1 $2" in
  *"-m venv"*) [ "$3" != --clear ] || rm -rf "$target"
               mkdir -p "$target/bin"
               for tool in python poetry uv; do cp "$0" "$target/bin/$tool"; done ;;
  *"-m pip") cp "$target" "$LOG.${target##*/}" ;;
  "uv venv "*) rm -rf "$target"; mkdir -p "$target/bin"
               for tool in python recpolicy pytest; do cp "$0" "$target/bin/$tool"; done ;;
  "uv python install") [ ! -e "$FAIL" ] || { echo "no route to host"; exit 1; }
                       folder="$*"; folder=${folder##*--install-dir }; folder=${folder% 3.11}/cpython-3.11
                       mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python3.11" ;;
  "uv pip install") echo "$UV_DEFAULT_INDEX" > "$LOG.index"; [ ! -e "$FAIL" ] || exit 1 ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A clone without an installation, in a folder whose name has a space."""
    clone = tmp_path / "a clone"
    for folder in ("scripts", ".binder"):
        shutil.copytree(ROOT / folder, clone / folder)
    (clone / "poetry.lock").write_text("lock")
    (clone / "pyproject.toml").write_text("project")
    for name in ("python3.11", "python3"):
        python = tmp_path / name / name
        python.parent.mkdir()
        python.write_text(STAND_IN)
        python.chmod(0o755)
    return clone


def run(project, script, *words, python="python3.11", **variables):
    """Run a script from another folder with this Python on the PATH; return the process and the logged calls."""
    log = project.parent / "log"
    log.write_text("")
    path = [*([str(project.parent / python)] if python else []), str(_basics(project.parent))]
    environment = {"PATH": os.pathsep.join(path), "LOG": str(log), "FAIL": str(project.parent / "fail"), **variables}
    command = [shutil.which("bash"), str(project / "scripts" / script), *words]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=PATIENCE)
    return done, log.read_text().splitlines()


def _basics(folder):
    """Make a folder with the few programs that the scripts rely on, and no Python."""
    basics = folder / "basics"
    if not basics.exists():
        basics.mkdir()
        for name in ("bash", "cat", "cp", "cut", "dirname", "env", "flock", "mkdir", "rm", "sed", "sha256sum"):
            (basics / name).symlink_to(shutil.which(name))
    return basics


def test_demo_installs_everything_and_passes_its_arguments_on(project):
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
    done, calls = run(project, "demo", python=None)
    assert done.returncode == 0, done.stderr
    assert calls == ["recpolicy demo"]


def test_data_is_fetched_before_the_tests(project):
    _, calls = run(project, "test", "tests/core", "-x")
    assert calls[-2:] == ["recpolicy data fetch", "pytest -n 2 --dist loadfile tests/core -x"]


def test_packages_come_from_the_index_of_pip(project):
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


def test_interrupted_installation_is_repeated(project):
    (project.parent / "fail").touch()
    done, calls = run(project, "demo")
    assert done.returncode != 0
    assert "recpolicy demo" not in calls
    (project.parent / "fail").unlink()
    done, calls = run(project, "demo")
    assert done.returncode == 0, done.stderr
    assert [call.split()[1] for call in calls] == ["export", "venv", "pip", "-m", "install", "demo"]


def test_moved_project_is_installed_again(project):
    run(project, "demo")
    moved = project.rename(project.with_name("moved"))
    assert any(call.startswith("uv venv") for call in run(moved, "demo")[1])


def test_another_python_downloads_python_3_11_with_the_pinned_uv(project):
    done, calls = run(project, "demo", python="python3")
    assert done.returncode == 0, done.stderr
    tools, other = project / ".tools", project.parent / "python3" / "python3"
    assert calls[0] == f"python3 -m venv --clear {tools}/uv"
    assert calls[1].startswith("python -m pip install")
    assert "--require-hashes" in calls[1]
    assert re.fullmatch(
        r"uv==\S+( *\\\n +--hash=sha256:\w{64})+\n", (project.parent / "log.requirements.txt").read_text()
    )
    assert calls[2] == f"uv python install --no-progress --no-bin --install-dir {tools}/python 3.11"
    assert calls[3] == f"python3.11 -m venv {tools}"  # Poetry runs on the downloaded Python, and so does .venv
    assert f"uv venv --quiet --clear --no-project --python {tools}/python/cpython-3.11/bin/python3.11" in calls[6]
    assert calls[-1] == "recpolicy demo"
    assert f"Python 3.11 was not found; {other} downloads it with uv into .tools/python (once)\n" in done.stderr
    assert not (tools / "uv").exists()


def test_python_3_11_of_the_machine_is_used_without_a_download(project):
    done, calls = run(project, "demo")
    assert calls[0] == f"python3.11 -m venv {project}/.tools"
    assert not any("python install" in call for call in calls)
    assert "not found" not in done.stderr


def test_python_is_downloaded_once(project):
    run(project, "demo", python="python3")
    (project / "poetry.lock").write_text("other")
    (project / "scripts" / "lib" / "tools.txt").write_text("other")
    done, calls = run(project, "demo", python=None)
    assert done.returncode == 0, done.stderr
    assert calls[0] == f"python3.11 -m venv {project}/.tools"
    assert not any("python install" in call for call in calls)


def test_failed_download_prints_one_line_with_its_log_and_a_remedy(project):
    (project.parent / "fail").touch()
    done, calls = run(project, "demo", python="python3")
    assert done.returncode == 1
    assert calls[-1].startswith("uv python install")
    _, failure = done.stderr.splitlines()
    assert "its download failed (see .tools/python.log)" in failure
    assert "apt-get install python3.11 python3.11-venv" in failure
    assert (project / ".tools" / "python.log").read_text() == "no route to host\n"


@pytest.mark.parametrize("python", [None, "unusable"])
def test_no_usable_python_prints_one_line_with_a_remedy(project, python):
    (project.parent / "unusable").mkdir()
    (project.parent / "unusable" / "python3").write_text("#!/bin/bash\nexit 1\n")  # too old, or without venv
    (project.parent / "unusable" / "python3").chmod(0o755)
    done, calls = run(project, "demo", python=python)
    assert (done.returncode, calls) == (1, [])
    assert done.stderr.count("\n") == 1
    assert "Python 3.11 was not found" in done.stderr
    assert "apt-get install python3.11 python3.11-venv" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_prints_the_usage_and_installs_nothing(project, script):
    done, calls = run(project, script, "--help", python=None)
    assert (done.returncode, done.stderr, calls) == (0, "", [])
    assert f"Usage: scripts/{script}" in done.stdout


@pytest.mark.parametrize("path", [*(f"scripts/{name}" for name in SCRIPTS), ".ci/run", ".binder/postBuild"])
def test_script_is_executable(path):
    assert os.access(ROOT / path, os.X_OK)


def test_binder_installs_the_locked_packages_and_its_kernel_starts_there(project):
    jupyter = project.parent / "binder's jupyter"
    done, calls = run(project, "../.binder/postBuild", NB_PYTHON_PREFIX=str(jupyter))
    assert done.returncode == 0, done.stderr
    export = next(call for call in calls if call.startswith("poetry export"))
    assert "--extras train pipelines notebook --format requirements.txt" in export
    assert "--require-hashes" in next(call for call in calls if call.startswith("uv pip install"))
    kernel = f"python -m ipykernel install --prefix {jupyter} --name python3 --env TF_USE_LEGACY_KERAS 1"
    assert calls[-2].startswith(kernel)
    assert not (project / ".venv" / ".stamp").exists()  # the scripts would install the development tools too


def test_binder_files_agree_with_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    major, minor = re.search(r">=(\d+)\.(\d+)", project["requires-python"]).groups()
    assert (ROOT / ".binder" / "runtime.txt").read_text() == f"python-{major}.{minor}\n"
    extras = re.search(r'--extras "([^"]*)"', (ROOT / ".binder" / "postBuild").read_text())[1].split()
    assert set(extras) <= set(project["optional-dependencies"])
    notebooks = [json.loads(path.read_text()) for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert {notebook["metadata"]["kernelspec"]["name"] for notebook in notebooks} == {"python3"}


SHELL_SCRIPTS = [
    path.relative_to(ROOT)
    for folder in ("scripts", ".ci", ".binder")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.is_file() and (path.suffix == ".sh" or re.match(rb"#!.*\b(ba)?sh\n", path.read_bytes()))
]


@pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=str)
def test_shell_script_parses(path):
    done = subprocess.run(["bash", "-n", str(ROOT / path)], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
