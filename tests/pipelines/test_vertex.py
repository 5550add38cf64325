"""What Vertex AI's library is asked to do, with a stand-in whose functions take what the real ones take.

Signatures are those of google-cloud-aiplatform 2.7.0; where the extra `vertex` is installed they are compared.
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
        if PipelineJob.fails is not None:
            raise PipelineJob.fails
        made = PipelineJobSchedule(f"{77 + len(PipelineJobSchedule.there)}", display_name)
        PipelineJobSchedule.there.append(made)
        return made


class PipelineJobSchedule:
    """Keeps the schedules that are there."""

    there: list = []  # noqa: RUF012
    fails: dict = {}  # noqa: RUF012
    """By method: what it raises."""

    def __init__(self, number, title, state="ACTIVE"):
        self.resource_name, self.title, self.state = f"{PARENT}/schedules/{number}", title, State[state]

    @classmethod
    def list(cls, filter=None, order_by=None, project=None, location=None, credentials=None):
        assert (project, location) == ("shop", "europe-west4")
        cls._may("list")
        return [one for one in cls.there if filter == f'display_name="{one.title}"']

    @classmethod
    def get(cls, schedule_id, project=None, location=None, credentials=None):
        assert (project, location) == ("shop", "europe-west4")
        return next(one for one in cls.there if one.resource_name == f"{PARENT}/schedules/{schedule_id}")

    def pause(self):
        self._may("pause")
        self.state = State.PAUSED

    def resume(self, catch_up=True):
        assert not catch_up
        self._may("resume")
        self.state = State.ACTIVE

    def delete(self, sync=True):
        self._may("delete")
        self.there.remove(self)

    @classmethod
    def _may(cls, method):
        if method in cls.fails:
            raise cls.fails[method]


State = enum.Enum("State", ["ACTIVE", "PAUSED", "COMPLETED"])


@pytest.fixture
def asked(monkeypatch):
    module = types.ModuleType("google.cloud.aiplatform")
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    module.PipelineJob, module.PipelineJobSchedule = PipelineJob, PipelineJobSchedule
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(PipelineJob, "asked", {})
    monkeypatch.setattr(PipelineJobSchedule, "there", [])
    monkeypatch.setattr(PipelineJobSchedule, "fails", {})
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


def weekly(package):
    return submit_to_vertex(package, {}, **PLACE, cron="0 1 * * 1")


def schedules():
    return {one.resource_name.rpartition("/")[2]: one.state.name for one in PipelineJobSchedule.there}


def test_a_schedule_submitted_again_takes_the_place_of_the_first(package, asked):
    first, second = weekly(package), weekly(package)
    assert (first.replaced, second.replaced) == ((), (first.id,))
    assert schedules() == {second.id: "ACTIVE"}


def test_schedules_of_another_name_and_those_at_their_end_stay(package, asked):
    ended = PipelineJobSchedule("1", "recpolicy-retrain", "COMPLETED")
    PipelineJobSchedule.there = [PipelineJobSchedule("2", "other"), ended]
    weekly(package)
    assert weekly(package).replaced == ("79",)
    assert schedules() == {"2": "ACTIVE", "1": "COMPLETED", "80": "ACTIVE"}


def test_a_schedule_that_google_refuses_leaves_the_first_active_and_says_so(package, asked, monkeypatch):
    first = weekly(package)
    monkeypatch.setattr(PipelineJob, "fails", api.PermissionDenied("no"))
    with pytest.raises(SubmitError, match=rf"Vertex AI User; nothing is replaced: active is {first.id}, as before$"):
        weekly(package)
    assert schedules() == {first.id: "ACTIVE"}


def test_when_the_first_can_neither_be_replaced_nor_resumed_it_says_that_none_is_active(package, asked, monkeypatch):
    first = weekly(package)
    monkeypatch.setattr(PipelineJob, "fails", api.ServiceUnavailable("gone"))
    PipelineJobSchedule.fails = {"resume": api.ServiceUnavailable("gone")}
    with pytest.raises(SubmitError, match=f"active now is none, before it was {first.id}"):
        weekly(package)
    assert schedules() == {first.id: "PAUSED"}


def test_an_old_schedule_that_cannot_be_deleted_is_paused_and_warned_of(package, asked, caplog):
    first = weekly(package)
    PipelineJobSchedule.fails = {"delete": api.PermissionDenied("no")}
    second = weekly(package)
    assert schedules() == {first.id: "PAUSED", second.id: "ACTIVE"}
    assert f"schedule {first.id} is switched off, but could not be deleted" in caplog.text


def test_volumes_of_kubernetes_are_refused_before_any_request(package, asked):
    package.write_text(yaml.safe_dump_all([SPEC, {"platforms": {"kubernetes": {}}}]))
    with pytest.raises(ConfigError, match=r"retrain\.yaml: it mounts volumes .* /gcs/BUCKET/registry"):
        submit_to_vertex(package, {}, **PLACE)
    assert asked == {}


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


@pytest.mark.parametrize(
    ("own", "name"),
    [(PipelineJob, name) for name in ("__init__", "submit", "create_schedule")]
    + [(PipelineJobSchedule, name) for name in ("list", "get", "pause", "resume", "delete")],
)
def test_the_stand_in_takes_what_the_real_one_takes(own, name):
    library = pytest.importorskip("google.cloud.aiplatform", reason="the extra vertex is not installed")
    real = getattr(library, own.__name__)
    takes = [[(one.name, one.kind) for one in inspect.signature(getattr(job, name)).parameters.values()]
             for job in (own, real)]  # fmt: skip
    assert takes[0] == takes[1]


def test_the_states_are_those_of_the_real_one():
    real = pytest.importorskip("google.cloud.aiplatform_v1", reason="the extra vertex is not installed").Schedule.State
    assert {one.name for one in State} == {one.name for one in real} - {"STATE_UNSPECIFIED"}


def test_without_the_library_it_says_what_to_install(package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"recpolicy\[vertex\]"):
        submit_to_vertex(package, {}, **PLACE)
    with pytest.raises(MissingExtraError):
        require_extra("vertex", "anything")
