"""Requests and responses of the admin API, as its OpenAPI page shows them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from recpolicy.server.errors import ERROR_RESPONSES
from recpolicy.server.schemas.requests import MAX_ITEMS, ItemId, Text, UserId, Year, example_config
from recpolicy.server.schemas.responses import AgentName, ErrorResponse, PolicyDigest

ADMIN_ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorResponse, "description": "The API key is missing, unknown or revoked (`unauthorized`)."},
    403: {"model": ErrorResponse, "description": "The role of the API key is too low (`forbidden`)."},
    404: {"model": ErrorResponse, "description": "The object does not exist (`not_found`)."},
    409: {"model": ErrorResponse, "description": "The current state does not allow the action (`conflict`)."},
    **{status: ERROR_RESPONSES[status] for status in (413, 422, 429, 503)},
}

Role = Literal["client", "reader", "operator"]
KEY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
RoleField = Annotated[Role, Field(description="Role of the key. Each role may also do what the lower ones may do.")]
VersionNumber = Annotated[int, Field(description="Number of the version in the registry.")]
Variant = Annotated[str, Field(description="champion or challenger.")]
Time = Annotated[int, Field(description="Milliseconds since 1970, UTC.")]
TrafficFraction = Annotated[float, Field(description="Fraction of the users that the challenger serves.")]


class RoutingResponse(BaseModel):
    """The versions that serve users, and their traffic."""

    champion: int | None = Field(description="Number of the champion.")
    challenger: int | None = Field(description="Number of the challenger; null without one.")
    previous: int | None = Field(description="Number of the champion before this one; a roll-back returns to it.")
    traffic_fraction: TrafficFraction
    shadow: bool = Field(description="True if the challenger's lists are computed and compared, but not served.")
    exploration: bool = Field(description="True if the server draws a fraction of the lists at random to explore.")


class RoutingChangeResponse(BaseModel):
    """The routing after a change."""

    routing: RoutingResponse = Field(description="The new routing, which is in effect.")
    ms: float = Field(description="Duration of the change in milliseconds.", examples=[12.5])


class TrafficRequest(BaseModel):
    """A challenger and its traffic; omitted fields keep their values."""

    model_config = example_config(version=3, traffic_fraction=0.1, shadow=False)

    version: int | None = Field(
        None, ge=1, lt=10**9, description="Number of the challenger; if omitted, the current one."
    )
    traffic_fraction: float | None = Field(
        None, ge=0, le=1, description="Fraction of the users that the challenger serves."
    )
    shadow: bool | None = Field(
        None, description="True: compute and compare the challenger's lists, but serve those of the champion."
    )
    ungated: bool = Field(False, description="True: let the version serve although it passed no gate.")


class EraseUserRequest(BaseModel):
    """The user to erase."""

    model_config = example_config(user=196)

    user: UserId
    as_policy: bool = Field(
        False, description="True: read a text as the champion types its user ids, so that `196` may be the number 196."
    )


class ErasedUserResponse(BaseModel):
    """The number of erased rows, by place."""

    user: int | str = Field(description="The id that was erased.")
    events: int = Field(description="Events in the database.")
    feedback: int = Field(description="Feedback on these events.")
    rewards: int = Field(description="Rewards of these events.")
    ranks: int = Field(description="Ranked events in the database, each slot as one.")
    signals: int = Field(description="Signals on these ranked events.")
    actions: int = Field(description="Actions that only these ranked events offered.")
    profiles: int = Field(description="Profiles for strategies.")
    user_ratings: int = Field(description="Ratings that moved the posterior of the user.")
    spooled: int = Field(description="Events in the spool.")
    other_id_events: int = Field(
        description="Events of the id that looks the same but is of the other type (196 and `196`); they stay."
    )
    job_running: bool = Field(
        description="True if a training or an evaluation is running; it may have read the events."
    )


class VersionResponse(BaseModel):
    """A version of the policy."""

    number: VersionNumber
    aliases: list[str] = Field(
        examples=[["champion"]], description="Roles of the version: champion, challenger, previous."
    )
    agent: AgentName
    policy_digest: PolicyDigest
    digest: str = Field(description="SHA-256 of the artifact.")
    registered_at: str = Field(description="Time of the registration in ISO 8601.")
    lineage: dict[str, Any] = Field(description="Digests of the data and splits, settings, and parent versions.")
    verdict: str | None = Field(description="Verdict of the gate: pass, fail or no_verdict; null without a gate.")
    metrics: dict[str, Any] = Field(description="Metrics of the training if it has any, otherwise those of the gate.")
    note: dict[str, Any] | None = Field(description="The caller who registered the version; null if unknown.")
    gate: dict[str, Any] | None = Field(None, description="The full record of the gate. Lists of versions omit it.")


class VersionList(BaseModel):
    """All versions, oldest first."""

    routing: RoutingResponse = Field(description="The versions that serve users.")
    versions: list[VersionResponse] = Field(description="The versions, oldest first.")


class NewItem(BaseModel):
    """An item that the policy does not know."""

    model_config = example_config(item=90001, title="The Long Test (2026)", genres=["Drama"], year=2026)

    item: ItemId
    title: Annotated[Text, Field(max_length=1_000)] | None = Field(None, description="Title; by default the id.")
    genres: list[Annotated[Text, Field(min_length=1, max_length=200)]] = Field(
        default_factory=list, max_length=100, description="Names of genres that the policy knows."
    )
    year: Year | None = Field(None, description="Year, if it is known.")


class ItemsRequest(BaseModel):
    """A change of the catalog of a version."""

    model_config = example_config(add=[{"item": 90001, "genres": ["Drama"]}], retire=[50])

    version: int | None = Field(
        None, ge=1, lt=10**9, description="Number of the version to change; if omitted, the champion."
    )
    add: list[NewItem] = Field(default_factory=list, max_length=MAX_ITEMS, description="Items to add.")
    retire: list[ItemId] = Field(
        default_factory=list, max_length=MAX_ITEMS, description="Ids of items that no answer may recommend any more."
    )
    restore: list[ItemId] = Field(
        default_factory=list, max_length=MAX_ITEMS, description="Ids of retired items to recommend again."
    )


class KeyRequest(BaseModel):
    """An API key to create."""

    model_config = example_config(name="shop", role="client")

    name: str = Field(
        pattern=KEY_NAME, description="Name of the key in the audit. It must be new, even if an old key is revoked."
    )
    role: RoleField


class KeyResponse(BaseModel):
    """The record of an API key; the server does not store the key itself."""

    name: str = Field(description="Name of the key.")
    role: RoleField
    created_at: Time
    revoked_at: int | None = Field(description="Milliseconds since 1970, UTC; null for a valid key.")


class KeyList(BaseModel):
    """All keys, oldest first."""

    keys: list[KeyResponse] = Field(description="The keys, revoked ones included.")


class NewKey(KeyResponse):
    """A new API key."""

    key: str = Field(description="The key. No later response shows it.", examples=["rp_..."])


class AuditLine(BaseModel):
    """One change in the audit."""

    seq: int = Field(description="Number of the line; it grows with time.")
    time: Time
    actor: str = Field(description="Name of the caller's key, or `server`.")
    action: str = Field(description="Name of the action.", examples=["promote"])
    detail: dict[str, Any] = Field(description="Data of the action, such as the number of a version.")


class AuditList(BaseModel):
    """The last changes, newest first."""

    audit: list[AuditLine] = Field(description="The changes.")


class RunParameters(BaseModel):
    """Parameters of a run that is started by hand; an empty object for a job without parameters."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"days": 14}, {}]})


