"""`recpolicy pipeline`: output, exit codes and rejected arguments."""

import json

import pytest
import yaml
from command_line import recpolicy, refused
from kfp_server import kfp_server

from recpolicy.pipelines import local
from recpolicy.pipelines.runs import PipelineRun, Step
from recpolicy.pipelines.submit import TOKEN_VARIABLE


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    import kfp

    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.setenv(TOKEN_VARIABLE, "secret-word")
    with kfp_server() as running:
        running.token = "secret-word"
        yield running


def finished(tmp_path, state, step_state, log=""):
    path = tmp_path / "train-policy.log"
    path.write_text(log)
    step = Step("train-policy", step_state, seconds=1.5, log=str(path), artifacts={"policy": "somewhere/policy"})
    return PipelineRun("train", tmp_path, {}, state, 2.0, (step,))


def test_list_shows_the_pipelines_or_the_parameters_of_one(capsys):
    assert "retrain" in recpolicy(capsys, "pipeline", "list").out
    answer = recpolicy(capsys, "pipeline", "list", "retrain")
    assert "incumbent" in answer.out
    assert "(required)" in answer.out
    names = [item["name"] for item in json.loads(recpolicy(capsys, "pipeline", "list", "predict", "--json").out)]
    assert names == ["policy", "user_ids", "item_ids", "batch"]


def test_compile_writes_yaml_with_the_image(capsys, tmp_path):
    answer = recpolicy(capsys, "pipeline", "compile", "predict", "-o", tmp_path / "p.yaml", "--image", "mine:1")
    assert answer.code == 0
    body = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
    assert body["pipelineInfo"]["name"] == "recpolicy-predict"
    assert "mine:1" in (tmp_path / "p.yaml").read_text()


def test_compile_mounts_volumes(capsys, tmp_path):
    words = ("--volume", "registry:/mnt/registry", "--volume", "logs:/mnt/logs", "--image", "mine:1")
    assert recpolicy(capsys, "pipeline", "compile", "retrain", "-o", tmp_path / "r.yaml", *words).code == 0
    pipeline, platform = yaml.safe_load_all((tmp_path / "r.yaml").read_text())
    assert pipeline["deploymentSpec"]["executors"]["exec-register-policy"]["container"]["image"] == "mine:1"
    step = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-register-policy"]
    assert [item["mountPath"] for item in step["pvcMount"]] == ["/mnt/registry", "/mnt/logs"]


@pytest.mark.parametrize("word", ["registry", "registry:mnt", "Registry_1:/mnt/registry"])
def test_invalid_volume_is_rejected_and_nothing_is_written(capsys, tmp_path, cluster, word):
    file = tmp_path / "p.yaml"
    assert f"--volume '{word}'" in refused(
        recpolicy(capsys, "pipeline", "compile", "predict", "-o", file, "--volume", word)
    )
    assert not file.exists()
    words = ("submit", "train", "--host", cluster.url, "--volume", word)
    assert f"--volume '{word}'" in refused(recpolicy(capsys, "pipeline", *words))
    assert cluster.requests == []


def test_run_rejects_volumes_with_a_reason(capsys, tmp_path):
    words = ("run", "train", "--root", tmp_path / "r", "--volume", "registry:/mnt/registry")
    assert "--volume is for compile and submit --host" in refused(recpolicy(capsys, "pipeline", *words))
    assert not (tmp_path / "r").exists()


def test_run_passes_parameters_and_prints_artifacts(capsys, tmp_path, monkeypatch):
    seen = {}

    def stand_in(name, parameters, **how):
        seen.update(name=name, parameters=parameters, **how)
        return finished(tmp_path, "done", "done")

    monkeypatch.setattr(local, "run_pipeline", stand_in)
    answer = recpolicy(capsys, "pipeline", "run", "train", "--param", "agent=lints", "-p", "seed=3", "--no-cache")
    assert answer.code == 0
    assert seen["parameters"] == {"agent": "lints", "seed": "3"}
    assert seen["caching"] is False
    assert "train-policy/policy: somewhere/policy" in answer.out


@pytest.mark.parametrize(
    ("verdict", "words", "code"),
    [("pass", (), 0), ("fail", (), 0), ("no_verdict", (), 0), ("pass", ("--fail-on-gate",), 0),
     ("fail", ("--fail-on-gate",), 1), ("no_verdict", ("--fail-on-gate",), 1)],
)  # fmt: skip
def test_verdict_is_printed_and_is_the_exit_code_if_asked(capsys, tmp_path, monkeypatch, verdict, words, code):
    record = tmp_path / "record"
    record.write_text(json.dumps({"verdict": verdict, "reasons": [] if verdict == "pass" else ["too little"]}))
    step = Step("gate-policy", "done", artifacts={"record": str(record)})
    run = PipelineRun("train", tmp_path, {}, "done", 2.0, (step,))
    monkeypatch.setattr(local, "run_pipeline", lambda *_, **__: run)
    answer = recpolicy(capsys, "pipeline", "run", "train", *words)
    assert answer.code == code
    assert f"gate: {verdict.upper().replace('_', ' ')}" in answer.out
    assert ("too little" in answer.out) == (verdict != "pass")


