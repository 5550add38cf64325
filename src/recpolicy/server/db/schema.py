"""The tables of the store; migrations/ brings a database to this state, and a test compares the two.

Times are milliseconds since 1970, UTC. User and item ids are JSON texts (`196` and `"196"` differ). `seq` rises in the
order of writing and is never reused, so an export can continue after the last row that it read.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
    true,
)

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMES)

LIST, RANK, STRATEGY = "list", "rank", "strategy"
"""Tasks of events: a list of items, a rank of the caller's actions, a strategy."""
UNFILLED = "unfilled"
"""In place of a task: the slot of a rank that got no action. It has no reward and is in no log."""
ID = 32
"""Letters of an event id."""
SESSION = 64
"""Letters of the id of a session."""
IN_SESSION = "session_id IS NOT NULL"
KEY = 1300
"""Letters of a user or item id as JSON: 200 characters, each escaped at worst."""
SEQUENCE = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only under this name

events = Table(
    "events", metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("id", String(ID), nullable=False, unique=True),
    Column("time", BigInteger, nullable=False),
    Column("user_key", String(KEY), nullable=False),
    Column("version", Integer, nullable=False, doc="number of the version that chose the list the list"),
    Column("policy_digest", String(64), nullable=False, doc="digest of the learned policy"),
    Column("agent", String(64), nullable=False),
    Column("variant", String(16), nullable=False, doc="champion or challenger"),
    Column("rollout", Integer, nullable=True, doc="the running rollout"),
    Column("explored", Boolean, nullable=False),
    Column("item_ids", Text, nullable=False, doc="JSON list of item ids, best first"),
    Column("propensities", Text, nullable=False, doc="JSON list of float64, each given the items before it"),
    Column("ratings", Text, nullable=False, doc="JSON list of predicted ratings"),
    Column("allowed", LargeBinary, nullable=True, doc="packed bits over the version's catalog; null: all"),
    Column("context", LargeBinary, nullable=True, doc="float32 vector of a user whom the version does not know"),
    Column("history", LargeBinary, nullable=True, doc="packed session (session_history.py); null: no session policy"),
    Column("guardrails", LargeBinary, nullable=True, doc="packed guardrails (guardrail_record.py); null: none"),
    Column("session_id", String(SESSION), nullable=True, doc="session of the request; null: none"),
    Column("step", Integer, nullable=True, doc="items shown before; without a session: of a history that fits none"),
    Column("weights", Text, nullable=True, doc="JSON: weights of a ranking formula that ranked the list; null: none"),
    Index(None, "time"),
    Index(None, "session_id", "seq", sqlite_where=text(IN_SESSION), postgresql_where=text(IN_SESSION)),
    Index(None, "user_key", "seq", sqlite_where=text(IN_SESSION), postgresql_where=text(IN_SESSION)),
    sqlite_autoincrement=True,
)  # fmt: skip

