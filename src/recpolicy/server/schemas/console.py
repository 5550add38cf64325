"""Requests and answers of the routes that the console's scripts ask, as the OpenAPI page shows them."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from recpolicy.server.schemas.requests import MAX_K, Id, RecommendRequest, example_config
from recpolicy.server.schemas.responses import ErrorDetail, ServedPolicy

_NUMBER = Annotated[int, Field(ge=1, lt=10**9)]
_EXAMPLE = {"user": 196, "k": 5}


class SearchRequest(BaseModel):
    """What a person typed."""

    model_config = example_config(text="star wars", count=5)

    text: str = Field("", max_length=200)
    count: int = Field(12, ge=1, le=MAX_K)


class EstimatesRequest(RecommendRequest):
    """As for a recommendation, and which items are told of; nothing is written."""

    model_config = example_config(**_EXAMPLE, items=[50, 181])

    items: Annotated[list[Id], Field(min_length=1, max_length=MAX_K)]


class CompareRequest(RecommendRequest):
    """As for a recommendation, and which versions are compared; nothing is written."""

    model_config = example_config(**_EXAMPLE, versions=[None, 1])

    versions: Annotated[list[_NUMBER | None], Field(min_length=2, max_length=2)] = Field(
        description="Numbers of versions, as they were trained; null: what serves this user now."
    )


class UserMatches(BaseModel):
    """Users that were found."""

    users: list[Id]
    total: int = Field(description="How many users the policy knows.")


class ItemMatch(BaseModel):
    """An item that was found."""

    item_id: Id
    title: str | None
    genres: list[str]


class ItemMatches(BaseModel):
    """Items that were found, the most often rated first."""

    items: list[ItemMatch]


class ItemEstimate(BaseModel):
    """What a version says of an item for a user."""

    item_id: Id
    title: str | None
    rank: int | None = Field(description="1 is the best of what may be shown; null: it may not.")
    rating: float | None
    std: float | None


class EstimatesResponse(BaseModel):
    """What serves a user now says of the items asked for, as far as it knows them."""

    user: Id
    policy: ServedPolicy
    items: list[ItemEstimate]


class VersionPreview(BaseModel):
    """One version: all items that are in any of the lists, or why it has no answer."""

    version: int | None
    agent: str
    content: str
    items: list[ItemEstimate]
    error: ErrorDetail | None = None


class Comparison(BaseModel):
    """Versions side by side: an item is in the list of those where its rank is k or less."""

    user: Id
    k: int
    sides: list[VersionPreview]


class Card(BaseModel):
    """The validation card of the session simulator in the state folder; null without one."""

    card: dict[str, Any] | None
