"""Requests and responses of the admin API about rollouts."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from recpolicy.server.schemas.admin import Estimate, Time, TrafficFraction
from recpolicy.server.schemas.requests import Number, example_config


class RolloutRequest(BaseModel):
    """A challenger and its plan; omitted fields come from the table `[rollout]` of the server's settings."""

    model_config = example_config(challenger=2, stages=[0.1, 0.5, 1.0])

    challenger: Annotated[int, Field(ge=1, description="Number of the challenger in the registry.")]
    stages: Annotated[list[Number], Field(min_length=1, max_length=20)] | None = Field(
        None, description="Traffic fractions of the stages, rising, at most 1."
    )
    promote: bool | None = Field(None, description="False: compare the versions until a caller stops the rollout.")
    shadow: bool | None = Field(
        None, description="True: compute and compare the challenger's lists, but serve none of them."
    )
    margin: Number | None = Field(None, description="Tolerated loss of mean reward, on the scale of the ratings.")
    min_users: int | None = Field(None, description="Smallest number of users with rewards per variant and stage.")
    min_rewards: int | None = Field(None, description="Smallest number of rewards per variant and stage.")
    min_hours: Number | None = Field(None, description="Shortest duration of a stage in hours.")
    max_hours: Number | None = Field(
        None, description="Longest duration of a stage in hours; after it, the server rolls back."
    )
    return_days: Number | None = Field(
        None, description="Retention criterion: days within which users come back; null: as in the settings."
    )
    return_margin: Number | None = Field(None, description="Tolerated loss of the share of users who come back.")
    ungated: bool = Field(False, description="True: let the version serve although it passed no gate.")

    def plan(self) -> dict[str, Any]:
        """Return the settings that differ from the server's."""
        return self.model_dump(exclude={"challenger", "ungated"}, exclude_none=True)


class RolloutResponse(BaseModel):
    """A rollout."""

    id: int = Field(description="Number of the rollout.")
    champion: int = Field(description="Number of the champion at the start.")
    challenger: int = Field(description="Number of the challenger.")
    state: str = Field(description="running, promoted, rolled_back or stopped.", examples=["running"])
    stage: int = Field(description="Current stage; 0 is the first.")
    traffic_fraction: TrafficFraction
    plan: dict[str, Any] = Field(description="Settings of this rollout, as in the table `[rollout]`.")
    started_at: Time
    stage_at: int = Field(description="Start of the stage in milliseconds since 1970, UTC; 0 before it has started.")
    ended_at: int | None = Field(description="Milliseconds since 1970, UTC; null while the rollout runs.")
    reason: str | None = Field(description="Reason for the end; null while the rollout runs.")


class CurrentRollout(BaseModel):
    """The running rollout; all fields are null without one."""

    rollout: RolloutResponse | None = Field(description="The rollout.")
    metrics: dict[str, Any] | None = Field(
        description="Hours of the stage; mean rewards of both variants and their difference, with anytime-valid"
        " intervals (null: unbounded); requests, failures and times in the last minutes; shadow comparisons;"
        " returns of the users (null: off)."
    )
    next: str | None = Field(description="Action that the next check would take: wait, advance, promote or roll_back.")
    reason: str | None = Field(description="Reason for that action.")


class ComparedEstimates(BaseModel):
    """A figure of both variants, and the challenger's minus the champion's, with 95 % confidence sequences."""

    champion: Estimate = Field(description="Figure of the champion.")
    challenger: Estimate = Field(description="Figure of the challenger.")
    difference: Estimate = Field(description="The challenger's figure minus the champion's.")


class SignalComparison(BaseModel):
    """One type of signal in one segment of the users."""

    type: str = Field(description="Type of the signal.", examples=["like"])
    segment: str = Field(description="all users, new users, or known users by age band, gender or number of ratings.")
    users: dict[str, int] = Field(description="Users by variant.")
    rate: ComparedEstimates = Field(description="Share of a user's events with the signal, mean over users.")
    value: ComparedEstimates = Field(description="Sum of its values per event, such as revenue, mean over users.")


class RolloutSignals(BaseModel):
    """The signals of a rollout's variants."""

    rows: list[SignalComparison] = Field(description="A row for each type and segment.")


class RolloutList(BaseModel):
    """Rollouts, newest first."""

    rollouts: list[RolloutResponse] = Field(description="The rollouts.")
