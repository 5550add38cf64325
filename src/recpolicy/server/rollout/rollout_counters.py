"""What one process keeps while a challenger is tried: counts of both variants, and comparisons of a shadow."""

from recpolicy.server.rollout.counters import VariantCounts
from recpolicy.server.rollout.shadow import ShadowQueue


class RolloutCounters:
    """Made once a process."""

    def __init__(self) -> None:
        self.counts = VariantCounts()
        self.shadow = ShadowQueue(self.counts)
