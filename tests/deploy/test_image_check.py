"""scripts/image-check with stand-ins for buildah and debootstrap: options, builds, checks and results."""

import json
import os
import shutil
import subprocess

import pytest
from conftest import ROOT
from waiting import PATIENCE

BASICS = (
    "bash", "cat", "chmod", "cp", "dirname", "find", "grep", "ls", "mkdir", "mktemp", "rm", "sed", "sh", "sleep",
    "tail", "touch",
)  # fmt: skip

# Logs its arguments. In the "container", the service runs as long as the file `serving` exists.
BUILDAH = r"""#!/bin/bash
echo "buildah $*" >> "$LOG"
case " $* " in
  *" inspect "*) [ -e "$STATE/base" ] || [[ "$*" != *debian-bookworm* ]] || exit 1; echo recpolicy-entrypoint ;;
  *" from "*) echo container ;;
  *" commit "*) touch "$STATE/base" ;;
  *" images "*) echo "1.5 GB" ;;
  *" bud "*) [ ! -e "$STATE/fail-build" ] || { echo "no such package"; exit 1; } ;;
  *" demo "*) mkdir -p "$RUNS/demo"; echo '{}' > "$RUNS/demo/recpolicy.json" ;;
  *" serve "*) trap 'rm -f "$STATE/serving"; exit 0' TERM; touch "$STATE/serving"
               while [ -e "$STATE/serving" ]; do sleep 0.05; done ;;
  *" jupyter "*) [ ! -e "$STATE/fail-jupyter" ] || { echo "jupyter: no"; exit 1; } ;;
  *healthcheck.py*) [ -e "$STATE/serving" ] ;;
esac
"""
DEBOOTSTRAP = '#!/bin/bash\necho "debootstrap $*" >> "$LOG"\nmkdir -p "${@: -1}"\n'


@pytest.fixture
def clone(tmp_path):
    """A clone with two stand-ins in tmp_path/bin and the few programs that the script relies on."""
    shutil.copytree(ROOT / "scripts", tmp_path / "clone" / "scripts")
    (tmp_path / "clone" / "ml-100k").mkdir()
    (tmp_path / "clone" / "ml-100k" / "u.data").write_text("ratings")
    for folder in ("bin", "basics", "state"):
        (tmp_path / folder).mkdir()
    for name in BASICS:
        (tmp_path / "basics" / name).symlink_to(shutil.which(name))
    for name, text in (("buildah", BUILDAH), ("debootstrap", DEBOOTSTRAP)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path / "clone"


def run(clone, *words, **settings):
    """Run the script from another folder; return the process and the logged calls."""
    base = clone.parent
    (base / "log").write_text("")
    environment = {
        "PATH": os.pathsep.join([str(base / "bin"), str(base / "basics")]), "LOG": str(base / "log"),
        "STATE": str(base / "state"), "RUNS": str(base / "images" / "work" / "runs"), "TMPDIR": str(base),
        **settings,
    }  # fmt: skip
    command = [shutil.which("bash"), str(clone / "scripts" / "image-check"), *words]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=PATIENCE)
    return done, (base / "log").read_text().splitlines()


def builds(calls):
    return [call for call in calls if " bud " in call]


def test_help_prints_the_usage_and_calls_nothing(clone):
    done, calls = run(clone, "--help", PATH=str(clone.parent / "basics"))
    assert (done.returncode, done.stderr, calls) == (0, "", [])
    assert "Usage: scripts/image-check" in done.stdout


