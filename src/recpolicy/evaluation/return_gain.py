"""Return rates of a policy and of another one on logged sessions, weighted by importance, with t intervals over users.

M sessions. Only sessions followed for the whole window count, so no return is censored. A session's weight is the ratio
of the probabilities of all its items. Rates are self-normalized: sum(weight * returned) / sum(weight).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recpolicy.core.statistics import Interval, largest_step, student_t
from recpolicy.core.types import Array, Floats, Ints
from recpolicy.data.session_log import SessionLog
from recpolicy.models.return_time import RETURN_DAYS

RETURN_WINDOWS = (1, 3, 7)
"""Days of the windows that an evaluation computes."""
assert max(RETURN_WINDOWS) <= RETURN_DAYS


def return_gains(
    log: SessionLog, weight: Array, other: Array, windows: Sequence[int] = RETURN_WINDOWS
) -> dict[str, dict[str, Any]]:
    """Return the difference of return rates by window in days; a window that followed no session is left out.

    Args:
        log: M sessions with return times.
        weight: [M] of the policy. other: [M] of the policy to compare with; ones are the policy that logged.
        windows: Days.
    """
    returns = log.require_returns()
    end = log.time[log.start[1:] - 1] / 86_400_000
    followed = (end + returns.days).max(initial=0) - end
    found: dict[str, dict[str, Any]] = {}
    for days in windows:
        known = followed >= days - 1e-9
        if known.any():
            back = (returns.returned & (returns.days <= days))[known].astype(np.float64)
            found[str(days)] = _gain(back, log.session_user[known], weight[known], other[known])
    return found


def _gain(back: Array, user: Ints, weight: Array, other: Array) -> dict[str, Any]:
    users, place = np.unique(user, return_inverse=True)
    parts = (weight * back, weight, other * back, other)
    columns = np.stack([np.bincount(place, part, len(users)) for part in parts]).astype(np.float64)  # [4, users]
    sizes = [float(part.sum() ** 2 / max((part**2).sum(), 1e-300)) for part in (columns[1], columns[3])]
    body: dict[str, Any] = {"users": len(users), "sessions": len(back), "effective_users": min(sizes)}
    total = columns.sum(axis=1)
    if not (total[1] > 0 and total[3] > 0):
        return {**body, "rate": None, "gain": None}
    rates = total[0] / total[1], total[2] / total[3]
    return {**body, "rate": rates[0], "gain": _interval(columns, rates[0] - rates[1], sizes).as_dict()}


def _interval(columns: Array, gain: float, sizes: Sequence[float]) -> Interval:
    """Return the t interval of the difference of two ratios of sums over users [4, users]."""
    if np.array_equal(columns[:2], columns[2:]):
        return Interval(0.0, 0.0, 0.0)
    rest = columns.sum(axis=1, keepdims=True) - columns
    if columns.shape[1] < 2 or not (rest[1] > 0).all() or not (rest[3] > 0).all():
        return Interval.unbounded(gain)  # one user has all the weight
    return student_t(gain, rest[0] / rest[1] - rest[2] / rest[3], step=float(largest_step(1.0, *sizes)))


def trajectory_weights(target: Floats, behavior: Floats) -> Array:
    """Return the weights [M] of sessions from the probabilities of their items [M, T]; behavior 0 pads a session."""
    ratio = np.where(behavior > 0, target / np.where(behavior > 0, behavior, 1.0), 1.0)
    return np.asarray(ratio.prod(axis=1), np.float64)


def return_figures(gains: Mapping[str, Any], days: int) -> tuple[float, float]:
    """Return the lower end of the gain within some days, and the effective users behind it; NaN where there is none."""
    found = gains.get(str(days)) or {}
    gain = found.get("gain") or {}
    lo, users = gain.get("lo"), found.get("effective_users")
    return (np.nan if lo is None else float(lo)), (np.nan if users is None else float(users))
