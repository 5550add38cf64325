"""Volumes are mounted in every step; what cannot be mounted is refused; the pipeline itself stays what it is."""

import json
import logging
import subprocess
import sys

import pytest
import yaml
from kfp_server import kfp_server
from waiting import PATIENCE

from recpolicy.core.errors import ConfigError, MissingExtraError
from recpolicy.pipelines.compile import compile_pipeline, pipeline_names, pipeline_yaml
from recpolicy.pipelines.package import package_to_upload, read_package
from recpolicy.pipelines.submit import submit_to_kubeflow
from recpolicy.pipelines.volumes import Volume, mounting, read_volumes, warn_of_what_is_lost

VOLUMES = (Volume("registry", "/mnt/registry"), Volume("logs", "/mnt/logs"))
NAMES = ("train", "predict", "retrain", "sweep")


def mounts(executor):
    """What an executor of the platform spec mounts, as claim -> path; claims stand there twice, for older servers."""
    given = executor["pvcMount"]
    assert all(one["constant"] == one["pvcNameParameter"]["runtimeValue"]["constant"] for one in given)
    return {one["constant"]: one["mountPath"] for one in given}


@pytest.mark.parametrize("name", NAMES)
def test_every_step_mounts_every_volume(name):
    pipeline, platform = yaml.safe_load_all(pipeline_yaml(name, None, VOLUMES))
    executors = pipeline["deploymentSpec"]["executors"]
    with_container = {label for label, one in executors.items() if "container" in one}
    mounting_steps = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(mounting_steps) == with_container
    assert "exec-summarise-run" in with_container  # the exit handler
    wanted = {"registry": "/mnt/registry", "logs": "/mnt/logs"}
    assert all(mounts(one) == wanted for one in mounting_steps.values())


def test_steps_of_loops_and_branches_are_among_them():
    _, platform = yaml.safe_load_all(pipeline_yaml("sweep", None, VOLUMES))
    steps = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {"exec-train-policy", "exec-register-policy"} <= set(steps)


@pytest.mark.parametrize("name", NAMES)
def test_the_pipeline_itself_stays_byte_for_byte_what_it_is(name):
    whole = pipeline_yaml(name, None, VOLUMES)
    assert whole.startswith(f"{pipeline_yaml(name)}---\n")
    assert whole == pipeline_yaml.__wrapped__(name, None, VOLUMES)


def test_all_pipelines_are_tried_here():
    assert set(NAMES) == set(pipeline_names())


def test_without_caching_the_volumes_stay(tmp_path):
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
    assert [one["platform_spec"] for one in cluster.versions] == [platform, platform]


COMPILE = """
import sys
from kfp import compiler, dsl
from recpolicy.pipelines.volumes import Volume, mounting

@dsl.component(base_image="python:3.11", install_kfp_package=False)
def count(n: int) -> int:
    return n + 1

def one_step(n: int = 1):
    count(n=n)

mounted = mounting(one_step, [Volume("registry", "/mnt/registry")])
compiler.Compiler().compile(dsl.pipeline(name="one-step")(mounted), sys.argv[1])
"""


def test_the_local_runner_runs_it_without_the_volumes(tmp_path):
    file, script = tmp_path / "pipeline.yaml", tmp_path / "write.py"
    script.write_text(COMPILE)
    subprocess.run([sys.executable, "-W", "ignore", str(script), str(file)], check=True, timeout=PATIENCE)
    assert len(list(yaml.safe_load_all(file.read_text()))) == 2
    (tmp_path / "parameters.json").write_text('{"n": 4}')
    folders = [str(tmp_path), str(tmp_path / "artifacts"), str(tmp_path / "cache")]
    words = [sys.executable, "-m", "recpolicy.pipelines.kfp_runner", *folders]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.wait(PATIENCE) == 0, process.stderr.read()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert ("count", "done") in {(one["step"], one["state"]) for one in events}


@pytest.mark.parametrize(
    ("word", "volume"),
    [
        ("registry:/mnt/registry", Volume("registry", "/mnt/registry")),
        ("recpolicy-registry-2:/var/lib/recpolicy/", Volume("recpolicy-registry-2", "/var/lib/recpolicy")),
        (f"{'c' * 63}:/workspace/runs", Volume("c" * 63, "/workspace/runs")),
        ("7:/opt/data", Volume("7", "/opt/data")),
    ],
)
def test_a_volume_is_a_claim_and_a_path(word, volume):
    assert read_volumes([word]) == (volume,)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["registry"], "expected CLAIM:/path"),
        ([""], "expected CLAIM:/path"),
        ([":/mnt/registry"], "'' is no name of a claim"),
        (["Registry:/mnt/registry"], "'Registry' is no name of a claim"),
        (["-registry:/mnt/registry"], "is no name of a claim"),
        (["registry-:/mnt/registry"], "is no name of a claim"),
        (["my.registry:/mnt/registry"], "is no name of a claim"),  # a claim, but no volume, may be called so
        ([f"{'c' * 64}:/mnt/registry"], "at most 63"),
        (["registry\n:/mnt/registry"], "is no name of a claim"),
        (["registry:mnt/registry"], "an absolute path"),
        (["registry:"], "an absolute path"),
        (["registry:/"], "below /"),
        (["registry://mnt"], "an absolute path"),
        (["registry:/mnt/../etc"], "an absolute path"),
        (["registry:/mnt/./a"], "an absolute path"),
        (["registry:/mnt/a:ro"], "an absolute path"),
        (["registry:/mnt/a b"], "an absolute path"),
        (["registry:/mnt/a\n"], "an absolute path"),
        (["registry:/usr/local"], "/usr is the image's or Kubeflow's own"),
        (["registry:/opt"], "/opt/venv is the image's or Kubeflow's own"),
        (["registry:/gcs/bucket"], "/gcs is the image's or Kubeflow's own"),
        (["registry:/mnt/a", "registry:/mnt/b"], "registry is named twice"),
        (["registry:/mnt/a", "logs:/mnt/a"], "/mnt/a and /mnt/a overlap"),
        (["registry:/mnt/a", "logs:/mnt"], "/mnt/a and /mnt overlap"),
    ],
)
def test_what_cannot_be_mounted_is_one_line(words, said):
    with pytest.raises(ConfigError) as error:
        read_volumes(words)
    assert said in str(error.value)
    assert str(error.value).startswith("--volume")
    assert "\n" not in str(error.value)


def test_a_name_that_begins_like_another_is_not_inside_it():
    words = ["a:/mnt/registry", "b:/mnt/registry-2", "c:/users"]
    assert [one.path for one in read_volumes(words)] == ["/mnt/registry", "/mnt/registry-2", "/users"]


@pytest.mark.parametrize(
    ("registry", "warned"),
    [
        ("", False), ("/mnt/registry", False), ("/mnt/registry/shop", False),
        ("/mnt/registry-2", True), ("/srv/registry", True), ("runs/registry", True), ("/mnt/registry/../other", True),
    ],
)  # fmt: skip
def test_a_registry_that_lies_on_no_volume_is_warned_of(registry, warned, caplog):
    caplog.set_level(logging.WARNING)
    warn_of_what_is_lost(registry, VOLUMES)
    assert bool(caplog.messages) == warned
    if warned:
        assert f"registry={registry} lies on no volume" in caplog.text


def test_without_kfp_kubernetes_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kfp.kubernetes", None)
    monkeypatch.delattr("kfp.kubernetes", raising=False)
    with pytest.raises(MissingExtraError, match=r"recpolicy\[pipelines\]"):
        mounting(lambda: None, VOLUMES)
