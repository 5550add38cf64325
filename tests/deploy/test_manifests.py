"""The Kubernetes manifests: valid against the API's schemas, hardened, and complete; no cluster is needed."""

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

from recpolicy.pipelines.compile import checked_parameters
from recpolicy.pipelines.volumes import read_volumes
from recpolicy.server.routes import health

FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
API_VERSIONS = ("1.29", "1.33", "1.37")
# Made by hand on the cluster, never by these files.
SECRETS = {"recpolicy-kfp-token", "recpolicy-server"}


def manifests(part):
    """Return the manifests of a folder as its kustomization lists them."""
    listed = kustomization(part)["resources"]
    return [yaml.safe_load((FOLDER / part / name).read_text()) for name in listed if name.endswith(".yaml")]


def kustomization(part):
    return yaml.safe_load((FOLDER / part / "kustomization.yaml").read_text())


SHELL = yaml.safe_load((FOLDER / "shell" / "pod.yaml").read_text())
APPLIED = [manifest for part in ("base", "retrain") for manifest in manifests(part)]
ELSEWHERE = manifests("pipelines")
"""What lies in the namespace of Kubeflow's steps."""
ALL = [*APPLIED, *ELSEWHERE, SHELL]
NAMES = [f"{manifest['kind']} {manifest['metadata']['name']}" for manifest in ALL]


def pod(manifest):
    """Return the pod that a manifest starts."""
    spec = manifest["spec"]
    if manifest["kind"] == "CronJob":
        return spec["jobTemplate"]["spec"]["template"]["spec"]
    return {"Pod": spec, "Deployment": spec.get("template", {}).get("spec")}[manifest["kind"]]


def soft_spots(pod):
    """Name what a pod may do or use without need; the profile `restricted` of Kubernetes and a little more."""
    found = set()
    whole = pod.get("securityContext", {})
    if not whole.get("runAsNonRoot") or whole.get("runAsUser") != 1000:
        found.add("may be root")
    if whole.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.add("no seccomp profile")
    if pod.get("automountServiceAccountToken") is not False:
        found.add("has a token for the cluster")
    if any("hostPath" in volume for volume in pod["volumes"]) or pod.get("hostNetwork"):
        found.add("reaches the node")
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            found.add("may gain rights")
        if not own.get("readOnlyRootFilesystem"):
            found.add("may change its image")
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
            found.add("unbounded")
        if not re.search(r":\d[\w.-]*$", container["image"]):
            found.add("image without a version")
    return found


PODS = [manifest for manifest in ALL if manifest["kind"] in ("CronJob", "Deployment", "Pod")]
DEPLOYMENT = next(manifest for manifest in ALL if manifest["kind"] == "Deployment")
SERVICE = pod(DEPLOYMENT)["containers"][0]


@pytest.mark.parametrize("version", API_VERSIONS)
@pytest.mark.parametrize("manifest", ALL, ids=NAMES)
def test_manifest_is_what_the_api_takes(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)


def test_every_file_is_listed_and_every_listed_file_is_there():
    for part in ("base", "retrain", "pipelines", "overlays/example"):
        patches = [patch["path"] for patch in kustomization(part).get("patches", [])]
        there = {path.name for path in (FOLDER / part).glob("*.yaml")} - {"kustomization.yaml"}
        listed = {name for name in kustomization(part)["resources"] if name.endswith(".yaml")}
        assert there == listed | set(patches)


def _without(key):
    return lambda spec: spec.pop(key)


def _with(key, value):
    return lambda spec: spec.update({key: value})


