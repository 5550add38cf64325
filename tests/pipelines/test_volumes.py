"""Every step mounts every volume; a volume that cannot be mounted is rejected; the pipeline itself stays the same."""

import json
import logging
import subprocess
import sys

import pytest
import yaml
from kfp_server import kfp_server
from waiting import PATIENCE

from recpolicy.core.errors import ConfigError, MissingExtraError
from recpolicy.pipelines.compile import compile_pipeline, pipeline_descriptions, pipeline_yaml
from recpolicy.pipelines.package import package_to_upload, read_package
from recpolicy.pipelines.submit import submit_to_kubeflow
from recpolicy.pipelines.volumes import Volume, read_volumes, warn_of_lost_registry, with_volumes

VOLUMES = (Volume("registry", "/mnt/registry"), Volume("logs", "/mnt/logs"))
NAMES = ("train", "train_features", "predict", "retrain", "sweep")


def mounts(executor):
    """Return claim -> path of an executor of the platform spec; it has each claim twice, for older servers."""
    volumes = executor["pvcMount"]
    assert all(item["constant"] == item["pvcNameParameter"]["runtimeValue"]["constant"] for item in volumes)
    return {item["constant"]: item["mountPath"] for item in volumes}


@pytest.mark.parametrize("name", NAMES)
def test_every_step_mounts_every_volume(name):
    pipeline, platform = yaml.safe_load_all(pipeline_yaml(name, None, VOLUMES))
    executors = pipeline["deploymentSpec"]["executors"]
    with_container = {label for label, executor in executors.items() if "container" in executor}
    mounting_steps = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(mounting_steps) == with_container
    assert "exec-summarize-run" in with_container  # the exit handler
    expected = {"registry": "/mnt/registry", "logs": "/mnt/logs"}
    assert all(mounts(executor) == expected for executor in mounting_steps.values())


def test_steps_of_loops_and_branches_mount_volumes_too():
    _, platform = yaml.safe_load_all(pipeline_yaml("sweep", None, VOLUMES))
    steps = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {"exec-train-policy", "exec-register-policy"} <= set(steps)


@pytest.mark.parametrize("name", NAMES)
def test_first_document_is_the_pipeline_without_volumes(name):
    both = pipeline_yaml(name, None, VOLUMES)
    assert both.startswith(f"{pipeline_yaml(name)}---\n")
    assert both == pipeline_yaml.__wrapped__(name, None, VOLUMES)


def test_these_are_all_pipelines():
    assert set(NAMES) == set(pipeline_descriptions())


def test_copy_without_caching_keeps_the_volumes(tmp_path):
    compile_pipeline("retrain", tmp_path / "retrain.yaml", volumes=VOLUMES)
    package = read_package(tmp_path / "retrain.yaml")
    assert package.for_kubernetes
    with package_to_upload(package, caching=False) as file:
        assert read_package(file).documents[1] == package.documents[1]


def test_kubeflow_gets_both_documents(tmp_path, monkeypatch):
    import kfp

    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    compile_pipeline("predict", tmp_path / "predict.yaml", volumes=VOLUMES)
    values = {"policy": "s3://bucket/policy"}
    with kfp_server() as cluster:
        for caching in (True, False):
            submit_to_kubeflow(tmp_path / "predict.yaml", values, host=cluster.url, name="predict", caching=caching)
    pipeline, platform = yaml.safe_load_all((tmp_path / "predict.yaml").read_text())
    assert cluster.versions[0]["pipeline_spec"] == pipeline
    assert [version["platform_spec"] for version in cluster.versions] == [platform, platform]


COMPILE = """
import sys
from kfp import compiler, dsl
from recpolicy.pipelines.volumes import Volume, with_volumes

@dsl.component(base_image="python:3.11", install_kfp_package=False)
def count(n: int) -> int:
    return n + 1

def one_step(n: int = 1):
    count(n=n)

mounted = with_volumes(one_step, [Volume("registry", "/mnt/registry")])
compiler.Compiler().compile(dsl.pipeline(name="one-step")(mounted), sys.argv[1])
"""


