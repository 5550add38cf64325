"""Simulate and read logs of uniform weights: each slate of a policy is ranked by weights drawn from a grid.

W users of the world, A grid points, K places, I items. A simulated slate is the first of a session in the training
world (models/slate_outcomes.py). A log has the weights, their propensity, and three objectives: a like, whether the
session goes on, and the mean novelty of the slate on 0..1.

    weights.parquet    user_id, action, propensity, fallback, like, session_continues, novelty; of a server's log
                       also time, categorical and numeric: the features of the user at the time of the request
    weights.json       heads, bounds of their scaling, grid, policy, world, settings; every_item: true if all items
                       were candidates, so that the slates of other weights are known
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.config import Count, Fraction, Number, PositiveFraction, Size, as_dict, config_dataclass
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.files import atomic_directory, read_versioned_json, write_json
from recpolicy.core.seeds import generator
from recpolicy.core.types import Array
from recpolicy.data.tuning_log import SameSlates, TuningFeatures, TuningLog
from recpolicy.inference.predictor import Policy
from recpolicy.inference.ranking_utility import NO_OWN_HEADS, OwnHeads, RankingUtility, item_information
from recpolicy.inference.scorer import Scorer
from recpolicy.inference.tuned_layer import SCORE, UserFeatures
from recpolicy.models.ranking_formula import (
    ActionGrid,
    HeadScaling,
    best_items,
    contenders,
    operational_range,
)
from recpolicy.models.session_world import SessionWorld
from recpolicy.models.slate_outcomes import first_slate_outcomes
from recpolicy.workflows.artifacts import check_absent
from recpolicy.workflows.training_data import coerce

FORMAT, FORMAT_VERSION = "recpolicy weight log", 1
EVENTS, METADATA = "weights.parquet", "weights.json"
OBJECTIVES = ("like", "session_continues", "novelty")
_USERS_WITH_SLATES = 20_000
"""Above it, the slates of all grid points are not computed, which takes some 4 ms a user, and hits are of actions."""
_USERS_OF_BOUNDS = 500
_COLUMNS = ("user_id", "action", "propensity", "fallback", *OBJECTIVES)


@config_dataclass
class WeightLogConfig:
    """Settings of a simulated log of weights."""

    slates: Count = 200_000
    """Slates to log."""
    slate_size: Size = 5
    """Items of a slate, K."""
    points: Size = 7
    """Points of each weight, evenly spaced."""
    low: Number = 0.0
    """Lowest weight of every head; the policy's own score has weight 1."""
    high: Number = 1.0
    """Highest weight of every head."""
    share_range: tuple[Fraction, Fraction] | None = None
    """Smallest and largest mean part of each head in the utility of the slates shown, in place of low and high: the
    bounds of its weight are those that reach them, next to the policy's score alone."""
    continuation_probability: PositiveFraction = 0.8
    """Probability of reading on after an item that is not liked."""


@dataclass(frozen=True)
class SlateTable:
    """The slates of every grid point for the users of a world, and their exact outcomes in it."""

    users: list[Any]  # [W] ids
    likes: Array  # [W, A] P(a like)
    continues: Array  # [W, A] P(the session goes on)
    novelty: Array  # [W, A] mean novelty of the slate, in bits
    max_novelty: float
    """Bits of the most novel item."""

    def objectives(self) -> Array:
        """Return the expected objectives [W, A, 3], each on 0..1."""
        return np.stack([self.likes, self.continues, self.novelty / self.max_novelty], axis=2)


def tuning_utility(policy: Policy, heads: Sequence[str], own: OwnHeads = NO_OWN_HEADS) -> RankingUtility:
    """Return the formula of the policy's own score and these heads; raises ConfigError and DataError for bad heads."""
    if SCORE in heads:
        raise ConfigError(f"head {SCORE!r} always has weight 1; leave it out")
    return RankingUtility(policy.scorer, (SCORE, *heads), own)


