"""A local stand-in for the Kubeflow Pipelines API (v2beta1): it records requests and rejects malformed ones.

It knows the requests of kfp 2.17.0 and kfp_server_api: paths, field names, enum values, a multipart upload with the
part `uploadfile`, names in the query. Like grpc-gateway it rejects a body with an unknown field; errors have the shape
{"error", "code", "message", "details"}.
"""

import email.parser
import email.policy
import json
import re
import ssl
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

API = "/apis/v2beta1"
_CRON = re.compile(r"\S+( \S+){5}")  # the least that robfig/cron v1 accepts


class Refusal(Exception):
    """A response with another status than 200."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Cluster:
    """The state of the server; tests read it and set `token`, `multi_user`, `broken` and `refused`."""

    token: str | None = None
    multi_user: bool = False
    broken: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Path to a status and a body that replace the response, after the request took effect."""
    refused: dict[str, int] = field(default_factory=dict)
    """Pattern of "METHOD /path" to the status that rejects the request, without any effect."""
    url: str = ""
    pipelines: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    recurring_runs: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def get(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        """Answer a GET."""
        if path == "/healthz":
            return {"commit_sha": "0", "tag_name": "2.5.0", **({"multi_user": True} if self.multi_user else {})}
        if path == "/experiments":
            return _listed("experiments", self.experiments, query)
        if path == "/pipelines":
            return _listed("pipelines", self.pipelines, query)
        if match := re.fullmatch(r"/pipelines/([^/]+)/versions", path):
            mine = [item for item in self.versions if item["pipeline_id"] == match[1]]
            newest = mine[::-1] if query.get("sort_by") == "created_at desc" else mine
            return {"pipeline_versions": newest[: int(query.get("page_size", 10))]}
        if path == "/recurringruns":
            runs = [run for run in self.recurring_runs if run["experiment_id"] == query.get("experiment_id")]
            return _paged(
                "recurringRuns", _listed("items", runs, query).get("items", []), query
            )  # the API spells it so
        raise Refusal(404, "Not Found")

    def delete(self, path: str) -> dict[str, Any]:
        """Answer a DELETE."""
        if not path.startswith("/recurringruns/"):
            raise Refusal(404, "Not Found")
        id = path.rpartition("/")[2]
        matches = [run for run in self.recurring_runs if run["recurring_run_id"] == id]
        if not matches:
            raise Refusal(404, f"recurring run {id} not found")
        self.recurring_runs.remove(matches[0])
        return {}

    def post(self, path: str, query: dict[str, str], body: Any) -> dict[str, Any]:
        """Answer a POST; `body` is parsed JSON, or the YAML documents of an upload."""
        if path == "/pipelines/upload":
            return self._new_pipeline(query, body)
        if path == "/pipelines/upload_version":
            if query.get("pipelineid") not in {item["pipeline_id"] for item in self.pipelines}:
                raise Refusal(404, f"pipeline {query.get('pipelineid')} not found")
            return self._new_version(query["pipelineid"], query.get("name", ""), body)
        if path == "/experiments":
            _check(body, {"display_name": str}, {"description": str, "namespace": str})
            return _keep(self.experiments, {"experiment_id": _id(), **body})
        if path == "/runs":
            self._check_run(body, {})
            return _keep(self.runs, {"run_id": _id(), "state": "PENDING", **body})
        if path == "/recurringruns":
            extra = {"trigger": dict, "mode": str, "max_concurrency": (str, int), "no_catchup": bool}
            self._check_run(body, extra)
            cron = body["trigger"].get("cron_schedule", {}).get("cron", "")
            if body["mode"] not in ("ENABLE", "DISABLE") or not _CRON.fullmatch(cron):
                raise Refusal(400, f"the schedule is not valid: mode {body['mode']}, cron {cron!r}")
            return _keep(self.recurring_runs, {"recurring_run_id": _id(), **body})
        raise Refusal(404, "Not Found")

    def _new_pipeline(self, query: dict[str, str], documents: list[Any]) -> dict[str, Any]:
        name = query.get("name", "")
        if name in {item["display_name"] for item in self.pipelines}:
            raise Refusal(409, f"the name {name} already exists; please specify a new name")
        created = {"pipeline_id": _id(), "display_name": name, "namespace": query.get("namespace", "")}
        self._new_version(created["pipeline_id"], name, documents)
        return _keep(self.pipelines, created)

    def _new_version(self, pipeline: str, name: str, documents: list[Any]) -> dict[str, Any]:
        if not name:
            raise Refusal(400, "the name is empty")
        spec = documents[0]
        if not isinstance(spec, dict) or not {"pipelineInfo", "root", "schemaVersion", "sdkVersion"} <= set(spec):
            raise Refusal(400, "unknown template format: the file is not a pipeline spec")
        if name in {item["display_name"] for item in self.versions if item["pipeline_id"] == pipeline}:
            raise Refusal(409, f"the version {name} already exists")
        created = {"pipeline_id": pipeline, "pipeline_version_id": _id(), "display_name": name, "pipeline_spec": spec}
        if len(documents) > 1:
            created["platform_spec"] = _platform_spec(spec, documents[1:])
        return _keep(self.versions, created)

    def _check_run(self, body: Any, more: dict[str, Any]) -> None:
        needed = {"display_name": str, "experiment_id": str, "pipeline_version_reference": dict, **more}
        _check(body, needed, {"runtime_config": dict, "service_account": str, "description": str})
        if body["experiment_id"] not in {item["experiment_id"] for item in self.experiments}:
            raise Refusal(404, "experiment not found")
        reference = body["pipeline_version_reference"]
        matches = [version for version in self.versions if reference.items() <= version.items()]
        if len(reference) != 2 or not matches:
            raise Refusal(404, f"pipeline version {reference} not found")
        _check_parameters(matches[0]["pipeline_spec"], body.get("runtime_config", {}))


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: tests read the library's output."""

    def _answer(self, method: str) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        status, content = 200, b""
        url = urlsplit(self.path)
        request = f"{method} {url.path.removeprefix(API)}"
        self.cluster.requests.append(request)
        try:
            for pattern, refused in self.cluster.refused.items():
                if re.fullmatch(pattern, request):
                    raise Refusal(refused, "refused")
            content = json.dumps(self._do(method, url.path, url.query, raw)).encode()
        except Refusal as refusal:
            status = refusal.status
            message = refusal.message
            content = json.dumps({"error": message, "code": 3, "message": message, "details": []}).encode()
        status, content = self.cluster.broken.get(url.path.removeprefix(API), (status, content))
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _do(self, method: str, path: str, query: str, raw: bytes) -> dict[str, Any]:
        token = self.cluster.token
        header = self.headers.get("authorization", "")
        if token is not None and header != f"Bearer {token}":
            raise Refusal(401, f"unauthenticated: {header}")  # some proxies repeat the header
        if not path.startswith(API):
            raise Refusal(404, "Not Found")
        words = {name: values[-1] for name, values in parse_qs(query).items()}
        if method == "GET":
            return self.cluster.get(path.removeprefix(API), words)
        if method == "DELETE":
            return self.cluster.delete(path.removeprefix(API))
        kind = self.headers.get_content_type()
        upload = path.startswith(f"{API}/pipelines/upload")
        if kind != ("multipart/form-data" if upload else "application/json"):
            raise Refusal(415, f"unexpected content type {kind}")
        body = _uploaded(self.headers["content-type"], raw) if upload else json.loads(raw or b"{}")
        return self.cluster.post(path.removeprefix(API), words, body)


@contextmanager
def kfp_server(certificate: tuple[Path, Path] | None = None) -> Iterator[Cluster]:
    """Serve a cluster on a free port of 127.0.0.1, over TLS if `certificate` (chain, key) is given."""
    cluster = Cluster()
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients close connections early
    cluster.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    running = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    running.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        running.join()


def _listed(kind: str, items: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    """Return the matching items; like protobuf, without the key if there are none."""
    (predicate,) = json.loads(query["filter"])["predicates"]
    if predicate["operation"] not in (1, "EQUALS") or predicate["key"] != "display_name":
        raise Refusal(400, "invalid filter")
    namespace = query.get("namespace", "")
    named = [item for item in items if item["display_name"] == predicate["stringValue"]]
    matches = [item for item in named if (item.get("namespace") or "") == namespace]
    return {kind: matches} if matches else {}


def _paged(kind: str, items: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    start, size = int(query.get("page_token") or 0), int(query.get("page_size", 10))
    more = {"next_page_token": str(start + size)} if len(items) > start + size else {}
    return {kind: items[start : start + size], **more} if items else {}


def _platform_spec(spec: dict[str, Any], others: list[Any]) -> dict[str, Any]:
    """Return the second document: settings for Kubernetes of executors that the pipeline has."""
    (platform,) = others
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    if set(platform["platforms"]) != {"kubernetes"} or not set(executors) <= set(spec["deploymentSpec"]["executors"]):
        raise Refusal(400, "the platform spec is not of this pipeline")
    return platform


def _check(body: Any, needed: dict[str, Any], optional: dict[str, Any]) -> None:
    for name, value in body.items():
        kind = needed.get(name) or optional.get(name)
        if kind is None or not isinstance(value, kind):
            raise Refusal(400, f"invalid value or unknown field {name}: {value!r}")
    for name in needed:
        if not body.get(name) and body.get(name) is not False:
            raise Refusal(400, f"the field {name} is required")


_KINDS = {
    "STRING": str, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": (int, float), "BOOLEAN": bool, "LIST": list, "STRUCT": dict,
}  # fmt: skip


def _check_parameters(spec: dict[str, Any], config: dict[str, Any]) -> None:
    _check(config, {}, {"parameters": dict, "pipeline_root": str})
    values = config.get("parameters", {})
    known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, value in values.items():
        kind = known.get(name, {}).get("parameterType")
        fits = kind in _KINDS and isinstance(value, _KINDS[kind])
        if not fits or (isinstance(value, bool) and kind != "BOOLEAN"):
            raise Refusal(400, f"parameter {name} of type {kind} got {value!r}")
    missing = [name for name, definition in known.items() if not definition.get("isOptional") and name not in values]
    if missing:
        raise Refusal(400, f"parameter {missing[0]} is required")


def _uploaded(content_type: str, raw: bytes) -> list[Any]:
    head = f"content-type: {content_type}\r\n\r\n".encode()
    parts = list(email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw).iter_parts())
    names = [part.get_param("name", header="content-disposition") for part in parts]
    if names != ["uploadfile"]:
        raise Refusal(400, f"expected one part named uploadfile, got {names}")
    return list(yaml.safe_load_all(parts[0].get_payload(decode=True)))


def _keep(where: list[dict[str, Any]], created: dict[str, Any]) -> dict[str, Any]:
    where.append(created)
    return created


def _id() -> str:
    return str(uuid.uuid4())
