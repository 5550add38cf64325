"""Requests of the public API, as its OpenAPI page shows them; responses.py has the responses.

Strict: `true` is no number, "7" is not 7, an unknown field is an error, NaN and infinity are rejected. Bounded: every
request fits into memory and time. Ids are integers of 64 bits or texts, as in the ratings.
"""

import re
from collections.abc import Hashable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

MAX_USERS = 100
MAX_ITEMS = 2_000
MAX_K = 100
MAX_CONTEXT = 1_000
MAX_FEEDBACK = 1_000

_MAX_ID_LENGTH = 200
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can encode them, UTF-8 cannot


def _id(value: Any) -> int | str:
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if type(value) is str and 0 < len(value) <= _MAX_ID_LENGTH and not _LONE_SURROGATE.search(value):
        return value
    raise ValueError(f"an id is an integer of 64 bits or a text of 1 to {_MAX_ID_LENGTH} characters")


_ID_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "string", "minLength": 1, "maxLength": _MAX_ID_LENGTH},
    ]
}
Id = Annotated[int | str, PlainValidator(_id), WithJsonSchema(_ID_SCHEMA)]
Users = Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS, description="User ids.")]
Items = Annotated[list[Id], Field(max_length=MAX_ITEMS)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Feature = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
"""Larger than any context in training, and small enough for its square in single precision."""
Year = Annotated[int, Field(ge=0, le=9999)]


def example_config(**example: Any) -> ConfigDict:
    """Return the config of a strict, closed and frozen model with an example on the OpenAPI page."""
    return ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra={"examples": [example]})


class ItemRating(BaseModel):
    """One rating by a user."""

    model_config = example_config(item=50, rating=5.0)

    item: Id
    rating: Number = Field(description="On the scale of the ratings, such as 1 to 5.")


class SessionItem(BaseModel):
    """One item of the session so far."""

    model_config = example_config(item=50, liked=True)

    item: Id
    liked: bool


class PredictRequest(BaseModel):
    """Users and items whose ratings are estimated."""

    model_config = example_config(users=[196, 22], items=[50, 181])

    users: Users
    items: Items | None = Field(default=None, description="Item ids; all items if omitted.")


class RecommendRequest(BaseModel):
    """A user, the length of the list, and the items to choose from."""

    model_config = example_config(user=196, k=5, genres=["Comedy"], years=[1980, 1999])

    user: Id = Field(description="The user; also selects the version while two are compared.")
    k: int = Field(10, ge=1, le=MAX_K, description="Number of items; fewer if fewer are allowed.")
    ratings: Annotated[list[ItemRating], Field(min_length=1, max_length=MAX_ITEMS)] | None = Field(
        default=None, description="Ratings that describe a user unknown to the policy, or replace the known ones."
    )
    context: Annotated[list[Feature], Field(min_length=1, max_length=MAX_CONTEXT)] | None = Field(
        default=None, description="The user's context vector, in place of the policy's own."
    )
    history: Annotated[list[SessionItem], Field(max_length=MAX_K)] | None = Field(
        default=None, description="Session policies only: the items of this session so far."
    )
    exclude_rated: bool = Field(True, description="Exclude items that the user has rated.")
    exclude: Items = Field(default=[], description="Items to exclude.")
    genres: Annotated[list[str], Field(max_length=50)] = Field(default=[], description="Any of these genres.")
    years: Annotated[list[Year], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="First and last year of release."
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> "RecommendRequest":
        if self.ratings is not None:
            if self.context is not None:
                raise ValueError("ratings and context both describe the user; give one of them")
            _check_unique("item", [rating.item for rating in self.ratings])
        if self.years is not None and self.years[0] > self.years[1]:
            raise ValueError("years: the first is after the last")
        return self

    @property
    def plain(self) -> bool:
        """True for a request without filters, history or description of the user; its list can be cached."""
        return not (
            self.ratings or self.context or self.history or self.exclude or self.genres or self.years is not None
        )

    def fold_in(self) -> dict[Hashable, dict[Hashable, float]] | None:
        """Return `ratings` as {user: {item: rating}}."""
        return None if self.ratings is None else {self.user: {rating.item: rating.rating for rating in self.ratings}}

    def session(self) -> dict[Hashable, list[tuple[Hashable, bool]]] | None:
        """Return `history` as {user: [(item, liked), ...]} in order."""
        return {self.user: [(each.item, each.liked) for each in self.history]} if self.history else None

    def first_and_last_year(self) -> tuple[int | None, int | None]:
        """Return `years` as a pair; None for an open end."""
        return (None, None) if self.years is None else (self.years[0], self.years[1])


class RecommendBatch(BaseModel):
    """Several requests, each answered or rejected separately."""

    model_config = example_config(requests=[{"user": 196, "k": 2}, {"user": 22, "k": 2}])

    requests: Annotated[list[RecommendRequest], Field(min_length=1, max_length=MAX_USERS)]


FeedbackType = Literal["rating", "like", "skip", "complete", "share", "watch_fraction"]


class FeedbackRequest(BaseModel):
    """Feedback of a user on a recommended item."""

    model_config = example_config(event_id="01932b1f8c00a3f1c29be0d54c7f18aa", item=50, type="rating", value=4.0)

    event_id: Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="`event_id` of the recommendation.")]
    item: Id | None = Field(default=None, description="An item of the list; the first one if omitted.")
    type: FeedbackType
    value: Number | None = Field(
        default=None, description="The rating, or the watched fraction (0 to 1); the other types have no value."
    )

    @model_validator(mode="after")
    def _check_value(self) -> "FeedbackRequest":
        if (self.type in ("rating", "watch_fraction")) != (self.value is not None):
            raise ValueError("value is required with the types rating and watch_fraction, and forbidden with others")
        if self.type == "watch_fraction" and not 0 <= (self.value or 0) <= 1:
            raise ValueError("value of watch_fraction lies within 0 and 1")
        return self


class FeedbackBatch(BaseModel):
    """Several pieces of feedback, each accepted or rejected separately."""

    model_config = example_config(items=[{"event_id": "01932b1f8c00a3f1c29be0d54c7f18aa", "item": 50, "type": "like"}])

    items: Annotated[list[FeedbackRequest], Field(min_length=1, max_length=MAX_FEEDBACK)]


class Instance(BaseModel):
    """One prediction: ratings of the named items, or the k best ones if none are named."""

    model_config = example_config(user=196, items=[50, 181])

    user: Id
    items: Annotated[list[Id], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    k: int = Field(10, ge=1, le=MAX_K)
    exclude_rated: bool = True


class Instances(BaseModel):
    """The prediction request of KServe (v1) and Vertex AI."""

    model_config = example_config(instances=[{"user": 196, "k": 3}, {"user": 22, "items": [50, 181]}])

    instances: Annotated[list[Instance], Field(min_length=1, max_length=MAX_USERS)]
    parameters: dict[str, Any] | None = Field(default=None, description="Accepted for these clients; not used.")


def _check_unique(name: str, ids: Sequence[Hashable]) -> None:
    if len(set(ids)) < len(ids):
        raise ValueError(f"one {name} is given more than once")
