"""All settings of a server: a TOML file with one table per component.

The annotations hold the constraints; core/config.py turns a violation into a ConfigError with file, table and key.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import field, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from recpolicy.core.config import (
    Bytes,
    Count,
    CountOrZero,
    Fraction,
    NonNegativeNumber,
    OpenFraction,
    PositiveNumber,
    build,
    config_dataclass,
    read_toml,
    reject_unknown_tables,
)
from recpolicy.core.errors import ConfigError
from recpolicy.data.reward_signals import RewardConfig
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.inference.weight_exploration import TuningConfig
from recpolicy.server.db.feedback import REWARD_TYPES
from recpolicy.server.job_settings import DriftConfig, JobsConfig, RolloutConfig

__all__ = [
    "ALERT_URL",
    "MIB",
    "AlertsConfig",
    "CandidatesConfig",
    "ChecklistConfig",
    "ConsoleConfig",
    "DriftConfig",
    "FeedbackConfig",
    "JobsConfig",
    "LimitsConfig",
    "NewItemsConfig",
    "OnlineConfig",
    "PredictionConfig",
    "RankConfig",
    "RolloutConfig",
    "SessionsConfig",
    "Settings",
    "StoreConfig",
    "StrategiesConfig",
    "UsersConfig",
    "check_webhook_url",
    "read_settings",
]

MIB = 1 << 20
ALERT_URL = "RECPOLICY_ALERT_URL"
_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")


@config_dataclass
class FeedbackConfig:
    """The rules that turn feedback into rewards."""

    window_days: Annotated[float, Field(gt=0, le=365)] = 7.0
    """Feedback on events older than this gives no reward."""
    metrics: tuple[Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[A-Za-z0-9_.-]+$")], ...] = ()
    """Further types of feedback with a number, such as revenue: they are stored, counted and compared in rollouts, and
    set no reward."""

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name in REWARD_TYPES:
                raise ConfigError(f"metrics: {name} sets a reward, so it is no metric; expected other names")


@config_dataclass
class StoreConfig:
    """The retention of the store."""

    keep_days: Annotated[float, Field(ge=0, le=36_500)] = 0.0
    """Days after which the job `delete_old_events` deletes an event, its feedback and its rewards; 0: never. At least
    `[feedback] window_days`."""


@config_dataclass
class LimitsConfig:
    """The bounds of one server process."""

    body_bytes: Bytes = MIB
    """Largest body of a request; 100 users with some hundred ratings each fit."""
    header_bytes: Bytes = MIB >> 4
    """Largest request line and headers that arrive in several pieces (a single piece has at most 256 KiB)."""
    import_bytes: Bytes = 256 * MIB
    """Largest archive of an imported version."""
    rate: NonNegativeNumber = 200.0
    """Requests per second of one key, or of one address without a key; 0: no limit. A request costs as much as 100 rows
    of answer; each part of a batch counts as at least 10 rows."""
    burst: Count = 400
    """Requests that may arrive at once after a pause."""
    in_flight: Count = 256
    """Requests that are processed at once. Callers with a key may use a quarter more, and the admin routes half."""
    receiving: Count = 1024
    """Requests whose bodies are still arriving; the same holds for callers with a key and the admin routes."""
    receiving_per_client: Count = 256
    """Requests of one key, or of one address without a key, whose bodies are still arriving."""
    connections_per_client: CountOrZero = 4096
    """Open connections of one address that is no trusted proxy; 0: no limit."""
    answer_rows: Count = 20_000
    """Largest answer: users times items, or all positions of the lists of a batch."""
    large_answers: Annotated[int, Field(ge=1, le=1000)] = 4
    """Answers of more than 1,000 rows that are computed at once; others wait."""
    unsent_bytes: Bytes = 64 * MIB
    """Bytes of large answers that wait for their clients; a quarter of them for one client."""
    seconds: PositiveNumber = 10.0
    """Time for the headers; then for the body and the start of the response; then twice as long for the client to
    receive the response."""
    require_key: bool = False
    """Predictions, recommendations and feedback need a key of any role, as administration always does."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies whose X-Forwarded-For names the client; empty: the header is ignored."""
    allowed_hosts: tuple[str, ...] = ()
    """Names in the Host header that are answered: "shop.example", "*.shop.example" or "*" (any). Empty: the names of
    loopback if the server listens on loopback, otherwise any."""

    def __post_init__(self) -> None:
        for network in self.trusted_proxies:
            try:
                ip_network(network)
            except ValueError as error:
                raise ConfigError(
                    f"trusted_proxies: {error}; expected addresses or networks, such as 10.0.0.7 or 10.0.0.0/8"
                ) from None
        for host in self.allowed_hosts:
            if not _HOST.fullmatch(host):
                raise ConfigError(
                    f"allowed_hosts: {host!r} is not a host name; expected names without a port, such as shop.example,"
                    ' "*.shop.example" or "*"'
                )


