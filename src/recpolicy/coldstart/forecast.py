"""Forecasts of stickiness: the expected active days of a user within the horizon, with intervals.

I items. The interval of an item covers its expected active days; it narrows with more traces and more days. The
interval of one user also has the spread of users around their item, which no trace removes.
"""

from dataclasses import dataclass

import numpy as np

from recpolicy.coldstart.filter import Array, Belief, ItemStatistics
from recpolicy.coldstart.prior import ItemPrior

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Forecast:
    """Forecasts of the stickiness of I items."""

    belief: Belief
    lo: Array  # [I], lower end of the 95 % interval of an item's stickiness, within what outcomes in 0..1 allow
    hi: Array  # [I]
    user_std: Array  # [I], standard deviation of the active days of one user
    explained: Array  # [I], share of the prior variance that the traces removed
    traces: Array  # [I], traces with at least one observed day
    observed_days: Array  # [I], mean observed days of a trace; 0 without a trace


def forecast(prior: ItemPrior, means: Array, statistics: ItemStatistics) -> Forecast:
    """Return the forecasts of I items from what their traces have shown so far.

    Args:
        prior: The prior.
        means: [I, J], prior means of the items.
        statistics: Their statistics.
    """
    belief = prior.filter().belief(means, statistics)
    before, spread = float(prior.item_covariance.sum()), float(prior.trace_covariance.sum())
    traces = statistics.count[:, 0]
    total = statistics.count.sum(axis=1)
    lo, hi = (np.clip(belief.mean + sign * _Z95 * belief.std, 0, prior.days) for sign in (-1, 1))
    return Forecast(
        belief, lo, hi,
        np.sqrt(belief.variance + spread), 1 - belief.variance / before, traces,
        np.divide(total, traces, out=np.zeros_like(total), where=traces > 0),
    )  # fmt: skip
