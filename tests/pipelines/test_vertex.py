"""Requests to Vertex AI's library, recorded by a stand-in with the signatures of google-cloud-aiplatform 2.7.0.

If the extra `vertex` is installed, a test compares the signatures with the real ones.
"""

import enum
import importlib.machinery
import inspect
import sys
import types

import pytest
import yaml
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from recpolicy.core.errors import ConfigError, DataError, MissingExtraError, SubmitError
from recpolicy.core.optional_deps import require_extra
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
    """A stand-in that records the arguments of its calls."""

    requested: dict = {}  # noqa: RUF012
    fails: Exception | None = None

    def __init__(
        self, display_name, template_path, job_id=None, pipeline_root=None, parameter_values=None, input_artifacts=None,
        enable_caching=None, encryption_spec_key_name=None, labels=None, credentials=None, project=None, location=None,
        failure_policy=None,
    ):  # fmt: skip
        with open(template_path) as stream:  # noqa: PTH123  as the library does
            spec = yaml.safe_load(stream)
        self.requested.update(
            name=display_name, spec=spec, root=pipeline_root, parameters=parameter_values, place=(project, location)
        )

    def submit(
        self, service_account=None, network=None, reserved_ip_ranges=None, create_request_timeout=None, *,
        experiment=None, enable_preflight_validations=False,
    ):  # fmt: skip
        if PipelineJob.fails is not None:
            raise PipelineJob.fails
        self.requested.update(done="submit", account=service_account)
        self.resource_name = f"{PARENT}/pipelineJobs/recpolicy-retrain-1"

    def create_schedule(
        self, cron, display_name, start_time=None, end_time=None, allow_queueing=False, max_run_count=None,
        max_concurrent_run_count=1, max_concurrent_active_run_count=None, service_account=None, network=None,
        create_request_timeout=None,
    ):  # fmt: skip
        self.requested.update(done="schedule", cron=cron, title=display_name, account=service_account)
        if PipelineJob.fails is not None:
            raise PipelineJob.fails
        submitted = PipelineJobSchedule(f"{77 + len(PipelineJobSchedule.existing)}", display_name)
        PipelineJobSchedule.existing.append(submitted)
        return submitted


class PipelineJobSchedule:
    """A stand-in that keeps the existing schedules."""

    existing: list = []  # noqa: RUF012
    fails: dict = {}  # noqa: RUF012
    """Method to the error that it raises."""

    def __init__(self, number, title, state="ACTIVE"):
        self.resource_name, self.title, self.state = f"{PARENT}/schedules/{number}", title, State[state]

    @classmethod
    def list(cls, filter=None, order_by=None, project=None, location=None, credentials=None):
        assert (project, location) == ("shop", "europe-west4")
        cls._may("list")
        return [item for item in cls.existing if filter == f'display_name="{item.title}"']

    @classmethod
    def get(cls, schedule_id, project=None, location=None, credentials=None):
        assert (project, location) == ("shop", "europe-west4")
        return next(item for item in cls.existing if item.resource_name == f"{PARENT}/schedules/{schedule_id}")

    def delete(self, sync=True):
        self._may("delete")
        self.existing.remove(self)

    @classmethod
    def _may(cls, method):
        if method in cls.fails:
            raise cls.fails[method]


State = enum.Enum("State", ["ACTIVE", "PAUSED", "COMPLETED"])


@pytest.fixture
def requested(monkeypatch):
    module = types.ModuleType("google.cloud.aiplatform")
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    module.PipelineJob, module.PipelineJobSchedule = PipelineJob, PipelineJobSchedule
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(PipelineJob, "requested", {})
    monkeypatch.setattr(PipelineJobSchedule, "existing", [])
    monkeypatch.setattr(PipelineJobSchedule, "fails", {})
    return PipelineJob.requested


@pytest.fixture
def package(tmp_path):
    file = tmp_path / "retrain.yaml"
    file.write_text(yaml.safe_dump(SPEC))
    return file


def test_run_is_submitted(package, requested):
    submitted = submit_to_vertex(package, {"rounds": 5}, **PLACE, service_account="robot@shop")
    assert (requested["name"], requested["spec"], requested["root"]) == (
        "recpolicy-retrain",
        SPEC,
        "gs://bucket/recpolicy",
    )
    assert (requested["parameters"], requested["place"]) == ({"rounds": 5}, ("shop", "europe-west4"))
    assert (requested["done"], requested["account"]) == ("submit", "robot@shop")
    assert (submitted.platform, submitted.id, submitted.recurring) == ("vertex", "recpolicy-retrain-1", False)
    page = "https://console.cloud.google.com/vertex-ai/locations/europe-west4/pipelines"
    assert submitted.url == f"{page}/runs/recpolicy-retrain-1?project=shop"


def test_schedule_has_five_fields(package, requested):
    submitted = submit_to_vertex(package, {}, **PLACE, cron="0 0 1 * * 1", name="weekly", service_account="robot@shop")
    assert (requested["done"], requested["cron"], requested["title"]) == ("schedule", "0 1 * * 1", "weekly")
    assert requested["account"] == "robot@shop"
    assert (submitted.id, submitted.name, submitted.recurring) == ("77", "weekly", True)
    assert submitted.url.endswith("/pipelines/schedules/77?project=shop")


