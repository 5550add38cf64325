"""The compose files: services of this machine alone, with health checks, no password of ours, state in volumes."""

import re
import tomllib

import pytest
import yaml
from conftest import ROOT
from sqlalchemy import make_url

TEXT = (ROOT / "docker-compose.yaml").read_text()
OVER = yaml.safe_load((ROOT / "docker-compose.postgres.yaml").read_text())
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def broken_rules(text):
    """Name what this compose file does that ours must not do."""
    broken = set()
    compose = yaml.safe_load(text)
    for name, service in compose["services"].items():
        if not service.get("healthcheck", {}).get("test"):
            broken.add(f"{name} has no health check")
        if any(not re.match(r"127\.0\.0\.1:", str(port)) for port in service["ports"]):
            broken.add(f"{name} is open to other machines")
        if not re.search(r":\d", service["image"]):
            broken.add(f"{name} has an image without a version")
        if service.get("privileged") or "docker.sock" in str(service.get("volumes")):
            broken.add(f"{name} may do anything")
        environment = service.get("environment", {})
        for key, value in environment.items():
            if re.search(r"PASSWORD|TOKEN|SECRET|KEY|URL", key) and value is not None:
                broken.add(f"{name} has a secret")
            if key == "POSTGRES_HOST_AUTH_METHOD":
                broken.add(f"{name} asks for no password")
        named = [volume.split(":")[0] for volume in service.get("volumes", []) if volume[0] not in "./"]
        if any(volume not in compose["volumes"] for volume in named):
            broken.add(f"{name} has an unknown volume")
    return broken


def test_compose_file_keeps_the_rules():
    assert broken_rules(TEXT) == set()


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("POSTGRES_PASSWORD:\n", "POSTGRES_PASSWORD: postgres\n", "postgres has a secret"),
        ("POSTGRES_PASSWORD:\n", "POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:-postgres}\n", "postgres has a secret"),
        ("POSTGRES_PASSWORD:\n", "POSTGRES_HOST_AUTH_METHOD: trust\n", "postgres asks for no password"),
        ("RECPOLICY_ADMIN_KEY:\n", "RECPOLICY_ADMIN_KEY: ${KEY:-letmein}\n", "serve has a secret"),
        ("RECPOLICY_DATABASE_URL:\n", "RECPOLICY_DATABASE_URL: postgresql://a:b@c/d\n", "serve has a secret"),
        ("127.0.0.1:${JUPYTER_PORT", "${JUPYTER_PORT", "jupyter is open to other machines"),
        ("postgres:17.6-bookworm", "postgres", "postgres has an image without a version"),
        ("    healthcheck:\n      test: [", "    health:\n      test: [", "serve has no health check"),
        ("cache:/home", "other:/home", "jupyter has an unknown volume"),
        ("    init: true\n", "    privileged: true\n", "serve may do anything"),
    ],
)
def test_broken_rule_is_seen(old, new, rule):
    assert old in TEXT
    assert rule in broken_rules(TEXT.replace(old, new))


def test_services_are_built_from_the_stages_of_the_dockerfile():
    services = yaml.safe_load(TEXT)["services"]
    stages = re.findall(r"^FROM .* AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.M)
    built = {name: service["build"]["target"] for name, service in services.items() if "build" in service}
    assert built == {"serve": "serving", "jupyter": "full"}
    assert set(built.values()) <= set(stages)


def test_images_have_the_version_of_the_project():
    services = yaml.safe_load(TEXT)["services"]
    tags = {service["image"] for service in services.values() if "build" in service}
    assert tags == {f"recpolicy:{VERSION}", f"recpolicy-serving:{VERSION}"}


def interpolated(text, **environment):
    """Return a compose file's text with its ${NAME:-default}; raises KeyError for a ${NAME:?...} that is not given."""

    def value(found):
        name, kind, rest = found.groups()
        return environment[name] if kind == "?" else environment.get(name) or rest

    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", value, text)


def serve_with(**environment):
    return yaml.safe_load(interpolated(TEXT, **environment))["services"]["serve"]


def test_service_can_write_its_state_and_nothing_else():
    serve = serve_with()
    assert serve["read_only"]
    assert serve["volumes"] == ["./runs:/workspace/runs:ro", "state:/workspace/state"]


@pytest.mark.parametrize("run", ["runs/demo", "runs/other"])
def test_each_run_has_a_state_of_its_own_in_the_volume(run):
    environment = serve_with(RECPOLICY_RUN=run)["environment"]
    assert (environment["RECPOLICY_RUN"], environment["RECPOLICY_STATE"]) == (run, f"state/{run}")
    # relative to the image's folder, in which the volume is mounted and which uid 1000 owns
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^WORKDIR /workspace$", dockerfile, re.M)
    assert re.search(r"install --directory --owner 1000 --group 1000[^&]* /workspace/state\b", dockerfile)


def test_runs_can_be_written_where_that_is_asked_for():
    assert serve_with(RECPOLICY_RUNS_MODE="rw")["volumes"][0] == "./runs:/workspace/runs:rw"


def test_postgresql_is_laid_over_the_service_of_the_first_file():
    base = yaml.safe_load(TEXT)["services"]
    assert set(OVER["services"]) == {"serve"}
    serve = OVER["services"]["serve"]
    address = make_url(serve["environment"]["RECPOLICY_DATABASE_URL"])
    postgres = base[address.host]
    assert serve["depends_on"] == {address.host: {"condition": "service_healthy"}}
    assert (address.username, address.database) == tuple(
        postgres["environment"][name] for name in ("POSTGRES_USER", "POSTGRES_DB")
    )
    assert serve["environment"]["RECPOLICY_STATE"].startswith("state/")


def test_password_of_postgresql_has_no_default_and_is_not_in_its_url():
    environment = OVER["services"]["serve"]["environment"]
    assert make_url(environment["RECPOLICY_DATABASE_URL"]).password is None
    with pytest.raises(KeyError, match="POSTGRES_PASSWORD"):
        interpolated(environment["PGPASSWORD"])
    assert interpolated(environment["PGPASSWORD"], POSTGRES_PASSWORD="p@ss/word%") == "p@ss/word%"
