"""Requests and responses of the console's routes, as the OpenAPI page shows them."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from recpolicy.server.schemas.requests import MAX_K, Id, RecommendRequest, example_config
from recpolicy.server.schemas.responses import ErrorDetail, ServedPolicy

_NUMBER = Annotated[int, Field(ge=1, lt=10**9)]
_EXAMPLE = {"user": 196, "k": 5}


class SearchRequest(BaseModel):
    """The text of a search."""

    model_config = example_config(text="star wars", count=5)

    text: str = Field("", max_length=200)
    count: int = Field(12, ge=1, le=MAX_K)


class EstimatesRequest(RecommendRequest):
    """A recommendation request and the items to estimate; no event is written."""

    model_config = example_config(**_EXAMPLE, items=[50, 181])

    items: Annotated[list[Id], Field(min_length=1, max_length=MAX_K)]


class CompareRequest(RecommendRequest):
    """A recommendation request and the versions to compare; no event is written."""

    model_config = example_config(**_EXAMPLE, versions=[None, 1])

    versions: Annotated[list[_NUMBER | None], Field(min_length=2, max_length=2)] = Field(
        description="Numbers of versions, as trained; null: the version that serves this user now."
    )


class UserMatches(BaseModel):
    """Users that match a search."""

    users: list[Id]
    total: int = Field(description="Number of users that the policy knows.")


class ItemMatch(BaseModel):
    """An item that matches a search."""

    item_id: Id
    title: str | None
    genres: list[str]


class ItemMatches(BaseModel):
    """Items that match a search, the most often rated first."""

    items: list[ItemMatch]


class ItemEstimate(BaseModel):
    """A version's estimate of an item for a user."""

    item_id: Id
    title: str | None
    rank: int | None = Field(description="1 is the best of the allowed items; null: not allowed.")
    rating: float | None
    std: float | None


class EstimatesResponse(BaseModel):
    """Estimates by the version that serves the user, of the items that it knows."""

    user: Id
    policy: ServedPolicy
    items: list[ItemEstimate]


class VersionPreview(BaseModel):
    """One version: estimates of all items in any of the lists, or an error."""

    version: int | None
    agent: str
    policy_digest: str
    items: list[ItemEstimate]
    error: ErrorDetail | None = None


class Comparison(BaseModel):
    """Versions side by side; an item is in the list of a version if its rank is k or less."""

    user: Id
    k: int
    sides: list[VersionPreview]


class SimulatorCard(BaseModel):
    """The validation card of the session simulator in the state folder; null without one."""

    card: dict[str, Any] | None
