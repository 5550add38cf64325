"""Requests and responses of the routes that rank actions with features."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from typing_extensions import TypedDict

from recpolicy.server.db.schema import EVENT_NAME
from recpolicy.server.schemas.requests import Id, Number, Text, example_config, storable
from recpolicy.server.schemas.responses import AgentName, PolicyDigest

MAX_ACTIONS = 1_000
MAX_SIGNALS = 100

EventName = Annotated[str, StringConstraints(min_length=1, max_length=EVENT_NAME), AfterValidator(storable)]
Features = Annotated[dict[Annotated[str, StringConstraints(max_length=200)], Any], Field(max_length=1_000)]
SignalType = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]


class RankAction(TypedDict):  # a request has many, and an object for each takes time
    """An action that the caller could take."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]

    id: Annotated[Id, Field(description="Id of the action.")]
    features: NotRequired[Annotated[Features, Field(description="Features of the action, nested as you like.")]]


class RankRequest(BaseModel):
    """The actions that a caller could take now, and the context."""

    model_config = example_config(
        context={"hour": 20, "device": "phone"},
        actions=[{"id": "sport", "features": {"length": 12}}, {"id": "news", "features": {"length": 3}}],
    )

    context: Features = Field(default_factory=dict, description="Features of the context, nested as you like.")
    actions: Annotated[list[RankAction], Field(min_length=1, max_length=MAX_ACTIONS)] = Field(
        description="The actions, in the order in which the caller would prefer them without a policy. The first one"
        " that is not excluded is the baseline."
    )
    excluded: Annotated[list[Id], Field(max_length=MAX_ACTIONS)] = Field(
        default_factory=list, description="Ids of actions that may not be chosen."
    )
    event_id: EventName | None = Field(
        default=None,
        description="Id of the event, which also decides the draw; if omitted, the server chooses one. The same request"
        " with the same id gets the same answer.",
    )
    user: Id | None = Field(default=None, description="Id of the user, to erase the event with the user's others.")
    deferred: bool = Field(
        default=False, description="True if the caller may not use the answer: the event counts after its activation."
    )

    @model_validator(mode="after")
    def _check_ids(self) -> "RankRequest":
        check_action_ids([action["id"] for action in self.actions], self.excluded)
        return self


def check_action_ids(ids: list[Any], excluded: list[Any]) -> None:
    """Raise ValueError if an id occurs twice, or an excluded id is none of them."""
    known = set(ids)
    if len(known) < len(ids):
        twice = next(identity for place, identity in enumerate(ids) if identity in ids[:place])
        raise ValueError(f"two actions have the id {twice!r}; expected an id for each")
    strange = [identity for identity in excluded if identity not in known]
    if strange:
        raise ValueError(f"the excluded id {strange[0]!r} is no action of the request")


class RankedAction(BaseModel):
    """An action with its probability."""

    id: Id = Field(description="Id of the action.")
    probability: float = Field(description="Exact probability with which this action was to be first.")


class RankPolicy(BaseModel):
    """The policy that ranked."""

    version: int | None = Field(examples=[3], description="Number in the registry; null without a version.")
    agent: AgentName
    policy_digest: PolicyDigest
    variant: Literal["champion", "challenger"] = Field(description="Role of the version; a rollout has a challenger.")


class RankResponse(BaseModel):
    """The chosen action and the order of the others."""

    event_id: str | None = Field(
        description="Id to send with rewards; null if the event is not stored (`--no-store`, or a full disk)."
    )
    action: Id = Field(description="Id of the chosen action, whose reward the server expects.")
    ranking: list[RankedAction] = Field(
        description="The actions that were not excluded: the chosen one first, the others by the policy's estimate."
    )
    policy: RankPolicy = Field(description="The version that ranked the actions.")
    mode: Literal["online", "apprentice", "logging_only"] = Field(
        description="online: the policy chooses. apprentice and logging_only: the baseline is chosen."
    )


class RewardRequest(BaseModel):
    """A signal that rewards the chosen action of an event."""

    model_config = example_config(type="click", value=1.0)

    type: SignalType = Field(default="reward", description="Name of the signal; the table [reward] has its weight.")
    value: Annotated[Number, Field(ge=-1e6, le=1e6)] = Field(default=1.0, description="Value of the signal.")
    signal_id: EventName | None = Field(
        default=None, description="A signal with an id counts once, so that it can be sent again."
    )


class RewardResponse(BaseModel):
    """The outcome of a signal, which is on disk."""

    status: Literal["accepted", "inactive", "late", "duplicate"] = Field(
        description="accepted: it counts; inactive: it counts once the event is activated; late: stored after the"
        " window, it counts nowhere; duplicate: the server had it."
    )
    message: Text = Field(description="Explanation; empty if the signal counts.")


class ActivationResponse(BaseModel):
    """The outcome of an activation."""

    status: Literal["activated", "already_active"] = Field(description="Both mean that the event counts.")
