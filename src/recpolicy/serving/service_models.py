"""Requests and answers of the service, as its OpenAPI page shows them.

Strict: `true` is no number, "7" is not 7, an unknown field is an error, NaN and infinity are no ratings. Bounded: what
one request may ask for fits into memory and time. Ids are whole numbers of 64 bits or texts, as in the ratings.
"""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

MAX_USERS = 100
MAX_MOVIES = 2_000
MAX_K = 100

_LONGEST_ID = 200
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell them, UTF-8 cannot


def _id(value: Any) -> int | str:
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if type(value) is str and 0 < len(value) <= _LONGEST_ID and not _LONE_SURROGATE.search(value):
        return value
    raise ValueError(f"an id is a whole number of 64 bits or a text of 1 to {_LONGEST_ID} characters")


Id = Annotated[
    int | str,
    PlainValidator(_id),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "minLength": 1, "maxLength": _LONGEST_ID}]}),
]
Users = Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS, description="User ids.")]
Movies = Annotated[list[Id], Field(max_length=MAX_MOVIES)]


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra={"examples": [fields]})


class MovieRating(BaseModel):
    """One rating of a newcomer."""

    model_config = _example(movie=50, rating=5.0)

    movie: Id
    rating: Annotated[float, Field(allow_inf_nan=False, description="On the scale of the ratings, such as 1 to 5.")]


class Newcomer(BaseModel):
    """A user whom the policy does not know, or knows otherwise, described by some ratings."""

    model_config = _example(user="newcomer", ratings=[{"movie": 50, "rating": 5.0}, {"movie": 258, "rating": 2.0}])

    user: Id
    ratings: Annotated[list[MovieRating], Field(min_length=1, max_length=MAX_MOVIES)]

    @model_validator(mode="after")
    def _each_movie_once(self) -> "Newcomer":
        _once("movie", [rated.movie for rated in self.ratings])
        return self


class PredictRequest(BaseModel):
    """Whose ratings of which movies are estimated."""

    model_config = _example(users=[196, 22], movies=[50, 181])

    users: Users
    movies: Movies | None = Field(None, description="Movie ids; all movies when left out.")


class RecommendRequest(BaseModel):
    """For whom how many movies are listed."""

    model_config = _example(
        users=[196, "newcomer"], k=5, fold_in=[{"user": "newcomer", "ratings": [{"movie": 50, "rating": 5.0}]}]
    )

    users: Users
    k: int = Field(10, ge=1, le=MAX_K, description="How many movies for each user.")
    exclude_rated: bool = Field(True, description="Leave out movies that the user has rated.")
    fold_in: Annotated[list[Newcomer], Field(max_length=MAX_USERS)] | None = Field(
        None, description="Ratings of users that the policy does not know; they must be among `users`."
    )

    @model_validator(mode="after")
    def _fold_in_is_of_the_users(self) -> "RecommendRequest":
        folded = [one.user for one in self.fold_in or ()]
        _once("user in fold_in", folded)
        if not set(folded) <= set(self.users):
            raise ValueError("fold_in describes a user who is not among the users")
        return self

    def ratings_of_newcomers(self) -> dict[Hashable, dict[Hashable, float]] | None:
        """`fold_in` in the form of `Policy.recommend`: {user: {movie: rating}}."""
        if self.fold_in is None:
            return None
        return {one.user: {rated.movie: rated.rating for rated in one.ratings} for one in self.fold_in}


class Row(BaseModel):
    """One movie for one user; `null` stands for a number that the policy does not have."""

    model_config = _example(
        user_id=196, movie_id=50, title="Star Wars (1977)", rating=4.31, std=0.21, propensity=0.0124
    )

    user_id: Id
    movie_id: Id
    title: str | None
    rating: float | None = Field(description="Estimated rating, on the scale of the ratings.")
    std: float | None = Field(description="Standard deviation of the expected rating.")
    propensity: float | None = Field(description="Probability with which the exploring policy would show the movie.")


class ValuedRow(Row):
    """The row of a session policy says what it expects of the rest of the session."""

    value: float | None = Field(None, description="Session policies only: discounted reward expected of the session.")


class RankedRow(ValuedRow):
    """A recommended movie."""

    rank: int = Field(description="1 is the best.")


class Estimates(BaseModel):
    """Rows of the users one after the other, movies in the order asked."""

    rows: list[ValuedRow]


class Recommendations(BaseModel):
    """Rows of the users one after the other, best movie first; fewer than k where fewer movies are left."""

    rows: list[RankedRow]


class Alive(BaseModel):
    """The process answers."""

    status: str = Field(examples=["alive"])


class ServedPolicy(BaseModel):
    """Which policy answers."""

    name: str = Field(examples=["linucb"], description="The agent that was trained.")
    digest: str = Field(description="SHA-256 of what the policy learnt (`content` in its recpolicy.json).")


class Ready(BaseModel):
    """The policy is loaded."""

    status: str = Field(examples=["ready"])
    policy: ServedPolicy


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(examples=["unknown_id"])
    message: str = Field(examples=["no user with id 12345 in this policy"])


class ErrorAnswer(BaseModel):
    """The one shape of every error."""

    error: ErrorDetail


def _once(kind: str, ids: Sequence[Hashable]) -> None:
    if any(count > 1 for count in Counter(ids).values()):
        raise ValueError(f"a {kind} is given more than once")
