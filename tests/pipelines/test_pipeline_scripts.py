"""The scripts in pipelines/ print help and one clear error, and submit the files of that folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kfp_server import kfp_server

FOLDER = Path(__file__).parents[2] / "pipelines"
SCRIPTS = ("run_locally", "submit_to_kubeflow", "submit_to_vertex")
KUBEFLOW = ("submit_to_kubeflow", "predict", "--param", "policy=s3://bucket/policy", "--host")
VERTEX = ("submit_to_vertex", "train", "--project", "shop", "--location", "europe-west4", "--pipeline-root")


def script(name, *words, **environment):
    command = [sys.executable, str(FOLDER / f"{name}.py"), *words]
    settings = {"HOME": "/nonexistent", "RECPOLICY_KFP_TOKEN": "secret-word", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **settings})


def test_every_script_is_tested_here_and_in_the_readme():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in FOLDER.glob("*.py")} == {*SCRIPTS, "command_line"}
    assert all(f"pipelines/{name}.py" in text for name in SCRIPTS)
    assert all(f"[{path.name}]({path.name})" in text for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_names_the_arguments_and_marks_untested_platforms(name):
    result = script(name, "--help")
    assert result.returncode == 0, result.stderr
    assert "--param" in result.stdout
    assert ("Experimental" in result.stdout) == (name != "run_locally")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run_locally", "predict"), "predict needs the parameter policy"),
        (("run_locally", "train", "--param", "agnet=x"), "Did you mean 'agent'"),
        (("run_locally", "train", "--param", "agent"), "expected name=value"),
        ((*KUBEFLOW, "http://127.0.0.1:1"), "http://127.0.0.1:1 cannot be reached"),
        ((*KUBEFLOW, "kubeflow"), "--host: expected an address"),
        ((*VERTEX, "bucket"), "--pipeline-root 'bucket': expected a folder in a bucket"),
        ((*VERTEX, "gs://bucket/root", "--cron", "weekly"), "has 1 fields"),
    ],
)
def test_errors_are_one_line(words, message, tmp_path):
    result = script(*words)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.startswith(f"{words[0]}.py: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_kubeflow_gets_the_file_and_the_parameters(tmp_path):
    with kfp_server() as cluster:
        cluster.token = "secret-word"
        result = script(*KUBEFLOW, cluster.url, HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{cluster.url}/#/runs/details/")
    assert cluster.versions[0]["pipeline_spec"] == yaml.safe_load((FOLDER / "predict.yaml").read_text())
    assert cluster.runs[0]["runtime_config"]["parameters"] == {"policy": "s3://bucket/policy"}
