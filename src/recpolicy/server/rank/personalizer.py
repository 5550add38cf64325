"""Translation between the requests of Azure AI Personalizer and ours.

That service retired in 2026. Its Python clients (azure-cognitiveservices-personalizer 0.1.1, azure-ai-personalizer
1.0.0b1) define the paths, bodies and status codes. docs/how-to/replace_azure_personalizer.md says what differs.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Engine, select

from recpolicy.core.errors import DataError
from recpolicy.data.reward_signals import combined_rewards, signal_parts
from recpolicy.server.db.rank_events import APPRENTICE, LOGGING_ONLY, ONLINE
from recpolicy.server.db.schema import rank_events, rank_signals
from recpolicy.server.rank.durations import format_duration
from recpolicy.server.rank.ranking import Ranked
from recpolicy.server.rank.service import RankService
from recpolicy.server.rank.slot_decisions import RankInput, Slot
from recpolicy.server.schemas.personalizer import (
    PersonalizerAction,
    PersonalizerMultiSlotRank,
    PersonalizerRank,
    ServiceConfiguration,
)
from recpolicy.server.settings import StoreConfig

MODES = {ONLINE: "Online", APPRENTICE: "Apprentice", LOGGING_ONLY: "LoggingOnly"}
AGGREGATIONS = {"first": "earliest", "sum": "sum"}
_MOST_EVENTS = 100_000
"""Latest events of the apprentice mode whose rewards are summed."""


def rank_input(request: PersonalizerRank, has_key: bool) -> RankInput:
    """Return a request to rank as ours; features that the policy does not know are ignored, as in that service."""
    return RankInput(
        context=merge_features(request.context_features), actions=_actions(request.actions),
        slots=(Slot(excluded=frozenset(request.excluded_actions or ())),), event_id=request.event_id,
        deferred=bool(request.defer_activation), has_key=has_key, strict=False,
    )  # fmt: skip


def multi_slot_input(request: PersonalizerMultiSlotRank, has_key: bool) -> RankInput:
    """Return a request with slots as ours."""
    slots = [
        Slot(slot.id, merge_features(slot.features), frozenset(slot.excluded_actions or ()), slot.baseline_action)
        for slot in request.slots
    ]
    return RankInput(
        context=merge_features(request.context_features), actions=_actions(request.actions), slots=slots,
        event_id=request.event_id, deferred=bool(request.defer_activation), has_key=has_key, strict=False,
    )  # fmt: skip


def _actions(actions: Sequence[PersonalizerAction]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(action.id, merge_features(action.features)) for action in actions]


def merge_features(parts: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """Return a list of objects of features as one object; objects of the same name are merged, later values count."""
    merged: dict[str, Any] = {}
    for part in parts or ():
        for name, value in part.items():
            known = merged.get(name)
            merged[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def rank_body(ranked: Ranked, request: PersonalizerRank) -> dict[str, Any]:
    """Return the response to a rank: excluded actions keep their places, the others are ordered."""
    slot = ranked.slots[0]
    ordered = iter([*slot.ranking, *((identity, 0.0) for identity in slot.closed)])
    excluded = set(request.excluded_actions or ())
    places = [(action.id, 0.0) if action.id in excluded else next(ordered) for action in request.actions]
    return {
        "ranking": [{"id": identity, "probability": min(probability, 1.0)} for identity, probability in places],
        "eventId": ranked.event_id,
        "rewardActionId": ranked.slots[0].ranking[0][0],
    }


def multi_slot_body(ranked: Ranked) -> dict[str, Any]:
    """Return the response to a request with slots; a slot without an action says why (ours)."""
    slots = [
        {"id": slot.slot_id, "rewardActionId": slot.ranking[0][0]} if slot.unfilled is None
        else {"id": slot.slot_id, "rewardActionId": None, "unfilled": slot.unfilled}
        for slot in ranked.slots
    ]  # fmt: skip
    return {"eventId": ranked.event_id, "slots": slots}


def configuration_body(
    service: RankService, store: StoreConfig, apprentice: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the settings in effect with that service's names."""
    body = {
        "rewardWaitTime": format_duration(service.reward.wait_seconds),
        "defaultReward": service.reward.default_reward or 0.0,
        "rewardAggregation": AGGREGATIONS[service.reward.combine],
        "explorationPercentage": service.exploration,
        "modelExportFrequency": service.other.get("modelExportFrequency", "PT5M"),
        "modelRetrainDays": service.other.get("modelRetrainDays", 0),
        "logRetentionDays": _retention_days(store),
        "learningMode": MODES[service.mode],
        "isAutoOptimizationEnabled": False,
        "logMirrorEnabled": False,
    }
    if service.changed_at is not None:
        body["lastConfigurationEditDate"] = iso_time(service.changed_at)
    return body if apprentice is None else body | {"latestApprenticeModeMetrics": apprentice}