def test_local_runner_ignores_the_volumes(tmp_path):
    file, script = tmp_path / "pipeline.yaml", tmp_path / "write.py"
    script.write_text(COMPILE)
    command = [sys.executable, "-W", "ignore", str(script), str(file)]
    compiled = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert compiled.returncode == 0, compiled.stderr
    assert len(list(yaml.safe_load_all(file.read_text()))) == 2
    (tmp_path / "parameters.json").write_text('{"n": 4}')
    folders = [str(tmp_path), str(tmp_path / "artifacts"), str(tmp_path / "cache")]
    words = [sys.executable, "-m", "recpolicy.pipelines.kfp_runner", *folders]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.wait(PATIENCE) == 0, process.stderr.read()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert ("count", "done") in {(event["step"], event["state"]) for event in events}


@pytest.mark.parametrize(
    ("word", "volume"),
    [
        ("registry:/mnt/registry", Volume("registry", "/mnt/registry")),
        ("recpolicy-registry-2:/var/lib/recpolicy/", Volume("recpolicy-registry-2", "/var/lib/recpolicy")),
        (f"{'c' * 63}:/workspace/runs", Volume("c" * 63, "/workspace/runs")),
        ("7:/opt/data", Volume("7", "/opt/data")),
    ],
)
def test_volume_is_a_claim_and_a_path(word, volume):
    assert read_volumes([word]) == (volume,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["registry"], "expected CLAIM:/path"),
        ([""], "expected CLAIM:/path"),
        ([":/mnt/registry"], "cannot mount the claim ''"),
        (["Registry:/mnt/registry"], "cannot mount the claim 'Registry'"),
        (["-registry:/mnt/registry"], "cannot mount the claim"),
        (["registry-:/mnt/registry"], "cannot mount the claim"),
        (["my.registry:/mnt/registry"], "cannot mount the claim"),  # valid for a claim, not for a volume
        ([f"{'c' * 64}:/mnt/registry"], "at most 63"),
        (["registry\n:/mnt/registry"], "cannot mount the claim"),
        (["registry:mnt/registry"], "an absolute path"),
        (["registry:"], "an absolute path"),
        (["registry:/"], "below /"),
        (["registry://mnt"], "an absolute path"),
        (["registry:/mnt/../etc"], "an absolute path"),
        (["registry:/mnt/./a"], "an absolute path"),
        (["registry:/mnt/a:ro"], "an absolute path"),
        (["registry:/mnt/a b"], "an absolute path"),
        (["registry:/mnt/a\n"], "an absolute path"),
        (["registry:/usr/local"], "/usr belongs to the image or to Kubeflow"),
        (["registry:/opt"], "/opt/venv belongs to the image or to Kubeflow"),
        (["registry:/gcs/bucket"], "/gcs belongs to the image or to Kubeflow"),
        (["registry:/mnt/a", "registry:/mnt/b"], "registry is given twice"),
        (["registry:/mnt/a", "logs:/mnt/a"], "/mnt/a and /mnt/a overlap"),
        (["registry:/mnt/a", "logs:/mnt"], "/mnt/a and /mnt overlap"),
    ],
)
def test_invalid_volume_is_one_line(words, message):
    with pytest.raises(ConfigError) as error:
        read_volumes(words)
    assert message in str(error.value)
    assert str(error.value).startswith("--volume")
    assert "\n" not in str(error.value)


def test_path_with_the_same_beginning_is_not_inside_the_other():
    words = ["a:/mnt/registry", "b:/mnt/registry-2", "c:/users"]
    assert [volume.path for volume in read_volumes(words)] == ["/mnt/registry", "/mnt/registry-2", "/users"]


@pytest.mark.parametrize(
    ("registry", "warned"),
    [
        ("", False), ("/mnt/registry", False), ("/mnt/registry/shop", False),
        ("/mnt/registry-2", True), ("/srv/registry", True), ("runs/registry", True), ("/mnt/registry/../other", True),
    ],
)  # fmt: skip
def test_registry_on_no_volume_is_a_warning(registry, warned, caplog):
    caplog.set_level(logging.WARNING)
    warn_of_lost_registry(registry, VOLUMES)
    assert bool(caplog.messages) == warned
    if warned:
        assert f"registry={registry} is on no volume" in caplog.text


def test_missing_kfp_kubernetes_is_an_error_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "kfp.kubernetes", None)
    monkeypatch.delattr("kfp.kubernetes", raising=False)
    with pytest.raises(MissingExtraError, match=r"recpolicy\[pipelines\]"):
        with_volumes(lambda: None, VOLUMES)
