"""Requests of the public API, as its OpenAPI page shows them; responses.py has the responses.

Requests are strict: `true` is not a number, "7" is not 7, and unknown fields, NaN and infinity are rejected. All
lengths have limits, so every request fits into memory and time. Ids are 64-bit integers or strings, as in the ratings.
"""

import re
from collections.abc import Hashable, Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from recpolicy.inference.guardrails import GuardrailConfig

MAX_USERS = 100
MAX_ITEMS = 2_000
MAX_K = 100
MAX_CONTEXT = 1_000
MAX_FEEDBACK = 1_000
MAX_SESSION_ID = 64

_MAX_ID_LENGTH = 200
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that PostgreSQL (NUL) or UTF-8 (lone surrogates) cannot hold, although JSON can."""


def _id(value: Any) -> int | str:
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if type(value) is str and 0 < len(value) <= _MAX_ID_LENGTH:
        return storable(value)
    raise ValueError(f"expected an id: a 64-bit integer or a string of 1 to {_MAX_ID_LENGTH} characters")


def storable(text: str) -> str:
    """Return the text; raises ValueError for a character that not every database can hold."""
    if _UNSTORABLE.search(text):
        raise ValueError("the text contains NUL or half of a surrogate pair, which no database can hold")
    return text


def whole_number(value: Any) -> Any:
    """Return a float without a fraction as an integer, and any other value unchanged."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) < 2**53 else value


_ID_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "string", "minLength": 1, "maxLength": _MAX_ID_LENGTH},
    ]
}
Text = Annotated[str, AfterValidator(storable)]
"""A text that every database can hold; for all texts of requests without a pattern."""
Id = Annotated[int | str, PlainValidator(_id), WithJsonSchema(_ID_SCHEMA)]
WholeId = Annotated[int | str, PlainValidator(lambda value: _id(whole_number(value))), WithJsonSchema(_ID_SCHEMA)]
"""An id of a prediction server, which may write integers as floats."""
Users = Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS, description="Ids of the users.")]
Items = Annotated[list[Id], Field(max_length=MAX_ITEMS)]
ItemId = Annotated[Id, Field(description="Id of the item.")]
UserId = Annotated[Id, Field(description="Id of the user.")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Feature = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
"""Larger than any context in training, and small enough for its square in single precision."""
Year = Annotated[int, Field(ge=0, le=9999)]


def example_config(**example: Any) -> ConfigDict:
    """Return the config of a strict, closed and frozen model with an example on the OpenAPI page."""
    return ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra={"examples": [example]})


SessionId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_SESSION_ID, pattern=r"^[A-Za-z0-9_.:-]+$")]
"""An id of a session; its characters need no escapes in JSON."""


class ItemRating(BaseModel):
    """A user's rating of an item."""

    model_config = example_config(item=50, rating=5.0)

    item: ItemId
    rating: Number = Field(description="The rating, on the scale of the training data, such as 1 to 5.")


class SessionItem(BaseModel):
    """An item that the current session has already shown."""

    model_config = example_config(item=50, liked=True)

    item: ItemId
    liked: bool = Field(description="True if the user liked the item.")


class PredictRequest(BaseModel):
    """The users and items of a rating estimate."""

    model_config = example_config(users=[196, 22], items=[50, 181])

    users: Users
    items: Items | None = Field(default=None, description="Item ids; if omitted, all items.")