def weekly(package):
    return submit_to_vertex(package, {}, **PLACE, cron="0 1 * * 1")


def schedules():
    return {schedule.resource_name.rpartition("/")[2]: schedule.state.name for schedule in PipelineJobSchedule.existing}


def test_second_submission_replaces_the_first_schedule(package, requested):
    first, second = weekly(package), weekly(package)
    assert (first.replaced, second.replaced) == ((), (first.id,))
    assert schedules() == {second.id: "ACTIVE"}


def test_completed_schedules_and_schedules_of_another_name_stay(package, requested):
    ended = PipelineJobSchedule("1", "recpolicy-retrain", "COMPLETED")
    PipelineJobSchedule.existing = [PipelineJobSchedule("2", "other"), ended]
    weekly(package)
    assert weekly(package).replaced == ("79",)
    assert schedules() == {"2": "ACTIVE", "1": "COMPLETED", "80": "ACTIVE"}


def test_rejected_schedule_leaves_the_old_one_and_names_it(package, requested, monkeypatch):
    first = weekly(package)
    monkeypatch.setattr(PipelineJob, "fails", api.PermissionDenied("no"))
    with pytest.raises(SubmitError, match=rf"Vertex AI User; no schedule was deleted; still there: {first.id}$"):
        weekly(package)
    assert schedules() == {first.id: "ACTIVE"}


def test_old_schedule_that_cannot_be_deleted_is_named(package, requested):
    first = weekly(package)
    PipelineJobSchedule.fails = {"delete": api.PermissionDenied("no")}
    with pytest.raises(SubmitError, match=rf"the new schedule 78 is active, and {first.id} could not be deleted"):
        weekly(package)
    assert schedules() == {first.id: "ACTIVE", "78": "ACTIVE"}


def test_volumes_of_kubernetes_are_rejected_before_any_request(package, requested):
    package.write_text(yaml.safe_dump_all([SPEC, {"platforms": {"kubernetes": {}}}]))
    with pytest.raises(ConfigError, match=r"retrain\.yaml: it mounts volumes .* /gcs/BUCKET/registry"):
        submit_to_vertex(package, {}, **PLACE)
    assert requested == {}


def test_caching_can_be_switched_off(package, requested):
    submit_to_vertex(package, {}, **PLACE, caching=False)
    assert requested["spec"]["root"]["dag"]["tasks"] == {"train": {"cachingOptions": {}}}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (auth.DefaultCredentialsError("none\nfound"), "gcloud auth application-default login"),
        (api.PermissionDenied("no"), "role Vertex AI User"),
        (api.InvalidArgument("rounds"), "rounds"),
        (ValueError("odd parameter"), "odd parameter"),
    ],
)
def test_errors_of_google_are_one_line(package, requested, monkeypatch, error, message):
    monkeypatch.setattr(PipelineJob, "fails", error)
    with pytest.raises(SubmitError) as caught:
        submit_to_vertex(package, {}, **PLACE)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("root", ["/tmp/root", "gs://", "gs:///x", "s3://bucket", "bucket"])
def test_artifacts_need_a_bucket(package, requested, root):
    with pytest.raises(ConfigError, match=r"gs://bucket/recpolicy"):
        submit_to_vertex(package, {}, **{**PLACE, "pipeline_root": root})
    assert requested == {}


def test_wrong_cron_or_file_is_rejected_before_any_request(package, requested, tmp_path):
    with pytest.raises(ConfigError, match="fields"):
        submit_to_vertex(package, {}, **PLACE, cron="weekly")
    with pytest.raises(DataError, match="no such file"):
        submit_to_vertex(tmp_path / "none.yaml", {}, **PLACE)
    assert requested == {}


@pytest.mark.parametrize(
    ("own", "name"),
    [(PipelineJob, name) for name in ("__init__", "submit", "create_schedule")]
    + [(PipelineJobSchedule, name) for name in ("list", "get", "delete")],
)
def test_stand_in_has_the_signatures_of_the_library(own, name):
    library = pytest.importorskip("google.cloud.aiplatform", reason="the extra vertex is not installed")
    real = getattr(library, own.__name__)
    own_parameters, real_parameters = (inspect.signature(getattr(job, name)).parameters for job in (own, real))
    assert [(item.name, item.kind) for item in own_parameters.values()] == [
        (item.name, item.kind) for item in real_parameters.values()
    ]


def test_states_are_those_of_the_library():
    real = pytest.importorskip("google.cloud.aiplatform_v1", reason="the extra vertex is not installed").Schedule.State
    assert {state.name for state in State} == {state.name for state in real} - {"STATE_UNSPECIFIED"}


def test_missing_library_is_an_error_with_the_command_to_install_it(package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"recpolicy\[vertex\]"):
        submit_to_vertex(package, {}, **PLACE)
    with pytest.raises(MissingExtraError):
        require_extra("vertex", "anything")
