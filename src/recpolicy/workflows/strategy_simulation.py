"""Simulate a log of strategies with synthetic personalities (strategies/synthetic.py), for examples and tests.

A user has sessions of 1 to 4 rounds. The situation of a session is random; the mood may change between its rounds, but
it does not depend on the strategies. So the next state says nothing about the action, and a discount above 0 cannot
help in this world.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ConfigError
from recpolicy.core.files import atomic_directory, write_json
from recpolicy.core.seeds import generator
from recpolicy.core.types import Array
from recpolicy.data.feature_columns import action_digests, object_array
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.feature_log_files import write_feature_log
from recpolicy.data.loaders import load_ratings
from recpolicy.data.ratings import Ratings, genre_matrix
from recpolicy.data.signal_files import SIGNALS, write_signals
from recpolicy.strategies.artifact import read_strategy_policy
from recpolicy.strategies.config import ACTIONS, DIMENSIONS, SESSION, SITUATION, StrategyConfig, read_strategy_config
from recpolicy.strategies.log_rounds import strategy_actions
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.strategies.state import state_codes, state_numbers
from recpolicy.strategies.synthetic import GENRE_TRAITS, fit_of_actions, made_up_shares, reactions, synthetic_profiles
from recpolicy.strategies.training import DAY_MS
from recpolicy.workflows.artifacts import check_absent

START = 1_767_571_200_000
"""The simulated days begin on 5 January 2026, in milliseconds since 1970."""
LABEL = "synthetic personalities and reactions; no real person"
ORIGIN = "simulation.json"
_SESSIONS_PER_DAY, _LONGEST = 0.5, 4
_ROUND_MS, _MOOD_CHANGES = 300_000, 0.2


@dataclass(frozen=True)
class SimulatedStrategies:
    """Counts of a simulated log."""

    rounds: int
    users: int
    sessions: int
    signals: int
    policy: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        return {**vars(self), "label": LABEL}


def simulate_strategies(
    out: str | Path,
    config: StrategyConfig | str | Path | None = None,
    *,
    users: int = 300,
    days: int = 14,
    policy: str | Path | StrategyPolicy | None = None,
    data: str | Path | Ratings | None = None,
    first_day: int = 0,
    seed: int = 0,
) -> SimulatedStrategies:
    """Simulate users with synthetic personalities and write their log: rounds, actions and signals.

    Args:
        out: The folder to write; it must not exist.
        config: The settings or their TOML file; None takes those of the policy, or the defaults.
        users: Number of users; with `data`, at most that of the table.
        days: Simulated days.
        policy: The logging policy, or its folder; None draws strategies uniformly.
        data: A ratings table whose users' genres seed the personalities; None makes up genre shares.
        first_day: Days between the usual start and the first day, for a log that follows another one.
        seed: Seed of every random draw. The users and their personalities depend on the seed only.

    Raises:
        ArtifactError: `out` exists.
        ConfigError: A number is out of range, or the data has fewer users.
    """
    check_absent(Path(out))
    for name, number, most in (("users", users, 10**6), ("days", days, 3_650)):
        if not 1 <= number <= most:
            raise ConfigError(f"{name} is {number}; expected 1 to {most:,}")
    logger = read_strategy_policy(policy) if isinstance(policy, str | Path) else policy
    if isinstance(config, str | Path):
        config = read_strategy_config(config)
    settings = config or (StrategyConfig() if logger is None else logger.config)
    identifiers, profiles = _people(users, data, settings, seed)
    plan = _plan(users, days, first_day, settings, seed)
    rng = generator(seed, f"simulated strategies from day {first_day}")
    profile, situation = profiles[plan.user], plan.situation
    probability = np.full((len(profile), ACTIONS), 1 / ACTIONS)
    if logger is not None:
        states = state_numbers(state_codes(profile, situation, settings), settings)
        probability = logger.state_probabilities(states)
    point = rng.random((len(profile), 1)) * probability.sum(axis=1, keepdims=True)
    action = np.minimum((np.cumsum(probability, axis=1) <= point).sum(axis=1), ACTIONS - 1)
    fit = fit_of_actions(profile, situation, settings)[np.arange(len(action)), action]
    name = "uniform" if logger is None else "strategy_q_learning"
    digest = "uniform" if logger is None else logger.policy_digest
    log = _log(plan, identifiers, profile, settings, action, probability, (name, digest))
    signals = _signals(log, reactions(fit, rng), rng)
    report = SimulatedStrategies(len(log), len(set(plan.user.tolist())), plan.sessions, len(signals), name)
    with atomic_directory(Path(out)) as folder:
        write_feature_log(log, folder)
        write_signals(folder / SIGNALS, *(signals[column].tolist() for column in ("event_id", "time", "type", "value")))
        origin = {"seed": seed, "days": days, "first_day": first_day, "genre_traits": dict(GENRE_TRAITS)}
        write_json(folder / ORIGIN, {**report.as_dict(), **origin, "config": as_dict(settings)})
    return report


def _people(
    users: int, data: str | Path | Ratings | None, config: StrategyConfig, seed: int
) -> tuple[NDArray[np.object_], Array]:
    """Return ids [U] and synthetic traits [U, K]; traits that the matrix lacks are uniform."""
    rng = generator(seed, "synthetic personalities")
    if data is None:
        shares, genres = made_up_shares(users, rng)
        identifiers = object_array([f"user {number}" for number in range(users)])
    else:
        ratings = data if isinstance(data, Ratings) else load_ratings(data)
        if users > len(ratings.users):
            raise ConfigError(f"users is {users:,}; {ratings.name} has {len(ratings.users):,}")
        names, matrix = genre_matrix(ratings.items)
        counts = np.zeros((len(ratings.users), len(names)))
        np.add.at(counts, ratings.user, matrix[ratings.item])
        shares, genres = counts[:users] / np.maximum(counts[:users].sum(axis=1, keepdims=True), 1.0), names
        identifiers = object_array(ratings.users["user_id"].tolist()[:users])
    synthetic = dict(zip(StrategyConfig().profile.traits, synthetic_profiles(shares, genres, rng).T, strict=True))
    columns = [synthetic.get(name, rng.uniform(0, 100, users)) for name in config.profile.traits]
    return identifiers, np.round(np.stack(columns, axis=1), 1)


@dataclass(frozen=True)
class _Plan:
    """Users and situations of N rounds in order of time."""

    user: NDArray[np.int64]  # [N], 0..U-1
    session: NDArray[np.int64]  # [N]
    time: NDArray[np.int64]  # [N]
    situation: NDArray[np.int64]  # [N, 3]

    @property
    def sessions(self) -> int:
        return len(np.unique(self.session))


def _plan(users: int, days: int, first_day: int, config: StrategyConfig, seed: int) -> _Plan:
    rng = generator(seed, f"sessions of simulated strategies from day {first_day}")
    count = rng.poisson(_SESSIONS_PER_DAY, (users, days))
    count[0, 0] = max(count[0, 0], 1)  # a log has rounds
    owner, day = (np.repeat(part.ravel(), count.ravel()) for part in np.indices((users, days)))
    minute = rng.integers(24 * 60 - 20, size=len(owner))
    length = rng.integers(1, _LONGEST + 1, size=len(owner))
    sizes = [len(config.situation.names(part)) for part in SITUATION]
    codes = np.stack([rng.integers(size, size=len(owner)) for size in sizes], axis=1)
    if sizes[2] == 4:  # morning, afternoon, evening and night follow the clock
        codes[:, 2] = np.array([3, 0, 1, 2])[minute // (6 * 60)]
    session = np.repeat(np.arange(len(owner)), length)
    place = np.arange(len(session)) - np.repeat(np.cumsum(length) - length, length)
    start = START + (first_day + day) * DAY_MS + minute * 60_000
    time = np.repeat(start, length) + place * _ROUND_MS
    situation = np.repeat(codes, length, axis=0)
    changes = (place > 0) & (rng.random(len(place)) < _MOOD_CHANGES)
    situation[:, 1] = np.where(changes, rng.integers(sizes[1], size=len(place)), situation[:, 1])
    order = np.argsort(time, kind="stable")
    return _Plan(np.repeat(owner, length)[order], session[order], time[order], situation[order])


def _log(
    plan: _Plan, identifiers: NDArray[np.object_], profile: Array, config: StrategyConfig, action: NDArray[np.int64],
    probability: Array, policy: tuple[str, str],
) -> FeatureLog:  # fmt: skip
    rows, day = len(action), plan.time[0] // DAY_MS
    actions = strategy_actions(config)
    ids = object_array([identifier for identifier, _ in actions])
    features = {name: object_array([levels[name] for _, levels in actions]) for name in DIMENSIONS}
    context: dict[str, Any] = {name: profile[:, place] for place, name in enumerate(config.profile.traits)}
    for place, part in enumerate(SITUATION):
        context[part] = object_array(config.situation.names(part))[plan.situation[:, place]]
    context[SESSION] = object_array([f"{day}-{number}" for number in plan.session.tolist()])
    return FeatureLog(
        event_id=object_array([f"{day}-{number}" for number in range(rows)]), time=plan.time, context=context,
        action_id=ids, actions=features, action_digest=action_digests(ids, features),
        start=np.arange(rows + 1) * ACTIONS, offered=np.tile(np.arange(ACTIONS, dtype=np.int32), rows),
        chosen=action.astype(np.int32), log_propensity=np.log(probability[np.arange(rows), action]),
        reward=np.full(rows, np.nan), policy=np.full(rows, policy[0], object),
        version=np.full(rows, policy[1], object), name="simulated strategies", user=identifiers[plan.user],
    )  # fmt: skip


def _signals(log: FeatureLog, values: dict[str, Array], rng: np.random.Generator) -> pd.DataFrame:
    """Return one row per signal, some minutes after its event."""
    parts = []
    for name, column in values.items():
        rows = np.flatnonzero(~np.isnan(column))
        delay = rng.integers(60_000, _ROUND_MS, size=len(rows))
        part = {"event_id": log.event_id[rows], "time": log.time[rows] + delay, "type": name, "value": column[rows]}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)
