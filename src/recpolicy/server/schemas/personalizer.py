"""Requests of the Personalizer routes, with that service's names of fields; unknown fields are ignored, as there."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from recpolicy.core.errors import ConfigError
from recpolicy.server.rank.durations import parse_duration
from recpolicy.server.rank.learning_settings import RESERVED_NAMES, parse_learning_settings
from recpolicy.server.schemas.rank import MAX_ACTIONS, MAX_SIGNALS, EventName, check_action_ids
from recpolicy.server.schemas.requests import Number, storable

MAX_SLOTS = 50
MAX_CANDIDATES = 10
Name = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(storable)]
FeatureList = Annotated[list[dict[str, Any]], Field(max_length=1_000)]
RewardValue = Annotated[Number, Field(ge=-1e6, le=1e6)]
Time = Annotated[datetime, AfterValidator(lambda time: time if time.tzinfo else time.replace(tzinfo=UTC))]
"""A time; one without an offset is in UTC."""
Seconds = Annotated[float, BeforeValidator(parse_duration)]


def _checked_arguments(text: str) -> str:
    """Return the text of learning settings; raises ValueError that says what is wrong."""
    try:
        return str(parse_learning_settings(storable(text)))
    except ConfigError as error:
        raise ValueError(str(error)) from None


class _Model(BaseModel):
    """A model with names in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True, allow_inf_nan=False)


class PersonalizerAction(_Model):
    """An action with features."""

    id: Name = Field(description="Id of the action.")
    features: FeatureList | None = Field(default=None, description="Objects of features; their keys are merged.")


class _RankBase(_Model):
    context_features: FeatureList | None = Field(
        default=None, description="Objects of features of the context; their keys are merged."
    )
    actions: Annotated[list[PersonalizerAction], Field(min_length=1, max_length=MAX_ACTIONS)] = Field(
        description="The actions, at most 1,000 (the retired service took 50)."
    )
    event_id: EventName | None = Field(default=None, description="Id of the event; it also decides the draw.")
    defer_activation: bool | None = Field(default=False, description="The event counts after its activation.")


class PersonalizerRank(_RankBase):
    """A request to rank."""

    excluded_actions: Annotated[list[Name], Field(max_length=MAX_ACTIONS)] | None = Field(
        default=None, description="Ids of actions that may not be chosen."
    )

    @model_validator(mode="after")
    def _check_ids(self) -> "PersonalizerRank":
        check_action_ids([action.id for action in self.actions], list(self.excluded_actions or ()))
        return self


class PersonalizerSlot(_Model):
    """A place for one action."""

    id: Name = Field(description="Id of the slot.")
    baseline_action: Name = Field(description="Id of the action that the caller would show without a policy.")
    features: FeatureList | None = Field(default=None, description="Objects of features of the slot.")
    excluded_actions: Annotated[list[Name], Field(max_length=MAX_ACTIONS)] | None = Field(
        default=None, description="Ids of actions that may not fill the slot."
    )


class PersonalizerMultiSlotRank(_RankBase):
    """A request to fill several slots, each with another action."""

    slots: Annotated[list[PersonalizerSlot], Field(min_length=1, max_length=MAX_SLOTS)] = Field(
        description="The slots, in the order in which they are filled."
    )

    @model_validator(mode="after")
    def _check_slots(self) -> "PersonalizerMultiSlotRank":
        ids = [action.id for action in self.actions]
        for slot in self.slots:
            check_action_ids(ids, [*(slot.excluded_actions or ()), slot.baseline_action])
            if slot.baseline_action in (slot.excluded_actions or ()):
                raise ValueError(f"slot {slot.id}: the baselineAction {slot.baseline_action!r} is excluded")
        for what, names in (
            ("id", [slot.id for slot in self.slots]), ("baselineAction", [slot.baseline_action for slot in self.slots])
        ):  # fmt: skip
            twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
            if twice is not None:
                raise ValueError(f"two slots have the {what} {twice!r}; expected another one for each")
        return self


