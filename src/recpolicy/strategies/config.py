"""The settings of the strategy engine: profile, situation, strategies, rewards and learning, from one TOML file.

    [profile]          traits and their bins
    [situation]        content types, moods and times of day
    [energy.low]       the parameters of a level; also [diversity.*] and [novelty.*], three levels each
    [limits]           lowest and highest value of a parameter
    [static]           the strategy for requests of which nothing is known
    [reward]           weights of signals (data/reward_signals.py)
    [learning]         step size, discount, exploration, estimator

An action is the number 9 e + 3 d + n of the positions of the levels. configs/strategies.toml shows every setting.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from recpolicy.core.config import (
    Count,
    Fraction,
    NonNegativeNumber,
    Number,
    PositiveFraction,
    PositiveNumber,
    as_dict,
    build,
    config_dataclass,
    read_toml,
    reject_unknown_tables,
)
from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.files import content_digest
from recpolicy.data.reward_signals import RewardConfig

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Names = Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)]
Parameter = Annotated[int, Field(ge=-(10**6), le=10**6)] | Number
Dimension = Annotated[Mapping[Name, Mapping[Name, Parameter]], Field(min_length=3, max_length=3)]
"""The three levels of a dimension, in order, with the parameters of each."""

TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
TRAIT_RANGE = (0.0, 100.0)
"""Lowest and highest value of a trait."""
SITUATION = ("content_type", "mood", "time_of_day")
DIMENSIONS = ("energy", "diversity", "novelty")
LEVELS, ACTIONS = 3, 27
OTHER = "other"
"""Name of every unknown content type, mood or time of day, if the config allows it."""
SESSION = "session"
"""Optional context feature of a log: the id of the session."""
TABLES = ("profile", "situation", *DIMENSIONS, "limits", "static", "reward", "learning")
_MAX_STATES = 2**53
"""Most possible states; JSON and 64-bit numbers hold the number of each."""

_ENERGY = {
    "low": {"min_energy": 0.0, "max_energy": 0.4},
    "medium": {"min_energy": 0.3, "max_energy": 0.7},
    "high": {"min_energy": 0.6, "max_energy": 1.0},
}
_DIVERSITY = {"focused": {"genre_count": 2}, "balanced": {"genre_count": 4}, "diverse": {"genre_count": 8}}
_NOVELTY = {
    "familiar": {"exploration_rate": 0.1, "min_popularity": 0.6, "max_popularity": 1.0},
    "mixed": {"exploration_rate": 0.3, "min_popularity": 0.3, "max_popularity": 0.9},
    "exploratory": {"exploration_rate": 0.6, "min_popularity": 0.0, "max_popularity": 0.6},
}
_LIMITS = {
    "min_energy": (0.0, 1.0), "max_energy": (0.0, 1.0), "genre_count": (1.0, 20.0), "exploration_rate": (0.0, 1.0),
    "min_popularity": (0.0, 1.0), "max_popularity": (0.0, 1.0),
}  # fmt: skip
_STATIC = {"energy": "medium", "diversity": "balanced", "novelty": "mixed"}
_REWARD = {
    "weights": {
        "like": 1.0, "dislike": -1.0, "complete": 0.5, "skip": -0.3, "share": 0.8, "watch_fraction": 0.5,
        "mood_change": 1.0,
    },
    "ranges": {"mood_change": (-0.5, 0.5)},
    "min_reward": -1.8,
    "max_reward": 3.3,
}  # fmt: skip
"""Weights of document 001; the range is that of the sums: all negative signals, and all positive ones."""


@config_dataclass
class ProfileConfig:
    """The table [profile]."""

    traits: Annotated[tuple[Name, ...], Field(min_length=1, max_length=10)] = TRAITS
    """Names of the traits; each is a number in 0..100."""
    bins: Annotated[int, Field(ge=1, le=20)] = 5
    """Equal bins of each trait."""


@config_dataclass
class SituationConfig:
    """The table [situation]."""

    content_type: Names = ("music", "video", "game")
    """Known content types."""
    mood: Names = ("happy", "sad", "calm", "energetic", "stressed", "neutral")
    """Known moods."""
    time_of_day: Names = ("morning", "afternoon", "evening", "night")
    """Known times of day."""
    allow_other: bool = False
    """Count unknown names as "other"; False rejects them."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a name that occurs twice."""
        for part in SITUATION:
            _check_distinct(part, getattr(self, part))

    def names(self, part: str) -> tuple[str, ...]:
        """Return the names of a part, one of SITUATION, in the order of their codes."""
        known: tuple[str, ...] = getattr(self, part)
        return (*known, OTHER) if self.allow_other and OTHER not in known else known