class JobResponse(BaseModel):
    """A job."""

    name: str = Field(description="Name of the job.")
    description: str = Field(description="What the job does.")
    cron: str = Field(
        description='Schedule: minute, hour, day, month and weekday in UTC, an interval such as "@every 10s", or "off".'
    )
    next_at: int | None = Field(
        description="Next start in milliseconds since 1970, UTC; null without a schedule or before its first check."
    )


class JobList(BaseModel):
    """All jobs."""

    jobs: list[JobResponse] = Field(description="The jobs.")


class RunResponse(BaseModel):
    """A run of a job; times are milliseconds since 1970, UTC."""

    id: int = Field(description="Number of the run.")
    name: str = Field(description="Name of the job.")
    status: str = Field(description="running, done, failed, skipped (nothing to do) or lost (its process has ended).")
    due_at: int | None = Field(description="Scheduled start; null if a caller started the run.")
    executed_at: int = Field(description="Actual start.")
    finished_at: int | None = Field(description="End; null while it runs.")
    heartbeat: int = Field(description="Last sign of life of its process.")
    worker: str = Field(description="The process of the run: host, process id and a random part.")
    users: int | None = Field(description="Number of users processed.")
    records: int | None = Field(description="Number of records processed.")
    metadata: dict[str, Any] = Field(description="Statistics of a training, metrics of a check, or an error.")


class RunList(BaseModel):
    """Runs, newest first."""

    runs: list[RunResponse] = Field(description="The runs.")


class RunStartedResponse(BaseModel):
    """The run that started."""

    run: int = Field(description="Number of the run.")


class DriftResponse(BaseModel):
    """The last drift check."""

    run: RunResponse | None = Field(description="The run of the check; null before the first one.")


class DayRewards(BaseModel):
    """Rewards of one version and variant in one day."""

    day: int = Field(description="Days since 1970, UTC.")
    version: VersionNumber
    variant: Variant
    rewards: int = Field(description="Number of rewards.")
    mean: float = Field(description="Mean reward, on the scale of the ratings.")


class RewardList(BaseModel):
    """Rewards by day, version and variant."""

    rows: list[DayRewards] = Field(description="The rows, oldest day first.")


