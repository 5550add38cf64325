"""docker-compose.yaml: services of this machine alone, with health checks and without a password of ours."""

import re
import tomllib

import pytest
import yaml
from conftest import ROOT

TEXT = (ROOT / "docker-compose.yaml").read_text()
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
            if re.search(r"PASSWORD|TOKEN|SECRET|KEY", key) and value is not None:
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


def test_service_runs_on_a_file_system_it_cannot_write():
    serve = yaml.safe_load(TEXT)["services"]["serve"]
    assert serve["read_only"]
    assert all(volume.endswith(":ro") for volume in serve["volumes"])