@config_dataclass
class OnlineConfig:
    """Learning while serving."""

    enabled: bool = True
    """The champion learns from feedback if its agent can (linucb, lints)."""
    seconds: Annotated[float, Field(gt=0, le=3600)] = 2.0
    """Interval between two updates."""
    grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 1.0
    """Age at which a reward is used; on PostgreSQL an earlier one may still be uncommitted before. An event with
    features is learned this long after its window."""
    keyless_per_hour: CountOrZero = 0
    """Rewards an hour of one address, and of one item, that are learned although their feedback came without a key; 0:
    the champion learns only from feedback with a key."""


@config_dataclass
class AlertsConfig:
    """The receiver of alerts."""

    url: str = field(default="", repr=False)
    """http or https; RECPOLICY_ALERT_URL takes precedence. Empty: alerts only go to the log."""

    def __post_init__(self) -> None:
        check_webhook_url(self.url, "url")

    def webhook(self) -> str:
        """Return the URL that receives alerts, or an empty text; raises ConfigError for a URL that is not http."""
        url = os.environ.get(ALERT_URL)
        return self.url if url is None else check_webhook_url(url.strip(), ALERT_URL)


def check_webhook_url(url: str, where: str) -> str:
    """Return the URL; raises ConfigError that does not repeat it, because it may contain a secret."""
    try:
        parts = urlsplit(url)
        valid = not url or (parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc)
    except ValueError:
        valid = False
    if not valid or not url.isprintable() or " " in url:
        raise ConfigError(f"{where} is not a URL for alerts; expected http://HOST/... or https://HOST/...")
    return url


@config_dataclass
class UsersConfig:
    """Users whom the serving version does not know, and learning of the single user."""

    mode: Literal["off", "prior", "learn"] = "prior"
    """off: an unknown user is an error. prior: an unknown user gets the answers of the population's prior. learn: each
    user's own feedback also moves the user's posterior, of known users, too."""
    signals: Annotated[
        tuple[Literal["rating", "like", "skip", "complete", "share", "watch_fraction"], ...], Field(min_length=1)
    ] = ("rating",)
    """Types of feedback that move the posterior, each by the reward that it would set."""
    cache_mib: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Memory of a process for the posteriors of the latest users, in MiB: 20,000 users of 20 directions. Others are
    computed from their ratings again."""


@config_dataclass
class CandidatesConfig:
    """Candidates, then ranking: for large catalogs."""

    size: CountOrZero = 0
    """Items that a list is ranked from, those of the highest expected rating by embeddings that the request allows, and
    at least as many as the list has; 0: all items."""


@config_dataclass
class NewItemsConfig:
    """New items, which a daily job allocates to a share of the lists by their delayed outcomes."""

    share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Probability that a list shows a new item; 0: new items compete with all others."""
    prior: str | None = None
    """File that `recpolicy coldstart fit` wrote; its horizon is that of the beliefs."""
    place: Annotated[int, Field(ge=0, le=100)] = 0
    """Place of the new item in the list, from 1; 0: the last one. Under guardrails it is the last one."""
    days: CountOrZero = 0
    """Days after its first list during which an added item is new; 0: as many as the horizon."""
    activity: Literal["any", "item"] = "any"
    """A user is active on a day with any list or feedback (any), or with feedback on the item (item)."""
    uniform_mix: Fraction = 0.1
    """Share of uniform choices among the new items."""

    def __post_init__(self) -> None:
        if self.share > 0 and self.prior is None:
            raise ConfigError(
                "share is above 0 and prior is missing; expected the file that `recpolicy coldstart fit` wrote"
            )