class Estimate(BaseModel):
    """An estimate with its 95 % interval."""

    value: float | None = Field(description="The estimate; null without users.")
    lo: float | None = Field(description="Lower end; null with fewer than 30 users.")
    hi: float | None = Field(description="Upper end; null with fewer than 30 users.")


class DaySignals(BaseModel):
    """One type of signal on the events of one day, version and task."""

    day: int = Field(description="Day of the events: days since 1970, UTC.")
    version: VersionNumber
    task: Literal["list", "rank", "strategy"] = Field(description="Kind of the events.")
    type: str = Field(description="Type of the signal.", examples=["like"])
    events: int = Field(description="Events of the day, with and without the signal.")
    users: int = Field(description="Users of these events; an event without a user counts as one.")
    with_signal: int = Field(description="Events with at least one such signal.")
    rate: Estimate = Field(description="Share of the events with the signal, clustered by user.")
    mean: Estimate = Field(description="Mean over the events of the sum of its values, such as revenue per event.")


class SignalList(BaseModel):
    """Rates of signals by day, version, task and type."""

    rows: list[DaySignals] = Field(description="The rows, oldest day first.")


class RewardsOfRanks(BaseModel):
    """The rewards of the latest ranks."""

    events: int = Field(description="The latest ranks, at most 10,000; each slot is one.")
    since: int | None = Field(description="Time of the first of them; null without ranks.")
    final: int = Field(description="Ranks whose reward is final: active, and the window is over.")
    positive: Estimate = Field(description="Share of these with a reward above 0, clustered by user.")
    mean: Estimate = Field(description="Mean reward of these, clustered by user.")


class RecentRank(BaseModel):
    """A ranked event, or one of its slots, without its context and its user."""

    event_id: str = Field(description="Id of the event.")
    slot_id: str | None = Field(description="Id of the slot; null without slots.")
    time: int = Field(description="Milliseconds since 1970, UTC.")
    version: int | None = Field(description="Number of the version that ranked; null: no version, all alike.")
    agent: str = Field(description="Agent of the version.")
    variant: str = Field(description="champion or challenger.")
    mode: str = Field(description="online, apprentice or logging_only.")
    action: int | str | None = Field(description="Id of the chosen action; null if it cannot be read.")
    actions: int = Field(description="Number of actions to choose from.")
    propensity: float = Field(description="Probability with which the action was chosen.")
    state: Literal["inactive", "waiting", "final"] = Field(description="inactive: deferred, not activated.")
    reward: float | None = Field(description="The reward; null unless it is final, or without signals and default.")


class RankOverview(BaseModel):
    """The model of ranks, the rewards of the latest ranks, and the latest ranks."""

    policy: dict[str, Any] = Field(description="Version, agent and digest of the policy that ranks now.")
    mode: str = Field(description="online, apprentice or logging_only.")
    exploration: float = Field(description="Share of ranks whose action is drawn from all alike.")
    learning: dict[str, str] | None = Field(description="Learning settings that an operator set; null: of the version.")
    summary: RewardsOfRanks = Field(description="Rewards of the latest ranks.")
    ranks: list[RecentRank] = Field(description="The latest ranks, newest first.")


class ChecklistItem(BaseModel):
    """One item of the production checklist."""

    name: str = Field(description="Name of the item.", examples=["alerts"])
    kept: bool = Field(description="True if the item is kept.")
    figure: str = Field(description="The figure of this server.")
    expected: str = Field(description="The figure that the item asks for.")
    command: str = Field(description="The command that shows the figure, or the setting that changes it.")


class Checklist(BaseModel):
    """The production checklist."""

    kept: bool = Field(description="True if all items are kept.")
    items: list[ChecklistItem] = Field(description="The items.")


class NewItemRow(BaseModel):
    """A new item: the belief about it, and its share."""

    item_id: int | str = Field(description="Id of the item.", examples=[901])
    title: str | None = Field(description="Title of the item; null if the champion lacks the item.")
    mean: float = Field(description="Expected active days of a user within the horizon.", examples=[3.4])
    lo: float = Field(description="Lower end of the 95 % interval of the expectation.", examples=[2.1])
    hi: float = Field(description="Upper end of the 95 % interval of the expectation.", examples=[4.7])
    days: int = Field(description="Days since the first list that showed the item.", examples=[3])
    traces: int = Field(description="Users who were shown the item and have an observed day.", examples=[120])
    probability: float = Field(description="Share of the lists with a new item that show this one.", examples=[0.4])


class NewItemList(BaseModel):
    """The beliefs about new items and their shares."""

    share: float = Field(description="Probability that a list shows a new item; 0: none does.", examples=[0.1])
    day: str | None = Field(description="Last day that the beliefs know, in UTC; null before the first allocation.")
    version: int | None = Field(description="Version whose new items these are.")
    horizon: int | None = Field(description="Days of a trace.", examples=[30])
    items: list[NewItemRow] = Field(description="The new items, the largest share first.")