class PersonalizerReward(_Model):
    """A reward."""

    value: RewardValue = Field(description="The reward, any finite number.")


class SlotReward(_Model):
    """A reward of a slot."""

    slot_id: Name = Field(description="Id of the slot.")
    value: RewardValue = Field(description="The reward, any finite number.")


class PersonalizerSlotRewards(_Model):
    """Rewards of slots."""

    reward: Annotated[list[SlotReward], Field(min_length=1, max_length=MAX_SIGNALS)] = Field(
        description="A reward for each slot."
    )


class ServiceConfiguration(_Model):
    """The settings of the service."""

    reward_wait_time: Seconds = Field(description="Window of the rewards, such as PT10M; 5 seconds to 2 days.")
    default_reward: Number = Field(description="Reward of an event without a reward in its window.")
    reward_aggregation: Literal["earliest", "sum"] = Field(description="earliest: the first reward; sum: all of them.")
    exploration_percentage: Annotated[Number, Field(ge=0, le=1)] = Field(
        description="Share of the ranks whose action is drawn from all alike, 0 to 1."
    )
    model_export_frequency: Seconds = Field(description="Kept and not used: a promoted version serves at once.")
    log_retention_days: int = Field(description="The days of [store] keep_days; -1: events are never deleted.")
    model_retrain_days: int = Field(default=0, ge=0, description="Kept and not used.")
    learning_mode: Literal["Online", "Apprentice", "LoggingOnly"] = Field(
        default="Online", description="Online: the policy chooses. Otherwise the baseline is chosen."
    )
    is_auto_optimization_enabled: Literal[False] | None = Field(default=None, description="Not available.")
    log_mirror_enabled: Literal[False] | None = Field(default=None, description="Not available: export the log.")


class LearningSettingsBody(_Model):
    """Learning settings."""

    name: Name = Field(description="Name of the settings.")
    arguments: Annotated[str, StringConstraints(max_length=4_000), AfterValidator(_checked_arguments)] = Field(
        description="Options of `recpolicy train` for a log with features, such as --agent squarecb --gamma_scale 100."
    )


class AppliedPolicy(_Model):
    """A policy of an evaluation."""

    evaluation_id: EventName = Field(description="Id of the evaluation.")
    policy_name: Name = Field(description="Name of learning settings of the evaluation, or `optimized`.")


class ImportanceRequest(_Model):
    """The name and the time of feature importances."""

    name: Name = Field(description="Name of the evaluation.")
    start_time: Time = Field(description="Time of the first event.")
    end_time: Time = Field(description="Time after the last event.")

    @model_validator(mode="after")
    def _check_times(self) -> "ImportanceRequest":
        if not self.start_time < self.end_time:
            raise ValueError("startTime is not before endTime")
        return self


class EvaluationRequest(ImportanceRequest):
    """The name and the time of an evaluation, and the policies to train for it."""

    policies: Annotated[list[LearningSettingsBody], Field(max_length=MAX_CANDIDATES)] | None = Field(
        default=None, description="Learning settings to train on the first ranks and to evaluate on the last ones."
    )
    enable_policy_optimization: bool | None = Field(
        default=None, description="Search for settings of SquareCB, and evaluate the best ones as `optimized`."
    )
    enable_offline_experimentation: bool | None = Field(
        default=None, description="The name of enablePolicyOptimization in version 1.0."
    )

    @property
    def optimizes(self) -> bool:
        """True if the evaluation searches for settings."""
        return bool(self.enable_policy_optimization or self.enable_offline_experimentation)

    @model_validator(mode="after")
    def _check_names(self) -> "EvaluationRequest":
        names = [policy.name for policy in self.policies or ()]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise ValueError(f"policies: the name {name!r} occurs twice")
            if name in RESERVED_NAMES:
                raise ValueError(f"policies: {name!r} names another policy of the evaluation; choose another name")
        return self
