"""Logged rounds: what a system showed, with what probability, and what came of it.

N rounds. As in the ratings table, users and movies are row numbers of tables that the log shares with the policy; ids
appear only in files (log_files.py). A round is one choice: `movie` out of `catalogue`, or out of its own candidates
where the log tells them. Propensities are kept as float64 logarithms, for a slice of exploration has small ones.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import content_digest


@dataclass(frozen=True)
class LoggedRounds:
    """N checked rounds in the order of time."""

    event_id: NDArray[np.object_]  # [N] str, unique
    time: NDArray[np.int64]  # [N], milliseconds since 1970
    user: NDArray[np.int32]  # [N], row of the user table
    movie: NDArray[np.int32]  # [N], row of the movie table; in the catalogue
    log_propensity: NDArray[np.float64]  # [N], <= 0 and finite
    reward: NDArray[np.float64]  # [N], finite and within scale
    catalogue: NDArray[np.int32]  # [A], movie rows, ascending
    scale: tuple[float, float]
    name: str
    policy: NDArray[np.object_]  # [N] str, who chose
    version: NDArray[np.object_]  # [N] str, content digest of who chose
    candidate_start: NDArray[np.int64] | None = None  # [N + 1], where each round's candidates begin; None: all
    candidate: NDArray[np.int32] | None = None  # [C], movie rows; in the catalogue

    def __post_init__(self) -> None:
        columns = (self.event_id, self.time, self.user, self.movie, self.log_propensity, self.reward)
        lengths = {len(column) for column in (*columns, self.policy, self.version)}
        if len(lengths) != 1:
            raise DataError(f"{self.name}: columns of different lengths: {sorted(lengths)}")
        self._refuse(
            ~(np.isfinite(self.log_propensity) & (self.log_propensity <= 0)), self.log_propensity,
            "log-propensity {}: expected finite and <= 0",
        )  # fmt: skip
        low, high = self.scale
        within = (self.reward >= low) & (self.reward <= high)  # not so for NaN
        self._refuse(~within, self.reward, f"reward {{}}: expected within {low:g}..{high:g}")
        if not (np.diff(self.catalogue) > 0).all():
            raise DataError(f"{self.name}: the catalogue must hold movie rows in ascending order, each once")
        self._refuse(~np.isin(self.movie, self.catalogue), self.movie, "movie row {}: not in the catalogue")
        self._check_candidates()

    def _check_candidates(self) -> None:
        start, candidate = self.candidate_start, self.candidate
        if start is None and candidate is None:
            return
        if start is None or candidate is None:
            raise DataError(f"{self.name}: candidates and where they begin come together, or not at all")
        if len(start) != len(self) + 1 or start[0] != 0 or start[-1] != len(candidate) or (np.diff(start) < 0).any():
            raise DataError(f"{self.name}: candidates do not begin and end as {len(self)} rounds need")
        if not np.isin(candidate, self.catalogue).all():
            raise DataError(f"{self.name}: a candidate is not in the catalogue")
        shown = np.concatenate([[0], np.cumsum(candidate == np.repeat(self.movie, np.diff(start)))])
        self._refuse(np.diff(shown[start]) == 0, self.movie, "movie row {}: not among the candidates")

    def _refuse(self, wrong: NDArray[np.bool_], values: NDArray[np.generic], what: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"{self.name}: round {row}: {what.format(values[row])}")

    def __len__(self) -> int:
        return len(self.movie)

    @property
    def propensity(self) -> NDArray[np.float64]:
        """Probability [N], in (0, 1], with which the logged movie was shown."""
        return np.exp(self.log_propensity)

    @property
    def digest(self) -> str:
        """SHA-256 of all that was logged, in order; the name plays no part."""
        return content_digest(
            self.event_id, self.time, self.user, self.movie, self.log_propensity, self.reward, self.catalogue,
            list(self.scale), self.policy, self.version, self.candidate_start, self.candidate,
        )  # fmt: skip

    def arm(self) -> NDArray[np.int32]:
        """The place [N] of each logged movie in the catalogue."""
        return np.searchsorted(self.catalogue, self.movie).astype(np.int32)

    def allowed(self, rows: slice) -> NDArray[np.bool_] | None:
        """Which of the catalogue [n, A] could be shown in these rounds; None where all could."""
        if self.candidate is None or self.candidate_start is None:
            return None
        first, last, _ = rows.indices(len(self))
        start = self.candidate_start[first : last + 1]
        arm = np.searchsorted(self.catalogue, self.candidate[start[0] : start[-1]])
        mask = np.zeros((last - first, len(self.catalogue)), bool)
        mask[np.repeat(np.arange(last - first), np.diff(start)), arm] = True
        return mask

    def take(self, first: int, last: int, name: str) -> "LoggedRounds":
        """Return rounds first..last-1."""
        rows = slice(first, last)
        columns = ("event_id", "time", "user", "movie", "log_propensity", "reward", "policy", "version")
        chosen = {column: getattr(self, column)[rows] for column in columns}
        if self.candidate is not None and self.candidate_start is not None:
            start = self.candidate_start[first : last + 1]
            chosen["candidate"] = self.candidate[start[0] : start[-1]]
            chosen["candidate_start"] = start - start[0]
        return replace(self, name=name, **chosen)
