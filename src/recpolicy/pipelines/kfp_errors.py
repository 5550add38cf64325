"""What Kubeflow Pipelines answers in place of an answer, as one line: SubmitError, without the token."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from recpolicy.core.errors import ConfigError, SubmitError
from recpolicy.pipelines.schedules import notes_of

TOKEN_VARIABLE = "RECPOLICY_KFP_TOKEN"
_LONGEST_DETAIL = 300


def told(answer: Any, field: str) -> str:
    """The id in an answer; a login page answers 200 as well, without any."""
    found = getattr(answer, field, None)
    if not isinstance(found, str) or not found:
        raise SubmitError(
            f"the host answered, but not as Kubeflow Pipelines does (no {field}): is it a login page? Give the address"
            f" of the API and a token in {TOKEN_VARIABLE}"
        )
    return found


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Hold back warnings of each retry, and bodies of answers, in which some proxies repeat the token."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for each in levels:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in levels.items():
            each.setLevel(level)


@contextmanager
def one_line(host: str, token: str | None) -> Iterator[None]:
    """Turn what kfp raises into one SubmitError without the token; what it prints is dropped."""
    import kfp_server_api
    import urllib3

    try:
        with redirect_stdout(io.StringIO()), _quiet("urllib3.connectionpool", "kfp_server_api.rest"):
            yield
        return
    except kfp_server_api.ApiException as error:
        message = _refusal(host, error.status, error.reason, error.body) + notes_of(error)
    except urllib3.exceptions.HTTPError as error:
        message = _unreachable(host, error) + notes_of(error)
    except SubmitError as error:
        message = f"{error}{notes_of(error)}"
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        message = f"{host}: {error}{notes_of(error)}"
    message = " ".join(message.split())
    raise SubmitError(message.replace(token, "***") if token else message) from None


def _refusal(host: str, status: int, reason: Any, body: Any) -> str:
    if not status:  # the client's way to say that TLS failed
        return _unreachable(host, reason)
    try:
        said = json.loads(body)
        detail = str(said.get("message") or said.get("error_message") or said.get("error") or "")
    except (TypeError, ValueError, AttributeError):
        detail = ""
    said = f"{host} answered {status} {reason}" + (f" ({detail[:_LONGEST_DETAIL]})" if detail else "")
    if status in (401, 403):
        return f"{said}: give a token that is valid and may use this namespace, in {TOKEN_VARIABLE} or --token-file"
    if status == 404:
        return f"{said}: is this the address of Kubeflow Pipelines? Behind Kubeflow's own page it ends in /pipeline"
    if status >= 500:
        return f"{said}: the cluster failed; try again, and look at the log of its ml-pipeline pod"
    return f"{said}: the cluster does not take this pipeline or these parameters"


def _unreachable(host: str, error: Any) -> str:
    cause = str(getattr(error, "reason", None) or error)[:_LONGEST_DETAIL]
    if "CERTIFICATE" in cause.upper() or "SSL" in cause.upper():
        return f"{host}: its certificate is not trusted here; name the file of its CA with --ca ({cause})"
    return f"{host} cannot be reached ({cause}); check the address, or forward the port with kubectl"
