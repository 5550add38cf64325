"""The log of weight vectors of a ranking formula: what was known, which grid point acted, what followed.

N requests, C categorical and F numeric features, K objectives. The reward is what a training maximizes; objectives are
its parts, such as likes and continued sessions, for trade-offs. A request that no eligible item could answer was served
by the static weights: it is logged as a fallback, and its reward counts for the grid point that was drawn, whose
consequence it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import content_digest

_COLUMNS = ("action", "propensity", "reward", "objectives", "fallback")
_EQUAL = 1e-6  # relative difference of propensities that counts as none


@dataclass(frozen=True)
class TuningFeatures:
    """The features of requests: categories as numbers from 0, and numbers."""

    categorical: NDArray[np.int32]  # [N, C]
    numeric: NDArray[np.float32]  # [N, F]
    sizes: tuple[int, ...]  # [C] number of categories

    def __post_init__(self) -> None:
        if self.categorical.ndim != 2 or self.numeric.ndim != 2 or len(self.categorical) != len(self.numeric):
            raise DataError(f"features {self.categorical.shape} and {self.numeric.shape}; expected N rows in both")
        if self.categorical.shape[1] != len(self.sizes):
            raise DataError(f"{self.categorical.shape[1]} categorical features; expected sizes of {len(self.sizes)}")
        if len(self) and ((self.categorical < 0) | (self.categorical >= np.array(self.sizes, np.int64))).any():
            raise DataError("a categorical feature has a value outside of its categories")
        if not np.isfinite(self.numeric).all():
            raise DataError("a numeric feature has a value that is not finite")

    def __len__(self) -> int:
        """Return N."""
        return len(self.categorical)

    def take(self, rows: "slice | NDArray[np.integer]") -> "TuningFeatures":
        """Return some of the rows."""
        return replace(self, categorical=self.categorical[rows], numeric=self.numeric[rows])

    def distinct(self) -> "tuple[TuningFeatures, NDArray[np.intp]]":
        """Return each different row once, and where [N] the row of each request is among them."""
        columns = np.concatenate([self.categorical.view(np.uint32), self.numeric.view(np.uint32)], axis=1)
        if not columns.shape[1]:
            return self.take(slice(0, 1)), np.zeros(len(self), np.intp)
        rows = np.ascontiguousarray(columns).view(np.dtype((np.void, 4 * columns.shape[1])))[:, 0]
        _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
        return self.take(first), inverse.reshape(-1)


@dataclass(frozen=True)
class SameSlates:
    """Groups of grid points that show a user the same slate."""

    group: NDArray[np.int32]  # [U, A], number of the slate among those of the user
    share: NDArray[np.float32]  # [U, A], share of the grid points with the same slate

    @classmethod
    def of_users(cls, slates: "Iterable[NDArray[np.integer]]") -> "SameSlates":
        """Return the groups of slates [A, K] of each user."""
        groups, shares = [], []
        for slate in slates:
            _, group, count = np.unique(slate, axis=0, return_inverse=True, return_counts=True)
            groups.append(group.reshape(-1).astype(np.int32))
            shares.append((count[groups[-1]] / len(slate)).astype(np.float32))
        return cls(np.stack(groups), np.stack(shares))


@dataclass(frozen=True)
class TuningLog:
    """N logged requests."""

    features: TuningFeatures
    action: NDArray[np.int64]  # [N], 0..actions-1
    propensity: NDArray[np.float64]  # [N], in (0, 1]
    reward: NDArray[np.float64]  # [N]
    objectives: NDArray[np.float64]  # [N, K]
    objective_names: tuple[str, ...]
    fallback: NDArray[np.bool_]  # [N]
    actions: int
    """Number of grid points."""
    unit: NDArray[np.int64] | None = None  # [N] numbers of the users from 0; None: every request is of another person
    slates: SameSlates | None = None
    """For each user in `unit`; None: it is not known what other grid points would have shown."""

    def __post_init__(self) -> None:
        count = len(self.features)
        shapes = {
            "action": (count,), "propensity": (count,), "reward": (count,), "fallback": (count,),
            "objectives": (count, len(self.objective_names)),
        }  # fmt: skip
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise DataError(f"tuning log: {name} {getattr(self, name).shape}; expected {shape}")
        if not count:
            raise DataError("tuning log: no request")
        if not (self.action.min() >= 0 and self.action.max() < self.actions):
            raise DataError(f"tuning log: an action outside of 0..{self.actions - 1}")
        if not (np.isfinite(self.reward).all() and np.isfinite(self.objectives).all()):
            raise DataError("tuning log: a reward that is not finite")
        if not ((self.propensity > 0) & (self.propensity <= 1)).all():
            raise DataError("tuning log: a propensity outside of (0, 1]")

    def __len__(self) -> int:
        """Return N."""
        return len(self.action)

    @property
    def uniform(self) -> bool:
        """True if every grid point had the same probability in every request."""
        return bool(np.abs(self.propensity * self.actions - 1).max() <= _EQUAL)

    def check_uniform(self, use: str) -> None:
        """Raise DataError unless the log is uniform; `use` says what needs it."""
        if not self.uniform:
            row = int(np.abs(self.propensity * self.actions - 1).argmax())
            raise DataError(
                f"{use} needs a log of uniform weights: request {row} has propensity {self.propensity[row]:.3g}, not"
                f" 1/{self.actions}; use an importance-weighted loss, or log with uniform exploration"
            )

    def take(self, rows: "slice | NDArray[np.integer]") -> "TuningLog":
        """Return some of the requests."""
        unit = None if self.unit is None else self.unit[rows]
        parts = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return replace(self, features=self.features.take(rows), unit=unit, **parts)

    @classmethod
    def joined(cls, parts: "Iterable[TuningLog]") -> "TuningLog":
        """Return one log of the requests of several, which have the same grid, objectives and kinds of features."""
        logs = list(parts)
        first, units = logs[0], [log.unit for log in logs if log.unit is not None]
        features = TuningFeatures(
            np.concatenate([log.features.categorical for log in logs]),
            np.concatenate([log.features.numeric for log in logs]), first.features.sizes,
        )  # fmt: skip
        columns = {name: np.concatenate([getattr(log, name) for log in logs]) for name in _COLUMNS}
        unit = np.concatenate(units) if len(units) == len(logs) else None
        return replace(first, features=features, unit=unit, **columns)

    def with_reward(self, weights: NDArray[np.floating]) -> "TuningLog":
        """Return the log whose reward is the weighted sum of the objectives [K]."""
        return replace(self, reward=self.objectives @ np.asarray(weights, np.float64))

    def with_permuted_features(self, rng: np.random.Generator) -> "TuningLog":
        """Return the log in which the features belong to other requests: a control without personalization."""
        return replace(self, features=self.features.take(rng.permutation(len(self))))

    @property
    def digest(self) -> str:
        """SHA-256 of all that was logged."""
        return content_digest(
            self.features.categorical, self.features.numeric, self.action, self.propensity, self.reward,
            self.objectives, self.fallback, self.actions, list(self.objective_names),
        )  # fmt: skip
