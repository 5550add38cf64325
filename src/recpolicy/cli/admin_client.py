"""The client of a server's admin API.

The key is not an option, because the shell's history and the process list would show it. Redirects are not followed:
the key is for the named server only.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from recpolicy.core.errors import ConfigError, RecpolicyError

if TYPE_CHECKING:
    import httpx

KEY = "RECPOLICY_KEY"
URL = "http://127.0.0.1:8080"
IMPORT = "/v1/admin/versions/import"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SECONDS, _SECONDS_TO_SEND = 30.0, 600.0


class ServerError(RecpolicyError, OSError):
    """The server did not answer, or rejected the request."""


@dataclass(frozen=True)
class Client:
    """A server and its key."""

    url: str
    key: str

    def get(self, path: str) -> Any:
        """GET a path; raises ServerError in one line."""
        return self._request("GET", path, None, _SECONDS)

    def post(self, path: str, body: Any = None) -> Any:
        """POST JSON; raises ServerError in one line."""
        return self._request("POST", path, None if body is None else json.dumps(body).encode(), _SECONDS)

    def delete(self, path: str) -> Any:
        """DELETE a path; raises ServerError in one line."""
        return self._request("DELETE", path, None, _SECONDS)

    def send(self, path: str, file: Path) -> Any:
        """POST a file; raises ServerError in one line, ConfigError for a file that cannot be read."""
        try:
            with file.open("rb") as stream:
                return self._request("POST", path, stream, _SECONDS_TO_SEND)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None

    def _request(self, method: str, path: str, content: "bytes | IO[bytes] | None", seconds: float) -> Any:
        import httpx

        headers = {"Authorization": f"Bearer {self.key}", "Accept": "application/json"}
        if content is not None:
            kind = "application/json" if isinstance(content, bytes) else "application/octet-stream"
            headers["Content-Type"] = kind
        local = urlsplit(self.url).hostname in _LOOPBACK
        try:
            with httpx.Client(timeout=seconds, trust_env=not local) as http:
                response = http.request(method, self.url + path, content=content, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            reason = str(error) or type(error).__name__
            raise ServerError(f"no server answers at {self.url}: {reason}; is it running? See --url") from None
        if not response.is_success:
            raise _rejection(self.url, response)
        return _json(self.url, response.content)


def client(url: str, key_file: Path | None) -> Client:
    """Return a client with the key of the file or of RECPOLICY_KEY; raises ConfigError for an invalid URL or key."""
    from recpolicy.core.optional_deps import require_extra

    require_extra("serve", "recpolicy admin")
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
        raise ConfigError(f"{where}: not an API key: it contains characters that no key has")
    return key


def _rejection(url: str, response: "httpx.Response") -> ServerError:
    """Return the server's error as one line."""
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, TypeError, KeyError):
        status = f"{response.status_code} {response.reason_phrase}"
        return ServerError(f"{url} answered {status}; is that a recpolicy server?")
    if response.status_code == 401:
        return ServerError(f"{url} rejects the key: {message}")
    if response.status_code == 403:
        return ServerError(f"{url} rejects the request with this key: {message}")
    return ServerError(f"{url} rejects the request: {message}")


def _json(url: str, body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        raise ServerError(f"{url} did not answer with JSON; is that a recpolicy server?") from None