@pytest.mark.parametrize("tool", ["buildah", "debootstrap"])
def test_missing_tool_prints_one_line_with_a_remedy(clone, tool):
    (clone.parent / "bin" / tool).unlink()
    done, calls = run(clone)
    assert (done.returncode, calls) == (1, [])
    assert done.stderr.count("\n") == 1
    assert f"{tool} was not found" in done.stderr
    assert f"apt-get install {tool}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targt"], "unknown option --targt"),
        (["--target"], "--target needs a value"),
        (["--target", "small"], "serving, full or all"),
        (["--run", "/nowhere"], "no trained policy there"),
    ],
)
def test_wrong_option_prints_one_line(clone, arguments, message):
    done, calls = run(clone, *arguments)
    assert (done.returncode, calls) == (2, [])
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_both_images_are_built_on_debian_and_checked(clone):
    base = clone.parent
    done, calls = run(clone, "--storage", str(base / "images"), "--json", str(base / "result.json"))
    assert done.returncode == 0, done.stderr
    assert any(call.startswith("debootstrap --variant=minbase") for call in calls)
    assert [call.split("--target ")[1].split()[0] for call in builds(calls)] == ["full", "serving"]
    assert all("BASE_IMAGE=localhost/debian-bookworm" in call for call in builds(calls))
    assert "full       1.5 GB" in done.stdout
    result = json.loads((base / "result.json").read_text())
    assert result["sizes"] == {"full": "1.5 GB", "serving": "1.5 GB"}
    assert {check["result"] for check in result["checks"]} == {"ok"}
    checks = {(check["target"], check["check"]) for check in result["checks"]}
    in_both = {"runs as uid 1000", "recpolicy serve answers /healthz", "the health check fails after it stopped"}
    assert checks >= {(target, check) for target in ("full", "serving") for check in in_both}
    assert checks >= {(target, "its user can write to the state folder") for target in ("full", "serving")}
    assert checks >= {(target, "it has PostgreSQL's driver") for target in ("full", "serving")}
    assert checks >= {("serving", "no TensorFlow"), ("full", "jupyter lab answers and requires its token")}


def test_named_storage_keeps_the_base_for_the_next_run(clone):
    words = ("--storage", str(clone.parent / "images"), "--target", "full")
    run(clone, *words)
    done, calls = run(clone, *words)
    assert done.returncode == 0, done.stderr
    assert not any(call.startswith("debootstrap") for call in calls)


@pytest.mark.parametrize("kind", ["folder", "image"])
def test_base_option_needs_no_debootstrap(clone, kind):
    (clone.parent / "bin" / "debootstrap").unlink()
    base = str(clone.parent / "basics") if kind == "folder" else "docker.io/library/python:3.11-slim-bookworm"
    done, calls = run(clone, "--storage", str(clone.parent / "images"), "--target", "full", "--base", base)
    assert done.returncode == 0, done.stderr
    expected = "localhost/recpolicy-base" if kind == "folder" else base
    assert f"BASE_IMAGE={expected} " in builds(calls)[0]


def test_failed_check_fails_the_script_and_stands_in_the_results(clone):
    base = clone.parent
    (base / "state" / "fail-jupyter").touch()
    done, _ = run(clone, "--storage", str(base / "images"), "--json", str(base / "result.json"))
    assert done.returncode == 1
    assert "jupyter: no" in done.stderr
    failed = [check for check in json.loads((base / "result.json").read_text())["checks"] if check["result"] != "ok"]
    assert [check["check"] for check in failed] == ["jupyter --version"]


def test_failed_build_prints_the_end_of_its_log_and_checks_nothing(clone):
    (clone.parent / "state" / "fail-build").touch()
    done, calls = run(clone, "--storage", str(clone.parent / "images"))
    assert done.returncode == 1
    assert "no such package" in done.stderr
    assert not any(" run " in call for call in calls)


def test_storage_without_a_name_is_removed(clone):
    done, calls = run(clone, "--target", "serving")
    assert done.returncode == 0, done.stderr
    storage = builds(calls)[0].split("--root ")[1].split("/root ")[0]
    assert storage.startswith(str(clone.parent))
    assert not os.path.exists(storage)  # noqa: PTH110


def test_pip_settings_are_mounted_and_stay_out_of_the_image(clone):
    certificate = clone.parent / "company.crt"
    certificate.write_text("certificate")
    storage = clone.parent / "images"
    settings = {"PIP_INDEX_URL": "https://packages.invalid/simple", "PIP_CERT": str(certificate)}
    done, calls = run(clone, "--storage", str(storage), "--target", "full", **settings)
    assert done.returncode == 0, done.stderr
    written = (storage / "pip" / "pip.conf").read_text().splitlines()
    assert written == ["[global]", "index-url = https://packages.invalid/simple", "cert = /etc/xdg/pip/ca.crt"]
    assert (storage / "pip" / "ca.crt").read_text() == "certificate"
    assert f"--volume {storage}/pip:/etc/xdg/pip:ro" in builds(calls)[0]
    assert "packages.invalid" not in "\n".join(calls)


@pytest.mark.parametrize("name", ["scripts/image-check", "scripts/lib/image/entrypoint"])
def test_program_is_executable(name):
    assert os.access(ROOT / name, os.X_OK)
