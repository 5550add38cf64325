"""The compiled pipelines are the committed ones, parsed. Refresh: recpolicy pipeline compile NAME -o GOLDEN."""

from pathlib import Path

import pytest
import yaml

from recpolicy.core.errors import ConfigError
from recpolicy.pipelines.compile import compile_pipeline, pipeline_names, pipeline_parameters, pipeline_yaml

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["train", "predict", "retrain", "sweep"])
def test_compiled_pipeline_is_the_golden_one(name):
    golden = (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")
    assert list(yaml.safe_load_all(pipeline_yaml(name))) == list(yaml.safe_load_all(golden))


def test_every_pipeline_has_its_golden_file():
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(pipeline_names())


def test_compiling_again_gives_the_same_bytes(tmp_path):
    compile_pipeline("train", tmp_path / "one.yaml")
    assert pipeline_yaml.__wrapped__("train") == (tmp_path / "one.yaml").read_text(encoding="utf-8")


def test_another_image_stands_in_every_step_and_changes_nothing_else():
    own = pipeline_yaml("retrain")
    other = pipeline_yaml("retrain", "registry.example/recpolicy:2")
    executors = next(yaml.safe_load_all(other))["deploymentSpec"]["executors"].values()
    images = {one["container"]["image"] for one in executors if "container" in one}
    assert images == {"registry.example/recpolicy:2"}
    assert len(own.splitlines()) == len(other.splitlines())
    differing = [pair for pair in zip(own.splitlines(), other.splitlines(), strict=True) if pair[0] != pair[1]]
    assert all("image:" in line for line, _ in differing)


def test_no_step_installs_anything_where_it_runs():
    for name in pipeline_names():
        assert "pip install" not in pipeline_yaml(name)


@pytest.mark.parametrize("name", ["train", "predict", "retrain", "sweep"])
def test_every_parameter_says_what_it_is(name):
    assert all(one.description for one in pipeline_parameters(name))


def test_network_and_training_are_tried_again_and_registering_is_never_cached():
    parts = next(yaml.safe_load_all(pipeline_yaml("train")))["components"].values()
    tasks = {name: task for part in parts for name, task in part.get("dag", {}).get("tasks", {}).items()}
    assert tasks["fetch-data"]["retryPolicy"]["maxRetryCount"] == 2
    assert tasks["train-policy"]["retryPolicy"]["maxRetryCount"] == 1
    assert not tasks["register-policy"]["cachingOptions"].get("enableCache", False)
    assert not next(yaml.safe_load_all(pipeline_yaml("train")))["root"]["dag"]["tasks"]["summarise-run"][
        "cachingOptions"
    ].get("enableCache", False)
    assert tasks["fit-embeddings"]["cachingOptions"]["enableCache"]


def test_importers_of_retrain_are_told_their_addresses_by_their_group():
    """Kubeflow's importer looks among the inputs of the group it is in, and nowhere else (importer_launcher.go)."""
    spec = next(yaml.safe_load_all(pipeline_yaml("retrain")))
    tasks = {name: task for part in spec["components"].values() for name, task in part.get("dag", {})
             .get("tasks", {}).items()}  # fmt: skip
    found = [tasks[name]["inputs"]["parameters"]["uri"] for name in ("importer", "importer-2")]
    assert found == [{"componentInputParameter": f"pipelinechannel--find-{one}-Output"} for one in ("incumbent", "log")]
    for name in ("find-incumbent", "find-log"):  # the champion may be another, and the folder hold another log
        assert not tasks[name]["cachingOptions"].get("enableCache", False)


def test_unknown_pipeline_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        pipeline_yaml("trian")
