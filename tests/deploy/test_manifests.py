"""The Kubernetes manifests are valid against the API's schemas, hardened and complete; no cluster is needed."""

import copy
import re
import shutil
import subprocess
import tomllib
from pathlib import PurePosixPath

import kubernetes_validate
import pytest
import yaml
from conftest import ROOT
from waiting import PATIENCE

from recpolicy.server.routes import health

FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
API_VERSIONS = ("1.29", "1.33", "1.37")
# Created by hand on the cluster, never by these files.
SECRETS = {"recpolicy-server"}


def manifests(part):
    """Return the manifests of a folder as its kustomization lists them."""
    listed = kustomization(part)["resources"]
    return [yaml.safe_load((FOLDER / part / name).read_text()) for name in listed if name.endswith(".yaml")]


def kustomization(part):
    return yaml.safe_load((FOLDER / part / "kustomization.yaml").read_text())


SHELL = yaml.safe_load((FOLDER / "shell" / "pod.yaml").read_text())
SERVICE_MANIFESTS = manifests("base")
PIPELINE_MANIFESTS = manifests("pipelines")
"""Manifests for the namespace of Kubeflow's steps."""
ALL = [*SERVICE_MANIFESTS, *PIPELINE_MANIFESTS, SHELL]
NAMES = [f"{manifest['kind']} {manifest['metadata']['name']}" for manifest in ALL]


def pod(manifest):
    """Return the pod that a manifest starts."""
    spec = manifest["spec"]
    return {"Pod": spec, "Deployment": spec.get("template", {}).get("spec")}[manifest["kind"]]


def weaknesses(pod):
    """Return the permissions that a pod does not need: the profile `restricted` of Kubernetes and a little more."""
    weak = set()
    context = pod.get("securityContext", {})
    if not context.get("runAsNonRoot") or context.get("runAsUser") != 1000:
        weak.add("may be root")
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        weak.add("no seccomp profile")
    if pod.get("automountServiceAccountToken") is not False:
        weak.add("has a token for the cluster")
    if any("hostPath" in volume for volume in pod["volumes"]) or pod.get("hostNetwork"):
        weak.add("reaches the node")
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            weak.add("may gain rights")
        if not own.get("readOnlyRootFilesystem"):
            weak.add("may change its image")
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
            weak.add("unbounded")
        if not re.search(r":\d[\w.-]*$", container["image"]):
            weak.add("image without a version")
    return weak


PODS = [manifest for manifest in ALL if manifest["kind"] in ("Deployment", "Pod")]
DEPLOYMENT = next(manifest for manifest in ALL if manifest["kind"] == "Deployment")
SERVICE = pod(DEPLOYMENT)["containers"][0]


@pytest.mark.parametrize("version", API_VERSIONS)
@pytest.mark.parametrize("manifest", ALL, ids=NAMES)
def test_manifest_is_valid_for_the_api(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)


def test_listed_files_are_the_existing_ones():
    for part in ("base", "pipelines", "overlays/example"):
        patches = [patch["path"] for patch in kustomization(part).get("patches", [])]
        there = {path.name for path in (FOLDER / part).glob("*.yaml")} - {"kustomization.yaml"}
        listed = {name for name in kustomization(part)["resources"] if name.endswith(".yaml")}
        assert there == listed | set(patches)


def _without(key):
    return lambda spec: spec.pop(key)


def _with(key, value):
    return lambda spec: spec.update({key: value})