Weight = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class RequestGuardrails(BaseModel):
    """Guardrails of one request. They make the operator's stricter, and never looser."""

    model_config = example_config(max_per_category=3, diversity=0.1)

    max_per_category: Annotated[int, Field(ge=1, le=MAX_K)] | None = Field(
        default=None, description="Most items of each genre in the list."
    )
    category_caps: Annotated[dict[Text, Annotated[int, Field(ge=0, le=MAX_K)]], Field(max_length=50)] | None = Field(
        default=None, description="Most items of the named genres, in place of max_per_category."
    )
    blocked_categories: Annotated[list[Text], Field(max_length=50)] = Field(
        default=(),  # type: ignore[arg-type]
        description="No item of these genres.",
    )
    max_marked: Annotated[int, Field(ge=0, le=MAX_K)] | None = Field(
        default=None, description="Most items of those that the operator has marked, such as paid ones."
    )
    min_marked: int = Field(0, ge=0, le=MAX_K, description="Places that only marked items may take.")
    min_rating: Number | None = Field(default=None, description="Lowest predicted rating of an item.")
    diversity: Weight = Field(0.0, description="Weight of the dissimilarity to earlier items of the list.")
    novelty: Weight = Field(0.0, description="Weight of the penalty on popular items.")
    category_tilt: (
        Annotated[dict[Text, Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]], Field(max_length=50)] | None
    ) = Field(default=None, description="Added to the relevance of items of these genres, by their share of genres.")

    def config(self) -> GuardrailConfig:
        """Return the settings that the request has; raises ConfigError for those that contradict each other."""
        return GuardrailConfig(**self.model_dump(exclude_unset=True, exclude_none=True))


class RecommendRequest(BaseModel):
    """A user, the number of items, and filters on the items."""

    model_config = example_config(user=196, k=5, genres=["Comedy"], years=[1980, 1999])

    user: Id = Field(description="Id of the user. During a rollout it also decides which version answers.")
    k: Annotated[int, Field(ge=1, le=MAX_K)] | None = Field(
        default=None,
        description="Number of items; if omitted, the slate size of a policy that learned from slates, otherwise 10."
        " The list is shorter if the filters allow fewer.",
    )
    ratings: Annotated[list[ItemRating], Field(min_length=1, max_length=MAX_ITEMS)] | None = Field(
        default=None,
        description="Ratings of a user unknown to the policy. For a known user they replace the known ones.",
    )
    context: Annotated[list[Feature], Field(min_length=1, max_length=MAX_CONTEXT)] | None = Field(
        default=None, description="Context vector of the user, in place of the one that the policy has."
    )
    history: Annotated[list[SessionItem], Field(max_length=MAX_K)] | None = Field(
        default=None,
        description="The items that this session has shown, oldest first; they are left out. Session policies read it."
        " A policy of single rounds takes it only with a `session_id`, and then an empty one, too.",
    )
    session_id: SessionId | None = Field(
        default=None,
        description="Id of the session, chosen by the caller: letters, digits and _ . : -. If omitted, the server makes"
        " one for session policies. `history` must continue what the session has shown.",
    )
    exclude_rated: bool = Field(True, description="True: leave out items that the user has rated.")
    # Pydantic copies a list at each request, but not a tuple.
    exclude: Items = Field(default=(), description="Ids of items to leave out.")  # type: ignore[arg-type]
    genres: Annotated[list[Text], Field(max_length=50)] = Field(
        default=(),  # type: ignore[arg-type]
        description="Only items with at least one of these genres; empty: all items.",
    )
    years: Annotated[list[Year], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="First and last year of release, both included."
    )
    guardrails: RequestGuardrails | None = Field(
        default=None, description="Bounds and weights of the list, besides those of the operator."
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> "RecommendRequest":
        if self.ratings is not None:
            if self.context is not None:
                raise ValueError("ratings and context both describe the user; send only one of them")
            _check_unique("item", [rating.item for rating in self.ratings])
        if self.years is not None and self.years[0] > self.years[1]:
            raise ValueError("years: the first year is after the last")
        return self

    @property
    def plain(self) -> bool:
        """True for a request without filters, history or description of the user; its list can be cached."""
        return not (
            self.ratings
            or self.context
            or self.history
            or self.exclude
            or self.genres
            or self.years is not None
            or self.guardrails is not None
        )

    def list_size(self, default: int) -> int:
        """Return the number of items of the list: `k`, or the policy's default, at most MAX_K."""
        return self.k or min(default, MAX_K)

    def full(self) -> "RecommendRequest":
        """Return the request itself; an Instance returns what it stands for."""
        return self

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
    """Several recommendation requests; each gets its own result."""

    model_config = example_config(requests=[{"user": 196, "k": 2}, {"user": 22, "k": 2}])

    requests: Annotated[list[RecommendRequest], Field(min_length=1, max_length=MAX_USERS)] = Field(
        description="The requests; no two of the same session."
    )

    @model_validator(mode="after")
    def _check_sessions(self) -> "RecommendBatch":
        _check_unique("session_id", [each.session_id for each in self.requests if each.session_id is not None])
        return self


FeedbackType = Annotated[str, StringConstraints(min_length=1, max_length=16, pattern=r"^[A-Za-z0-9_.-]+$")]


class FeedbackRequest(BaseModel):
    """A user's feedback on a recommended item."""

    model_config = example_config(event_id="01932b1f8c00a3f1c29be0d54c7f18aa", item=50, type="rating", value=4.0)

    event_id: Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="The `event_id` of the recommendation.")]
    item: Id | None = Field(
        default=None, description="Id of an item of the recommended list; if omitted, the first item."
    )
    type: FeedbackType = Field(
        description="Type of the feedback: rating, like, skip, complete, share or watch_fraction, which set a reward;"
        " or a metric of the setting [feedback] metrics, such as revenue, which sets none."
    )
    value: Number | None = Field(
        default=None,
        description="The rating, the watched fraction from 0 to 1, or the number of a metric. Other types have none.",
    )

    @model_validator(mode="after")
    def _check_value(self) -> "FeedbackRequest":
        plain = self.type in ("like", "skip", "complete", "share")
        if plain == (self.value is not None):
            raise ValueError(
                "the types like, skip, complete and share must not have a value, and all other types need one"
            )
        if self.type == "watch_fraction" and not 0 <= (self.value or 0) <= 1:
            raise ValueError("the value of watch_fraction must be from 0 to 1")
        return self