@config_dataclass
class LearningConfig:
    """The table [learning]."""

    learning_rate: PositiveFraction = 0.1
    """Step size alpha of the Q-table, in (0, 1]."""
    step: Literal["constant", "average"] = "constant"
    """constant: every step is `learning_rate`; average: the n-th step of a cell is 1 / n."""
    gamma: Fraction = 0.95
    """Discount of the next state's value inside a session; a round without a next state in its session has none."""
    exploration: Literal["epsilon_greedy", "ucb1"] = "epsilon_greedy"
    """Exploration method."""
    exploration_initial_eps: Fraction = 0.3
    """Share of uniform actions before the first session."""
    exploration_final_eps: Fraction = 0.05
    """Smallest share of uniform actions; with UCB1 the share throughout."""
    exploration_decay: PositiveFraction = 0.995
    """Factor on the share of uniform actions after each block of learned sessions."""
    exploration_block: Count = 100
    """Sessions of a block; a request without a session counts as one."""
    ucb_c: NonNegativeNumber = math.sqrt(2.0)
    """Constant c of UCB1: value + c sqrt(ln N / n)."""
    estimator: Literal["table", "factored", "shrunk"] = "shrunk"
    """Values of cells: the table, the factored model, or the table shrunk to the factored model."""
    factors: Literal["action", "level"] = "level"
    """Parts of the factored model: each trait and situation with the action, or with each level."""
    ridge: PositiveNumber | Literal["auto"] = "auto"
    """Penalty of the factored model, in rounds, above 0; auto chooses it by generalized cross-validation."""
    prior_rounds: PositiveNumber = 10.0
    """Weight of the factored value in a shrunk one, in rounds; must be > 0."""
    min_visits: Count = 10
    """Rounds that an estimate must rest on; with fewer, the next one of the chain answers."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a schedule that rises."""
        if self.exploration_final_eps > self.exploration_initial_eps:
            raise ConfigError(
                f"exploration_final_eps is {self.exploration_final_eps:g}: expected at most exploration_initial_eps,"
                f" {self.exploration_initial_eps:g}"
            )


@config_dataclass
class StrategyConfig:
    """All settings of the strategy engine."""

    profile: ProfileConfig = Field(default_factory=ProfileConfig)
    """Traits."""
    situation: SituationConfig = Field(default_factory=SituationConfig)
    """Content types, moods and times of day."""
    energy: Dimension = Field(default_factory=lambda: dict(_ENERGY))
    """Levels of energy and their parameters."""
    diversity: Dimension = Field(default_factory=lambda: dict(_DIVERSITY))
    """Levels of diversity and their parameters."""
    novelty: Dimension = Field(default_factory=lambda: dict(_NOVELTY))
    """Levels of novelty and their parameters."""
    limits: Mapping[Name, tuple[Number, Number]] = Field(default_factory=lambda: dict(_LIMITS))
    """Lowest and highest value of parameters; values beyond are clipped."""
    static: Mapping[str, Name] = Field(default_factory=lambda: dict(_STATIC))
    """The level of each dimension for requests of which nothing is known."""
    reward: RewardConfig = Field(default_factory=lambda: build(RewardConfig, _REWARD, "reward"))
    """Weights of signals."""
    learning: LearningConfig = Field(default_factory=LearningConfig)
    """Settings of learning and exploration."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that contradict each other."""
        _check_distinct("profile.traits", self.profile.traits)
        reserved = {*SITUATION, SESSION} & {*self.profile.traits}
        if reserved:
            raise ConfigError(f"profile.traits: {min(reserved)!r} is a name of the situation; choose another")
        names: dict[str, str] = {}
        for dimension in DIMENSIONS:
            for level in getattr(self, dimension).values():
                for parameter in level:
                    if names.setdefault(parameter, dimension) != dimension:
                        raise ConfigError(f"{dimension}: the parameter {parameter!r} is also one of {names[parameter]}")
        for parameter, (low, high) in self.limits.items():
            if low >= high:
                raise ConfigError(
                    f"limits.{parameter} is [{low:g}, {high:g}]; expected the lowest, then a higher value"
                )
        for dimension, level in self.static.items():
            if dimension not in DIMENSIONS:
                raise ConfigError(f"static: {unknown_name_error('dimension', dimension, DIMENSIONS)}")
            if level not in self.levels[dimension]:
                raise ConfigError(
                    f"static: {unknown_name_error(f'level of {dimension}', level, self.levels[dimension])}"
                )
        if missing := [dimension for dimension in DIMENSIONS if dimension not in self.static]:
            raise ConfigError(f"static: {missing[0]} is missing; expected a level for each of {', '.join(DIMENSIONS)}")
        if self.states > _MAX_STATES:
            raise ConfigError(f"{self.states:,} states; expected at most {_MAX_STATES:,}: use fewer bins or names")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values of each part of a state: bins of the traits, then names of the situation."""
        return (
            *(self.profile.bins for _ in self.profile.traits),
            *(len(self.situation.names(part)) for part in SITUATION),
        )

    @property
    def states(self) -> int:
        """Number of possible states."""
        return math.prod(self.sizes)

    @property
    def levels(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the levels of each dimension, in order."""
        return {dimension: tuple(getattr(self, dimension)) for dimension in DIMENSIONS}

    @cached_property
    def strategies(self) -> tuple[Mapping[str, str], ...]:
        """The level of each dimension for the actions 0..26."""
        levels = self.levels
        return tuple(
            {"energy": energy, "diversity": diversity, "novelty": novelty}
            for energy in levels["energy"] for diversity in levels["diversity"] for novelty in levels["novelty"]
        )  # fmt: skip

    @cached_property
    def parameters(self) -> tuple[Mapping[str, float | int], ...]:
        """The parameters of the actions 0..26, clipped to their limits."""
        return tuple(
            {
                parameter: self._clipped(parameter, value)
                for dimension, level in strategy.items()
                for parameter, value in getattr(self, dimension)[level].items()
            }
            for strategy in self.strategies
        )

    def _clipped(self, parameter: str, value: float) -> float | int:
        low, high = self.limits.get(parameter, (-math.inf, math.inf))
        return value if low <= value <= high else type(value)(min(max(value, low), high))

    def action_of(self, strategy: Mapping[str, str]) -> int:
        """Return the number of a strategy; raise ConfigError for levels that are missing or unknown."""
        action = 0
        for dimension in DIMENSIONS:
            if dimension not in strategy:
                raise ConfigError(f"{dimension} is missing; expected a level for each of {', '.join(DIMENSIONS)}")
            if strategy[dimension] not in self.levels[dimension]:
                raise unknown_name_error(f"level of {dimension}", strategy[dimension], self.levels[dimension])
            action = LEVELS * action + self.levels[dimension].index(strategy[dimension])
        return action

    @property
    def static_action(self) -> int:
        """The action for requests of which nothing is known."""
        return self.action_of(self.static)

    @property
    def schema(self) -> dict[str, Any]:
        """The names that give a Q-table its meaning: those of states and actions."""
        return {
            "traits": list(self.profile.traits), "bins": self.profile.bins,
            "situation": {part: list(self.situation.names(part)) for part in SITUATION},
            "levels": {dimension: list(names) for dimension, names in self.levels.items()},
        }  # fmt: skip

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all settings."""
        return content_digest(as_dict(self))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, which `from_dict` reads."""
        plain: dict[str, Any] = as_dict(self)
        for dimension in DIMENSIONS:  # JSON files sort keys, and the order of levels counts
            plain[dimension] = [{"level": level, **parameters} for level, parameters in plain[dimension].items()]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], where: str = "config") -> "StrategyConfig":
        """Return the config that `as_dict` described; raise ConfigError for anything else."""
        settings = dict(plain)
        for dimension in DIMENSIONS:
            levels = settings.get(dimension)
            if not isinstance(levels, list) or not all(
                isinstance(level, Mapping) and "level" in level for level in levels
            ):
                raise ConfigError(f"{where}: {dimension}: expected a list of levels with their parameters")
            settings[dimension] = {
                level["level"]: {name: value for name, value in level.items() if name != "level"} for level in levels
            }
        return build(cls, settings, where)


