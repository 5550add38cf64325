"""Send a compiled pipeline to a Kubeflow Pipelines cluster: upload it, then run it once or by a schedule.

Requests are kfp.Client's (KFP 2, API v2beta1). Its settings hold here too: the namespace and the cookie in
~/.config/kfp/context.json. Whatever goes wrong is one SubmitError; the token is in no message and in no log.
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
from recpolicy.pipelines.kfp_errors import TOKEN_VARIABLE, one_line, told
from recpolicy.pipelines.kfp_schedules import RecurringRuns, display_name_is
from recpolicy.pipelines.package import read_package, ready_to_send
from recpolicy.pipelines.schedules import put_in_place

if TYPE_CHECKING:
    import kfp

logger = logging.getLogger(__name__)

_LONGEST_TOKEN = 1 << 16
_SECONDS = (5, 30)
"""To connect and to answer, of the first request; the others wait as long as the cluster does."""


@dataclass(frozen=True)
class Submitted:
    """What runs now, or by a schedule, and where to look at it."""

    kind: str
    """kubeflow or vertex."""
    id: str
    name: str
    url: str
    recurring: bool
    replaced: tuple[str, ...] = ()
    """Ids of the schedules that this one took the place of."""


def read_token(file: Path | None = None) -> str | None:
    """The token in `file`, else in RECPOLICY_KFP_TOKEN, else None; raises ConfigError for one that cannot be one."""
    if file is None:
        where, text = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
        if text is None:
            return None
    else:
        where, text = str(file), _read_small(file)
        if file.stat().st_mode & 0o007:
            logger.warning("%s: everybody on this machine may read the token; run: chmod 600 %s", file, file)
    token = text.strip()
    if not token:
        raise ConfigError(f"{where}: the token is empty; put one there, or unset it")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{where}: not a token: it holds spaces, line breaks or characters beyond ASCII")
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
    """Upload `package` as the pipeline `name` (as a new version where there is one) and run it.

    With `cron` (5 fields, or 6 with seconds first; UTC on most clusters) it becomes a recurring run, which replaces the
    one that was made so before, of this name and in this experiment. `parameters` are typed as the pipeline wants them.
    `ca` is a file of certificates that the host's is checked against. Raises SubmitError when the cluster cannot be
    reached or refuses, ConfigError and DataError before any request is made.
    """
    require_extra("pipelines", "recpolicy pipeline submit")
    read = read_package(package)
    schedule = None if cron is None else kubeflow_cron(cron)
    host = _checked_host(host, token)
    if ca is not None and not ca.is_file():
        raise ConfigError(f"{ca}: no such file; --ca names a file of certificates (PEM)")
    now = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    with one_line(host, token), ready_to_send(read, caching) as file:
        client = _connect(host, namespace, token, ca)
        mine = namespace or client.get_user_namespace() or None
        pipeline, version = _upload(client, file, name, f"{name}-{now}", mine)
        group = told(client.create_experiment(experiment, namespace=mine), "experiment_id")
        shared = {
            "pipeline_id": pipeline, "version_id": version, "params": dict(parameters), "pipeline_root": pipeline_root,
        }  # fmt: skip
        if schedule is None:
            run = f"{name}-{now}"
            made = told(client.run_pipeline(group, run, **shared), "run_id")
            return Submitted("kubeflow", made, run, f"{host}/#/runs/details/{made}", recurring=False)
        made, replaced = put_in_place(RecurringRuns(client, name, group, {"cron_expression": schedule, **shared}))
        return Submitted("kubeflow", made, name, f"{host}/#/recurringrun/details/{made}", True, replaced)


def _checked_host(host: str, token: str | None) -> str:
    try:
        parts = urlsplit(host.strip())
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        whole = False
    if not whole:
        raise ConfigError("--host: expected an address such as https://kubeflow.example.com/pipeline")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"--host: a user name, password, ? or # does not belong there; give a token in {TOKEN_VARIABLE}"
        )
    if token and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        logger.warning("%s: the token goes over the network unencrypted; use https", parts.hostname)
    return host.strip().rstrip("/")


def _connect(host: str, namespace: str | None, token: str | None, ca: Path | None) -> "kfp.Client":
    import kfp

    def ask_once(client: Any, sleep_duration: int = 0) -> Any:  # noqa: ARG001
        return client._healthz_api.healthz_service_get_healthz(_request_timeout=_SECONDS)

    # kfp's own asks five times in 25 s, with tracebacks in the log, before it says that nobody is there.
    make_client = type("Client", (kfp.Client,), {"get_kfp_healthz": ask_once})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # "only works with KFP v2.0.0-beta.2 and later"
        client = make_client(
            host=host, existing_token=token, ssl_ca_cert=None if ca is None else str(ca),
            **({} if namespace is None else {"namespace": namespace}),
        )  # fmt: skip
    health = client.get_kfp_healthz()
    if health.multi_user and not (namespace or client.get_user_namespace()):
        raise SubmitError(f"{host} serves several users, each in a namespace: name yours with --namespace")
    return client


def _upload(client: "kfp.Client", file: Path, name: str, version: str, namespace: str | None) -> tuple[str, str]:
    """Ids of the pipeline and of the version that was uploaded."""
    there = client.list_pipelines(filter=display_name_is(name), namespace=namespace).pipelines
    if there:
        made = client.upload_pipeline_version(str(file), version, pipeline_id=there[0].pipeline_id)
        return told(made, "pipeline_id"), told(made, "pipeline_version_id")
    pipeline = told(client.upload_pipeline(str(file), name, namespace=namespace), "pipeline_id")
    first = client.list_pipeline_versions(pipeline, page_size=1, sort_by="created_at desc").pipeline_versions
    return pipeline, told(first[0] if first else None, "pipeline_version_id")


def _read_small(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(_LONGEST_TOKEN + 1)
        if len(raw) > _LONGEST_TOKEN:
            raise ConfigError(f"{file}: too large for a token")
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not a token: it holds characters beyond ASCII") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot read the token: {error.strerror or error}") from None
