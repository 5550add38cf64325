"""Routes for versions and routing: list, promote, roll back, set traffic, import, change items.

A change is in effect in this process before the response; other processes follow within half a second
(registry_actions.py).
"""

import asyncio
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.core.processes import run_in_process
from recpolicy.registry.import_version import import_version
from recpolicy.registry.version_files import Version
from recpolicy.server import registry_actions
from recpolicy.server.active_request import CHANGE_ITEMS, IMPORT
from recpolicy.server.auth.roles import Caller, Operator, Reader
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.item_changes import change_catalog
from recpolicy.server.json_output import error_response, json_response
from recpolicy.server.schemas.admin import (
    ItemsRequest,
    RoutingChangeResponse,
    TrafficRequest,
    VersionList,
    VersionResponse,
)

router = APIRouter(prefix="/v1/admin", tags=["admin"])
Number = Annotated[int, Path(ge=1, lt=10**9, description="Number of the version.")]
Ungated = Annotated[bool, Query(description="True: let the version serve although it passed no gate.")]
_AT_ONCE = 1 << 20
_importing = threading.Lock()
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_ARCHIVE = {"requestBody": {"required": True, "content": _BINARY}}


@router.get("/versions", response_model=VersionList)
def list_versions(_: Reader, state: StateDep) -> Response:
    """List the versions, oldest first, and the routing of users to them."""
    registry = state.require_registry()
    registry_actions.sync_versions(state)
    aliases = registry.aliases()
    listed = [_describe(version, aliases) for version in registry.versions()]
    return json_response({"routing": registry_actions.routing(registry), "versions": listed})


@router.get("/versions/{number}", response_model=VersionResponse)
def show_version(number: Number, _: Reader, state: StateDep) -> Response:
    """Show one version with its lineage and the full record of its gate."""
    registry = state.require_registry()
    version = _known(state, number)
    return json_response(_describe(version, registry.aliases()) | {"gate": version.gate})


@router.post("/versions/{number}/promote", response_model=RoutingChangeResponse)
def promote_version(number: Number, caller: Operator, state: StateDep, ungated: Ungated = False) -> Response:
    """Make a version the champion. The server rejects a damaged version, and one that passed no gate."""
    _known(state, number)
    answer = registry_actions.apply(state, caller, "promote", registry_actions.promote(number, ungated))
    registry_actions.sync_versions(state)
    return json_response(answer)


@router.post("/roll-back", response_model=RoutingChangeResponse)
def roll_back(caller: Operator, state: StateDep) -> Response:
    """Remove the challenger or, without one, return to the previous champion."""
    return json_response(registry_actions.apply(state, caller, "roll_back", registry_actions.roll_back))


@router.post("/traffic", response_model=RoutingChangeResponse)
def set_traffic(request: TrafficRequest, caller: Operator, state: StateDep) -> Response:
    """Make a version the challenger, with a fraction of the users or as a shadow."""
    if request.version is not None:
        _known(state, request.version)
    action = registry_actions.set_traffic(request.version, request.traffic_fraction, request.shadow, request.ungated)
    return json_response(registry_actions.apply(state, caller, "traffic", action))


@router.delete("/challenger", response_model=RoutingChangeResponse)
def clear_challenger(caller: Operator, state: StateDep) -> Response:
    """Remove the challenger. The champion serves all users."""
    return json_response(registry_actions.apply(state, caller, "clear_challenger", registry_actions.clear_challenger))


@router.post("/exploration/pause", response_model=RoutingChangeResponse)
def pause_exploration(caller: Operator, state: StateDep) -> Response:
    """Pause exploration: all processes recommend the best items only."""
    return json_response(
        registry_actions.apply(state, caller, "pause_exploration", registry_actions.set_exploration(False))
    )


@router.post("/exploration/resume", response_model=RoutingChangeResponse)
def resume_exploration(caller: Operator, state: StateDep) -> Response:
    """Resume exploration: the server draws a fraction of the lists at random again."""
    return json_response(
        registry_actions.apply(state, caller, "resume_exploration", registry_actions.set_exploration(True))
    )


