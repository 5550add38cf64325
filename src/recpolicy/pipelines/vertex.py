"""Send a compiled pipeline to Vertex AI Pipelines (google-cloud-aiplatform, extra `vertex`).

Credentials are Google's own affair: `gcloud auth application-default login`, or a service account's key named by
GOOGLE_APPLICATION_CREDENTIALS.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ConfigError, SubmitError
from recpolicy.core.extras import require_extra
from recpolicy.pipelines.cron import vertex_cron
from recpolicy.pipelines.package import read_package, ready_to_send
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
    out). Raises SubmitError when Google refuses, ConfigError and DataError before any request is made.
    """
    require_extra("vertex", "recpolicy pipeline submit --vertex")
    if not _BUCKET.fullmatch(pipeline_root):
        raise ConfigError(
            f"--pipeline-root {pipeline_root!r}: expected a folder in a bucket, such as gs://bucket/recpolicy"
        )
    schedule = None if cron is None else vertex_cron(cron)
    read = read_package(package)
    title = name or read.name
    aiplatform: Any = import_module("google.cloud.aiplatform")
    with _one_line(project), ready_to_send(read, caching) as file:
        job = aiplatform.PipelineJob(
            display_name=title, template_path=str(file), pipeline_root=pipeline_root,
            parameter_values=dict(parameters), project=project, location=location,
        )  # fmt: skip
        if schedule is None:
            job.submit(service_account=service_account)
            made, page = _last(job.resource_name), "runs"
        else:
            planned = job.create_schedule(
                cron=schedule,
                display_name=title,
                max_concurrent_run_count=1,
                service_account=service_account,
            )
            made, page = _last(planned.resource_name), "schedules"
    url = f"{_CONSOLE}/locations/{location}/pipelines/{page}/{made}?project={project}"
    return Submitted("vertex", made, title, url, recurring=schedule is not None)


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
    except auth.GoogleAuthError as error:
        message = f"no credentials for Google Cloud ({error}); run: gcloud auth application-default login"
    except (api.Unauthenticated, api.PermissionDenied) as error:
        message = f"project {project}: refused ({error}); the account needs the role Vertex AI User"
    except api.GoogleAPIError as error:
        message = f"project {project}: Vertex AI does not take it ({error}); check --location and the parameters"
    except (ValueError, RuntimeError) as error:
        if isinstance(error, (ConfigError, SubmitError)):
            raise
        message = f"project {project}: Vertex AI's client refuses the pipeline ({error})"
    raise SubmitError(" ".join(message.split())) from None
