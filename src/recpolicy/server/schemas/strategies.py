"""Requests and responses of the strategy engine's routes."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from recpolicy.server.schemas.rank import EventName
from recpolicy.server.schemas.requests import Id, Number, UserId, example_config
from recpolicy.server.schemas.responses import PolicyDigest

Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Trait = Annotated[Number, Field(ge=-1e6, le=1e6)]
Profile = Annotated[dict[Name, Trait], Field(min_length=1, max_length=100)]
_TRAITS = {"openness": 72, "conscientiousness": 41, "extraversion": 55, "agreeableness": 60, "neuroticism": 23}


class StrategyRecommendRequest(BaseModel):
    """The situation of a request, and who asks."""

    model_config = example_config(
        profile=_TRAITS, content_type="music", mood="calm", time_of_day="evening", user=196, opt_in=True
    )

    content_type: Name = Field(description="Kind of the content, as the config names it.")
    mood: Name = Field(description="Mood of the user, as the config names it.")
    time_of_day: Name = Field(description="Time of day, as the config names it.")
    profile: Profile | None = Field(
        default=None,
        description="Traits of the user, 0 to 100. If omitted, the server uses the stored profile of the user for"
        " callers with a key; without one, the means of all users.",
    )
    user: Id | None = Field(
        default=None, description="Id of the user, to use the stored profile and to erase the event."
    )
    opt_in: bool = Field(
        default=False,
        description="True: the user agrees that the event keeps the traits of this request. Otherwise the server uses"
        " them for this answer and stores none of them.",
    )
    session: EventName | None = Field(
        default=None, description="Id of the session; the next request of the session is the next state."
    )
    event_id: EventName | None = Field(
        default=None,
        description="Id of the event, which also decides the draw; if omitted, the server chooses one. The same request"
        " with the same id gets the same strategy.",
    )


class Strategy(BaseModel):
    """The levels of the three dimensions."""

    energy: Name = Field(description="Level of energy, as the config names it.")
    diversity: Name = Field(description="Level of diversity, as the config names it.")
    novelty: Name = Field(description="Level of novelty, as the config names it.")


class ItemWeights(BaseModel):
    """Weights of a list of items, as the field `guardrails` of /v1/recommend takes them."""

    diversity: float = Field(ge=0, le=1, description="Weight of dissimilar items.")
    novelty: float = Field(ge=0, le=1, description="Weight of the penalty on popular items.")
    energy_tilt: float = Field(ge=-1, le=1, description="Tilt to the genres Action and Thriller, in place of energy.")


class StrategyPolicyResponse(BaseModel):
    """The version of the strategy policy."""

    version: int | None = Field(examples=[3], description="Number in the registry of strategies; null: untrained.")
    agent: str = Field(description="Agent of the policy.")
    policy_digest: PolicyDigest


class StrategyResponse(BaseModel):
    """A strategy with its parameters."""

    event_id: str | None = Field(
        description="Id to send with rewards (POST /v1/events/{id}/reward); null if the event is not stored."
    )
    strategy: Strategy = Field(description="The levels of the strategy.")
    action: int = Field(ge=0, le=26, description="Number of the strategy: 9 energy + 3 diversity + novelty.")
    parameters: dict[str, Any] = Field(
        description="Numbers for the recommender, clipped to their limits.",
        examples=[{"min_energy": 0.0, "max_energy": 0.4, "genre_count": 2, "exploration_rate": 0.1}],
    )
    item_weights: ItemWeights = Field(description="The parameters as weights of a list of items such as movies.")
    propensity: float = Field(description="Exact probability with which this strategy was drawn.")
    expected_reward: float | None = Field(description="Estimate of the reward; null for a repeated request.")
    source: Literal["cell", "factored", "trait_blind", "static"] = Field(
        description="The estimate behind it: the cell of the table, the factored model, the mean of all users, or the"
        " static strategy of the config."
    )
    explored: bool = Field(description="True if the strategy is not the best estimate, but drawn to learn.")
    policy: StrategyPolicyResponse = Field(description="The version that chose.")


class ProfileRequest(BaseModel):
    """The traits of a user who agrees that the server keeps them."""

    model_config = example_config(opt_in=True, profile=_TRAITS)

    opt_in: Literal[True] = Field(description="The user's consent; the server stores no profile without it.")
    profile: Profile = Field(description="Traits of the user, 0 to 100.")


class ProfileResponse(BaseModel):
    """A stored profile."""

    user: UserId
    profile: dict[str, float] = Field(description="Traits of the user.")
    created_at: int = Field(description="First storage: milliseconds since 1970, UTC.")
    changed_at: int = Field(description="Last storage: milliseconds since 1970, UTC.")


class ProfileDeleted(BaseModel):
    """The deletion of a profile."""

    user: UserId
    profile: bool = Field(description="True if there was a profile.")
    events: int = Field(description="Strategy events of the user that were deleted, because they hold the traits.")


class StrategyStats(BaseModel):
    """Statistics of the serving Q-table."""

    policy: StrategyPolicyResponse = Field(description="The version that serves.")
    rounds: int = Field(description="Rounds that the table learned.")
    sessions: int = Field(description="Sessions that it learned; a request without a session is one.")
    total_states: int = Field(description="States seen.")
    total_state_actions: int = Field(description="Cells with at least one round.")
    avg_q_value: float = Field(description="Mean Q-value of these cells.")
    max_q_value: float = Field(description="Largest absolute Q-value; growth without end shows divergence.")
    possible_states: int = Field(description="States that the config allows.")
    possible_state_actions: int = Field(description="Cells that the config allows.")
    state_coverage: float = Field(description="Share of the states that were seen.")
    coverage: float = Field(description="Share of the cells with at least one round.")
    cells_with_min_visits: int = Field(description="Cells with enough rounds for an estimate of their own.")
    share_with_min_visits: float = Field(description="Their share of all cells.")
    share_of_visited_with_min_visits: float = Field(description="Their share of the cells with a round.")
    min_visits: int = Field(description="Rounds that an estimate needs.")
    epsilon: float = Field(description="Share of uniform draws.")
