"""Counts over logs: how far estimates are from the truth, and how often their intervals hold it. R logs."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from recpolicy.core.statistics import Interval
from recpolicy.ope.results import NO_VERDICT, OffPolicyResult, PolicyComparison

Array = NDArray[np.float64]
Asked = Mapping[str, PolicyComparison]
"""What one log says by each estimator: the target's gain over the logging policy, with the target's own value in it."""
WORKERS = 2


@dataclass(frozen=True)
class Truth:
    """What a policy earns."""

    value: float
    error: float = 0.0
    """Standard error where pages or sessions were played to find it; 0 where it is enumerated."""

    @classmethod
    def of(cls, earned: NDArray[Any]) -> "Truth":
        """The mean of what pages or sessions of the policy's own earned [N]."""
        return cls(float(earned.mean()), float(earned.std() / np.sqrt(len(earned))))


def dealt(person: NDArray[np.integer], each: int, logs: int, size: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Deal the rows of N independent plays of `person` [N] to logs [R, size] of users who come once.

    The plays of one person are cut into groups of `each`, in the order in which they were played; every group becomes
    a user of its own, and the users are dealt to the logs at random. So each user of each log is a person drawn evenly
    with plays that no other user has: users are independent, and so are logs.
    """
    order = np.argsort(person, kind="stable")
    first = np.flatnonzero(np.diff(person[order], prepend=-1))
    count = np.diff(first, append=len(person))  # of each person
    place = np.arange(len(person)) - np.repeat(first, count)
    whole = (place % each == 0) & (place + each <= np.repeat(count, count))
    begin, users = np.flatnonzero(whole), logs * size // each
    if len(begin) < users:
        raise ValueError(f"{len(person):,} plays make {len(begin):,} users of {each}; {users:,} are wanted")
    chosen = rng.permutation(begin)[:users]
    return order[chosen[:, None] + np.arange(each)].reshape(logs, size)


def in_threads(ask: Callable[[int], Any], logs: int) -> list[Any]:
    """What `ask` says of log 0, 1, ..., in this order."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(ask, range(logs)))


def counted(found: Sequence[Asked], truth: Truth, logged: Truth) -> dict[str, dict[str, Any]]:
    """Figures of each estimator over the logs: of the value, and under `gain` of the gain over the logging policy.

    An estimator that a log does not allow (nothing to divide by) has no verdict there, and no estimate to count.
    """
    told = {}
    for name in dict.fromkeys(name for asked in found for name in asked):
        gains = [asked[name] for asked in found if name in asked]
        values = [gain.candidate for gain in gains]
        judged = np.array([value.verdict != NO_VERDICT for value in values])
        told[name] = {
            **_spread(values, truth.value),
            "relative_error": float(np.sqrt(np.mean((_of(values) - truth.value) ** 2)) / abs(truth.value)),
            "no_verdict": 1 - float(judged.sum()) / len(found),
            "effective": float(np.median([value.diagnostics.effective_sample_size for value in values])),
            "intervals": _held(values, truth.value, judged),
            "gain": {
                **_spread(gains, truth.value - logged.value),
                "intervals": _held(gains, truth.value - logged.value, judged),
            },
        }
    return told


def _of(found: Sequence[PolicyComparison | OffPolicyResult]) -> Array:
    return np.array([one.value for one in found])


def _spread(found: Sequence[PolicyComparison | OffPolicyResult], truth: float) -> dict[str, float]:
    off = _of(found) - truth
    return {
        "bias": float(off.mean()), "bias_error": float(off.std() / np.sqrt(len(off))),
        "rmse": float(np.sqrt(np.mean(off**2))),
    }  # fmt: skip


def _held(
    found: Sequence[PolicyComparison | OffPolicyResult], truth: float, judged: NDArray[np.bool_]
) -> dict[str, Any]:
    """By kind of interval: coverage over all logs and over those with a verdict, and the mean half-width."""
    told = {}
    for kind in found[0].intervals:
        bounds = [one.intervals[kind] for one in found]
        holds = np.array([bound.lo <= truth <= bound.hi for bound in bounds])
        widths = np.array([_half_width(bound) for bound in bounds])
        told[kind] = {
            "all": share(holds),
            "judged": share(holds[judged]) if judged.any() else None,
            "half_width": float(np.median(widths)),
        }
    return told


def _half_width(bound: Interval) -> float:
    return (bound.hi - bound.lo) / 2


def share(holds: NDArray[np.bool_]) -> dict[str, float]:
    """A share with its 95 % binomial interval (Wilson's)."""
    found = binomtest(int(holds.sum()), len(holds)).proportion_ci(method="wilson")
    return {"share": float(holds.mean()), "lo": float(found.low), "hi": float(found.high), "logs": len(holds)}
