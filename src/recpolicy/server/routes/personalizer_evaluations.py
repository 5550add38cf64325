"""Routes of Azure AI Personalizer for evaluations and feature importances, which our estimators compute."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from starlette.exceptions import HTTPException

from recpolicy.server.auth.roles import Operator, Reader
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.json_output import json_response
from recpolicy.server.rank import evaluations
from recpolicy.server.rank.evaluations import EVALUATION, IMPORTANCE, SUCCEEDED
from recpolicy.server.rank.personalizer import iso_time
from recpolicy.server.routes.personalizer import PERSONALIZER_ERRORS
from recpolicy.server.schemas.admin import ADMIN_ERROR_RESPONSES
from recpolicy.server.schemas.personalizer import EvaluationRequest, ImportanceRequest
from recpolicy.server.schemas.rank import EventName

router = APIRouter(tags=["personalizer"], responses=PERSONALIZER_ERRORS | ADMIN_ERROR_RESPONSES)
Id = Annotated[EventName, Path(description="Id that the caller chose.")]
Top = Annotated[int, Query(ge=1, le=1_000, description="Most entries.")]
Skip = Annotated[int, Query(ge=0, le=10**9, description="Entries to leave out.")]
Unused = Annotated[str | None, Query(description="Has no effect: the whole time is one interval.")]


@router.put("/evaluations/{evaluation_id:path}")
def create_evaluation(evaluation_id: Id, request: EvaluationRequest, _: Operator, state: StateDep) -> Response:
    """Start to estimate the rewards of the champion, the baseline and a random choice on the ranks of a time.

    Learning settings in `policies`, and with `enablePolicyOptimization` the best ones of a search, are trained on the
    first ranks and evaluated on the last ones.
    """
    evaluations.begin(
        state, EVALUATION, evaluation_id, request.name, _ms(request.start_time), _ms(request.end_time),
        [{"name": policy.name, "arguments": policy.arguments} for policy in request.policies or ()],
        optimize=request.optimizes,
    )  # fmt: skip
    return Response(status_code=200)


@router.get("/evaluations/{evaluation_id:path}")
def show_evaluation(
    evaluation_id: Id, _: Reader, state: StateDep,
    interval: Annotated[str | None, Query(alias="intervalInMinutes", description="Has no effect.")] = None,
    start: Annotated[str | None, Query(alias="startTime", description="Has no effect.")] = None,
    end: Annotated[str | None, Query(alias="endTime", description="Has no effect.")] = None, window: Unused = None,
) -> Response:  # fmt: skip
    """Show an evaluation: estimates with 95 % intervals, or the reason why the log allows none."""
    del interval, start, end, window
    record = _find(state, EVALUATION, evaluation_id)
    body = _evaluation(record)
    result = record["result"] or {}
    if record["status"] == SUCCEEDED:
        body["content"] = {
            "startTime": body["startTime"], "endTime": body["endTime"],
            "value": [_policy(policy) for policy in result["policies"]],
        }  # fmt: skip
        body |= {"description": "; ".join(result["notes"])} if result.get("notes") else {}
        body |= {"optimalPolicy": result["optimal"]} if result.get("optimal") else {}
    return json_response(body)


@router.get("/evaluations")
def list_evaluations(
    _: Reader, state: StateDep, top: Top = 1_000, skip: Skip = 0,
    filter_expression: Annotated[str | None, Query(alias="filter", description="Has no effect.")] = None,
) -> Response:  # fmt: skip
    """List the evaluations, the latest first."""
    del filter_expression
    return json_response({"value": [_evaluation(record) for record in _find_all(state, EVALUATION, top, skip)]})


@router.delete("/evaluations/{evaluation_id:path}", status_code=204)
def delete_evaluation(evaluation_id: Id, _: Operator, state: StateDep) -> Response:
    """Delete an evaluation."""
    return _remove(state, EVALUATION, evaluation_id)


@router.put("/featureImportances/{importance_id:path}")
def create_importance(importance_id: Id, request: ImportanceRequest, _: Operator, state: StateDep) -> Response:
    """Start to compute how much the predictions of the champion depend on each feature, on the ranks of a time."""
    evaluations.begin(state, IMPORTANCE, importance_id, request.name, _ms(request.start_time), _ms(request.end_time))
    return Response(status_code=200)


@router.get("/featureImportances/{importance_id:path}")
def show_importance(importance_id: Id, _: Reader, state: StateDep) -> Response:
    """Show feature importances, the largest first: 100 for the most important feature."""
    record = _find(state, IMPORTANCE, importance_id)
    result = record["result"] or {}
    scores = [
        {"featureName": each["feature"], "namespace": each["namespace"], "score": each["score"]}
        for each in result.get("features", ())
    ]
    return json_response({**_described(record), "featureScores": scores})


@router.get("/featureImportances")
def list_importances(_: Reader, state: StateDep, top: Top = 1_000, skip: Skip = 0) -> Response:
    """List the feature importances, the latest first."""
    return json_response({"value": [_described(record) for record in _find_all(state, IMPORTANCE, top, skip)]})


@router.delete("/featureImportances/{importance_id:path}", status_code=204)
def delete_importance(importance_id: Id, _: Operator, state: StateDep) -> Response:
    """Delete feature importances."""
    return _remove(state, IMPORTANCE, importance_id)


def _find(state: AppState, kind: str, identity: str) -> Mapping[str, Any]:
    with state.require_store().engine.connect() as connection:
        record: Mapping[str, Any] | None = evaluations.find(connection, kind, identity)
    if record is None:
        raise HTTPException(404, f"there is no {kind} with this id")
    return record


def _find_all(state: AppState, kind: str, top: int, skip: int) -> list[Any]:
    with state.require_store().engine.connect() as connection:
        return evaluations.find_all(connection, kind, top, skip)


def _remove(state: AppState, kind: str, identity: str) -> Response:
    if not evaluations.remove(state, kind, identity):
        raise HTTPException(404, f"there is no {kind} with this id")
    return Response(status_code=204)


def _described(record: Mapping[str, Any]) -> dict[str, Any]:
    times = {"startTime": "start_time", "endTime": "end_time", "creationTime": "created_at"}
    body = {"id": record["id"], "name": record["name"], "status": record["status"]}
    body |= {theirs: iso_time(record[ours]) for theirs, ours in times.items()}
    reason = (record["result"] or {}).get("reason")
    return body if reason is None else body | {"description": reason}


def _evaluation(record: Mapping[str, Any]) -> dict[str, Any]:
    return _described(record) | {"evaluationType": "Manual"}


def _policy(policy: Mapping[str, Any]) -> dict[str, Any]:
    summary = {"expectedReward": policy["value"], "confidenceInterval": [policy["lo"], policy["hi"]]}
    body = {"name": policy["name"], "policySource": policy["source"], "summary": summary}
    return body | ({"arguments": policy["arguments"]} if "arguments" in policy else {})


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)
