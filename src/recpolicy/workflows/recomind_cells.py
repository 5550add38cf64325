"""The policies, settings and figures of the study `recomind`, without the code that computes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from recpolicy.core.config import Count, Fraction, PositiveFraction, Seed, Size, SizeOrZero, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.models.user_model import SessionWorldConfig

RANKER, BOOTSTRAPPED, MYOPIC, COLD_START = "ranker", "bootstrapped", "bootstrapped_gamma_0", "cold_start"
UNIFORM, CLONED = "uniform_exploration", "behavior_cloning"


@dataclass(frozen=True)
class Row:
    """A policy of the study."""

    label: str
    start: Literal["", "ranker", "clone", "nothing"] = ""
    """Start of the values; empty for a policy that does not learn."""
    looks_ahead: bool = True
    """False replaces the discount by 0."""
    explores: Literal["top_k", "catalog"] = "top_k"
    matched: bool = True
    """False takes the ranker's scores for values, whatever their scale."""


ROWS: Mapping[str, Row] = {
    RANKER: Row("production ranker, greedy"),
    BOOTSTRAPPED: Row("bootstrapped", "ranker"),
    MYOPIC: Row("bootstrapped, gamma 0", "ranker", looks_ahead=False),
    COLD_START: Row("no bootstrap (cold start)", "nothing"),
    "unmatched_scale": Row("bootstrapped, scores taken for values", "ranker", matched=False),
    UNIFORM: Row("bootstrapped, uniform exploration", "ranker", explores="catalog"),
    CLONED: Row("start from a clone of the ranker", "clone"),
    "fatigue_aware": Row("knows the hidden state (cannot be served)"),
    "highest_mean": Row("highest mean rating"),
    "most_popular": Row("most popular"),
    "random": Row("random"),
}
CONTROL_ROWS = (RANKER, BOOTSTRAPPED, MYOPIC)


@dataclass(frozen=True)
class StudyWorld:
    """A setting of the simulator."""

    label: str
    simulator: SessionWorldConfig = field(default_factory=SessionWorldConfig)
    history: bool = True
    """False removes every effect of the session, the fitted ones included."""


WORLDS: Mapping[str, StudyWorld] = {
    "sessions": StudyWorld("default simulator"),
    "no_history": StudyWorld(
        "negative control: no response depends on the session",
        SessionWorldConfig(drift=0.0, fatigue_genre=0.0, fatigue_misses=0.0), history=False,
    ),
    "strong_fatigue": StudyWorld(
        "planted positive control: repeated genres end sessions", SessionWorldConfig(fatigue_genre=12.0)
    ),
}  # fmt: skip
MAIN, NO_HISTORY, STRONG_FATIGUE = WORLDS


@config_dataclass
class RecoMindConfig:
    """Settings of the study."""

    items: SizeOrZero = 400
    """Size of the catalog: the most rated items; 0 takes all."""
    gamma: Fraction = 0.75
    """Discount per item."""
    tau: PositiveFraction = 0.001
    """Share of the online weights in the target network's moving average at each update."""
    exploration_top_k: Size = 50
    """Number K of best items among which exploration draws; K and its schedule are not published."""
    total_timesteps: Count = 150_000
    """Items recommended in each training."""
    episodes: Count = 100_000
    """Simulated sessions of each cell and world, rounded up to whole chunks of all users."""
    first_episodes: Count = 1_000
    """Sessions of training that count as its beginning."""
    seeds: Count = 5
    """Number of seeds: of networks, exploration, users and random responses; the worlds have one."""
    seed: Seed = 0
    """Seed of the worlds and of the rating model."""

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ConfigError("seeds is 1; expected at least 2, because intervals are over seeds")


QUICK: Mapping[str, Any] = {"seeds": 2, "total_timesteps": 10_000, "episodes": 4_000}
"""Settings of a small part, to see that it runs."""


@dataclass(frozen=True)
class Played:
    """Sessions of one policy in one world: means."""

    likes: float
    depth: float
    """Items shown."""
    watch: float
    """Sum of watch fractions."""
    coverage: float
    """Share of the catalog that was shown at least once."""
    likes_by_user: Sequence[float]


@dataclass(frozen=True)
class Trained:
    """One training."""

    sessions: Sequence[float]
    """[n], sessions that ended so far, at the points of the curve."""
    likes: Sequence[float]
    """[n], likes of the sessions that ended between two points, summed."""
    first_likes: float
    """Likes per session, exploration included, of the first sessions."""
    updates: int
    initial_weights_left: float
    """Share (1 - tau)^updates of the initial weights in the target network."""
    temperature: float
    value_offset: float
    initial_error: float | None
    """Root mean square of the errors r + gamma max Q_0 - Q_0; None without a bootstrap."""
    unmatched_error: float | None
    """The same if the ranker's scores were the values."""
    rank_correlation: float
    """Spearman correlation of the values with the initial ones after 100 updates, mean over observations."""


@dataclass(frozen=True)
class Cell:
    """The figures of one policy with one seed."""

    evaluation: Played
    """In the evaluation world."""
    training_world: Played
    training: Trained | None


Key = tuple[str, str, int]
"""World, row, seed."""


@dataclass(frozen=True)
class RecoMindStudy:
    """A complete study."""

    config: RecoMindConfig
    facts: Mapping[str, Any]
    """Data, split, ranker."""
    cells: Mapping[Key, Cell]

    def rows(self, world: str) -> list[str]:
        """Return the rows of a world, in the order of ROWS."""
        present = {row for name, row, _ in self.cells if name == world}
        return [row for row in ROWS if row in present]

    def of(self, world: str, row: str) -> list[Cell]:
        """Return the cells of a row, by seed."""
        return [self.cells[world, row, seed] for seed in range(self.config.seeds)]
