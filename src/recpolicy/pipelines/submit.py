"""Submit a compiled pipeline to Kubeflow Pipelines: upload it, then run it once or on a schedule.

Experimental: tested against a local server that checks requests as the API does, never on a real cluster.

kfp.Client sends the requests (KFP 2, API v2beta1). Its settings apply here too: the namespace and the cookie in
~/.config/kfp/context.json. Every failure is one SubmitError; no message and no log contains the token.
"""

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from recpolicy.core.cron import kubeflow_cron
from recpolicy.core.errors import ConfigError, SubmitError
from recpolicy.core.optional_deps import require_extra
from recpolicy.pipelines.kfp_errors import TOKEN_VARIABLE, as_submit_error, require_field
from recpolicy.pipelines.kfp_schedules import filter_by_name, replace_recurring_runs
from recpolicy.pipelines.package import package_to_upload, read_package

if TYPE_CHECKING:
    import kfp

logger = logging.getLogger(__name__)

_MAX_TOKEN = 1 << 16  # bytes
_TIMEOUT = (5, 30)
"""Seconds to connect and to answer, for the first request only."""


@dataclass(frozen=True)
class Submitted:
    """A submitted run or schedule, and the address of its page."""

    platform: str
    """kubeflow or vertex."""
    id: str
    name: str
    url: str
    recurring: bool
    replaced: tuple[str, ...] = ()
    """Ids of the older schedules that were deleted."""


def read_token(file: Path | None = None) -> str | None:
    """Return the token in `file`, else in RECPOLICY_KFP_TOKEN, else None; raise ConfigError for a malformed token."""
    if file is None:
        source, text = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
        if text is None:
            return None
    else:
        source, text = str(file), _read_token_file(file)
        if file.stat().st_mode & 0o007:
            logger.warning("%s: every user of this machine can read the token; run: chmod 600 %s", file, file)
    token = text.strip()
    if not token:
        raise ConfigError(f"{source}: the token is empty; write one there, or unset the variable")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{source}: not a token: it contains spaces, line breaks or characters beyond ASCII")
    return token


def submit_to_kubeflow(
    package: Path,
    parameters: Mapping[str, Any],
    *,
    host: str,
    name: str,
    experiment: str = "recpolicy",
    namespace: str | None = None,
    pipeline_root: str | None = None,
    cron: str | None = None,
    caching: bool = True,
    token: str | None = None,
    ca: Path | None = None,
) -> Submitted:
    """Upload `package` as the pipeline `name` (a new version if that exists) and run it, without waiting for the end.

    Args:
        package: A compiled pipeline.
        parameters: Values of the pipeline's parameters, with their types.
        host: Address of Kubeflow Pipelines.
        name: Name of the pipeline and of the schedule.
        experiment: Kubeflow's group of runs; created if it does not exist.
        namespace: Namespace in a multi-user cluster.
        pipeline_root: Where artifacts go; the cluster's own default if None.
        cron: Five fields, or six with seconds first; the time zone is the cluster's, mostly UTC. A schedule replaces
            the one that recpolicy created before, with this name in this experiment.
        caching: Whether steps may reuse cached results.
        token: Bearer token; see `read_token`.
        ca: PEM file of certificates to check the host's certificate against.

    Raises:
        SubmitError: The cluster cannot be reached or rejects a request.
        ConfigError, DataError: A setting or the package is wrong; no request was made.
    """
    require_extra("pipelines", "recpolicy pipeline submit")
    compiled = read_package(package)
    schedule = None if cron is None else kubeflow_cron(cron)
    host = _checked_host(host, token)
    if ca is not None and not ca.is_file():
        raise ConfigError(f"{ca}: no such file; --ca expects a file of certificates (PEM)")
    now = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    with as_submit_error(host, token), package_to_upload(compiled, caching) as file:
        client = _connect(host, namespace, token, ca)
        own_namespace = namespace or client.get_user_namespace() or None
        pipeline, version = _upload(client, file, name, f"{name}-{now}", own_namespace)
        experiment_id = require_field(client.create_experiment(experiment, namespace=own_namespace), "experiment_id")
        settings = {
            "pipeline_id": pipeline, "version_id": version, "params": dict(parameters), "pipeline_root": pipeline_root,
        }  # fmt: skip
        if schedule is None:
            run = f"{name}-{now}"
            id = require_field(client.run_pipeline(experiment_id, run, **settings), "run_id")
            return Submitted("kubeflow", id, run, f"{host}/#/runs/details/{id}", recurring=False)
        settings["cron_expression"] = schedule
        id, replaced = replace_recurring_runs(client, name, experiment_id, settings)
        return Submitted("kubeflow", id, name, f"{host}/#/recurringrun/details/{id}", True, replaced)


def _checked_host(host: str, token: str | None) -> str:
    try:
        parts = urlsplit(host.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError("--host: expected an address such as https://kubeflow.example.com/pipeline")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"--host: expected no user name, password, ? or # in the address; give a token in {TOKEN_VARIABLE}"
        )
    if token and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        logger.warning("%s: the token travels unencrypted; use https", parts.hostname)
    return host.strip().rstrip("/")


def _connect(host: str, namespace: str | None, token: str | None, ca: Path | None) -> "kfp.Client":
    import kfp

    def get_health(client: Any, sleep_duration: int = 0) -> Any:  # noqa: ARG001
        return client._healthz_api.healthz_service_get_healthz(_request_timeout=_TIMEOUT)

    # kfp's own method retries five times in 25 s, with tracebacks in the log, before it reports a missing host.
    make_client = type("Client", (kfp.Client,), {"get_kfp_healthz": get_health})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # "only works with KFP v2.0.0-beta.2 and later"
        client = make_client(
            host=host, existing_token=token, ssl_ca_cert=None if ca is None else str(ca),
            **({} if namespace is None else {"namespace": namespace}),
        )  # fmt: skip
    health = client.get_kfp_healthz()
    if health.multi_user and not (namespace or client.get_user_namespace()):
        raise SubmitError(f"{host} is a multi-user cluster: give your namespace with --namespace")
    return client


def _upload(client: "kfp.Client", file: Path, name: str, version: str, namespace: str | None) -> tuple[str, str]:
    """Upload the file; return the ids of the pipeline and of the new version."""
    existing = client.list_pipelines(filter=filter_by_name(name), namespace=namespace).pipelines
    if existing:
        uploaded = client.upload_pipeline_version(str(file), version, pipeline_id=existing[0].pipeline_id)
        return require_field(uploaded, "pipeline_id"), require_field(uploaded, "pipeline_version_id")
    pipeline = require_field(client.upload_pipeline(str(file), name, namespace=namespace), "pipeline_id")
    versions = client.list_pipeline_versions(pipeline, page_size=1, sort_by="created_at desc").pipeline_versions
    return pipeline, require_field(versions[0] if versions else None, "pipeline_version_id")


def _read_token_file(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_TOKEN + 1)
        if len(raw) > _MAX_TOKEN:
            raise ConfigError(f"{file}: too large for a token")
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not a token: it contains characters beyond ASCII") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot read the token: {error.strerror or error}") from None