def read_strategy_config(path: str | Path | None = None) -> StrategyConfig:
    """Return the settings in a TOML file; tables and settings that it lacks have their defaults.

    Args:
        path: The file, such as configs/strategies.toml; None gives the defaults.

    Raises:
        ConfigError: The file is missing or wrong; names the table and the setting.
    """
    if path is None:
        return StrategyConfig()
    tables = read_toml(Path(path))
    reject_unknown_tables(tables, TABLES, str(path))
    return strategy_config(tables, str(path))


def strategy_config(tables: Mapping[str, Any], where: str = "config") -> StrategyConfig:
    """Return the settings of tables; the table [reward] keeps the defaults of settings that it lacks."""
    settings = dict(tables)
    if isinstance(settings.get("reward"), Mapping):
        given = settings["reward"]
        settings["reward"] = given if "weights" in given else {**_REWARD, **given}
    return build(StrategyConfig, settings, where)


def same_schema(first: StrategyConfig, second: StrategyConfig) -> bool:
    """Return True if two configs number states and actions alike."""
    return first.schema == second.schema


def schema_difference(expected: StrategyConfig, other: StrategyConfig) -> str:
    """Return one line about the first difference of two schemas; an empty text if there is none."""
    ours, theirs = _flat(expected.schema), _flat(other.schema)
    for name, value in ours.items():
        if theirs[name] != value:
            return f"{name} is {_shown(theirs[name])}; expected {_shown(value)}"
    return ""


def _flat(schema: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in schema.items():
        flat.update(value if isinstance(value, Mapping) else {name: value})
    return flat


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _check_distinct(what: str, names: tuple[str, ...]) -> None:
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ConfigError(f"{what}: {twice!r} occurs twice")


def with_learning(config: StrategyConfig, **settings: Any) -> StrategyConfig:
    """Return the config with other settings of learning, checked."""
    learning = build(LearningConfig, {**as_dict(config.learning), **settings}, "learning")
    return dataclasses.replace(config, learning=learning)
