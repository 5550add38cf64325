"""Attacks on the keys: every admin operation with wrong and misplaced keys, other methods, and tricks with its path."""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from processes import ADMIN_KEY, ServerProcess

from attack.client import Answer, Client, address_of, ask, bearing, exchange, for_each, request_bytes
from attack.session import PATIENT, Session, operator

PUBLISHED_KEY = "admin-dev-key-change-in-production"
READER_MAY_ASK = ("/v1/admin/compare",)
OPERATORS_ONLY = ("/v1/admin/keys",)
CONTENT_TYPES = (None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
"""Those that a page of another site may send without a preflight request."""


def attack_auth(session: Session) -> None:
    """Ask for each admin operation in each wrong way; nothing may be done, shown or changed."""
    server = session.start(settings=PATIENT)
    before = state_of(server)
    keys = make_keys(server)
    import asyncio

    asyncio.run(_attack(session, server, keys))
    after = state_of(server)
    session.result.require(before | {"keys": after["keys"]} == after, f"the state changed to {after}", "let_in")
    known = {"environment", "revoked", *keys}
    extra = set(after["keys"]) - known
    session.result.require(not extra, f"keys were made: {sorted(extra)}", "let_in")
    session.check_alive(server)


def make_keys(server: ServerProcess) -> dict[str, str]:
    """Make a key of each lower role, and a revoked operator's; return them by name."""
    keys = {}
    for name, role in (("client", "client"), ("reader", "reader"), ("revoked", "operator")):
        status, page = server.post("/v1/admin/keys", {"name": name, "role": role}, **operator())
        assert status == 201, page
        keys[name] = page["key"]
    status, page = server.ask("DELETE", "/v1/admin/keys/revoked", **operator())
    assert status == 200, page
    return keys


def state_of(server: ServerProcess) -> dict[str, Any]:
    """Return what an attacker would change: keys, versions, routing, rollouts and jobs."""

    def get(path: str) -> Any:
        return server.ask("GET", path, **operator())[1]

    keys = sorted(key["name"] for key in get("/v1/admin/keys")["keys"] if key.get("revoked_at") is None)
    paths = ("/v1/admin/versions", "/v1/admin/rollouts", "/v1/admin/runs")
    return {"keys": keys, **{path: get(path) for path in paths}}


def operations(server: ServerProcess) -> list[tuple[str, str]]:
    """Return method and path of each admin operation on the OpenAPI page."""
    pages = server.get("/openapi.json")["paths"].items()
    return [
        (method.upper(), re.sub(r"{[^}]*}", "1", path))
        for path, methods in pages
        for method in methods
        if path.startswith("/v1/admin")
    ]


def wrong_ways(keys: Mapping[str, str]) -> dict[str, tuple[str, dict[str, str]]]:
    """Return (addition to the path, headers) of each way to lack a key; ADMIN_KEY itself is at a wrong place."""
    basic = base64.b64encode(f"operator:{ADMIN_KEY}".encode()).decode()
    digest = hashlib.sha256(ADMIN_KEY.encode()).hexdigest()
    headers = {
        "no key": {},
        "empty bearer": {"authorization": "Bearer "},
        "empty X-API-Key": {"x-api-key": ""},
        "unknown key": bearing("rp_" + "Ab3dEf6hIj9lMn2pQr5tUv8xYz1-Bc4eFg7iJk0mNo3q"),
        "revoked key": bearing(keys["revoked"]),
        "published key": bearing(PUBLISHED_KEY),
        "lower case": bearing(ADMIN_KEY.lower()),
        "prefix": bearing(ADMIN_KEY[:-1]),
        "suffix": bearing(ADMIN_KEY + "x"),
        "digest": bearing(digest),
        "quoted": bearing(f'"{ADMIN_KEY}"'),
        "no scheme": {"authorization": ADMIN_KEY},
        "token": {"authorization": f"Token {ADMIN_KEY}"},
        "basic": {"authorization": f"Basic {basic}"},
        "proxy": {"proxy-authorization": f"Bearer {ADMIN_KEY}"},
        "cookie": {"cookie": f"key={ADMIN_KEY}; authorization=Bearer {ADMIN_KEY}; X-API-Key={ADMIN_KEY}"},
        "other header": {"x-admin-key": ADMIN_KEY, "api-key": ADMIN_KEY, "x-auth-token": ADMIN_KEY},
        "forwarded": {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "forwarded": "for=127.0.0.1;by=admin"},
        "identity": {"x-forwarded-user": "environment", "remote-user": "environment", "x-role": "operator"},
        "rewritten": {"x-original-url": "/healthz", "x-rewrite-url": "/healthz", "x-forwarded-prefix": "/healthz"},
        "wrong bearer before X-API-Key": {**bearing("x" * 43), "x-api-key": ADMIN_KEY},
    }
    query = f"?api_key={ADMIN_KEY}&key={ADMIN_KEY}&access_token={ADMIN_KEY}&x-api-key={ADMIN_KEY}"
    return {name: ("", value) for name, value in headers.items()} | {"query": (query, {})}


def tricks(path: str) -> Iterator[str]:
    """Yield targets that some servers or proxies take for `path`, or that hide it behind a free path."""
    tail = path.removeprefix("/v1/admin")
    yield from (
        f"/{path}", f"/.{path}", f"/x/..{path}", f"/healthz/..{path}", f"/healthz/%2e%2e{path}",
        f"/healthz/..%2f{path[1:]}",
        f"/metrics/../{path[1:]}", f"/v1//admin{tail}", f"/v1/./admin{tail}", f"/v1/%61dmin{tail}",
        f"/%76%31/admin{tail}",
        f"/V1/ADMIN{tail}", f"/v1/Admin{tail}", f"/v1/admin;x=1{tail}", f"/v1/admin%00{tail}",
        f"/v1/admin%2f{tail[1:]}",
        f"/v1\\admin{tail}", f"http://server{path}", f"http://admin@127.0.0.1{path}", f"{path}/", f"{path}/.",
        f"{path}?/healthz",
        f"{path}%20", f"{path}#/healthz", f"/v1/recommend/../admin{tail}", f"*{path}", f"{path};/healthz",
    )  # fmt: skip


async def _attack(session: Session, server: ServerProcess, keys: Mapping[str, str]) -> None:
    address, result = address_of(server.url), session.result
    admin = operations(server)
    result.require(len(admin) >= 20, f"the OpenAPI page has {len(admin)} admin operations")

    def judge(what: str, answer: Answer | None, allowed: tuple[int, ...] = (401,)) -> None:
        result.tries += 1
        if answer is None:
            return  # closed
        if answer.status < 400:
            result.count("let_in", f"{what}: {answer.line}")
        elif answer.status >= 500 and answer.status not in allowed:
            result.count("wrong_5xx", f"{what}: {answer.line}")
        elif answer.status not in allowed:
            result.count("other", f"{what}: {answer.line}; expected {allowed}")
        result.require("access-control-allow-origin" not in answer.headers, f"{what}: a CORS header")

    async def matrix(way: tuple[str, tuple[str, dict[str, str]]]) -> None:
        name, (addition, headers) = way
        async with Client(address, headers) as client:
            for method, path in admin:
                answer = await client.ask(method, path + addition, {} if method == "POST" else None)
                judge(f"{method} {path} with {name}", answer)

    await for_each(wrong_ways(keys).items(), matrix)
    async with Client(address, bearing(keys["client"])) as client:
        for method, path in admin:
            judge(f"{method} {path} by a client", await client.ask(method, path), (403,))
    async with Client(address, bearing(keys["reader"])) as client:
        for method, path in admin:
            if path in OPERATORS_ONLY or (method != "GET" and path not in READER_MAY_ASK):
                judge(f"{method} {path} by a reader", await client.ask(method, path, {}), (403,))

    async def other_methods(path: str) -> None:
        for method in ("HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "PROPFIND", "CONNECT"):
            answer = await ask(address, method, path)
            judge(f"{method} {path} without a key", answer, (400, 401, 405, 501))

    await for_each(sorted({path for _, path in admin}), other_methods)

    async def hidden(operation: tuple[str, str]) -> None:
        method, path = operation
        for target in tricks(path):
            for headers in ({}, {"origin": "http://evil.example"}):
                data = request_bytes(method, target, {} if method == "POST" else None, headers)
                answers, _ = await exchange(address, data, 10, most=1)
                judge(f"{method} {target!r} without a key", answers[0] if answers else None, (400, 401, 404, 405))

    await for_each(admin, hidden)
    for public in ("/v1/recommend", "/v1/predict", "/v1/feedback"):
        for kind in CONTENT_TYPES:
            headers = {"origin": "http://evil.example"} | ({} if kind is None else {"content-type": kind})
            data = b'{"user": 1, "users": [1]}'
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"POST {public} HTTP/1.1\r\nhost: localhost\r\n{lines}content-length: {len(data)}\r\n\r\n"
            answers, _ = await exchange(address, head.encode() + data, 10, most=1)
            judge(f"{public} as {kind!r} from another site", answers[0] if answers else None, (400, 415, 422))