def test_pipeline_without_a_gate_cannot_fail_on_it(capsys, tmp_path):
    words = ("run", "predict", "-p", "policy=p", "--fail-on-gate", "--root", tmp_path / "r")
    assert "--fail-on-gate is for a pipeline with a gate" in refused(recpolicy(capsys, "pipeline", *words))


def test_failed_step_is_one_line_and_exit_code_1(capsys, tmp_path, monkeypatch):
    log = "Traceback ...\nrecpolicy.core.errors.DataError: ratings.csv:3: rating 'x' is not a number\nmore"
    monkeypatch.setattr(local, "run_pipeline", lambda *_, **__: finished(tmp_path, "failed", "failed", log))
    answer = recpolicy(capsys, "pipeline", "run", "train")
    assert answer.code == 1
    line = answer.err.strip().splitlines()[-1]
    assert line.startswith("recpolicy: step train-policy failed: DataError: ratings.csv:3: rating 'x' is not a number")
    assert line.endswith("train-policy.log")


def test_invalid_parameter_is_rejected_and_nothing_is_written(capsys, tmp_path):
    line = refused(recpolicy(capsys, "pipeline", "run", "train", "--root", tmp_path / "r", "-p", "agnet=linucb"))
    assert "Did you mean 'agent'" in line
    assert not (tmp_path / "r").exists()


def test_submit_sends_the_compiled_pipeline_with_its_parameters(capsys, cluster):
    answer = recpolicy(
        capsys, "pipeline", "submit", "train", "--host", cluster.url, "-p", "seed=7", "--image", "mine:1", "--json"
    )
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["id"] == cluster.runs[0]["run_id"]
    assert cluster.runs[0]["runtime_config"]["parameters"] == {"seed": 7}
    assert cluster.pipelines[0]["display_name"] == "recpolicy-train"
    assert "secret-word" not in answer.out + answer.err


def test_submit_with_a_schedule_creates_a_recurring_run(capsys, cluster):
    answer = recpolicy(
        capsys, "pipeline", "submit", "retrain", "--host", cluster.url, "--cron", "0 1 * * 1",
        "-p", "incumbent=s3://b/policy", "-p", "log=s3://b/log",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert answer.out.startswith("scheduled recpolicy-retrain: http")
    assert len(cluster.recurring_runs) == 1


@pytest.mark.parametrize(
    ("words", "cached"),
    [
        ((), True),
        (("--no-cache",), False),
        (("--cron", "0 1 * * 1"), False),
        (("--cron", "0 1 * * 1", "--cache"), True),
    ],
)
def test_schedules_are_not_cached_unless_asked(capsys, cluster, words, cached):
    words = ["0 1 * * 1" if word == "@" else word for word in words]
    needed = ("-p", "incumbent=s3://b/policy", "-p", "log=s3://b/log")
    assert recpolicy(capsys, "pipeline", "submit", "retrain", "--host", cluster.url, *needed, *words).code == 0
    assert ("enableCache" in json.dumps(cluster.versions[0]["pipeline_spec"])) == cached


def test_submitting_a_schedule_again_replaces_it(capsys, cluster):
    words = ("pipeline", "submit", "retrain", "--host", cluster.url, "--cron", "0 1 * * 1")
    words += ("-p", "incumbent=s3://b/policy", "-p", "log=s3://b/log")
    first = json.loads(recpolicy(capsys, *words, "--json").out)
    assert first["replaced"] == []
    assert f"replaced: {first['id']}\n" in recpolicy(capsys, *words).out
    assert len(cluster.recurring_runs) == 1
    assert "replaced" not in recpolicy(capsys, *words, "--name", "retrain-shop").out
    assert [item["display_name"] for item in cluster.recurring_runs] == ["recpolicy-retrain", "retrain-shop"]
    assert [item["display_name"] for item in cluster.pipelines] == ["recpolicy-retrain", "retrain-shop"]


def test_submit_mounts_volumes_and_warns_about_a_registry_outside(capsys, cluster, caplog):
    words = ("pipeline", "submit", "train", "--host", cluster.url, "--volume", "claim:/mnt/registry")
    assert recpolicy(capsys, *words, "-p", "registry=/mnt/registry/shop").code == 0
    steps = cluster.versions[0]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {item["pvcMount"][0]["constant"] for item in steps.values()} == {"claim"}
    assert caplog.messages == []
    assert recpolicy(capsys, *words, "-p", "registry=/srv/registry").code == 0
    assert "registry=/srv/registry is on no volume of the steps" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either --host (Kubeflow) or --vertex"),
        (("--host", "http://127.0.0.1:1", "--vertex", "p"), "give either --host (Kubeflow) or --vertex"),
        (("--vertex", "p"), "--location and --pipeline-root"),
        (("--vertex", "p", "--volume", "registry:/mnt/registry"), "--volume is for Kubeflow"),
        (("--host", "http://127.0.0.1:1", "-p", "seed=-1"), "seed is -1"),
    ],
)
def test_invalid_submission_is_rejected_before_any_request(capsys, words, message):
    assert message in refused(recpolicy(capsys, "pipeline", "submit", "train", *words))
