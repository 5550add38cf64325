"""Requests and responses of the admin API, as its OpenAPI page shows them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from recpolicy.server.errors import ERROR_RESPONSES
from recpolicy.server.schemas.requests import Number, example_config
from recpolicy.server.schemas.responses import ErrorResponse

ADMIN_ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorResponse, "description": "No key, or an unknown or revoked one (`unauthorized`)."},
    403: {"model": ErrorResponse, "description": "The key's role is too low (`forbidden`)."},
    404: {"model": ErrorResponse, "description": "There is no such object (`not_found`)."},
    409: {"model": ErrorResponse, "description": "Impossible in the present state (`conflict`)."},
    **{status: ERROR_RESPONSES[status] for status in (413, 422, 429, 503)},
}

Role = Literal["client", "reader", "operator"]
KEY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class RoutingResponse(BaseModel):
    """The versions that serve, and their traffic."""

    champion: int | None
    challenger: int | None
    previous: int | None = Field(description="The champion before this one; a roll-back returns to it.")
    traffic_fraction: float = Field(description="Fraction of the users that the challenger serves.")
    shadow: bool
    exploration: bool = Field(description="True while a fraction of the lists is drawn to explore.")


class RoutingChangeResponse(BaseModel):
    """The routing after a change, which is in effect."""

    routing: RoutingResponse
    ms: float = Field(description="Milliseconds that the change took.", examples=[12.5])


class TrafficRequest(BaseModel):
    """The challenger and its traffic; omitted fields stay unchanged."""

    model_config = example_config(version=3, traffic_fraction=0.1, shadow=False)

    version: int | None = Field(None, ge=1, lt=10**9, description="The challenger; omitted: the present one.")
    traffic_fraction: float | None = Field(None, ge=0, le=1, description="Fraction of the users that it serves.")
    shadow: bool | None = Field(None, description="true: its lists are computed, but the champion serves.")


class VersionResponse(BaseModel):
    """One version."""

    number: int
    aliases: list[str] = Field(examples=[["champion"]])
    agent: str
    policy_digest: str = Field(description="SHA-256 of the learned policy.")
    digest: str = Field(description="SHA-256 of the artifact.")
    registered_at: str
    lineage: dict[str, Any] = Field(description="Data and splits by digest, settings, parents.")
    verdict: str | None = Field(description="Verdict of its gate: pass, fail, no_verdict; null without a gate.")
    metrics: dict[str, Any] = Field(description="Metrics of the training, otherwise those of the gate.")
    note: dict[str, Any] | None = Field(description="Who registered it, if known.")
    gate: dict[str, Any] | None = Field(None, description="The full record of the gate; not in lists.")


class VersionList(BaseModel):
    """All versions, oldest first."""

    routing: RoutingResponse
    versions: list[VersionResponse]


class KeyRequest(BaseModel):
    """A key to create."""

    model_config = example_config(name="shop", role="client")

    name: str = Field(pattern=KEY_NAME, description="Never used before: the audit names callers by it.")
    role: Role


class KeyResponse(BaseModel):
    """One API key; the server does not store the key itself."""

    name: str
    role: Role
    created_at: int = Field(description="Milliseconds since 1970, UTC.")
    revoked_at: int | None


class KeyList(BaseModel):
    """All keys, oldest first."""

    keys: list[KeyResponse]


class NewKey(KeyResponse):
    """A new key."""

    key: str = Field(description="Shown only in this response.", examples=["rp_..."])


class AuditLine(BaseModel):
    """One change."""

    seq: int
    time: int = Field(description="Milliseconds since 1970, UTC.")
    actor: str = Field(description="Name of the key, or `server`.")
    action: str
    detail: dict[str, Any]


class AuditList(BaseModel):
    """The last changes, newest first."""

    audit: list[AuditLine]


class RunParameters(BaseModel):
    """Parameters of a run by hand; a job without parameters takes an empty object."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"days": 14}, {}]})


