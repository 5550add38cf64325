"""The one seam to the network: a file over HTTP(S), a wheel through pip.

A download goes to a .part file that stays when the connection breaks; the next try asks the server for the rest (HTTP
Range, RFC 9110). Nothing here knows what the bytes mean: callers verify them.
"""

import http.client
import logging
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recpolicy.core.errors import FetchError
from recpolicy.core.progress import progress

logger = logging.getLogger(__name__)

_PIECE = 1 << 16
_ATTEMPTS = 3
_PIP_SECONDS = 600.0


def download(url: str, part: Path, *, max_bytes: int, timeout: float = 5.0) -> None:
    """Bring `part` to the whole file at `url`, going on where an earlier try stopped.

    `timeout` bounds, in seconds, the name look-up, the connection and every wait for data. Raises FetchError; what came
    so far stays in `part`.
    """
    _look_up(url, timeout)
    for attempt in range(1, _ATTEMPTS + 1):
        before = _size(part)
        try:
            _attempt(url, part, max_bytes, timeout)
            return
        except urllib.error.HTTPError as error:
            raise FetchError(f"{url}: the server answers {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, FetchError):
                raise
            # A broken connection that brought something is worth another try; one that never stood is not.
            if attempt == _ATTEMPTS or _size(part) == before:
                reason = getattr(error, "reason", error)
                raise FetchError(f"{url}: no connection or a broken one: {reason}") from None
            logger.info("%s: connection broken after %d bytes, going on", url, _size(part))


def pip_download(requirement: str, folder: Path) -> Path:
    """Download the wheel of `requirement` from the configured package index into `folder` and return its path.

    Only wheels: nothing of the package is run. Raises FetchError with pip's last line.
    """
    command = [
        *_pip(), "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
        "--dest", str(folder), requirement,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise FetchError(f"pip download {requirement}: no answer within {_PIP_SECONDS:.0f} s") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [
            f"exit code {done.returncode}, no wheel"
        ]
        raise FetchError(f"pip download {requirement}: {lines[-1].strip()}")
    return wheels[0]


def _attempt(url: str, part: Path, max_bytes: int, timeout: float) -> None:
    """Ask for what is missing and append it to `part`; a server that sends the whole again starts it anew."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") != f"bytes */{have}":  # else it was whole already
            part.unlink()
            _attempt(url, part, max_bytes, timeout)
        return
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT or not _continues(response, have):
            have = 0
        length = int(response.headers.get("Content-Length") or 0)
        if have + length > max_bytes:
            raise FetchError(f"{url}: {have + length} bytes, more than the {max_bytes} expected at most")
        _append(response, part, have, have + length, max_bytes, url)


def _append(response: Any, part: Path, have: int, total: int, max_bytes: int, url: str) -> None:
    title = url.rpartition("/")[2]
    with part.open("ab" if have else "wb") as stream, progress(title, total, unit="bytes", done=have) as shown:
        while piece := response.read(_PIECE):
            have += len(piece)
            if have > max_bytes:
                raise FetchError(f"{url}: more than the {max_bytes} bytes expected at most")
            stream.write(piece)
            shown.advance(len(piece))
    if have < total:
        raise ConnectionResetError(f"{have} of {total} bytes came")


def _continues(response: Any, have: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-")


def _look_up(url: str, timeout: float) -> None:
    """Raise FetchError when the host has no address; the system's own look-up may hang far longer than we wait."""
    address = urllib.parse.urlsplit(url)
    if address.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(address.netloc):
        return  # the proxy looks names up
    failures: list[OSError | None] = []

    def resolve() -> None:
        try:
            socket.getaddrinfo(address.hostname, address.port or 443)
            failures.append(None)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(timeout)
    failure = failures[0] if failures else TimeoutError(f"no answer within {timeout:g} s")
    if failure is not None:
        raise FetchError(f"{url}: host {address.hostname} cannot be looked up: {failure}")


def _pip() -> list[str]:
    """The command that runs pip: of this Python, else whichever is on the PATH (a wheel is the same for all)."""
    # By its metadata: looking for the module makes setuptools meddle with distutils, and warn of it.
    with suppress(PackageNotFoundError):
        version("pip")
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip3") or shutil.which("pip"):
        return [found]
    raise FetchError("pip is not installed; run python -m ensurepip, or give the data by --source PATH")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