@pytest.mark.parametrize("change", [_without("selector"), _with("replicas", "two"), _with("replica", 2)])
def test_broken_manifest_is_rejected(change):
    broken = copy.deepcopy(next(manifest for manifest in ALL if manifest["kind"] == "Deployment"))
    change(broken["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, API_VERSIONS[-1], strict=True)


@pytest.mark.parametrize("manifest", PODS, ids=lambda manifest: manifest["kind"])
def test_pod_has_no_weakness(manifest):
    assert weaknesses(pod(manifest)) == set()


@pytest.mark.parametrize(
    ("level", "key", "value", "weakness"),
    [
        ("pod", "securityContext", {"runAsUser": 0}, "may be root"),
        ("pod", "securityContext", {"runAsNonRoot": True, "runAsUser": 1000}, "no seccomp profile"),
        ("pod", "automountServiceAccountToken", True, "has a token for the cluster"),
        ("pod", "hostNetwork", True, "reaches the node"),
        ("container", "securityContext", {"readOnlyRootFilesystem": True}, "may gain rights"),
        ("container", "securityContext", {"allowPrivilegeEscalation": False}, "may change its image"),
        ("container", "resources", {}, "unbounded"),
        ("container", "image", "recpolicy:latest", "image without a version"),
        ("container", "image", "recpolicy", "image without a version"),
    ],
)
@pytest.mark.parametrize("manifest", PODS, ids=lambda manifest: manifest["kind"])
def test_weakness_is_detected(manifest, level, key, value, weakness):
    changed = copy.deepcopy(pod(manifest))
    (changed if level == "pod" else changed["containers"][0])[key] = value
    assert weakness in weaknesses(changed)


def test_no_manifest_has_a_namespace_or_a_secret():
    assert not [manifest for manifest in ALL if "namespace" in manifest["metadata"]]
    assert "Secret" not in {manifest["kind"] for manifest in ALL}


def test_references_of_pods_exist():
    kinds = ("ServiceAccount", "PersistentVolumeClaim")
    there = {kind: {m["metadata"]["name"] for m in ALL if m["kind"] == kind} for kind in kinds}
    settings = {generated["name"] for generated in kustomization("base")["configMapGenerator"]}
    for spec in map(pod, PODS):
        assert spec.get("serviceAccountName", "recpolicy-service") in there["ServiceAccount"]
        for volume in spec["volumes"]:
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "recpolicy-registry") in there[kinds[1]]
        for container in spec["containers"]:
            sources = container.get("envFrom", [])
            assert {source["configMapRef"]["name"] for source in sources if "configMapRef" in source} <= settings
            assert {source["secretRef"]["name"] for source in sources if "secretRef" in source} <= SECRETS
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("kind", ["Service", "NetworkPolicy", "PodDisruptionBudget"])
def test_selector_finds_its_pods(kind):
    labels = [manifest["metadata"]["labels"] for manifest in PODS]
    for manifest in (manifest for manifest in ALL if manifest["kind"] == kind):
        selector = manifest["spec"].get("podSelector", manifest["spec"].get("selector"))
        assert selector.get("matchLabels", selector) in labels


def test_probes_and_service_use_the_port_of_the_container():
    assert [port["containerPort"] for port in SERVICE["ports"] if port["name"] == "http"] == [8080]
    paths = {name: SERVICE[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    service = next(manifest for manifest in ALL if manifest["kind"] == "Service")
    assert service["spec"]["ports"][0]["targetPort"] == "http"


def get_settings():
    """Return the environment in the generated ConfigMap of the service."""
    return dict(literal.split("=", 1) for literal in kustomization("base")["configMapGenerator"][0]["literals"])


def test_registry_and_state_are_on_the_writable_volume():
    mount = next(mount for mount in SERVICE["volumeMounts"] if mount["name"] == "registry")
    assert not mount.get("readOnly")
    settings = get_settings()
    assert set(settings) == {"RECPOLICY_RUN", "RECPOLICY_STATE"}
    assert {str(PurePosixPath(folder).parent) for folder in settings.values()} == {mount["mountPath"]}
    assert settings["RECPOLICY_RUN"] != settings["RECPOLICY_STATE"]


def test_single_node_volume_has_one_pod_at_a_time():
    claim = next(manifest for manifest in ALL if manifest["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert (DEPLOYMENT["spec"]["replicas"], DEPLOYMENT["spec"]["strategy"]) == (1, {"type": "Recreate"})


def test_database_and_key_come_from_an_optional_secret():
    assert {"secretRef": {"name": "recpolicy-server", "optional": True}} in SERVICE["envFrom"]
    assert not [item for item in SERVICE["env"] if re.search(r"KEY|URL|PASSWORD", item["name"])]


def ports_out(policy):
    """Return (protocol, port) of the connections that a network policy allows out."""
    return {(port["protocol"], port["port"]) for rule in policy["spec"]["egress"] for port in rule["ports"]}


def test_service_reaches_dns_and_postgresql_and_nothing_else():
    policy = next(m for m in ALL if m["kind"] == "NetworkPolicy" and m["metadata"]["name"] == "recpolicy-service")
    assert all(rule.get("ports") for rule in policy["spec"]["egress"])
    assert ports_out(policy) == {("UDP", 53), ("TCP", 53), ("TCP", 5432)}


def test_annotations_name_the_metrics_endpoint():
    annotations = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    ports = {str(port["containerPort"]) for port in SERVICE["ports"]}
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] in ports
    assert annotations["prometheus.io/path"] in {route.path for route in health.router.routes}


def test_pipelines_and_shell_mount_the_claim_of_the_service():
    claims = {manifest["metadata"]["name"] for manifest in PIPELINE_MANIFESTS}
    assert claims == {volume["persistentVolumeClaim"]["claimName"] for volume in pod(SHELL)["volumes"][:1]}
    assert claims == {m["metadata"]["name"] for m in SERVICE_MANIFESTS if m["kind"] == "PersistentVolumeClaim"}
    assert [claim["spec"]["accessModes"] for claim in PIPELINE_MANIFESTS] == [["ReadWriteMany"]]  # steps use many nodes


def test_images_have_the_version_of_the_project():
    used = {container["image"] for manifest in PODS for container in pod(manifest)["containers"]}
    assert used == {f"recpolicy:{VERSION}", f"recpolicy-serving:{VERSION}"}


@pytest.fixture(scope="module")
def rendered():
    """The manifests of the example as `kubectl apply -k` sends them."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed, so kustomize cannot be run; the files themselves are checked above")
    command = ["kubectl", "kustomize", str(FOLDER / "overlays" / "example")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_example_renders_to_valid_and_hardened_manifests(rendered):
    assert {manifest["kind"] for manifest in rendered} == {m["kind"] for m in SERVICE_MANIFESTS} | {
        "Namespace",
        "ConfigMap",
    }
    for manifest in rendered:
        kubernetes_validate.validate(manifest, API_VERSIONS[-1], strict=True)
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "recpolicy"
    deployment = next(manifest for manifest in rendered if manifest["kind"] == "Deployment")
    assert weaknesses(pod(deployment)) == set()
    assert pod(deployment)["containers"][0]["image"].startswith("registry.example.com/recpolicy-serving")


def test_example_rolls_and_does_not_start_without_postgresql_and_a_key(rendered):
    deployment = next(manifest for manifest in rendered if manifest["kind"] == "Deployment")
    assert deployment["spec"]["strategy"] == {
        "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}
    }  # fmt: skip
    sources = {one["name"]: one.get("valueFrom", {}) for one in pod(deployment)["containers"][0]["env"]}
    for name in ("RECPOLICY_DATABASE_URL", "RECPOLICY_ADMIN_KEY"):
        assert sources[name] == {"secretKeyRef": {"name": "recpolicy-server", "key": name}}  # not optional


def test_example_lets_prometheus_of_another_namespace_in(rendered):
    policies = {m["metadata"]["name"]: m["spec"] for m in rendered if m["kind"] == "NetworkPolicy"}
    monitoring, service = policies["recpolicy-monitoring"], policies["recpolicy-service"]
    assert monitoring["podSelector"] == service["podSelector"]
    assert monitoring["policyTypes"] == ["Ingress"]
    assert monitoring["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"]
    assert monitoring["ingress"][0]["ports"] == service["ingress"][0]["ports"]


def test_example_changes_replicas_storage_and_settings(rendered):
    by_kind = {manifest["kind"]: manifest for manifest in rendered}
    assert by_kind["Deployment"]["spec"]["replicas"] == 2
    assert by_kind["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    settings = {m["metadata"]["name"]: m["data"] for m in rendered if m["kind"] == "ConfigMap"}
    name = pod(by_kind["Deployment"])["containers"][0]["envFrom"][0]["configMapRef"]["name"]
    assert name in settings  # the name with the digest of its content
