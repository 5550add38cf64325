"""Errors of the Kubeflow Pipelines client as one SubmitError of one line, without the token."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from recpolicy.core.errors import ConfigError, SubmitError

TOKEN_VARIABLE = "RECPOLICY_KFP_TOKEN"
_MAX_DETAIL = 300  # characters


def require_field(response: Any, field: str) -> str:
    """Return an id of a response; raise SubmitError if it has none, as a login page, which answers 200 too."""
    value = getattr(response, field, None)
    if not isinstance(value, str) or not value:
        raise SubmitError(
            f"the host answered, but its response has no {field}: is it a login page? Give the address of the Kubeflow"
            f" Pipelines API, and a token in {TOKEN_VARIABLE}"
        )
    return value


def format_notes(error: BaseException) -> str:
    """Return the notes of an error, ready to be appended to its message."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


@contextmanager
def as_submit_error(host: str, token: str | None) -> Iterator[None]:
    """Raise errors of kfp as one SubmitError without the token; discard the output of kfp."""
    import kfp_server_api
    import urllib3

    try:
        with redirect_stdout(io.StringIO()), _quiet("urllib3.connectionpool", "kfp_server_api.rest"):
            yield
        return
    except kfp_server_api.ApiException as error:
        message = _api_error(host, error.status, error.reason, error.body) + format_notes(error)
    except urllib3.exceptions.HTTPError as error:
        message = _connection_error(host, error) + format_notes(error)
    except SubmitError as error:
        message = f"{error}{format_notes(error)}"
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        message = f"{host}: {error}{format_notes(error)}"
    message = " ".join(message.split())
    raise SubmitError(message.replace(token, "***") if token else message) from None


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silence warnings of retries, and bodies of responses: some proxies repeat the token in them."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _api_error(host: str, status: int, reason: Any, body: Any) -> str:
    if not status:  # so the client reports a failure of TLS
        return _connection_error(host, reason)
    try:
        content = json.loads(body)
        detail = str(content.get("message") or content.get("error_message") or content.get("error") or "")
    except (TypeError, ValueError, AttributeError):
        detail = ""
    response = f"{host} answered {status} {reason}" + (f" ({detail[:_MAX_DETAIL]})" if detail else "")
    if status in (401, 403):
        return f"{response}: give a valid token with access to this namespace, in {TOKEN_VARIABLE} or --token-file"
    if status == 404:
        return f"{response}: is this Kubeflow Pipelines? Behind Kubeflow's dashboard the address ends in /pipeline"
    if status >= 500:
        return f"{response}: the cluster failed; try again, and look at the log of its ml-pipeline pod"
    return f"{response}: the cluster rejects this pipeline or its parameters"


def _connection_error(host: str, error: Any) -> str:
    cause = str(getattr(error, "reason", None) or error)[:_MAX_DETAIL]
    if "CERTIFICATE" in cause.upper() or "SSL" in cause.upper():
        return f"{host}: its certificate is not trusted here; give the file of its CA with --ca ({cause})"
    return f"{host} cannot be reached ({cause}); check the address, or forward the port with kubectl"
