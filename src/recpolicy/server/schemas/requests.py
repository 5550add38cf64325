"""Requests of the public API, as its OpenAPI page shows them; answers.py has what comes back.

Strict: `true` is no number, "7" is not 7, an unknown field is an error, NaN and infinity are no numbers. Bounded: what
one request may ask for fits into memory and time. Ids are whole numbers of 64 bits or texts, as in the ratings.
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

_LONGEST_ID = 200
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell them, UTF-8 cannot


def _id(value: Any) -> int | str:
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if type(value) is str and 0 < len(value) <= _LONGEST_ID and not _LONE_SURROGATE.search(value):
        return value
    raise ValueError(f"an id is a whole number of 64 bits or a text of 1 to {_LONGEST_ID} characters")


_ID_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "string", "minLength": 1, "maxLength": _LONGEST_ID},
    ]
}
Id = Annotated[int | str, PlainValidator(_id), WithJsonSchema(_ID_SCHEMA)]
Users = Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS, description="User ids.")]
Items = Annotated[list[Id], Field(max_length=MAX_ITEMS)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Feature = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
"""Far beyond any context that a policy was trained on, and far within what single precision can square."""
Year = Annotated[int, Field(ge=0, le=9999)]


def example_config(**example: Any) -> ConfigDict:
    """Strict, closed and frozen, with an example on the OpenAPI page."""
    return ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra={"examples": [example]})


class ItemRating(BaseModel):
    """One rating of a user."""

    model_config = example_config(item=50, rating=5.0)

    item: Id
    rating: Number = Field(description="On the scale of the ratings, such as 1 to 5.")


class Shown(BaseModel):
    """One item of the session so far."""

    model_config = example_config(item=50, liked=True)

    item: Id
    liked: bool


class PredictRequest(BaseModel):
    """Whose ratings of which items are estimated."""

    model_config = example_config(users=[196, 22], items=[50, 181])

    users: Users
    items: Items | None = Field(default=None, description="Item ids; all items when left out.")


class RecommendRequest(BaseModel):
    """For whom how many items are chosen, and from which."""

    model_config = example_config(user=196, k=5, genres=["Comedy"], years=[1980, 1999])

    user: Id = Field(description="Who gets the list; also decides which version answers while two are compared.")
    k: int = Field(10, ge=1, le=MAX_K, description="How many items; fewer where fewer may be shown.")
    ratings: Annotated[list[ItemRating], Field(min_length=1, max_length=MAX_ITEMS)] | None = Field(
        default=None, description="Ratings that describe a user whom the policy does not know, or knows otherwise."
    )
    context: Annotated[list[Feature], Field(min_length=1, max_length=MAX_CONTEXT)] | None = Field(
        default=None, description="The user's context vector, in place of what the policy knows of the user."
    )
    history: Annotated[list[Shown], Field(max_length=MAX_K)] | None = Field(
        default=None, description="Session policies only: what was shown so far in this session."
    )
    exclude_rated: bool = Field(True, description="Leave out items that the user has rated.")
    exclude: Items = Field(default=[], description="Items to leave out.")
    genres: Annotated[list[str], Field(max_length=50)] = Field(default=[], description="Any of these genres.")
    years: Annotated[list[Year], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="First and last year of release."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "RecommendRequest":
        if self.ratings is not None:
            if self.context is not None:
                raise ValueError("ratings and context both describe the user; give one of them")
            _once("item", [rated.item for rated in self.ratings])
        if self.years is not None and self.years[0] > self.years[1]:
            raise ValueError("years: the first is after the last")
        return self

    @property
    def plain(self) -> bool:
        """Whether it asks for nothing but the best items of a known user."""
        return not (
            self.ratings or self.context or self.history or self.exclude or self.genres or self.years is not None
        )

    def fold_in(self) -> dict[Hashable, dict[Hashable, float]] | None:
        """`ratings` as {user: {item: rating}}."""
        return None if self.ratings is None else {self.user: {rated.item: rated.rating for rated in self.ratings}}

    def session(self) -> dict[Hashable, list[tuple[Hashable, bool]]] | None:
        """`history` as {user: [(item, liked), ...]} in order."""
        return {self.user: [(shown.item, shown.liked) for shown in self.history]} if self.history else None

    def first_and_last_year(self) -> tuple[int | None, int | None]:
        """`years` as a pair; None where they are not bounded."""
        return (None, None) if self.years is None else (self.years[0], self.years[1])


class RecommendBatch(BaseModel):
    """Several requests, each answered or refused by itself."""

    model_config = example_config(requests=[{"user": 196, "k": 2}, {"user": 22, "k": 2}])

    requests: Annotated[list[RecommendRequest], Field(min_length=1, max_length=MAX_USERS)]


Kind = Literal["rating", "like", "skip", "complete", "share", "watch_fraction"]


class FeedbackRequest(BaseModel):
    """What a user did with an item that was recommended."""

    model_config = example_config(event_id="01932b1f8c00a3f1c29be0d54c7f18aa", item=50, kind="rating", value=4.0)

    event_id: Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="`event_id` of the recommendation.")]
    item: Id | None = Field(default=None, description="Which item of the list; the first one when left out.")
    kind: Kind
    value: Number | None = Field(
        default=None, description="The rating, or the fraction (0 to 1) that was watched; the other kinds have none."
    )

    @model_validator(mode="after")
    def _value_fits_kind(self) -> "FeedbackRequest":
        if (self.kind in ("rating", "watch_fraction")) != (self.value is not None):
            raise ValueError("value is given with the kinds rating and watch_fraction, and with no other")
        if self.kind == "watch_fraction" and not 0 <= (self.value or 0) <= 1:
            raise ValueError("value of watch_fraction lies within 0 and 1")
        return self


class FeedbackBatch(BaseModel):
    """Several pieces of feedback, each taken or refused by itself."""

    model_config = example_config(items=[{"event_id": "01932b1f8c00a3f1c29be0d54c7f18aa", "item": 50, "kind": "like"}])

    items: Annotated[list[FeedbackRequest], Field(min_length=1, max_length=MAX_FEEDBACK)]


class Instance(BaseModel):
    """What one prediction is about: ratings of the named items, or the k best ones where none are named."""

    model_config = example_config(user=196, items=[50, 181])

    user: Id
    items: Annotated[list[Id], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    k: int = Field(10, ge=1, le=MAX_K)
    exclude_rated: bool = True


class Instances(BaseModel):
    """The prediction request of KServe (v1) and Vertex AI."""

    model_config = example_config(instances=[{"user": 196, "k": 3}, {"user": 22, "items": [50, 181]}])

    instances: Annotated[list[Instance], Field(min_length=1, max_length=MAX_USERS)]
    parameters: dict[str, Any] | None = Field(default=None, description="Accepted as those servers send it; not used.")


def _once(kind: str, ids: Sequence[Hashable]) -> None:
    if len(set(ids)) < len(ids):
        raise ValueError(f"a {kind} is given more than once")
