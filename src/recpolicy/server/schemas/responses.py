"""Answers of the public API, as its OpenAPI page shows them.

The handlers write them as JSON themselves: to check each answer against its model again would cost more than
to make it.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from recpolicy.server.schemas.requests import Id


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Row(BaseModel):
    """One item for one user; `null` stands for a number that the policy does not have."""

    model_config = _example(user_id=196, item_id=50, title="Star Wars (1977)", rating=4.31, std=0.21, propensity=0.0124)

    user_id: Id
    item_id: Id
    title: str | None
    rating: float | None = Field(description="Estimated rating, on the scale of the ratings.")
    std: float | None = Field(description="Standard deviation of the expected rating.")
    propensity: float | None = Field(description="Probability with which the exploring policy would show the item.")
    value: float | None = Field(None, description="Session policies only: discounted reward expected of the session.")


class Estimates(BaseModel):
    """Rows of the users one after the other, items in the order asked."""

    rows: list[Row]


class Item(BaseModel):
    """An item that was rated or liked."""

    item_id: Id
    title: str | None


class RecommendedItem(BaseModel):
    """One place of the list."""

    item_id: Id
    title: str | None
    rating: float | None = Field(description="Estimated rating, on the scale of the ratings.")
    std: float | None = Field(description="Standard deviation of the expected rating.")
    propensity: float = Field(
        description="Probability with which this item was shown here, given the items before it; exact."
    )
    because: list[Item] = Field(description="The nearest items among those that the user has rated.")


class ServedPolicy(BaseModel):
    """Which policy answers."""

    version: int | None = Field(examples=[3], description="Number in the registry; null without a registry.")
    agent: str = Field(examples=["linucb"])
    content: str = Field(description="SHA-256 of what the policy learnt.")
    variant: Literal["champion", "challenger"]


class Recommendation(BaseModel):
    """A list of items for one user."""

    event_id: str | None = Field(
        description="Give it back with feedback; null where the event is not kept (`--no-store`, or a full disk)."
    )
    user: Id
    policy: ServedPolicy
    explored: bool = Field(description="Whether this list was drawn to learn, not chosen as the best.")
    items: list[RecommendedItem]


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(examples=["unknown_id"])
    message: str = Field(examples=["no user with id 12345 in this policy"])


class ErrorResponse(BaseModel):
    """The one shape of every error."""

    error: ErrorDetail


class Recommendations(BaseModel):
    """An answer or an error for each request, in the order asked."""

    answers: list[Recommendation | ErrorResponse]


class FeedbackResponse(BaseModel):
    """What became of the feedback; when this arrives it is on the disk."""

    model_config = _example(status="accepted", reward=4.0)

    status: Literal["accepted", "duplicate", "late"] = Field(
        description="duplicate: it was there already; late: kept, but too late to be learnt from."
    )
    reward: float | None = Field(description="The reward that it set; null where one was set before, or it is late.")


class FeedbackResult(BaseModel):
    """What became of one piece of a batch."""

    status: str = Field(
        description="As for single feedback, or why it was refused: unknown_event, unknown_item, conflict, off_scale."
    )
    reward: float | None
    message: str = Field(description="Empty unless it was refused.")


class FeedbackResults(BaseModel):
    """What became of each piece, in the order given."""

    results: list[FeedbackResult]


class Predictions(BaseModel):
    """The prediction answer of KServe (v1) and Vertex AI: one entry an instance."""

    predictions: list[Recommendation | Estimates | ErrorResponse]


class ModelState(BaseModel):
    """KServe's word for a model that can be asked."""

    name: str
    ready: bool


class LivenessResponse(BaseModel):
    """The process answers."""

    status: Literal["alive"]


class ReadinessResponse(BaseModel):
    """A policy is loaded."""

    status: Literal["ready"]
    policy: ServedPolicy
    store: Literal["up", "down", "none"] = Field(
        description="down: predictions go on, events wait on the disk, feedback is refused for now."
    )
