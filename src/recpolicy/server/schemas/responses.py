"""Responses of the public API, as its OpenAPI page shows them.

The handlers write JSON directly, because checking a response against its model would cost more than computing it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from recpolicy.server.schemas.requests import ItemId, UserId

Title = Annotated[str | None, Field(description="Title of the item; null if it has none.")]
Rating = Annotated[float | None, Field(description="Estimated rating, on the scale of the training data.")]
Std = Annotated[float | None, Field(description="Standard deviation of the expected rating.")]
PolicyDigest = Annotated[str, Field(description="SHA-256 of the learned parameters.")]
AgentName = Annotated[str, Field(description="Name of the agent that was trained.", examples=["linucb"])]


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class EstimateRow(BaseModel):
    """Estimates of one item for one user; null where the policy has no such number."""

    model_config = _example(
        user_id=196,
        item_id=50,
        title="Star Wars (1977)",
        rating=4.31,
        std=0.21,
        low=2.63,
        high=5.0,
        value=4.27,
        probability=0.0124,
    )

    user_id: UserId
    item_id: ItemId
    title: Title
    rating: Rating
    std: Std
    low: float | None = Field(description="Lower end of the 95 % interval of a single rating.")
    high: float | None = Field(description="Upper end of the 95 % interval of a single rating.")
    value: float | None = Field(None, description="The policy's own estimate of the reward; not of session policies.")
    probability: float | None = Field(description="Probability that the exploring policy shows the item in a round.")
    session_value: float | None = Field(
        None, description="Session policies only: expected discounted reward of the rest of the session."
    )


class Estimates(BaseModel):
    """Rating estimates."""

    rows: list[EstimateRow] = Field(description="One row per user and item, in the order of the request, user by user.")


class Item(BaseModel):
    """An item that was rated or liked."""

    item_id: ItemId
    title: Title


class RecommendedItem(BaseModel):
    """One position of a recommended list."""

    item_id: ItemId
    title: Title
    rating: Rating
    std: Std
    value: float | None = Field(
        description="The policy's own estimate of the reward, which orders a list that does not explore; null for"
        " session policies."
    )
    propensity: float = Field(
        description="Exact probability of this item at this position, given the items before it; 0: unknown, as under"
        " drawn weights of a ranking formula."
    )
    explanations: list[Item] = Field(description="The most similar items among those that the user has rated.")


class ServedPolicy(BaseModel):
    """The version that computed a response."""

    version: int | None = Field(examples=[3], description="Number in the registry; null without a registry.")
    agent: AgentName
    policy_digest: PolicyDigest
    variant: Literal["champion", "challenger"] = Field(description="Role of the version for this user.")


class GuardrailNote(BaseModel):
    """The guardrails under which a list was drawn."""

    digest: str = Field(description="Digest of the operator's and the request's settings; the event has it, too.")
    reason: str | None = Field(description="The reason for a list that is shorter than requested; null if it is not.")


class SessionNote(BaseModel):
    """The session of a list."""

    id: str = Field(description="Id of the session: that of the request, or one that the server made.")
    step: int = Field(description="Number of items that the session has shown before this list.")


class PosteriorNote(BaseModel):
    """The posterior that describes the user."""

    start: Literal["prior", "trained"] = Field(
        description="prior: the version does not know the user; trained: it does, and the user has rated since."
    )
    ratings: int = Field(description="Number of the user's items whose ratings have moved it.")


class WeightNote(BaseModel):
    """The weights of a ranking formula that ranked a list."""

    values: dict[str, float] = Field(
        examples=[{"like": 0.5, "novelty": 0.25}], description="Weight of each head; the policy's own score has 1."
    )
    fallback: bool = Field(
        description="True if the tuned layer did not choose them: static weights ranked, or the policy's own score."
    )


class Recommendation(BaseModel):
    """A list of items for one user."""

    event_id: str | None = Field(
        description="Id to send with feedback; null if the event is not stored (`--no-store`, or a full disk)."
    )
    user: UserId
    policy: ServedPolicy = Field(description="The version that chose the items.")
    explored: bool = Field(description="True if the list was drawn at random to explore, false if it is the best list.")
    items: list[RecommendedItem] = Field(description="The items, best first.")
    posterior: PosteriorNote | None = Field(
        None, description="The posterior of the user; the field is missing for a user as in the training."
    )
    guardrails: GuardrailNote | None = Field(
        None, description="The guardrails of the list; the field is missing if there are none."
    )
    weights: WeightNote | None = Field(
        None, description="The weights of the ranking formula; the field is missing if none ranked the list."
    )
    session: SessionNote | None = Field(
        None, description="The session of the list; the field is missing if it belongs to none."
    )


class ErrorDetail(BaseModel):
    """An error."""

    code: str = Field(examples=["unknown_id"], description="Short code, for programs.")
    message: str = Field(examples=["no user with id 12345 in this policy"], description="Explanation, for people.")


class ErrorResponse(BaseModel):
    """The response to every error."""

    error: ErrorDetail = Field(description="The error.")


class Recommendations(BaseModel):
    """A recommendation or an error for each request, in order."""

    answers: list[Recommendation | ErrorResponse] = Field(description="One result per request, in order.")


class FeedbackResponse(BaseModel):
    """The outcome of feedback. The feedback is on disk."""

    model_config = _example(status="accepted", reward=4.0)

    status: Literal["accepted", "duplicate", "late"] = Field(
        description="accepted: stored; duplicate: received before; late: stored, but too late to set a reward."
    )
    reward: float | None = Field(
        description="The reward that the feedback set; null if an earlier one set it, or if it is late."
    )


class FeedbackResult(BaseModel):
    """The outcome of one piece of feedback in a batch."""

    status: str = Field(
        description="accepted, duplicate or late; or the reason for a rejection: unknown_event, unknown_item, conflict,"
        " rating_out_of_range."
    )
    reward: float | None = Field(description="The reward that the feedback set, or null.")
    message: str = Field(description="Explanation of a rejection; otherwise empty.")


class FeedbackResults(BaseModel):
    """The outcomes of a batch of feedback."""

    results: list[FeedbackResult] = Field(description="One outcome per piece of feedback, in order.")


class Predictions(BaseModel):
    """A prediction response in the format of KServe (v1) and Vertex AI."""

    predictions: list[Recommendation | Estimates | ErrorResponse] = Field(description="One entry per instance.")


class ModelList(BaseModel):
    """The models of a server in the format of KServe."""

    models: list[str] = Field(description="Names of the models.")


class ModelState(BaseModel):
    """The state of the model in the format of KServe."""

    name: str = Field(description="Name of the model.")
    ready: bool = Field(description="True if the model can answer.")


class LivenessResponse(BaseModel):
    """The response of a process that is alive."""

    status: Literal["alive"] = Field(description="Always alive.")


class ReadinessResponse(BaseModel):
    """The response of a server that has loaded a policy."""

    status: Literal["ready"] = Field(description="Always ready.")
    policy: ServedPolicy = Field(description="The champion.")
    store: Literal["up", "down", "none"] = Field(
        description="State of the database. down: the server recommends, keeps events on disk and rejects feedback;"
        " none: the server has no database (`--no-store`)."
    )
    fault: str | None = Field(
        None,
        description="The version of the registry that does not load, with the reason; the last good version serves."
        " Absent if all load.",
    )
