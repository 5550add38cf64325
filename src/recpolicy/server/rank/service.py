"""The settings of ranks and rewards in effect: those of the file, or those that an operator set over HTTP.

An operator's settings are in the database, so every process uses them; each looks for changes once a second. While the
database does not answer, the last known ones stay in effect.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sqlalchemy import Engine, delete, select

from recpolicy.core.config import build
from recpolicy.data.reward_signals import RewardConfig
from recpolicy.server.db.engine import transaction, upsert
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import rank_settings
from recpolicy.server.settings import Settings

SERVICE, RESET, REWARD, LEARNING = "service", "reset", "reward", "learning"
FOLLOW_SECONDS = 1.0


@dataclass(frozen=True)
class RankService:
    """The settings in effect."""

    mode: str
    """online, apprentice or logging_only."""
    exploration: float
    """Share of the ranks whose action is drawn from all alike."""
    reward: RewardConfig
    reset_version: int | None = None
    """The version that an operator has reset: while it is the champion, every action is as likely."""
    learning: Mapping[str, str] | None = None
    """Name and arguments of the learning settings that an operator set; None: those of the champion."""
    changed_at: int | None = None
    """Time of the operator's last change; None: the settings of the file."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Values that an operator set and nothing uses."""


class RankSettings:
    """The settings of one process, which follow the database."""

    def __init__(self, settings: Settings):
        self.of_file = RankService(settings.rank.mode, settings.rank.exploration, settings.reward)
        self.current = self.of_file

    def load(self, engine: Engine) -> None:
        """Read the operator's settings; raises SQLAlchemyError if the database does not answer."""
        with engine.connect() as connection:
            rows = connection.execute(select(rank_settings)).all()
        stored = {row.name: (json.loads(row.value), row.changed_at) for row in rows}
        service = self.of_file
        if SERVICE in stored:
            values, changed_at = stored[SERVICE]
            service = replace(
                service, mode=values["mode"], exploration=values["exploration"],
                reward=_with_changes(service.reward, values), changed_at=changed_at, other=values["other"],
            )  # fmt: skip
        if RESET in stored:
            service = replace(service, reset_version=stored[RESET][0])
        if LEARNING in stored:
            service = replace(service, learning=stored[LEARNING][0])
        self.current = service

    def remember_reward(self, engine: Engine) -> None:
        """Write the table [reward] of the file, so that an export uses what the server used."""
        plain = asdict(self.of_file.reward)
        with engine.connect() as connection:
            known = connection.scalar(select(rank_settings.c.value).where(rank_settings.c.name == REWARD))
        if known is None or json.loads(known) != json.loads(json.dumps(plain)):
            self.store(engine, REWARD, plain)

    def store(self, engine: Engine, name: str, value: Any) -> None:
        """Write one of an operator's settings and use it; None removes it."""
        with transaction(engine) as connection:
            if value is None:
                connection.execute(delete(rank_settings).where(rank_settings.c.name == name))
            else:
                insert = upsert(engine.dialect.name, rank_settings).values(
                    name=name, value=json.dumps(value), changed_at=now_ms()
                )
                new = {"value": insert.excluded.value, "changed_at": insert.excluded.changed_at}
                connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=new))
        self.load(engine)


def stored_reward(engine: Engine) -> RewardConfig:
    """Return the settings of rewards that a server used last on this database; the defaults if none has."""
    with engine.connect() as connection:
        stored = dict(connection.execute(select(rank_settings.c.name, rank_settings.c.value)).all())
    reward = build(RewardConfig, json.loads(stored[REWARD]), "[reward]") if REWARD in stored else RewardConfig()
    return _with_changes(reward, json.loads(stored[SERVICE])) if SERVICE in stored else reward


def stored_learning_settings(engine: Engine) -> Mapping[str, str] | None:
    """Return name and arguments of the learning settings that an operator set; None without any."""
    with engine.connect() as connection:
        value = connection.scalar(select(rank_settings.c.value).where(rank_settings.c.name == LEARNING))
    return None if value is None else json.loads(value)


def _with_changes(reward: RewardConfig, values: Mapping[str, Any]) -> RewardConfig:
    """Return the settings of rewards with those that an operator has set."""
    return replace(reward, **{name: values[name] for name in ("wait_seconds", "default_reward", "combine")})