class FeedbackBatch(BaseModel):
    """Several pieces of feedback; the server accepts or rejects each of them on its own."""

    model_config = example_config(items=[{"event_id": "01932b1f8c00a3f1c29be0d54c7f18aa", "item": 50, "type": "like"}])

    items: Annotated[list[FeedbackRequest], Field(min_length=1, max_length=MAX_FEEDBACK)] = Field(
        description="The pieces of feedback, in order."
    )


class Instance(BaseModel):
    """One prediction: rating estimates if `items` is set, otherwise a recommendation of k items.

    Prediction servers that pass protobuf values write all numbers as floats: 196.0 is 196.
    """

    model_config = example_config(user=196, items=[50, 181])

    user: Annotated[WholeId, Field(description="Id of the user.")]
    items: Annotated[list[WholeId], Field(min_length=1, max_length=MAX_ITEMS)] | None = Field(
        default=None, description="Ids of the items to estimate; if omitted, the server recommends."
    )
    k: Annotated[int, Field(ge=1, le=MAX_K), BeforeValidator(whole_number)] | None = Field(
        default=None,
        description="Number of items to recommend; if omitted, the slate size of a policy that learned from slates,"
        " otherwise 10.",
    )
    exclude_rated: bool = Field(True, description="True: do not recommend items that the user has rated.")

    @property
    def session_id(self) -> None:
        """None: an instance names no session."""

    @property
    def history(self) -> None:
        """None: an instance has no history."""

    @property
    def plain(self) -> bool:
        """True: an instance has no filters, so a list for it can be cached."""
        return True

    def list_size(self, default: int) -> int:
        """Return the number of items of the list: `k`, or the policy's default, at most MAX_K."""
        return self.k or min(default, MAX_K)

    def full(self) -> RecommendRequest:
        """Return the request for the k best items."""
        return RecommendRequest(user=self.user, k=self.k, exclude_rated=self.exclude_rated)


class Instances(BaseModel):
    """A prediction request in the format of KServe (v1) and Vertex AI."""

    model_config = example_config(instances=[{"user": 196, "k": 3}, {"user": 22, "items": [50, 181]}])

    instances: Annotated[list[Instance], Field(min_length=1, max_length=MAX_USERS)] = Field(
        description="The predictions to compute."
    )
    parameters: dict[str, Any] | None = Field(default=None, description="Ignored; some clients send it.")


def _check_unique(name: str, ids: Sequence[Hashable]) -> None:
    if len(set(ids)) < len(ids):
        raise ValueError(f"the same {name} occurs more than once")
