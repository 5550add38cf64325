"""What Vertex AI's library is asked to do, with a stand-in whose functions take what the real ones take.

Signatures are those of google-cloud-aiplatform 2.7.0; where the extra `vertex` is installed they are compared.
"""

import importlib.machinery
import inspect
import sys
import types

import pytest
import yaml
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from recpolicy.core.errors import ConfigError, DataError, MissingExtraError, SubmitError
from recpolicy.core.extras import require_extra
from recpolicy.pipelines.vertex import submit_to_vertex

SPEC = {
    "pipelineInfo": {"name": "recpolicy-retrain"},
    "schemaVersion": "2.1.0",
    "root": {"dag": {"tasks": {"train": {"cachingOptions": {"enableCache": True}}}}},
    "components": {},
}
PLACE = {"project": "shop", "location": "europe-west4", "pipeline_root": "gs://bucket/recpolicy"}
PARENT = "projects/12/locations/europe-west4"


class PipelineJob:
    """Keeps what it is asked."""

    asked: dict = {}  # noqa: RUF012
    fails: Exception | None = None

    def __init__(
        self, display_name, template_path, job_id=None, pipeline_root=None, parameter_values=None, input_artifacts=None,
        enable_caching=None, encryption_spec_key_name=None, labels=None, credentials=None, project=None, location=None,
        failure_policy=None,
    ):  # fmt: skip
        with open(template_path) as stream:  # noqa: PTH123  as the real one, which reads it at once
            spec = yaml.safe_load(stream)
        self.asked.update(
            name=display_name, spec=spec, root=pipeline_root, parameters=parameter_values, place=(project, location)
        )

    def submit(
        self, service_account=None, network=None, reserved_ip_ranges=None, create_request_timeout=None, *,
        experiment=None, enable_preflight_validations=False,
    ):  # fmt: skip
        if PipelineJob.fails is not None:
            raise PipelineJob.fails
        self.asked.update(done="submit", account=service_account)
        self.resource_name = f"{PARENT}/pipelineJobs/recpolicy-retrain-1"

    def create_schedule(
        self, cron, display_name, start_time=None, end_time=None, allow_queueing=False, max_run_count=None,
        max_concurrent_run_count=1, max_concurrent_active_run_count=None, service_account=None, network=None,
        create_request_timeout=None,
    ):  # fmt: skip
        self.asked.update(done="schedule", cron=cron, title=display_name, account=service_account)
        return types.SimpleNamespace(resource_name=f"{PARENT}/schedules/77")


@pytest.fixture
def asked(monkeypatch):
    module = types.ModuleType("google.cloud.aiplatform")
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    module.PipelineJob = PipelineJob
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(PipelineJob, "asked", {})
    return PipelineJob.asked


@pytest.fixture
def package(tmp_path):
    file = tmp_path / "retrain.yaml"
    file.write_text(yaml.safe_dump(SPEC))
    return file


def test_a_run_is_submitted_and_not_waited_for(package, asked):
    made = submit_to_vertex(package, {"rounds": 5}, **PLACE, service_account="robot@shop")
    assert (asked["name"], asked["spec"], asked["root"]) == ("recpolicy-retrain", SPEC, "gs://bucket/recpolicy")
    assert (asked["parameters"], asked["place"]) == ({"rounds": 5}, ("shop", "europe-west4"))
    assert (asked["done"], asked["account"]) == ("submit", "robot@shop")
    assert (made.kind, made.id, made.recurring) == ("vertex", "recpolicy-retrain-1", False)
    page = "https://console.cloud.google.com/vertex-ai/locations/europe-west4/pipelines"
    assert made.url == f"{page}/runs/recpolicy-retrain-1?project=shop"


def test_a_schedule_has_five_fields(package, asked):
    made = submit_to_vertex(package, {}, **PLACE, cron="0 0 1 * * 1", name="weekly", service_account="robot@shop")
    assert (asked["done"], asked["cron"], asked["title"]) == ("schedule", "0 1 * * 1", "weekly")
    assert asked["account"] == "robot@shop"
    assert (made.id, made.name, made.recurring) == ("77", "weekly", True)
    assert made.url.endswith("/pipelines/schedules/77?project=shop")


def test_caching_may_be_switched_off(package, asked):
    submit_to_vertex(package, {}, **PLACE, caching=False)
    assert asked["spec"]["root"]["dag"]["tasks"] == {"train": {"cachingOptions": {}}}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (auth.DefaultCredentialsError("none\nfound"), "gcloud auth application-default login"),
        (api.PermissionDenied("no"), "role Vertex AI User"),
        (api.InvalidArgument("rounds"), "rounds"),
        (ValueError("odd parameter"), "odd parameter"),
    ],
)
def test_what_google_refuses_is_one_line(package, asked, monkeypatch, error, says):
    monkeypatch.setattr(PipelineJob, "fails", error)
    with pytest.raises(SubmitError) as refused:
        submit_to_vertex(package, {}, **PLACE)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("root", ["/tmp/root", "gs://", "gs:///x", "s3://bucket", "bucket"])
def test_artifacts_need_a_bucket(package, asked, root):
    with pytest.raises(ConfigError, match=r"gs://bucket/recpolicy"):
        submit_to_vertex(package, {}, **{**PLACE, "pipeline_root": root})
    assert asked == {}


def test_a_wrong_cron_or_file_is_said_before_any_request(package, asked, tmp_path):
    with pytest.raises(ConfigError, match="fields"):
        submit_to_vertex(package, {}, **PLACE, cron="weekly")
    with pytest.raises(DataError, match="no such file"):
        submit_to_vertex(tmp_path / "none.yaml", {}, **PLACE)
    assert asked == {}


@pytest.mark.parametrize("name", ["__init__", "submit", "create_schedule"])
def test_the_stand_in_takes_what_the_real_one_takes(name):
    real = pytest.importorskip("google.cloud.aiplatform", reason="the extra vertex is not installed").PipelineJob
    takes = [[(one.name, one.kind) for one in inspect.signature(getattr(job, name)).parameters.values()]
             for job in (PipelineJob, real)]  # fmt: skip
    assert takes[0] == takes[1]


def test_without_the_library_it_says_what_to_install(package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"recpolicy\[vertex\]"):
        submit_to_vertex(package, {}, **PLACE)
    with pytest.raises(MissingExtraError):
        require_extra("vertex", "anything")