class JobResponse(BaseModel):
    """One job."""

    name: str
    description: str
    cron: str = Field(description='Minute, hour, day, month, weekday (UTC); an interval ("@every 10s"); or "off".')
    next_at: int | None = Field(description="Milliseconds since 1970; null: only by hand, or not known yet.")


class JobList(BaseModel):
    """All jobs."""

    jobs: list[JobResponse]


class RunResponse(BaseModel):
    """One run of a job; times are milliseconds since 1970."""

    id: int
    name: str
    status: str = Field(description="running, done, failed, skipped or lost")
    due_at: int | None = Field(description="Scheduled time; null: started by hand.")
    executed_at: int
    finished_at: int | None
    heartbeat: int
    worker: str
    users: int | None = Field(description="Users processed.")
    records: int | None = Field(description="Records processed.")
    metadata: dict[str, Any] = Field(description="Statistics of a training, metrics of a check, or an error.")


class RunList(BaseModel):
    """Runs, newest first."""

    runs: list[RunResponse]


class RunStartedResponse(BaseModel):
    """The number of the run that started."""

    run: int


class DriftResponse(BaseModel):
    """The last drift check."""

    run: RunResponse | None = Field(description="null: there was none yet.")


class DayRewards(BaseModel):
    """Rewards of one version and variant in one day."""

    day: int = Field(description="Days since 1970, UTC.")
    version: int
    variant: str
    rewards: int
    mean: float


class RewardList(BaseModel):
    """Rewards by day, version and variant."""

    rows: list[DayRewards]


class RolloutRequest(BaseModel):
    """The challenger, and settings of its plan in place of those in `[rollout]`."""

    model_config = example_config(challenger=2, stages=[0.1, 0.5, 1.0])

    challenger: Annotated[int, Field(ge=1, description="Number of the version in the registry.")]
    stages: Annotated[list[Number], Field(min_length=1, max_length=20)] | None = Field(
        None, description="Traffic fractions, rising to at most 1."
    )
    promote: bool | None = Field(None, description="false: an A/B comparison that runs until it is stopped.")
    shadow: bool | None = Field(None, description="true: the challenger serves nobody and is only compared.")
    margin: Number | None = Field(None, description="Tolerated harm, on the scale of the rewards.")
    min_users: int | None = Field(None, description="Users with rewards that each variant needs in a stage.")
    min_rewards: int | None = Field(None, description="Rewards that each variant needs in a stage.")
    min_hours: Number | None = Field(None, description="Shortest duration of a stage in hours.")
    max_hours: Number | None = Field(None, description="Hours after which a stage that is not passed is rolled back.")
    force: bool = Field(False, description="true: also a version that failed its gate.")

    def plan(self) -> dict[str, Any]:
        """Return the settings that differ from the server's."""
        return self.model_dump(exclude={"challenger", "force"}, exclude_none=True)


class RolloutResponse(BaseModel):
    """One rollout."""

    id: int
    champion: int = Field(description="Champion at the start.")
    challenger: int
    state: str = Field(description="running, promoted, rolled_back or stopped.", examples=["running"])
    stage: int = Field(description="Position in the plan; 0 is the first.")
    traffic_fraction: float = Field(description="Fraction of the users that the challenger serves in this stage.")
    plan: dict[str, Any] = Field(description="The settings `[rollout]` of this rollout.")
    started_at: int = Field(description="Milliseconds since 1970, UTC.")
    stage_at: int = Field(description="Start of the stage; 0: it has not started.")
    ended_at: int | None
    reason: str | None = Field(description="Reason for the end.")


class CurrentRollout(BaseModel):
    """The running rollout; all null without one."""

    rollout: RolloutResponse | None
    metrics: dict[str, Any] | None = Field(
        description="Hours; rewards of champion, challenger and their difference with anytime-valid intervals (null:"
        " unbounded); requests, failures and times of both in the last minutes; shadow comparisons."
    )
    next: str | None = Field(description="Action of the next check: wait, advance, promote or roll_back.")
    reason: str | None = Field(description="Reason for that action.")


class RolloutList(BaseModel):
    """Rollouts, newest first."""

    rollouts: list[RolloutResponse]