feedback = Table(
    "feedback", metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("event_id", String(ID), ForeignKey("events.id"), nullable=False),
    Column("position", Integer, nullable=False, doc="0 is the first item of the event"),
    Column("type", String(16), nullable=False),
    Column("value", Float(53), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("late", Boolean, nullable=False),
    UniqueConstraint("event_id", "position", "type", name="uq_feedback_event_id_position_kind"),
    sqlite_autoincrement=True,
)  # fmt: skip

rewards = Table(
    "rewards", metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("event_id", String(ID), ForeignKey("events.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("reward", Float(53), nullable=False, doc="on the scale of the ratings"),
    Column("time", BigInteger, nullable=False),
    Column("user_key", String(KEY), nullable=False),
    Column("version", Integer, nullable=False),
    Column("variant", String(16), nullable=False),
    Column("rollout", Integer, nullable=True),
    Column("explored", Boolean, nullable=False),
    Column("online", Boolean, nullable=False, server_default=true(), doc="false: online learning leaves it out"),
    UniqueConstraint("event_id", "position"),
    Index(None, "rollout", "variant"),
    Index(None, "time"),
    sqlite_autoincrement=True,
)  # fmt: skip

user_ratings = Table(
    "user_ratings", metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("user_key", String(KEY), nullable=False),
    Column("item", String(KEY), nullable=False, doc="item id, JSON"),
    Column("rating", Float(53), nullable=False, doc="on the scale of the ratings; the latest one of an item counts"),
    Column("time", BigInteger, nullable=False),
    Index(None, "user_key", "seq"),
    Index(None, "time"),
    sqlite_autoincrement=True,
)  # fmt: skip
"""Ratings that move the posterior of their user; written only while the setting [users] is learn."""

IN_ROLLOUT = "rollout IS NOT NULL"
EVENT_NAME = 256
"""Letters of the id of a ranked event, a slot or a signal, which callers may choose."""
rank_events = Table(
    "rank_events", metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("id", String(EVENT_NAME), nullable=False, doc="id of the caller, or 32 hexadecimal digits"),
    Column("slot", Integer, nullable=False, doc="0 is the first, or the only one"),
    Column("slot_id", String(EVENT_NAME), nullable=True, doc="id of the slot; null: the event has no slots"),
    Column("time", BigInteger, nullable=False),
    Column("user_key", String(KEY), nullable=True, doc="null: the request named no user"),
    Column("version", Integer, nullable=False, doc="0: no version, every action is as likely"),
    Column("policy_digest", String(64), nullable=False),
    Column("agent", String(64), nullable=False),
    Column("mode", String(16), nullable=False, doc="online, apprentice or logging_only"),
    Column("context", Text, nullable=False, doc="JSON object of the context and of the slot"),
    Column("offers", LargeBinary, nullable=False, doc="digests of the actions that were not excluded, 16 bytes each"),
    Column("probabilities", LargeBinary, nullable=False, doc="float64 of each offer, to be first"),
    Column("ranking", LargeBinary, nullable=False, doc="uint16 positions among the offers, best first"),
    Column("imitated", Boolean, nullable=True, doc="the policy agrees with the baseline; null: mode online"),
    Column("request_digest", String(32), nullable=False, doc="digest of what the caller sent"),
    Column("online", Boolean, nullable=False, doc="false: ranked without a key, online learning leaves it out"),
    Column("activated_at", BigInteger, nullable=True, doc="null: deferred until the caller activates the event"),
    Column("variant", String(16), nullable=False, server_default="champion", doc="champion or challenger"),
    Column("rollout", Integer, nullable=True, doc="the running rollout"),
    Column("task", String(16), nullable=True, doc="strategy; unfilled: a slot without an action; null: a rank"),
    Column("guardrails", LargeBinary, nullable=True, doc="packed guardrails (guardrail_record.py); null: none"),
    UniqueConstraint("id", "slot"),
    Index(None, "time"),
    Index(None, "rollout", sqlite_where=text(IN_ROLLOUT), postgresql_where=text(IN_ROLLOUT)),
    sqlite_autoincrement=True,
)  # fmt: skip

action_rows = Table(
    "action_rows", metadata,
    Column("digest", LargeBinary(16), primary_key=True, doc="digest of the row, which is stored once"),
    Column("row", Text, nullable=False, doc='JSON: {"id": ..., "features": {...}}'),
    Column("last_used", BigInteger, nullable=False, doc="time of an event that offered it, at most an hour old then"),
    Index(None, "last_used"),
)  # fmt: skip

rank_signals = Table(
    "rank_signals", metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("event_id", String(EVENT_NAME), nullable=False),
    Column("slot", Integer, nullable=False),
    Column("signal_id", String(EVENT_NAME), nullable=True, doc="sent twice, it counts once; null: each one counts"),
    Column("type", String(64), nullable=False),
    Column("value", Float(53), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("late", Boolean, nullable=False, doc="after the window of the rewards"),
    Column("online", Boolean, nullable=False, doc="false: online learning leaves it out"),
    ForeignKeyConstraint(["event_id", "slot"], ["rank_events.id", "rank_events.slot"]),
    UniqueConstraint("event_id", "slot", "signal_id"),
    sqlite_autoincrement=True,
)  # fmt: skip

rank_settings = Table(
    "rank_settings", metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False, doc="JSON"),
    Column("changed_at", BigInteger, nullable=False),
)  # fmt: skip

rank_evaluations = Table(
    "rank_evaluations", metadata,
    Column("kind", String(16), primary_key=True, doc="evaluation or importance"),
    Column("id", String(EVENT_NAME), primary_key=True),
    Column("name", String(EVENT_NAME), nullable=False),
    Column("start_time", BigInteger, nullable=False),
    Column("end_time", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("status", String(16), nullable=False, doc="Running, Succeeded or Failed"),
    Column("result", Text, nullable=True, doc="JSON; null while it runs"),
)  # fmt: skip

strategy_profiles = Table(
    "strategy_profiles", metadata,
    Column("user_key", String(KEY), primary_key=True),
    Column("profile", Text, nullable=False, doc="JSON object of the traits, 0 to 100; stored with the user's consent"),
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
)  # fmt: skip

versions = Table(
    "versions", metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False),
    Column("policy_digest", String(64), nullable=False),
    Column("agent", String(64), nullable=False),
    Column("registered_at", String(32), nullable=False),
    Column("lineage", Text, nullable=False, doc="JSON"),
    Column("gate", Text, nullable=True, doc="JSON"),
)  # fmt: skip

RUNNING = "state = 'running'"
rollouts = Table(
    "rollouts", metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("champion", Integer, nullable=False),
    Column("challenger", Integer, nullable=False),
    Column("state", String(16), nullable=False, doc="running, promoted, rolled_back or stopped"),
    Column("stage", Integer, nullable=False, doc="position in the plan, 0 is the first"),
    Column("plan", Text, nullable=False, doc="JSON: traffic fractions and requirements of the stages"),
    Column("started_at", BigInteger, nullable=False),
    Column("stage_at", BigInteger, nullable=False, doc="start of this stage; 0: it is not in the registry yet"),
    Column("ended_at", BigInteger, nullable=True, doc="null while it runs, or its end is not in the registry yet"),
    Column("reason", Text, nullable=True),
    Index(None, "state", unique=True, sqlite_where=text(RUNNING), postgresql_where=text(RUNNING)),  # one at a time
)  # fmt: skip

variant_health = Table(
    "variant_health", metadata,
    Column("rollout", Integer, primary_key=True, autoincrement=False),
    Column("variant", String(16), primary_key=True),
    Column("worker", String(64), primary_key=True, doc="the process that counted"),
    Column("minute", BigInteger, primary_key=True, autoincrement=False, doc="minutes since 1970"),
    Column("requests", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("slow", Integer, nullable=False, doc="answers that took longer than the setting slow_ms"),
    Column("seconds", Float(53), nullable=False, doc="total time to choose"),
    Column("agreement", Float(53), nullable=False, doc="shadow: sum of the fractions of the list that both have"),
    Column("rating_difference", Float(53), nullable=False, doc="shadow: sum of the differences of predicted ratings"),
    Column("dropped", Integer, nullable=False, doc="shadow: not compared because too many waited"),
)  # fmt: skip

jobs = Table(
    "jobs", metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(64), nullable=False),
    Column("status", String(16), nullable=False, doc="running, done, failed, skipped or lost"),
    Column("due_at", BigInteger, nullable=True, doc="scheduled time; null: an operator started it"),
    Column("executed_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=True),
    Column("heartbeat", BigInteger, nullable=False),
    Column("worker", String(128), nullable=False),
    Column("users", Integer, nullable=True, doc="users processed"),
    Column("records", Integer, nullable=True, doc="records processed"),
    Column("metadata", Text, nullable=False, doc="JSON: statistics of a training, metrics of a check, an error"),
    UniqueConstraint("name", "due_at"),
    Index(None, "executed_at"),
)  # fmt: skip

schedules = Table(
    "schedules", metadata,
    Column("name", String(64), primary_key=True),
    Column("cron", String(64), nullable=False),
    Column("next_at", BigInteger, nullable=False),
)  # fmt: skip

api_keys = Table(
    "api_keys", metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False, doc="client, reader or operator"),
    Column("hash", String(64), nullable=False, unique=True, doc="SHA-256 of the key"),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger, nullable=True),
)  # fmt: skip

audit = Table(
    "audit", metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("time", BigInteger, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("detail", Text, nullable=False, doc="JSON"),
    sqlite_autoincrement=True,
)  # fmt: skip