@pytest.mark.parametrize("change", [_without("selector"), _with("replicas", "two"), _with("replica", 2)])
def test_broken_manifest_is_refused(change):
    broken = copy.deepcopy(next(manifest for manifest in ALL if manifest["kind"] == "Deployment"))
    change(broken["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, API_VERSIONS[-1], strict=True)


@pytest.mark.parametrize("manifest", PODS, ids=lambda manifest: manifest["kind"])
def test_pod_has_no_soft_spot(manifest):
    assert soft_spots(pod(manifest)) == set()


@pytest.mark.parametrize(
    ("where", "key", "value", "soft"),
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
def test_soft_spot_is_seen(manifest, where, key, value, soft):
    changed = copy.deepcopy(pod(manifest))
    (changed if where == "pod" else changed["containers"][0])[key] = value
    assert soft in soft_spots(changed)


def test_nothing_names_a_namespace_or_holds_a_secret():
    assert not [manifest for manifest in ALL if "namespace" in manifest["metadata"]]
    assert "Secret" not in {manifest["kind"] for manifest in ALL}


def test_what_pods_refer_to_is_there():
    kinds = ("ServiceAccount", "PersistentVolumeClaim")
    there = {kind: {m["metadata"]["name"] for m in ALL if m["kind"] == kind} for kind in kinds}
    settings = {made["name"] for part in ("base", "retrain") for made in kustomization(part)["configMapGenerator"]}
    for spec in map(pod, PODS):
        assert spec.get("serviceAccountName", "recpolicy-service") in there["ServiceAccount"]
        for volume in spec["volumes"]:
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "recpolicy-registry") in there[kinds[1]]
            assert volume.get("secret", {}).get("secretName", "recpolicy-kfp-token") in SECRETS
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


def test_probes_and_service_ask_where_the_service_answers():
    assert [port["containerPort"] for port in SERVICE["ports"] if port["name"] == "http"] == [8080]
    asked = {name: SERVICE[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    service = next(manifest for manifest in ALL if manifest["kind"] == "Service")
    assert service["spec"]["ports"][0]["targetPort"] == "http"


def settings_of(part):
    """Return the environment that the generated ConfigMap of a folder makes."""
    return dict(literal.split("=", 1) for literal in kustomization(part)["configMapGenerator"][0]["literals"])


def test_registry_and_state_lie_on_the_volume_that_the_service_can_write():
    mount = next(mount for mount in SERVICE["volumeMounts"] if mount["name"] == "registry")
    assert not mount.get("readOnly")
    settings = settings_of("base")
    assert set(settings) == {"RECPOLICY_RUN", "RECPOLICY_STATE"}
    assert {str(PurePosixPath(folder).parent) for folder in settings.values()} == {mount["mountPath"]}
    assert settings["RECPOLICY_RUN"] != settings["RECPOLICY_STATE"]


def test_one_pod_at_a_time_where_the_volume_is_of_one_node():
    claim = next(manifest for manifest in ALL if manifest["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert (DEPLOYMENT["spec"]["replicas"], DEPLOYMENT["spec"]["strategy"]) == (1, {"type": "Recreate"})


def test_database_and_key_come_from_a_secret_that_may_be_missing():
    assert {"secretRef": {"name": "recpolicy-server", "optional": True}} in SERVICE["envFrom"]
    assert not [one for one in SERVICE["env"] if re.search(r"KEY|URL|PASSWORD", one["name"])]


def ports_out(policy):
    """Return (protocol, port) of all that a network policy lets out."""
    return {(port["protocol"], port["port"]) for rule in policy["spec"]["egress"] for port in rule["ports"]}


def test_service_reaches_dns_and_postgresql_and_nothing_else():
    policy = next(m for m in ALL if m["kind"] == "NetworkPolicy" and m["metadata"]["name"] == "recpolicy-service")
    assert all(rule.get("ports") for rule in policy["spec"]["egress"])
    assert ports_out(policy) == {("UDP", 53), ("TCP", 53), ("TCP", 5432)}


def test_prometheus_is_told_where_the_counters_are():
    told = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    ports = {str(port["containerPort"]) for port in SERVICE["ports"]}
    assert told["prometheus.io/scrape"] == "true"
    assert told["prometheus.io/port"] in ports
    assert told["prometheus.io/path"] in {route.path for route in health.router.routes}


def test_retraining_is_submitted_on_mondays_at_one_and_never_twice_at_once():
    job = next(manifest for manifest in ALL if manifest["kind"] == "CronJob")
    assert job["spec"]["schedule"] == "0 1 * * 1"
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    words = pod(job)["containers"][0]["args"]
    assert words[:3] == ["pipeline", "submit", "retrain"]
    assert "--no-cache" in words  # the addresses are the same every week
    mount = next(mount for mount in pod(job)["containers"][0]["volumeMounts"] if mount["name"] == "token")
    assert words[words.index("--token-file") + 1] == f"{mount['mountPath']}/token"
    assert mount["readOnly"]


def test_retraining_registers_on_a_volume_that_its_steps_mount_and_the_service_or_the_shell_reads():
    settings = settings_of("retrain")
    (volume,) = read_volumes([settings["VOLUME"]])
    assert PurePosixPath(settings["REGISTRY"]).is_relative_to(volume.path)
    assert PurePosixPath(settings["LOG"]).is_relative_to(volume.path)
    assert settings["REGISTRY"] == settings_of("base")["RECPOLICY_RUN"]
    claims = {claim["metadata"]["name"] for claim in ELSEWHERE}
    assert claims == {volume.claim} == {one["persistentVolumeClaim"]["claimName"] for one in pod(SHELL)["volumes"][:1]}
    assert [claim["spec"]["accessModes"] for claim in ELSEWHERE] == [["ReadWriteMany"]]  # steps are on several nodes


def test_retraining_has_every_setting_that_its_words_name():
    job = next(manifest for manifest in ALL if manifest["kind"] == "CronJob")
    named = set(re.findall(r"\$\((\w+)\)", " ".join(pod(job)["containers"][0]["args"])))
    literals = kustomization("retrain")["configMapGenerator"][0]["literals"]
    assert named == {literal.split("=")[0] for literal in literals}


def test_retraining_begins_with_the_champion_of_the_registry():
    settings = settings_of("retrain")
    assert settings["INCUMBENT"] == ""
    checked_parameters("retrain", {name.lower(): settings[name] for name in ("INCUMBENT", "LOG", "REGISTRY")})


def test_images_have_the_version_of_the_project():
    used = {container["image"] for manifest in PODS for container in pod(manifest)["containers"]}
    assert used == {f"recpolicy:{VERSION}", f"recpolicy-serving:{VERSION}"}


@pytest.fixture(scope="module")
def rendered():
    """What `kubectl apply -k` would send for the example."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed, so kustomize cannot be run; the files themselves are checked above")
    command = ["kubectl", "kustomize", str(FOLDER / "overlays" / "example")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_example_renders_to_valid_and_hardened_manifests(rendered):
    assert {manifest["kind"] for manifest in rendered} == {m["kind"] for m in APPLIED} | {"Namespace", "ConfigMap"}
    for manifest in rendered:
        kubernetes_validate.validate(manifest, API_VERSIONS[-1], strict=True)
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "recpolicy"
    for manifest in (manifest for manifest in rendered if manifest["kind"] in ("CronJob", "Deployment")):
        assert soft_spots(pod(manifest)) == set()
        assert pod(manifest)["containers"][0]["image"].startswith("registry.example.com/recpolicy")


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
    of = {manifest["kind"]: manifest for manifest in rendered}
    assert of["Deployment"]["spec"]["replicas"] == 2
    assert of["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    settings = {m["metadata"]["name"]: m["data"] for m in rendered if m["kind"] == "ConfigMap"}
    for kind in ("Deployment", "CronJob"):
        name = pod(of[kind])["containers"][0]["envFrom"][0]["configMapRef"]["name"]
        assert name in settings  # the name with the digest of its content
    assert "https://kubeflow.example.com" in [data.get("KFP_HOST") for data in settings.values()]
