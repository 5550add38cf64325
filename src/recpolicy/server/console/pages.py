"""The console's pages and the files that they load, all from this package.

A page holds no user data and no key: its scripts request them. The Content-Security-Policy forbids inline scripts, and
Trusted Types without a policy forbid scripts to write HTML.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none';"
    " base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
KINDS: Mapping[str, str] = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """A file that pages load."""

    body: bytes
    kind: str
    """Media type."""
    tag: str
    """Entity tag: changes with the body."""


@cache
def assets() -> Mapping[str, Asset]:
    """Return all files by name. The server serves only these names, so no part of a request becomes a path."""
    loaded = {}
    for path in files("recpolicy.server.console").joinpath("static").iterdir():
        kind = KINDS.get(path.name.rpartition(".")[2])
        if kind is not None:
            body = path.read_bytes()
            loaded[path.name] = Asset(body, f"{kind}; charset=utf-8", f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return loaded


def page(name: str, **shown: Any) -> str:
    """Return a page as HTML; all values are escaped."""
    return _environment().get_template(f"{name}.html.j2").render(page=name, **shown)


@cache
def _environment() -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("recpolicy.server.console"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
