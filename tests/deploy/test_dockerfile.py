"""The Dockerfile and the two programs it puts into the images: rules that must hold, and how the programs behave."""

import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT
from waiting import PATIENCE

from recpolicy.server.db.jobs import OFF
from recpolicy.server.jobs import JOBS
from recpolicy.server.settings import read_settings

DOCKERFILE = ROOT / "Dockerfile"
PARTS = ROOT / "scripts" / "lib" / "image"
FINAL = ("serving", "full")
# Kubeflow's components and Vertex's client are two things: the image runs the former.
NOT_IN_THE_IMAGE = {"vertex"}


def instructions(text):
    """Return (WORD, rest) of each instruction, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def stages(text):
    """Return stage -> (what it is made from, its instructions), in the file's order."""
    found = {}
    for word, rest in instructions(text):
        if word == "FROM":
            parent, name = rest.split(" AS ")
            found[name] = (parent, [])
        elif found:
            found[name][1].append((word, rest))
    return found


def inherited(text, stage, word):
    """Return the last `word` instruction that holds in a stage, its parents included; None without one."""
    parent, own = stages(text)[stage]
    values = [rest for name, rest in own if name == word]
    if values:
        return values[-1]
    return inherited(text, parent, word) if parent in stages(text) else None


def broken_rules(text):
    """Name what this Dockerfile does that ours must not do."""
    broken = set()
    everything = instructions(text)
    if everything[0] != ("ARG", "BASE_IMAGE=python:3.11-slim-bookworm"):
        broken.add("the base is not an argument")
    known = {"${BASE_IMAGE}"}
    for name, (parent, _) in stages(text).items():
        if parent not in known:
            broken.add("a stage stands on something of its own")
        known.add(name)
    runs = [rest for word, rest in everything if word == "RUN"]
    if "<<" in text:
        broken.add("heredoc")
    if any(word == "ADD" for word, _ in everything):
        broken.add("ADD")
    if re.search(r":latest\b", text):
        broken.add("latest")
    if re.search(r"https?://|--(extra-)?index-url|--trusted-host|--find-links", "\n".join(runs)):
        broken.add("an index or address is named")
    if any(re.search(r"pass(word|wd)|secret|token|api_?key", f"{word} {rest}", re.I) for word, rest in everything):
        broken.add("a secret")
    for install in re.findall(r"pip (?:--python \S+ )?install[^&]*", "\n".join(runs)):
        if "--require-hashes" not in install and "--no-index" not in install:
            broken.add("something is installed unchecked")
    for final in FINAL:
        user, own = inherited(text, final, "USER"), stages(text)[final][1]
        if user is None or re.match(r"(root|0)\b", user) or not re.match(r"\d+:\d+$", user):
            broken.add("a final stage runs as root")
        if "healthcheck.py" not in (inherited(text, final, "HEALTHCHECK") or ""):
            broken.add("no health check")
        if any(word == "RUN" for word, _ in own):
            broken.add("a final stage installs")
    return broken


def test_dockerfile_keeps_the_rules():
    assert broken_rules(DOCKERFILE.read_text()) == set()


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("ARG BASE_IMAGE=python:3.11-slim-bookworm", "ARG OTHER=1", "the base is not an argument"),
        ("FROM ${BASE_IMAGE} AS common", "FROM debian:12 AS common", "a stage stands on something of its own"),
        ("USER 1000:1000\nEXPOSE 8080 8888", "EXPOSE 8888", "a final stage runs as root"),
        ("USER 1000:1000\nEXPOSE 8080\n", "USER root\n", "a final stage runs as root"),
        ("HEALTHCHECK --interval=10s", "LABEL a=b", "no health check"),
        ("WORKDIR /build\n", "RUN cat <<EOF\n", "heredoc"),
        ("COPY src ./src", "ADD src ./src", "ADD"),
        ("python:3.11-slim-bookworm", "python:latest", "latest"),
        ("--only-binary :all: --require-hashes", "--index-url https://x.invalid", "an index or address is named"),
        ("--use-pep517 --require-hashes", "--use-pep517", "something is installed unchecked"),
        ("PYTHONUNBUFFERED=1", "JUPYTER_TOKEN=letmein", "a secret"),
        ('CMD ["serve"]', "RUN id", "a final stage installs"),
    ],
)
def test_broken_rule_is_seen(old, new, rule):
    text = DOCKERFILE.read_text()
    assert old in text
    assert rule in broken_rules(text.replace(old, new))


def hadolint(text):
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program, "hadolint is not installed: it is in the group dev of poetry.lock"
    return subprocess.run([program, "--no-color", "-"], input=text, capture_output=True, text=True, timeout=PATIENCE)


def test_hadolint_finds_nothing():
    done = hadolint(DOCKERFILE.read_text())
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something():
    assert "DL3007" in hadolint("FROM debian:latest\n").stdout


def test_image_has_the_extras_of_the_project_and_the_serving_image_its_own():
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    exported = dict(re.findall(r'--extras "?([\w ]+?)"? --output (\w+)\.txt', DOCKERFILE.read_text()))
    wanted = {name: set(words.split()) for words, name in exported.items()}
    assert wanted == {"serving": {"serve", "postgres"}, "full": extras - NOT_IN_THE_IMAGE}


def environment_of(stage):
    """Return what the ENV instructions of a stage set, its parents left out."""
    own = [rest for word, rest in stages(DOCKERFILE.read_text())[stage][1] if word == "ENV"]
    return dict(setting.split("=") for rest in own for setting in rest.split())


