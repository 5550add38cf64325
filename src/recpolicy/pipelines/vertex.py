"""Submit a compiled pipeline to Vertex AI Pipelines (google-cloud-aiplatform, extra `vertex`).

Experimental: tested against a stand-in with the signatures of Google's library, never on Google Cloud.

Google's library finds the credentials: `gcloud auth application-default login`, or a service account's key in
GOOGLE_APPLICATION_CREDENTIALS.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from recpolicy.core.cron import vertex_cron
from recpolicy.core.errors import ConfigError, SubmitError
from recpolicy.core.optional_deps import require_extra
from recpolicy.pipelines.kfp_errors import format_notes
from recpolicy.pipelines.kfp_schedules import replace_schedules
from recpolicy.pipelines.package import package_to_upload, read_package
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
    """Run `package` on Vertex AI, or put it on a schedule; does not wait for the end.

    Args:
        package: A compiled pipeline.
        parameters: Values of the pipeline's parameters, with their types.
        project: Google Cloud project.
        location: Region of Vertex AI.
        pipeline_root: The gs:// folder of the artifacts.
        name: Name in the console; the pipeline's own name if None.
        service_account: Account that the run uses.
        cron: Five fields, UTC. A schedule replaces those of the same name in the project and region.
        caching: Whether steps may reuse cached results.

    Raises:
        SubmitError: Google rejects the request.
        ConfigError, DataError: A setting or the package is wrong; no request was made.
    """
    require_extra("vertex", "recpolicy pipeline submit --vertex")
    if not _BUCKET.fullmatch(pipeline_root):
        raise ConfigError(
            f"--pipeline-root {pipeline_root!r}: expected a folder in a bucket, such as gs://bucket/recpolicy"
        )
    schedule = None if cron is None else vertex_cron(cron)
    compiled = read_package(package)
    if compiled.for_kubernetes:
        raise ConfigError(
            f"{package}: it mounts volumes of Kubernetes, which Vertex AI does not have; compile it without --volume,"
            " and use paths such as /gcs/BUCKET/registry"
        )
    title = name or compiled.name
    aiplatform: Any = import_module("google.cloud.aiplatform")
    with _as_submit_error(project), package_to_upload(compiled, caching) as file:
        job = aiplatform.PipelineJob(
            display_name=title, template_path=str(file), pipeline_root=pipeline_root,
            parameter_values=dict(parameters), project=project, location=location,
        )  # fmt: skip
        replaced: tuple[str, ...] = ()
        if schedule is None:
            job.submit(service_account=service_account)
            id, page = _short_id(job.resource_name), "runs"
        else:
            id, replaced = _replace(aiplatform, job, title, project, location, schedule, service_account)
            page = "schedules"
    url = f"{_CONSOLE}/locations/{location}/pipelines/{page}/{id}?project={project}"
    return Submitted("vertex", id, title, url, schedule is not None, replaced)


def _replace(
    aiplatform: Any, job: Any, title: str, project: str, location: str, cron: str, service_account: str | None
) -> tuple[str, tuple[str, ...]]:
    """Create a schedule for the job; delete the active and paused ones of the same name."""
    schedules = aiplatform.PipelineJobSchedule
    existing = schedules.list(filter=f"display_name={json.dumps(title)}", project=project, location=location)
    older = [_short_id(item.resource_name) for item in existing if item.state.name in ("ACTIVE", "PAUSED")]

    def create() -> str:
        schedule = job.create_schedule(
            cron=cron, display_name=title, max_concurrent_run_count=1, service_account=service_account
        )
        return _short_id(schedule.resource_name)

    return replace_schedules(older, create, lambda id: schedules.get(id, project=project, location=location).delete())


def _short_id(resource_name: str) -> str:
    return resource_name.rpartition("/")[2]


@contextmanager
def _as_submit_error(project: str) -> Iterator[None]:
    """Raise errors of Google's libraries as one SubmitError."""
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
            message = f"project {project}: permission denied ({error}); the account needs the role Vertex AI User"
        elif isinstance(error, api.GoogleAPIError):
            message = f"project {project}: Vertex AI rejects the request ({error}); check --location and the parameters"
        else:
            message = f"project {project}: Vertex AI's client rejects the pipeline ({error})"
        message += format_notes(error)
    raise SubmitError(" ".join(message.split())) from None