def configuration_values(request: ServiceConfiguration, service: RankService, store: StoreConfig) -> dict[str, Any]:
    """Return what the database keeps of the settings.

    Raises DataError for a retention that the server has not, and for another window than the present one that is
    shorter or longer than that service's.
    """
    wait = request.reward_wait_time
    if wait != service.reward.wait_seconds and not 5 <= wait <= 172_800:
        raise DataError(f"rewardWaitTime is {wait:g} s; expected PT5S to P2D")
    days = _retention_days(store)
    if request.log_retention_days != days:
        raise DataError(
            f"logRetentionDays is {request.log_retention_days}, and the server has {days}: the retention is the setting"
            " [store] keep_days of its file, where -1 here is 0 there"
        )
    modes = {theirs: ours for ours, theirs in MODES.items()}
    combine = {theirs: ours for ours, theirs in AGGREGATIONS.items()}
    return {
        "mode": modes[request.learning_mode], "exploration": request.exploration_percentage,
        "wait_seconds": request.reward_wait_time, "default_reward": request.default_reward,
        "combine": combine[request.reward_aggregation],
        "other": {
            "modelExportFrequency": format_duration(request.model_export_frequency),
            "modelRetrainDays": request.model_retrain_days,
        },
    }  # fmt: skip


def _retention_days(store: StoreConfig) -> int:
    return int(store.keep_days) if store.keep_days else -1


def apprentice_metrics(engine: Engine, service: RankService) -> dict[str, Any] | None:
    """Return how often the policy agreed with the baseline, and the rewards of both; None without such events."""
    columns, signals = rank_events.c, rank_signals.c
    latest = select(columns.id, columns.slot, columns.time, columns.imitated).where(
        columns.mode == APPRENTICE, columns.task.is_(None)
    )
    with engine.connect() as connection:
        events = connection.execute(latest.order_by(columns.seq.desc()).limit(_MOST_EVENTS)).all()[::-1]
        if not events:
            return None
        wanted = select(signals.event_id, signals.slot, signals.type, signals.value, signals.time).join(
            rank_events, (columns.id == signals.event_id) & (columns.slot == signals.slot)
        )
        rows = connection.execute(wanted.where(columns.mode == APPRENTICE, signals.late.is_(False))).all()
    place = {(event.id, event.slot): number for number, event in enumerate(events)}
    rows = [row for row in rows if (row.event_id, row.slot) in place and row.type in service.reward.weights]
    parts = signal_parts([row.type for row in rows], np.array([row.value for row in rows], np.float64), service.reward)
    rewards = np.nan_to_num(
        combined_rewards(
            np.array([place[row.event_id, row.slot] for row in rows], np.int64), parts,
            np.array([row.time for row in rows], np.int64), np.array([event.time for event in events]), service.reward,
        )
    )  # fmt: skip
    imitated = np.array([bool(event.imitated) for event in events])
    return {
        "startTime": iso_time(events[0].time),
        "lastProcessedEventTime": iso_time(events[-1].time),
        "numberOfEvents": len(events),
        "numberOfImitatedEvents": int(imitated.sum()),
        "sumOfRewards": float(rewards.sum()),
        "sumOfImitatedRewards": float(rewards[imitated].sum()),
    }


def iso_time(milliseconds: int) -> str:
    """Return a time in milliseconds since 1970 as ISO 8601."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
