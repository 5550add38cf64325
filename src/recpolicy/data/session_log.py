"""The log of sessions: items shown one after the other until the user left, with propensities and responses.

N steps of M sessions, session after session, each in the order of its steps. Users and items are row numbers, as in
BanditLog; ids appear only in files (session_log_files.py). A session ends because the user leaves (`ended` at its
last step) or is cut while the user would have stayed (no step says `ended`). No item comes twice in a session, so what
could be shown at a step is its candidates (candidates.py; by default the catalog) without what the session has shown.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import content_digest
from recpolicy.data.candidates import CandidateSets, digest_parts
from recpolicy.data.session_returns import DAYS, RETURNED, SessionReturns, check_returns

COLUMNS = (
    "event_id", "time", "user", "session", "step", "item", "reward", "liked", "ended", "policy", "version",
)  # fmt: skip


@dataclass(frozen=True)
class SessionLog:
    """N checked steps of M sessions."""

    event_id: NDArray[np.object_]  # [N] str, unique
    time: NDArray[np.int64]  # [N], milliseconds since 1970
    user: NDArray[np.int32]  # [N], row of the user table; one to a session
    session: NDArray[np.object_]  # [N] str, id of the session
    step: NDArray[np.int32]  # [N], 0, 1, ... in each session
    item: NDArray[np.int32]  # [N], row of the item table; in the catalog
    log_propensity: NDArray[np.float64] | None  # [N], <= 0 and finite; None where nobody noted it
    reward: NDArray[np.float64]  # [N], finite and within scale
    liked: NDArray[np.bool_]  # [N], the response that later choices may look at
    ended: NDArray[np.bool_]  # [N], the user left after this step
    policy: NDArray[np.object_]  # [N] str, who chose
    version: NDArray[np.object_]  # [N] str, content digest of who chose
    action_items: NDArray[np.int32]  # [A], item rows, ascending
    scale: tuple[float, float]
    """Lowest and highest reward of a step."""
    name: str
    candidates: CandidateSets | None = None
    """Of N steps over action_items, items that the session has shown aside; None: the whole catalog at every step."""
    returns: SessionReturns | None = None
    """The second reward: days until the user's next session, of M sessions; None: the log does not have it."""

    def __post_init__(self) -> None:
        columns: dict[str, NDArray[Any]] = {column: getattr(self, column) for column in COLUMNS}
        if self.log_propensity is not None:
            columns["log_propensity"] = self.log_propensity
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise DataError(f"{self.name}: columns of different lengths: {sorted(lengths)}")
        if not (np.diff(self.action_items) > 0).all():
            raise DataError(f"{self.name}: the catalog must list item rows in ascending order, each once")
        self._check_values()
        for wrong, what in session_faults(columns):
            self._refuse(wrong, self.session, f"{what} (session {{!r}})")
        if self.returns is not None:
            first, last = self.start[:-1], self.start[1:] - 1
            ids = self.session[first]
            check_returns(self.returns, self.user[first], self.time[first], self.time[last], ids, self.name)

    def _check_values(self) -> None:
        if self.log_propensity is not None:
            possible = np.isfinite(self.log_propensity) & (self.log_propensity <= 0)
            self._refuse(~possible, self.log_propensity, "log-propensity {}: expected finite and <= 0")
        low, high = self.scale
        within = (self.reward >= low) & (self.reward <= high)  # not so for NaN
        self._refuse(~within, self.reward, f"reward {{}}: expected within {low:g}..{high:g}")
        self._refuse(~np.isin(self.item, self.action_items), self.item, "item row {}: not in the catalog")
        self._check_candidates()

    def _check_candidates(self) -> None:
        if self.candidates is None:
            return
        if (len(self.candidates), self.candidates.actions) != (len(self), len(self.action_items)):
            raise DataError(
                f"{self.name}: candidates of {len(self.candidates)} steps and {self.candidates.actions} items; expected"
                f" {len(self)} steps and {len(self.action_items)} items"
            )
        arm = np.searchsorted(self.action_items, self.item)
        self._refuse(~self.candidates.contain(arm), self.item, "item row {}: not among the candidates of its step")

    def _refuse(self, wrong: NDArray[np.bool_], values: NDArray[Any], what: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"{self.name}: step {row} of all: {what.format(values[row])}")

    def __len__(self) -> int:
        """Return N, the steps of all sessions."""
        return len(self.item)

    @cached_property
    def start(self) -> NDArray[np.intp]:
        """Start of each session [M + 1]; the last entry is N."""
        return np.append(np.flatnonzero(self.step == 0), len(self))

    @property
    def length(self) -> NDArray[np.intp]:
        """Steps of each session [M]."""
        return np.diff(self.start)

    @property
    def session_user(self) -> NDArray[np.int32]:
        """User of each session [M]."""
        return self.user[self.start[:-1]]

    def require_returns(self) -> SessionReturns:
        """Return the return times; raise DataError for a log without them."""
        if self.returns is None:
            raise DataError(
                f"{self.name}: no columns {DAYS} and {RETURNED}; expected a log with return times, such as one of"
                " `log export --task sessions` or `log simulate --sessions N --returns`"
            )
        return self.returns

    def select_sessions(self, mask: NDArray[np.bool_]) -> "SessionLog":
        """Return the sessions for which mask [M] is true."""
        rows = np.repeat(mask, self.length)
        columns: dict[str, Any] = {column: getattr(self, column)[rows] for column in COLUMNS}
        propensity = None if self.log_propensity is None else self.log_propensity[rows]
        candidates = None if self.candidates is None else self.candidates.take(np.flatnonzero(rows)).compact()
        returns = None if self.returns is None else self.returns.select(mask)
        return replace(self, log_propensity=propensity, candidates=candidates, returns=returns, **columns)

    @property
    def digest(self) -> str:
        """SHA-256 of all that was logged, in order; the name plays no part."""
        columns = [getattr(self, column) for column in COLUMNS]
        sets = () if self.candidates is None else digest_parts(self.candidates, self.action_items)
        second = () if self.returns is None else (self.returns.days, self.returns.returned)
        return content_digest(*columns, self.log_propensity, self.action_items, list(self.scale), *sets, *second)


def session_faults(columns: Mapping[str, NDArray[Any]]) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Yield the possible faults of steps in session order: a mask [N] and a message.

    columns: session, step, user, time, item, ended, event_id; each [N].
    """
    session, step, user, time = (columns[name] for name in ("session", "step", "user", "time"))
    number = pd.factorize(session)[0]
    first = np.diff(number, prepend=-1) != 0
    yield first & pd.Series(number).duplicated().to_numpy(), "the rows of the session are not contiguous"
    yield first & (step != 0), "the session does not start with step 0"
    yield ~first & (np.diff(step, prepend=0) > 1), "steps are missing before this one"
    yield ~first & (np.diff(step, prepend=0) < 1), "this step occurs twice"
    yield ~first & (np.diff(user, prepend=0) != 0), "the user differs from the previous step"
    yield ~first & (np.diff(time, prepend=0) < 0), "the time is earlier than that of the previous step"
    before = np.append(False, columns["ended"][:-1])
    yield ~first & before, "the session continues after its end"
    again = pd.DataFrame({"session": number, "item": columns["item"]}).duplicated().to_numpy()
    yield again, "the item was shown in this session before"
    yield pd.Series(columns["event_id"]).duplicated().to_numpy(), "its event_id occurs twice"