@router.post(CHANGE_ITEMS.removeprefix("/v1/admin"), response_model=VersionResponse, status_code=201)
def change_items(request: ItemsRequest, caller: Operator, state: StateDep) -> Response:
    """Register a copy of a version with items added, retired or restored. It serves nobody yet."""
    registry = state.require_registry()
    if not (request.add or request.retire or request.restore):
        raise DataError("no items to add, to retire or to restore; name some in add, retire or restore")
    number = registry.routing().champion if request.version is None else request.version
    if number is None:
        raise HTTPException(409, "the registry has no champion; name the version to change")
    _known(state, number)
    if not _importing.acquire(blocking=False):
        return error_response(
            429, "overloaded", "the server is writing another version; try again", {"retry-after": "5"}
        )
    try:
        added = [item.model_dump() for item in request.add]
        note = {"by": caller.name}
        new = run_in_process(
            change_catalog, registry.folder.absolute(), number, added, request.retire, request.restore, note
        )
    except ArtifactError as error:
        raise HTTPException(409, str(error)) from None
    finally:
        _importing.release()
    version = registry.version(new)
    counts = {"added": len(request.add), "retired": len(request.retire), "restored": len(request.restore)}
    registry_actions.write_audit(state, caller, "items", {"number": new, "from": number, **counts})
    registry_actions.sync_versions(state)
    return json_response(_describe(version, registry.aliases()) | {"gate": version.gate}, 201)


@router.post(IMPORT.removeprefix("/v1/admin"), response_model=VersionResponse, status_code=201, openapi_extra=_ARCHIVE)
async def import_archive(request: Request, caller: Operator, state: StateDep) -> Response:
    """Register the policy in the body, a .zip or .tar.gz archive. The server checks every entry of the archive."""
    return await receive_import(request, state, lambda archive: json_response(_import(state, caller, archive), 201))


async def receive_import(request: Request, state: AppState, register: Callable[[FilePath], Response]) -> Response:
    """Receive the archive in the body, one at a time, and answer with what `register` returns for its file."""
    state.require_registry()
    if not _importing.acquire(blocking=False):
        return error_response(
            429, "overloaded", "the server is importing another version; try again", {"retry-after": "5"}
        )
    try:
        with tempfile.TemporaryDirectory(prefix="recpolicy-import-") as scratch:
            archive = FilePath(scratch) / "archive"
            limit = state.settings.limits.import_bytes
            if not await receive_archive(request, archive, limit):
                message = f"the archive has more than {limit} bytes; the setting [limits] import_bytes has the limit"
                return error_response(413, "too_large", message, {"connection": "close"})
            return await asyncio.to_thread(register, archive)
    except ClientDisconnect:
        raise HTTPException(400, "the archive is incomplete: the client disconnected") from None
    finally:
        _importing.release()


async def receive_archive(request: Request, archive: FilePath, limit: int) -> bool:
    """Write the body to a file; return False as soon as it is larger than `limit`."""
    size, waiting = 0, bytearray()
    with archive.open("wb") as stream:
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                return False
            waiting += piece
            if len(waiting) >= _AT_ONCE:
                await asyncio.to_thread(stream.write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(stream.write, bytes(waiting))
    return True


def _import(state: AppState, caller: Caller, archive: FilePath) -> dict[str, Any]:
    registry = state.require_registry()
    try:
        version = import_version(registry, archive, note={"by": caller.name})
    except ArtifactError as error:
        raise DataError(str(error).replace(str(archive), "the archive")) from None
    registry_actions.write_audit(state, caller, "import", {"number": version.number, "digest": version.digest})
    registry_actions.sync_versions(state)
    return _describe(version, registry.aliases()) | {"gate": version.gate}


def _known(state: AppState, number: int) -> Version:
    """Return the version; raises HTTPException 404 for an unknown number, 409 for a damaged record."""
    registry = state.require_registry()
    try:
        if number not in {known.number for known in registry.versions()}:
            raise HTTPException(404, f"version {number} does not exist; GET /v1/admin/versions lists the versions")
        return registry.version(number)
    except ArtifactError as error:
        raise HTTPException(409, str(error)) from None


def _describe(version: Version, aliases: Mapping[str, int | None]) -> dict[str, Any]:
    """Return a version as lists show it: the verdict of its gate in place of the whole record."""
    gate = version.gate or {}
    criteria = gate.get("criteria", ())
    metrics = {criterion["name"]: criterion["value"] for criterion in criteria if {"name", "value"} <= criterion.keys()}
    names = [name for name, number in aliases.items() if number == version.number]
    fields = asdict(version)
    del fields["gate"]
    return {
        **fields,
        "aliases": names,
        "verdict": gate.get("verdict"),
        "metrics": version.lineage.get("metrics", metrics),
    }
