"""Routes of Azure AI Personalizer that an operator calls: settings, model, logs, evaluations, feature importances.

Reading needs the role reader, changing the role operator.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import func, select
from starlette.exceptions import HTTPException

from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.inference.feature_artifact import is_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.registry.import_version import import_version
from recpolicy.server import registry_actions
from recpolicy.server.auth.roles import Caller, Operator, Reader
from recpolicy.server.db.deletion import delete_all_ranks
from recpolicy.server.db.schema import rank_events
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.json_output import json_response
from recpolicy.server.rank import evaluations, personalizer
from recpolicy.server.rank.learning_settings import settings_of_policy
from recpolicy.server.rank.service import LEARNING, RESET, SERVICE
from recpolicy.server.routes.admin_versions import receive_import
from recpolicy.server.routes.personalizer import PERSONALIZER_ERRORS
from recpolicy.server.schemas.admin import ADMIN_ERROR_RESPONSES
from recpolicy.server.schemas.personalizer import AppliedPolicy, LearningSettingsBody, ServiceConfiguration

router = APIRouter(tags=["personalizer"], responses=PERSONALIZER_ERRORS | ADMIN_ERROR_RESPONSES)
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get("/configurations/service")
def show_configuration(_: Reader, state: StateDep) -> Response:
    """Show the settings in effect, with the figures of the apprentice mode."""
    return json_response(_configuration(state))


@router.put("/configurations/service")
def change_configuration(request: ServiceConfiguration, caller: Operator, state: StateDep) -> Response:
    """Change the settings for all processes, in place of those of the file."""
    values = personalizer.configuration_values(request, state.rank.current, state.settings.store)
    state.rank.store(state.require_store().engine, SERVICE, values)
    registry_actions.write_audit(state, caller, "rank_settings", values)
    return json_response(_configuration(state))


def _configuration(state: AppState) -> dict[str, Any]:
    service = state.rank.current
    apprentice = None if state.store is None else personalizer.apprentice_metrics(state.store.engine, service)
    return personalizer.configuration_body(service, state.settings.store, apprentice)


@router.get("/configurations/policy")
def show_learning_settings(_: Reader, state: StateDep) -> Response:
    """Show the learning settings: those that an operator set, or else those of the champion."""
    return json_response(_learning_settings(state))


@router.put("/configurations/policy")
def change_learning_settings(request: LearningSettingsBody, caller: Operator, state: StateDep) -> Response:
    """Set the learning settings of the next trainings: a new policy learns all ranks with them, and is gated."""
    values = {"name": request.name, "arguments": request.arguments}
    state.rank.store(state.require_store().engine, LEARNING, values)
    registry_actions.write_audit(state, caller, "learning_settings", values)
    return json_response(_learning_settings(state))


@router.delete("/configurations/policy")
def reset_learning_settings(caller: Operator, state: StateDep) -> Response:
    """Return to the learning settings of the champion."""
    if state.rank.current.learning is not None:
        state.rank.store(state.require_store().engine, LEARNING, None)
        registry_actions.write_audit(state, caller, "learning_settings", {})
    return json_response(_learning_settings(state))


@router.post("/configurations/applyFromEvaluation", status_code=204)
def apply_from_evaluation(
    request: AppliedPolicy, caller: Operator, state: StateDep,
    ungated: Annotated[bool, Query(description="Apply a policy although its gate does not say pass.")] = False,
) -> Response:  # fmt: skip
    """Register a policy that an evaluation trained, with the record of its gate, and make it the champion."""
    evaluations.apply_candidate(state, caller, request.evaluation_id, request.policy_name, ungated=ungated)
    return Response(status_code=204)


def _learning_settings(state: AppState) -> Mapping[str, str]:
    """Return name and arguments of the learning settings in effect."""
    if state.rank.current.learning is not None:
        return state.rank.current.learning
    version, registry = state.ranking_version(), state.models.registry
    settings = settings_of_policy(version.policy) if isinstance(version.policy, FeaturePolicy) else None
    registered = [] if registry is None else registry.versions()
    name = next((each.lineage.get("policy_name") for each in registered if each.number == version.number), None)
    return {"name": name or version.agent, "arguments": str(settings or f"--agent {version.agent}")}


@router.get("/model", response_class=Response, responses={200: {"content": _BINARY}})
def export_model(
    _: Reader, state: StateDep, signed: Annotated[bool, Query(description="Has no effect.")] = False
) -> Response:
    """Return the champion as a .zip archive, which `PUT /model` and `recpolicy registry add` take."""
    del signed
    folder = state.require_registry().resolve(_served_number(state))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"policy/{path.name}")
    return Response(packed.getvalue(), media_type="application/octet-stream")


@router.put("/model", status_code=204, openapi_extra={"requestBody": {"required": True, "content": _BINARY}})
async def import_model(request: Request, caller: Operator, state: StateDep) -> Response:
    """Register the feature policy in the body, a .zip archive, and let it serve without a gate."""

    def register(archive: FilePath) -> Response:
        _import(state, caller, archive)
        return Response(status_code=204)

    return await receive_import(request, state, register)


def _import(state: AppState, caller: Caller, archive: FilePath) -> None:
    registry = state.require_registry()
    try:
        version = import_version(registry, archive, note={"by": caller.name}, check=_check_kind)
    except ArtifactError as error:
        raise DataError(str(error).replace(str(archive), "the archive")) from None
    registry_actions.write_audit(state, caller, "import", {"number": version.number, "digest": version.digest})
    registry_actions.apply(state, caller, "promote", registry_actions.promote(version.number, ungated=True))
    registry_actions.sync_versions(state)
    if state.rank.current.reset_version is not None:
        state.rank.store(state.require_store().engine, RESET, None)


def _check_kind(folder: FilePath) -> None:
    if not is_feature_policy(folder):
        raise DataError("the archive is not a policy of features; nothing was registered")


@router.delete("/model", status_code=204)
def reset_model(caller: Operator, state: StateDep) -> Response:
    """Forget the champion: every action is equally likely until another version is promoted or imported."""
    number = state.ranking_version().number
    if number is not None:
        state.rank.store(state.require_store().engine, RESET, number)
        registry_actions.write_audit(state, caller, "reset_model", {"number": number})
    return Response(status_code=204)


@router.get("/model/properties")
def show_model(_: Reader, state: StateDep) -> Response:
    """Show when the champion was registered."""
    version = state.require_registry().version(_served_number(state))
    return json_response({"creationTime": version.registered_at, "lastModifiedTime": version.registered_at})


def _served_number(state: AppState) -> int:
    number = state.ranking_version().number
    if number is None:
        raise HTTPException(404, "there is no model: every action is equally likely until a version is promoted")
    return number


@router.get("/logs/properties")
def show_logs(_: Reader, state: StateDep) -> Response:
    """Show the times of the first and the last event."""
    times = select(func.min(rank_events.c.time), func.max(rank_events.c.time))
    with state.require_store().engine.connect() as connection:
        first, last = connection.execute(times).one()
    span: Mapping[str, str] = {} if first is None else {
        "from": personalizer.iso_time(first), "to": personalizer.iso_time(last)
    }  # fmt: skip
    return json_response({"dateRange": span})


@router.delete("/logs", status_code=204)
def delete_logs(caller: Operator, state: StateDep) -> Response:
    """Delete all ranked events with their signals and actions."""
    deleted = delete_all_ranks(state.require_store().engine)
    counts = {"ranks": deleted.ranks, "signals": deleted.signals, "actions": deleted.actions}
    registry_actions.write_audit(state, caller, "delete_ranks", counts)
    return Response(status_code=204)
