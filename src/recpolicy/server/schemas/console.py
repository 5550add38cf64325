"""Requests and responses of the console's routes, as the OpenAPI page shows them."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from recpolicy.server.schemas.requests import MAX_K, Id, ItemId, RecommendRequest, Text, UserId, example_config
from recpolicy.server.schemas.responses import AgentName, ErrorDetail, PolicyDigest, Rating, ServedPolicy, Std, Title

_NUMBER = Annotated[int, Field(ge=1, lt=10**9)]
_EXAMPLE = {"user": 196, "k": 5}


class SearchRequest(BaseModel):
    """A search."""

    model_config = example_config(text="star wars", count=5)

    text: Text = Field("", max_length=200, description="The text to find; an empty text matches all.")
    count: int = Field(12, ge=1, le=MAX_K, description="Largest number of results.")


class EstimatesRequest(RecommendRequest):
    """A recommendation request with items to estimate. The server stores no event."""

    model_config = example_config(**_EXAMPLE, items=[50, 181])

    items: Annotated[list[Id], Field(min_length=1, max_length=MAX_K)] = Field(
        description="Ids of the items to estimate."
    )


class CompareRequest(RecommendRequest):
    """A recommendation request with two versions to compare. The server stores no event."""

    model_config = example_config(**_EXAMPLE, versions=[None, 1])

    versions: Annotated[list[_NUMBER | None], Field(min_length=2, max_length=2)] = Field(
        description="Numbers of two versions, without online learning; null: the version that serves this user now."
    )


class UserMatches(BaseModel):
    """Users that match a search."""

    users: list[Id] = Field(description="Ids of the users.")
    total: int = Field(description="Number of users that the policy knows.")


class ItemMatch(BaseModel):
    """An item that matches a search."""

    item_id: ItemId
    title: Title
    genres: list[str] = Field(description="Genres of the item.")


class ItemMatches(BaseModel):
    """Items that match a search."""

    items: list[ItemMatch] = Field(description="The items, most often rated first.")


class ItemEstimate(BaseModel):
    """A version's estimate of an item for a user."""

    item_id: ItemId
    title: Title
    rank: int | None = Field(
        description="Rank among the allowed items, 1 is the best; null if the item is not allowed."
    )
    rating: Rating
    std: Std


class EstimatesResponse(BaseModel):
    """Estimates by the version that serves the user."""

    user: UserId
    policy: ServedPolicy = Field(description="The version that serves the user.")
    items: list[ItemEstimate] = Field(description="The requested items that the version knows.")


class VersionPreview(BaseModel):
    """One side of a comparison: estimates by one version, or an error."""

    version: int | None = Field(
        description="Number of the version as in the request; null: the version that serves now."
    )
    agent: AgentName
    policy_digest: PolicyDigest
    items: list[ItemEstimate] = Field(description="Estimates of the items in the lists of both versions.")
    error: ErrorDetail | None = Field(None, description="Error of this version; null if it has none.")


class Comparison(BaseModel):
    """A comparison of two versions. The items of rank 1 to k are the list that a version would recommend."""

    user: UserId
    k: int = Field(description="Number of items in each list.")
    sides: list[VersionPreview] = Field(description="The versions, in the order of the request.")


class SimulatorCard(BaseModel):
    """The validation card of the session simulator."""

    card: dict[str, Any] | None = Field(description="The card in the state folder; null without one.")
