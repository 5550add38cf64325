"""The files in pipelines/ are the output of the compiler, and have the caching and retries that the steps need."""

from pathlib import Path

import pytest
import yaml

from recpolicy.core.errors import ConfigError
from recpolicy.pipelines.compile import (
    compile_pipeline,
    pipeline_descriptions,
    pipeline_parameters,
    pipeline_yaml,
)

FOLDER = Path(__file__).parents[2] / "pipelines"


@pytest.mark.parametrize("name", ["train", "train_features", "predict", "retrain", "sweep"])
def test_committed_file_is_the_output_of_the_compiler(name):
    committed = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert committed == pipeline_yaml(name), "run scripts/compile-pipelines"


def test_every_pipeline_has_a_file():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(pipeline_descriptions())


def test_compiling_again_gives_the_same_bytes(tmp_path):
    compile_pipeline("train", tmp_path / "one.yaml")
    assert pipeline_yaml.__wrapped__("train") == (tmp_path / "one.yaml").read_text(encoding="utf-8")


def test_another_image_changes_every_step_and_nothing_else():
    own = pipeline_yaml("retrain")
    other = pipeline_yaml("retrain", "registry.example/recpolicy:2")
    executors = next(yaml.safe_load_all(other))["deploymentSpec"]["executors"].values()
    images = {item["container"]["image"] for item in executors if "container" in item}
    assert images == {"registry.example/recpolicy:2"}
    assert len(own.splitlines()) == len(other.splitlines())
    differing = [pair for pair in zip(own.splitlines(), other.splitlines(), strict=True) if pair[0] != pair[1]]
    assert all("image:" in line for line, _ in differing)


def test_no_step_installs_packages_at_run_time():
    for name in pipeline_descriptions():
        assert "pip install" not in pipeline_yaml(name)


@pytest.mark.parametrize("name", ["train", "train_features", "predict", "retrain", "sweep"])
def test_every_parameter_has_a_description(name):
    assert all(parameter.description for parameter in pipeline_parameters(name))


def test_only_training_is_retried_and_registration_is_never_cached():
    parts = next(yaml.safe_load_all(pipeline_yaml("train")))["components"].values()
    tasks = {name: task for part in parts for name, task in part.get("dag", {}).get("tasks", {}).items()}
    assert [name for name, task in tasks.items() if "retryPolicy" in task] == ["train-policy"]
    assert tasks["train-policy"]["retryPolicy"]["maxRetryCount"] == 1
    for name in ("register-policy", "find-champion"):
        assert not tasks[name]["cachingOptions"].get("enableCache", False)
    assert not next(yaml.safe_load_all(pipeline_yaml("train")))["root"]["dag"]["tasks"]["summarize-run"][
        "cachingOptions"
    ].get("enableCache", False)
    assert tasks["fit-embeddings"]["cachingOptions"]["enableCache"]


def test_importers_of_retrain_get_their_addresses_from_their_group():
    """Kubeflow's importer reads only the inputs of its group (importer_launcher.go)."""
    spec = next(yaml.safe_load_all(pipeline_yaml("retrain")))
    tasks = {name: task for part in spec["components"].values() for name, task in part.get("dag", {})
             .get("tasks", {}).items()}  # fmt: skip
    uris = [tasks[name]["inputs"]["parameters"]["uri"] for name in ("importer", "importer-2")]
    assert uris == [{"componentInputParameter": f"pipelinechannel--find-{key}-Output"} for key in ("incumbent", "log")]
    for name in ("find-incumbent", "find-log"):  # the champion and the content of the log folder change
        assert not tasks[name]["cachingOptions"].get("enableCache", False)


def test_unknown_pipeline_suggests_the_nearest_name():
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        pipeline_yaml("trian")