@config_dataclass
class SessionsConfig:
    """Sessions of users."""

    gap_minutes: Annotated[float, Field(gt=0, le=1440)] = 30.0
    """A request without a session id continues the user's latest session if that had a request in these minutes."""


@config_dataclass
class ConsoleConfig:
    """The wording of the console."""

    item_label: Annotated[str, Field(min_length=1, max_length=30, pattern=r"^[\w -]+$")] = "item"
    """The noun for one item on the pages, such as "movie"; the plural adds an s."""
    list_users: bool = False
    """Suggest user ids to callers without a key, unless the ids are texts, which may be names."""


@config_dataclass
class PredictionConfig:
    """The routes for prediction servers."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] = "recpolicy"
    """Name of the model in the routes of KServe: that of the InferenceService."""


@config_dataclass
class RankConfig:
    """Ranks of actions with features."""

    start_uniform: bool = False
    """A registry without a champion serves ranks: every action is equally likely until a version is promoted."""
    mode: Literal["online", "apprentice", "logging_only"] = "online"
    """online: the policy chooses. apprentice and logging_only: the first action is chosen, and the server reports how
    often the policy agrees (apprentice)."""
    exploration: Fraction = 0.0
    """Share of the ranks whose action is drawn from all alike, in addition to the exploration of the policy."""


@config_dataclass
class StrategiesConfig:
    """The strategy engine."""

    enabled: bool = False
    """Serve strategies and train them every week. Profiles are sensitive, so an operator must decide it."""
    config: str | None = None
    """TOML file of the engine (configs/strategies.toml); null: the defaults."""
    days_back: Annotated[float, Field(gt=0, le=365)] = 7.0
    """Days of events that the weekly training reads; it leaves out those that it has learned."""
    min_interactions_per_user: Count = 5
    """Events of the window that a user needs to be included in the training."""
    min_interactions: Count = 100
    """New events of such users that a training needs."""
    test_days: Annotated[float, Field(gt=0, le=365)] = 3.0
    """Days that the daily evaluation covers."""


@config_dataclass
class ChecklistConfig:
    """The limits of the production checklist; the floor of the mean reward is that of [drift]."""

    min_interactions: Count = 1_000
    """Interactions with a reward that a deployment needs."""
    days: Annotated[float, Field(gt=0, le=365)] = 7.0
    """Days up to now over which the mean reward and the exploration are measured."""
    max_exploration: OpenFraction = 0.2
    """Largest share of exploration in production."""


@config_dataclass
class Settings:
    """The settings of a server."""

    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    guardrails: GuardrailConfig = field(default_factory=GuardrailConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    jobs: JobsConfig = field(default_factory=JobsConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    users: UsersConfig = field(default_factory=UsersConfig)
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)
    new_items: NewItemsConfig = field(default_factory=NewItemsConfig)
    sessions: SessionsConfig = field(default_factory=SessionsConfig)
    console: ConsoleConfig = field(default_factory=ConsoleConfig)
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    checklist: ChecklistConfig = field(default_factory=ChecklistConfig)
    strategies: StrategiesConfig = field(default_factory=StrategiesConfig)

    def __post_init__(self) -> None:
        if 0 < self.store.keep_days < self.feedback.window_days:
            raise ConfigError(
                f"[store] keep_days is {self.store.keep_days:g} and [feedback] window_days is"
                f" {self.feedback.window_days:g}; expected keep_days of at least window_days, or 0 to keep all events"
            )


def read_settings(path: Path | None) -> Settings:
    """Return the settings of a TOML file with defaults for missing keys; raises ConfigError with file and key."""
    if path is None:
        return Settings()
    types: Mapping[str, Any] = {setting.name: setting.type for setting in fields(Settings)}
    tables = read_toml(path)
    reject_unknown_tables(tables, tuple(types), str(path))
    return Settings(**{name: build(types[name], table, f"{path}: [{name}]") for name, table in tables.items()})
