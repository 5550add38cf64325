"""Asking a server's admin API from the command line.

The key never comes as an option, where the shell's history and the list of processes show it. No redirect is followed:
the key is for the server that was named.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from recpolicy.core.errors import ConfigError, RecpolicyError

KEY = "RECPOLICY_KEY"
URL = "http://127.0.0.1:8080"
IMPORT = "/v1/admin/versions/import"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SECONDS, _SECONDS_TO_SEND = 30.0, 600.0


class ServerError(RecpolicyError, OSError):
    """A server could not be asked, or refused."""


@dataclass(frozen=True)
class Client:
    """A server and the key to it."""

    url: str
    key: str

    def get(self, path: str) -> Any:
        """What is at the path; raises ServerError in one line."""
        return self._ask("GET", path, None, _SECONDS)

    def post(self, path: str, body: Any = None) -> Any:
        """Ask for a change; raises ServerError in one line."""
        return self._ask("POST", path, None if body is None else json.dumps(body).encode(), _SECONDS)

    def delete(self, path: str) -> Any:
        """Ask for something to end; raises ServerError in one line."""
        return self._ask("DELETE", path, None, _SECONDS)

    def send(self, path: str, file: Path) -> Any:
        """Send a file as it is; raises ServerError in one line, ConfigError for a file that cannot be read."""
        try:
            with file.open("rb") as stream:
                return self._ask("POST", path, stream, _SECONDS_TO_SEND, file.stat().st_size)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None

    def _ask(self, method: str, path: str, body: "bytes | IO[bytes] | None", seconds: float, size: int = 0) -> Any:
        headers = {"Authorization": f"Bearer {self.key}", "Accept": "application/json"}
        if body is not None:
            kind = ("application/json", len(body)) if isinstance(body, bytes) else ("application/octet-stream", size)
            headers |= {"Content-Type": kind[0], "Content-Length": str(kind[1])}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with self._opener().open(request, timeout=seconds) as answer:
                return _json(self.url, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(self.url, error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise ServerError(f"no server answers at {self.url}: {said}; is it running? See --url") from None

    def _opener(self) -> urllib.request.OpenerDirector:
        near = urlsplit(self.url).hostname in _LOOPBACK
        return urllib.request.build_opener(_Stay, *([urllib.request.ProxyHandler({})] if near else []))


def client(url: str, key_file: Path | None) -> Client:
    """The server at a URL, with the key of the file or of RECPOLICY_KEY; raises ConfigError for what cannot be used."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is not the URL of a server; expected such as {URL}")
    return Client(url.rstrip("/"), _key(key_file))


def _key(file: Path | None) -> str:
    if file is None:
        key, where = os.environ.get(KEY, ""), KEY
    else:
        try:
            key, where = file.read_text(encoding="utf-8"), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: no key can be read: {getattr(error, 'strerror', 'not text')}") from None
    key = key.strip()
    if not key:
        raise ConfigError(f"no API key: set {KEY}, or name a file that holds it with --key-file")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"{where}: no API key: it holds characters that a key does not have")
    return key


def _refused(url: str, error: urllib.error.HTTPError) -> ServerError:
    """What the server says of it, in one line."""
    try:
        said = str(json.loads(error.read())["error"]["message"])
    except (OSError, ValueError, TypeError, KeyError):
        return ServerError(f"{url} answered {error.code} {error.reason}; is that a recpolicy server?")
    if error.code == 401:
        return ServerError(f"{url} refuses the key: {said}")
    if error.code == 403:
        return ServerError(f"{url} refuses it with this key: {said}")
    return ServerError(f"{url} refuses it: {said}")


def _json(url: str, body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        raise ServerError(f"{url} did not answer with JSON; is that a recpolicy server?") from None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect."""

    def redirect_request(self, *_: Any) -> None:
        """None: the redirect becomes an error."""