def operational_bounds(
    utility: RankingUtility, share: tuple[float, float], slots: int
) -> tuple[list[float], list[float]]:
    """Return the lowest and the highest weight of each tuned head: those that give it a part of the utility.

    The part is the mean over the slates that the policy's score alone shows to up to 500 users.

    Args:
        utility: The formula, with the score first.
        share: Smallest and largest mean part, within 0..1.
        slots: Items of a slate.

    Raises:
        ConfigError: The shares do not ascend.
        DataError: A head is 0 on all items of some slate, so that no weight gives it a part there.
    """
    ids = list(utility.scorer.user_ids)
    users = ids[:: -(-len(ids) // _USERS_OF_BOUNDS)]
    heads = utility.heads(users)
    shown = best_items(heads[:, :, 0], slots)  # [n, K]
    heads = np.take_along_axis(heads, shown[:, :, np.newaxis], axis=1)
    alone = np.zeros(len(utility.names))
    alone[0] = 1.0
    low, high = [], []
    for place, name in enumerate(utility.names[1:], start=1):
        largest = float((heads[:, :, place] > 0).any(axis=1).mean())
        if largest <= share[1]:
            raise DataError(
                f"head {name!r} is above 0 in {largest:.0%} of the slates, so its mean part cannot be {share[1]:g};"
                " give smaller shares, or bounds of the weights"
            )
        first, last = operational_range(heads, alone, place, share)
        low.append(first)
        high.append(last)
    return low, high


def slate_table(
    utility: RankingUtility, grid: ActionGrid, world: SessionWorld, slate_size: int, continuation_probability: float
) -> SlateTable:
    """Return the slates of every user of a world at every grid point, with exact outcomes.

    Rated items may be shown: the world simulates all of its users' responses.
    """
    scorer, arms = utility.scorer, utility.scorer.action_items
    information = item_information(scorer)
    users = [scorer.user_ids[row] for row in world.users.tolist()]
    likes, continues, novelty = (np.empty((len(users), grid.size)) for _ in range(3))
    for place, slate in enumerate(_slates(utility, grid, users, slate_size)):
        slate = arms[slate]
        person = np.full(grid.size, place)
        likes[place], continues[place] = first_slate_outcomes(world, person, slate, continuation_probability)
        novelty[place] = information[slate].mean(axis=1)
    return SlateTable(users, likes, continues, novelty, float(information.max()))


def _slates(
    utility: RankingUtility, grid: ActionGrid, users: Sequence[Any], slate_size: int
) -> Iterator[NDArray[np.int32]]:
    """Yield the slates [A, K] of every grid point for each user, as numbers of the catalog."""
    weights = np.concatenate([np.ones((grid.size, 1)), grid.all_weights], axis=1).astype(np.float32)  # [A, H]
    low, high = weights.min(axis=0), weights.max(axis=0)
    for user in users:
        heads = utility.heads([user])[0]  # [items, H]
        some = contenders(heads, low, high, slate_size).astype(np.int32)
        yield some[best_items(weights @ heads[some].T, slate_size)]


def simulate_weight_log(
    policy: Policy, world: SessionWorld, heads: Sequence[str], out: str | Path, *,
    config: WeightLogConfig | Mapping[str, Any] | None = None, own: OwnHeads = NO_OWN_HEADS, force: bool = False,
    seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Rank slates by uniform weights in a world, and write their log to `out`.

    Args:
        policy: A policy of single rounds.
        world: The training world.
        heads: Names of the heads to weigh.
        out: The folder to write; it must not exist.
        config: A WeightLogConfig or its settings.
        own: Heads from files.
        force: Take a grid of more than 10,000 points.
        seed: Seed of all draws.

    Returns:
        Counts and mean rewards.

    Raises:
        ConfigError: A head is unknown, the grid is too large, or the policy is one of sessions.
        DataError: A head has NaN or one value.
        ArtifactError: `out` exists.
    """
    settings = coerce(WeightLogConfig, config, "log")
    check_absent(Path(out))
    if policy.sequential:
        raise ConfigError(f"{policy.artifact.agent} is a session policy; tuning needs a policy of single rounds")
    if settings.points < 2:
        raise ConfigError(f"points is {settings.points}; expected 2 or more")
    bounds: tuple[Sequence[float], Sequence[float]] = [settings.low] * len(heads), [settings.high] * len(heads)
    ActionGrid.full(heads, [0.0] * len(heads), [1.0] * len(heads), settings.points).check_size(force)
    utility = tuning_utility(policy, heads, own)
    if settings.share_range is not None:
        bounds = operational_bounds(utility, settings.share_range, settings.slate_size)
    grid = ActionGrid.full(heads, *bounds, settings.points)
    table = slate_table(utility, grid, world, settings.slate_size, settings.continuation_probability)
    rng = generator(seed, "weight log")
    person, action = rng.integers(len(table.users), size=settings.slates), rng.integers(grid.size, size=settings.slates)
    expected = table.objectives()[person, action]  # [N, 3]
    happened = rng.random((settings.slates, 2)) < expected[:, :2]
    events = pd.DataFrame(
        {
            "user_id": np.array(table.users)[person], "action": action.astype(np.int64), "propensity": 1.0 / grid.size,
            "fallback": False, "like": happened[:, 0], "session_continues": happened[:, 1],
            "novelty": expected[:, 2],
        }
    )  # fmt: skip
    body = {
        "scaling": utility.scaling.as_dict(), "grid": grid.as_dict(),
        "base_policy": policy.metadata.get("policy_digest", ""), "world": world.name,
        "every_item": True, "config": as_dict(settings), "seed": seed,
    }  # fmt: skip
    write_weight_log(events, body, Path(out))
    return {"slates": float(len(events)), **{name: float(events[name].mean()) for name in OBJECTIVES}}


def write_weight_log(events: pd.DataFrame, body: Mapping[str, Any], out: Path) -> None:
    """Write the table and the metadata of a log of weights, whole or not at all."""
    with atomic_directory(out) as folder:
        events.to_parquet(folder / EVENTS, index=False)
        write_json(folder / METADATA, {"format": FORMAT, "version": FORMAT_VERSION, **body})


def read_weight_log(
    path: str | Path, policy: Policy, heads: Sequence[str] | None = None, own: OwnHeads = NO_OWN_HEADS
) -> tuple[TuningLog, RankingUtility, ActionGrid, dict[str, Any]]:
    """Read a log of weights for its policy.

    Args:
        path: Its folder.
        policy: The policy that was ranked.
        heads: The expected heads; None takes those of the log.
        own: Heads from files.

    Returns:
        The log with the features of its users, and their slates at all grid points if the candidates are known; the
        formula with the log's scaling, the grid, and the metadata.

    Raises:
        ArtifactError: The metadata is missing or damaged.
        ConfigError: The log has other heads.
        DataError: The log is of another policy, or its table is wrong.
    """
    path = Path(path)
    body = read_versioned_json(path / METADATA, FORMAT, FORMAT_VERSION, advice="simulate it again")
    grid = ActionGrid.from_dict(body["grid"])
    base = policy.metadata.get("policy_digest", "")
    if body["base_policy"] != base:
        raise DataError(f"{path}: a log of policy {body['base_policy'][:12]}, not {base[:12]}; use its own log")
    if heads is not None and tuple(heads) != grid.names:
        raise ConfigError(f"{path}: a log of the heads {', '.join(grid.names)}, not {', '.join(heads)}")
    bounds = body["scaling"]
    scaling = HeadScaling(tuple(bounds["names"]), np.array(bounds["low"]), np.array(bounds["high"]))
    utility = RankingUtility(policy.scorer, scaling.names, own, scaling)
    events = _read_events(path / EVENTS)
    log = _tuning_log(events, path, policy, grid)
    users = np.unique(events["user_id"].to_numpy()).tolist()
    if body.get("every_item") and len(users) <= _USERS_WITH_SLATES:
        log = replace(log, slates=SameSlates.of_users(_slates(utility, grid, users, body["config"]["slate_size"])))
    return log, utility, grid, body


def log_times(path: Path) -> NDArray[np.int64] | None:
    """Return the times [N] of the requests of a log, in milliseconds since 1970; None for a simulated log."""
    events = _read_events(path / EVENTS)
    return events["time"].to_numpy(np.int64) if "time" in events else None


def _read_events(path: Path) -> pd.DataFrame:
    try:
        events = pd.read_parquet(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected the table of a weight log") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as Parquet: {str(error).splitlines()[0]}") from None
    if missing := [name for name in _COLUMNS if name not in events]:
        raise DataError(f"{path}: no column {missing[0]!r}; found {', '.join(map(str, events.columns))}")
    for name in _COLUMNS:
        if events[name].isna().any():
            raise DataError(f"{path}: row {int(events[name].isna().to_numpy().argmax())}: {name} is missing")
    return events


def _tuning_log(events: pd.DataFrame, path: Path, policy: Policy, grid: ActionGrid) -> TuningLog:
    ids, row = np.unique(events["user_id"].to_numpy(), return_inverse=True)
    users, scorer = ids.tolist(), policy.scorer
    if "numeric" in events:
        described = _logged_features(events, path, scorer)
    else:
        if unknown := [user for user in users if not scorer.knows(user)]:
            raise DataError(f"{path}: user {unknown[0]} is not in the policy")
        features: NDArray[Any] = row
        described = UserFeatures.fit(scorer).of(scorer, users).take(features)
    objectives = events[list(OBJECTIVES)].to_numpy(np.float64)
    return TuningLog(
        described, events["action"].to_numpy(np.int64), events["propensity"].to_numpy(np.float64), objectives[:, 0],
        objectives, OBJECTIVES, events["fallback"].to_numpy(bool), grid.size, unit=row.astype(np.int64),
    )  # fmt: skip


def _logged_features(events: pd.DataFrame, path: Path, scorer: Scorer) -> TuningFeatures:
    """Return the features that a server logged with each request."""
    like = UserFeatures.fit(scorer).of(scorer, scorer.user_ids[:1])
    try:
        categorical, numeric = (np.array(events[name].tolist()) for name in ("categorical", "numeric"))
        if categorical.shape[1:] != like.categorical.shape[1:] or numeric.shape[1:] != like.numeric.shape[1:]:
            raise ValueError(f"{categorical.shape[1:]} and {numeric.shape[1:]} columns")
        return TuningFeatures(categorical.astype(np.int32), numeric.astype(np.float32), like.sizes)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: the features of the users are not those of the policy ({error}); export the log again"
        ) from None
