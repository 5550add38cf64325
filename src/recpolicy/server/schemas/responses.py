"""Responses of the public API, as its OpenAPI page shows them.

The handlers write JSON themselves, because checking a response against its model would cost more than computing it.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from recpolicy.server.schemas.requests import Id


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class EstimateRow(BaseModel):
    """One item for one user; `null` stands for a number that the policy does not have."""

    model_config = _example(user_id=196, item_id=50, title="Star Wars (1977)", rating=4.31, std=0.21, propensity=0.0124)

    user_id: Id
    item_id: Id
    title: str | None
    rating: float | None = Field(description="Estimated rating, on the scale of the ratings.")
    std: float | None = Field(description="Standard deviation of the expected rating.")
    propensity: float | None = Field(description="Probability that the exploring policy recommends the item.")
    value: float | None = Field(None, description="Session policies only: expected discounted reward of the session.")


class Estimates(BaseModel):
    """Rows of the users one after the other, items in the order of the request."""

    rows: list[EstimateRow]


class Item(BaseModel):
    """An item that was rated or liked."""

    item_id: Id
    title: str | None


class RecommendedItem(BaseModel):
    """One position of the list."""

    item_id: Id
    title: str | None
    rating: float | None = Field(description="Estimated rating, on the scale of the ratings.")
    std: float | None = Field(description="Standard deviation of the expected rating.")
    propensity: float = Field(description="Exact probability of this item at this position, given the items before it.")
    explanations: list[Item] = Field(description="The nearest items among those that the user has rated.")


class ServedPolicy(BaseModel):
    """The version that answers."""

    version: int | None = Field(examples=[3], description="Number in the registry; null without a registry.")
    agent: str = Field(examples=["linucb"])
    policy_digest: str = Field(description="SHA-256 of the learned policy.")
    variant: Literal["champion", "challenger"]


class Recommendation(BaseModel):
    """A list of items for one user."""

    event_id: str | None = Field(
        description="Send it with feedback; null if the event is not stored (`--no-store`, or a full disk)."
    )
    user: Id
    policy: ServedPolicy
    explored: bool = Field(description="True if the list was drawn to explore, false if it is the best one.")
    items: list[RecommendedItem]


class ErrorDetail(BaseModel):
    """An error."""

    code: str = Field(examples=["unknown_id"])
    message: str = Field(examples=["no user with id 12345 in this policy"])


class ErrorResponse(BaseModel):
    """The response to every error."""

    error: ErrorDetail


class Recommendations(BaseModel):
    """A recommendation or an error for each request, in order."""

    answers: list[Recommendation | ErrorResponse]


class FeedbackResponse(BaseModel):
    """The outcome of feedback, which is on disk."""

    model_config = _example(status="accepted", reward=4.0)

    status: Literal["accepted", "duplicate", "late"] = Field(
        description="duplicate: sent before; late: stored, but too late to set a reward."
    )
    reward: float | None = Field(description="The reward that it set; null if one was set before, or it is late.")


class FeedbackResult(BaseModel):
    """The outcome of one piece of a batch."""

    status: str = Field(
        description="As for single feedback, or the reason for its rejection: unknown_event, unknown_item, conflict,"
        " rating_out_of_range."
    )
    reward: float | None
    message: str = Field(description="Empty unless it was rejected.")


class FeedbackResults(BaseModel):
    """The outcome of each piece, in order."""

    results: list[FeedbackResult]


class Predictions(BaseModel):
    """The prediction response of KServe (v1) and Vertex AI: one entry per instance."""

    predictions: list[Recommendation | Estimates | ErrorResponse]


class ModelState(BaseModel):
    """The readiness of the model, as KServe reports it."""

    name: str
    ready: bool


class LivenessResponse(BaseModel):
    """The process is alive."""

    status: Literal["alive"]


class ReadinessResponse(BaseModel):
    """A policy is loaded."""

    status: Literal["ready"]
    policy: ServedPolicy
    store: Literal["up", "down", "none"] = Field(
        description="down: predictions continue, events wait on disk, feedback is rejected for now."
    )
