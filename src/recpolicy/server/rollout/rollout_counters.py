"""What one process keeps while a challenger is tried: counts of both variants, and comparisons of a shadow."""

from recpolicy.server.rollout.counters import Counts
from recpolicy.server.rollout.shadow import Shadow


class Trial:
    """Made once a process."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.shadow = Shadow(self.counts)