def test_serving_image_keeps_its_state_where_its_user_may_write():
    state = environment_of("serving")["RECPOLICY_STATE"]
    owned = re.search(
        r"install --directory --owner 1000 --group 1000([^&]*)",
        " ".join(map(" ".join, instructions(DOCKERFILE.read_text()))),
    )
    assert state in owned[1].split()


def test_settings_of_the_serving_image_turn_off_what_needs_tensorflow():
    config = environment_of("serving")["RECPOLICY_CONFIG"]
    assert ("COPY", f"scripts/lib/image/serving.toml {config}") in stages(DOCKERFILE.read_text())["serving"][1]
    settings = read_settings(PARTS / "serving.toml")
    assert [name for name, cron in settings.jobs.cron.items() if cron == OFF] == ["retrain"]
    assert set(settings.jobs.cron) <= set(JOBS)


def test_builder_sees_what_is_copied_and_nothing_else():
    ignored, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignored == "*"
    let_through = [line[1:] for line in rest if line.startswith("!")]
    copied = [
        source
        for word, words in instructions(DOCKERFILE.read_text())
        if word == "COPY" and "--from" not in words
        for source in [part for part in words.split() if not part.startswith("--")][:-1]
    ]
    assert all((ROOT / source).exists() for source in copied)
    for source in copied:
        assert any(source == path or source.startswith(f"{path}/") for path in let_through), source
    for path in let_through:
        assert any(source == path or source.startswith(f"{path}/") for source in copied), path


STAND_IN = '#!/bin/sh\nprintf "%s" "${0##*/}"\nprintf " [%s]" "$@"\n'


@pytest.mark.parametrize(
    ("words", "done"),
    [
        (["demo", "--seed", "3"], "recpolicy [demo] [--seed] [3]"),
        (["--help"], "recpolicy [--help]"),
        (["serve", "runs/a run"], "recpolicy [serve] [--host] [0.0.0.0] [runs/a run]"),
        (["serve", "--host", "::"], "recpolicy [serve] [--host] [0.0.0.0] [--host] [::]"),
        (["jupyter", "lab"], "jupyter [lab] [--ip=0.0.0.0] [--no-browser]"),
        (["jupyter", "lab", "--port", "9"], "jupyter [lab] [--ip=0.0.0.0] [--no-browser] [--port] [9]"),
        (["jupyter", "--version"], "jupyter [--version]"),
        (["sh", "-c", 'exec python3 "$0" "$@"', "a", "b c"], "python3 [a] [b c]"),
        (["python3", "-m", "kfp"], "python3 [-m] [kfp]"),
        (["recpolicy", "data", "fetch"], "recpolicy [data] [fetch]"),
        (["export", "x=1"], "recpolicy [export] [x=1]"),  # a builtin of the shell is no program
    ],
)
def test_first_word_decides_what_the_image_does(tmp_path, words, done):
    for name in ("recpolicy", "jupyter", "python3"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "sh").symlink_to(shutil.which("sh"))
    command = [str(PARTS / "entrypoint"), *words]
    said = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=PATIENCE)
    assert (said.stdout, said.returncode) == (done, 0)


def test_no_words_show_the_help(tmp_path):
    (tmp_path / "recpolicy").write_text(STAND_IN)
    (tmp_path / "recpolicy").chmod(0o755)
    said = subprocess.run([str(PARTS / "entrypoint")], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert said.stdout.startswith("recpolicy")


def test_jupyter_keeps_the_token_it_makes_up():
    assert not re.search(r"--\S*(token|password)", (PARTS / "entrypoint").read_text(), re.I)


class Answer(BaseHTTPRequestHandler):
    """A service whose /healthz has the status in the server's `status`."""

    def do_GET(self):
        self.send_response(self.server.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *words):
        pass


@pytest.fixture
def service():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def health(tmp_path, *words, **environment):
    """Run the health check in a container whose process 1 has these words."""
    (tmp_path / "cmdline").write_text("\0".join([*words, ""]))
    command = [sys.executable, str(PARTS / "healthcheck.py"), str(tmp_path / "cmdline")]
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE).returncode


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("form", ["--port {}", "--port={}"])
@pytest.mark.parametrize("before", ["/opt/venv/bin/python /opt/venv/bin/recpolicy", "/sbin/docker-init -- recpolicy"])
def test_service_is_as_healthy_as_it_says(tmp_path, service, status, form, before):
    service.status = status
    words = f"{before} serve --host 0.0.0.0 runs/demo {form.format(service.server_port)}".split()
    assert health(tmp_path, *words) == (0 if status == 200 else 1)


@pytest.mark.parametrize("status", [200, 503])
def test_port_may_come_from_the_environment_as_it_does_for_the_service(tmp_path, service, status):
    service.status = status
    healthy = health(tmp_path, "recpolicy", "serve", "--workers", "2", AIP_HTTP_PORT=str(service.server_port))
    assert healthy == (0 if status == 200 else 1)


def test_service_that_does_not_answer_is_unhealthy(tmp_path, service):
    port = service.server_port
    service.server_close()
    assert health(tmp_path, "recpolicy", "serve", "--port", str(port)) == 1


@pytest.mark.parametrize("line", ["recpolicy demo", "jupyter lab --port 1", "sh -c serve", "python3 serve recpolicy"])
def test_whatever_else_runs_is_healthy(tmp_path, line):
    assert health(tmp_path, *line.split()) == 0
