"""Send a compiled pipeline to Vertex AI Pipelines (google-cloud-aiplatform, extra `vertex`).

Credentials are Google's own affair: `gcloud auth application-default login`, or a service account's key named by
GOOGLE_APPLICATION_CREDENTIALS.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from recpolicy.core.cron import vertex_cron
from recpolicy.core.errors import ConfigError, SubmitError
from recpolicy.core.optional_deps import require_extra
from recpolicy.pipelines.package import read_package, ready_to_send
from recpolicy.pipelines.schedules import Schedule, notes_of, put_in_place
from recpolicy.pipelines.submit import Submitted

_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/.*)?")
_CONSOLE = "https://console.cloud.google.com/vertex-ai"


def submit_to_vertex(
    package: Path,
    parameters: Mapping[str, Any],
    *,
    project: str,
    location: str,
    pipeline_root: str,
    name: str | None = None,
    service_account: str | None = None,
    cron: str | None = None,
    caching: bool = True,
) -> Submitted:
    """Run `package` on Vertex AI, or with `cron` (5 fields, UTC) by a schedule; does not wait for its end.

    `pipeline_root` is the gs:// folder of the artifacts; `name` is shown in the console (the pipeline's own when left
    out). A schedule replaces those of the same name in the project and region. Raises SubmitError when Google refuses,
    ConfigError and DataError before any request is made.
    """
    require_extra("vertex", "recpolicy pipeline submit --vertex")
    if not _BUCKET.fullmatch(pipeline_root):
        raise ConfigError(
            f"--pipeline-root {pipeline_root!r}: expected a folder in a bucket, such as gs://bucket/recpolicy"
        )
    schedule = None if cron is None else vertex_cron(cron)
    read = read_package(package)
    if read.for_kubernetes:
        raise ConfigError(
            f"{package}: it mounts volumes of Kubernetes, which Vertex AI has not; compile it without --volume, and"
            " name paths such as /gcs/BUCKET/registry"
        )
    title = name or read.name
    aiplatform: Any = import_module("google.cloud.aiplatform")
    with _one_line(project), ready_to_send(read, caching) as file:
        job = aiplatform.PipelineJob(
            display_name=title, template_path=str(file), pipeline_root=pipeline_root,
            parameter_values=dict(parameters), project=project, location=location,
        )  # fmt: skip
        replaced: tuple[str, ...] = ()
        if schedule is None:
            job.submit(service_account=service_account)
            made, page = _last(job.resource_name), "runs"
        else:
            place = {"project": project, "location": location}
            settings = {"cron": schedule, "service_account": service_account}
            made, replaced = put_in_place(_Planned(aiplatform.PipelineJobSchedule, job, title, place, settings))
            page = "schedules"
    url = f"{_CONSOLE}/locations/{location}/pipelines/{page}/{made}?project={project}"
    return Submitted("vertex", made, title, url, schedule is not None, replaced)


@dataclass(frozen=True)
class _Planned:
    """The schedules of one display name in a project and region; `settings` are the new one's, which runs `job`."""

    library: Any
    job: Any
    title: str
    place: Mapping[str, str]
    settings: Mapping[str, Any]

    def there(self) -> list[Schedule]:
        """Those that are there now and have not come to their end."""
        found = self.library.list(filter=f"display_name={json.dumps(self.title)}", **self.place)
        states = {_last(one.resource_name): one.state.name for one in found}
        return [Schedule(id, state == "ACTIVE") for id, state in states.items() if state in ("ACTIVE", "PAUSED")]

    def prepare(self) -> str:
        """Vertex AI makes no schedule that is switched off."""
        return ""

    def start(self, prepared: str) -> str:  # noqa: ARG002
        """Make it."""
        made = self.job.create_schedule(display_name=self.title, max_concurrent_run_count=1, **self.settings)
        return _last(made.resource_name)

    def stop(self, id: str) -> None:
        """Pause one."""
        self._get(id).pause()

    def resume(self, id: str) -> None:
        """Let one go on; what it missed is not made up for."""
        self._get(id).resume(catch_up=False)

    def delete(self, id: str) -> None:
        """Delete one; its runs stay."""
        self._get(id).delete()

    def _get(self, id: str) -> Any:
        return self.library.get(id, **self.place)


def _last(resource_name: str) -> str:
    return resource_name.rpartition("/")[2]


@contextmanager
def _one_line(project: str) -> Iterator[None]:
    """Turn what Google's libraries raise into one SubmitError."""
    api: Any = import_module("google.api_core.exceptions")
    auth: Any = import_module("google.auth.exceptions")
    try:
        yield
        return
    except (ConfigError, SubmitError):
        raise
    except (auth.GoogleAuthError, api.GoogleAPIError, ValueError, RuntimeError) as error:
        if isinstance(error, auth.GoogleAuthError):
            message = f"no credentials for Google Cloud ({error}); run: gcloud auth application-default login"
        elif isinstance(error, (api.Unauthenticated, api.PermissionDenied)):
            message = f"project {project}: refused ({error}); the account needs the role Vertex AI User"
        elif isinstance(error, api.GoogleAPIError):
            message = f"project {project}: Vertex AI does not take it ({error}); check --location and the parameters"
        else:
            message = f"project {project}: Vertex AI's client refuses the pipeline ({error})"
        message += notes_of(error)
    raise SubmitError(" ".join(message.split())) from None
